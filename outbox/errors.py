"""Everything that Outbox raises on purpose.

    OutboxError
     +-- SettingsError          the environment is wrong; nothing has started
     +-- InvalidEmail           queue_email was given something that cannot be a mail; nothing was written
     |    +-- InvalidAddress
     |    +-- InvalidHeader
     |    +-- InvalidTemplate
     |    +-- TooLarge
     +-- InvalidLink            nobody signed this link with a key of ours
     +-- IdempotencyConflict    the key is taken by a mail that says something else
     +-- NotPossible            the mail is not in a state in which that can be done
     +-- LeaseLost              the mail must not be sent by us (any more)
     +-- NotRecorded            the end of a claim could not be written down
     +-- KeyMissing             a sensitive mail was encrypted with a key that we do not have

A message names the field, the value and the remedy.
"""


class OutboxError(Exception):
    """The root: catch this to catch all of them."""


class SettingsError(OutboxError):
    """A setting is missing or makes no sense."""


class InvalidEmail(OutboxError, ValueError):
    """A mail that cannot be queued as it is. `field` is the argument's name, `value` what it held."""

    def __init__(self, field: str, value: object, problem: str) -> None:
        self.field = field
        self.value = value
        self.problem = problem
        shown = repr(value)
        if len(shown) > 120:  # noqa: PLR2004 - a line of a log; bodies and attachments are values, too
            shown = f"{shown[:117]}..."
        super().__init__(f"{field}={shown}: {problem}")


class InvalidAddress(InvalidEmail):
    """Not an address that mail can be sent to."""


class InvalidHeader(InvalidEmail):
    """A header that would break the message or smuggle another header in."""


class InvalidTemplate(InvalidEmail):
    """A template that is not there, is wrong, or does not suit its context. Says the file, the line and the remedy."""


class TooLarge(InvalidEmail):
    """Larger than `OUTBOX_MAX_MESSAGE_BYTES`, or a file than `OUTBOX_MAX_ATTACHMENT_BYTES`."""


class InvalidLink(OutboxError):
    """The token of a link that was not signed with one of `OUTBOX_SIGNING_KEYS`, or not for this purpose."""


class IdempotencyConflict(OutboxError):
    """The same `idempotency_key` was used before, for a mail that says something else."""


class NotPossible(OutboxError):
    """What a person wanted of a mail its status does not allow. Says what can be done with it instead."""


class LeaseLost(OutboxError):
    """The mail must not be sent by us: `begin` is not durable, or came too late.

    `taken`: the row is known to be in somebody else's hands, rather than the database not answering.
    """

    def __init__(self, message: str, *, taken: bool = False) -> None:
        self.taken = taken
        super().__init__(message)


class NotRecorded(OutboxError):
    """What became of a mail could not be written down. Its row waits for the reaper, which takes it for uncertain."""


class KeyMissing(OutboxError):
    """What a sensitive mail says is encrypted with a key that is not in `OUTBOX_ENCRYPTION_KEYS`: it waits for that."""

    def __init__(self) -> None:
        super().__init__("encrypted with a key that is not in OUTBOX_ENCRYPTION_KEYS")
