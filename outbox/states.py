"""The whole state machine, on one page.

    pending --claim--> claimed --begin--> sending --250--> sent
       ^                  |                  |
       |   lease expired, |                  +-- 4xx, lost before the dot --> pending (attempts + 1, later)
       |   relay down,    |                  +-- relay down, throttled -----> pending (attempt not counted)
       +---held, or rate--+                  |
       |                                     +-- 5xx, exhausted, expired ---> dead (with dead_reason)
       |                                     +-- lost after the dot, or its worker died --> on_uncertain:
       |                                             retry: pending, same Message-ID, at most 2 such resends
       |                                             hold:  uncertain, until a person resolves it
       +-- requeue (a person): dead, cancelled, uncertain
    pending --cancel, or a newer mail in its place--> cancelled
    claimed --expires_at, suppressed, cannot be composed--> dead
    claimed --a newer mail supersedes it--> cancelled
    claimed --the relay that may have it is gone from the settings--> uncertain
    pending, uncertain --the journal of a worker that lost the database after a 250--> sent

A mail to a suppressed recipient is born `dead`. Scheduled and retrying mail is `pending` with a later
`next_attempt_at`. The database enforces what a row of each status must and must not carry (CHECK constraints in
`models`); `claims`, `settlement`, `operations` and `superseding` hold every statement that makes a move.
"""

from enum import IntEnum, StrEnum


class Status(StrEnum):
    """Where a mail is. `email_queue.status`."""

    PENDING = "pending"
    CLAIMED = "claimed"
    SENDING = "sending"
    SENT = "sent"
    DEAD = "dead"
    UNCERTAIN = "uncertain"
    CANCELLED = "cancelled"


LEASED = frozenset({Status.CLAIMED, Status.SENDING})
"""Owned by one worker, under a claim token, until `lease_expires_at`."""

FINAL = frozenset({Status.SENT, Status.DEAD, Status.CANCELLED})
"""Nothing happens any more unless a person requeues it. `uncertain` is not final: it waits for a person's verdict."""

MOVES: dict[Status, frozenset[Status]] = {
    Status.PENDING: frozenset({Status.CLAIMED, Status.CANCELLED, Status.SENT}),
    Status.CLAIMED: frozenset({Status.SENDING, Status.PENDING, Status.DEAD, Status.UNCERTAIN, Status.CANCELLED}),
    Status.SENDING: frozenset({Status.SENT, Status.PENDING, Status.DEAD, Status.UNCERTAIN}),
    Status.UNCERTAIN: frozenset({Status.SENT, Status.PENDING, Status.DEAD}),
    Status.DEAD: frozenset({Status.PENDING}),
    Status.CANCELLED: frozenset({Status.PENDING}),
    Status.SENT: frozenset(),
}
"""Every allowed move. What is not here cannot happen."""


class Outcome(StrEnum):
    """What one conversation with the relay came to. `email_attempts.outcome`."""

    SENT = "sent"
    DEFERRED = "deferred"  # certainly not sent; worth another try
    REJECTED = "rejected"  # certainly not sent; never will be
    UNCERTAIN = "uncertain"  # the dot went out and no answer came back
    # The relay's trouble, not this mail's: certainly not sent, and no attempt is counted.
    RELAY_DOWN = "relay_down"
    RELAY_MISCONFIGURED = "relay_misconfigured"  # our settings and the relay disagree: a person must look
    THROTTLED = "throttled"  # the relay wants less of us


class Stage(StrEnum):
    """How far the conversation had come. `email_attempts.stage`."""

    COMPOSE = "compose"  # no conversation: its worker died of the mail before
    CONNECT = "connect"
    TLS = "tls"
    AUTH = "auth"
    MAIL = "mail"
    RCPT = "rcpt"
    DATA = "data"
    DOT = "dot"


class DeadReason(StrEnum):
    """Why a mail is in the dead-letter queue. `email_queue.dead_reason`."""

    REJECTED = "rejected"  # the relay said 5xx
    EXHAUSTED = "exhausted"  # as many attempts as allowed, or as old as allowed
    EXPIRED = "expired"  # past its own expires_at
    SUPPRESSED = "suppressed"  # the recipient must not get mail
    INVALID = "invalid"  # cannot be composed


class Feedback(StrEnum):
    """What a provider tells of a mail after its 250. `email_events.kind`."""

    DELIVERED = "delivered"  # in the recipient's mailbox, as far as the provider knows
    DELAYED = "delayed"  # still being tried
    BOUNCED = "bounced"  # for good: the recipient is suppressed
    SOFT_BOUNCED = "soft_bounced"  # given up, and yet the address may be right: a full mailbox, a timeout
    COMPLAINED = "complained"  # the recipient called it spam, and is suppressed


class RelayState(StrEnum):
    """Whether mail goes to a relay. `email_relays.state`."""

    CLOSED = "closed"  # as a circuit is: mail flows, unless the relay is resting (`paused_until`)
    OPEN = "open"  # in trouble: nothing goes until `paused_until`, then one mail tries
    HALF_OPEN = "half_open"  # that one mail is on its way
    PAUSED = "paused"  # by a person, until a person resumes it


class Priority(IntEnum):
    """The lane a mail travels in; `email_queue.priority`. Each lane has a queue and a share of every claim."""

    HIGH = 0
    NORMAL = 1
    LOW = 2

    @property
    def label(self) -> str:
        """`high`, `normal` or `low`: the spelling of the API and of the queue names."""
        return self.name.lower()


class Kind(StrEnum):
    """The header that named a recipient. `email_queue.kind`; a bcc is named in none."""

    TO = "to"
    CC = "cc"
    BCC = "bcc"


class OnUncertain(StrEnum):
    """What to do with a mail that may have been sent: risk a second copy, or wait for a person."""

    RETRY = "retry"
    HOLD = "hold"
