"""The life of a mail in the log: a line when it is queued, and one whenever a claim of it has ended, with the relay's
words. Between the two, its row says how it stands.
"""

import logging

from outbox.logs import tell
from outbox.settlement import Settlement
from outbox.states import Status

log = logging.getLogger(__name__)


def queued(first: int, rows: int) -> None:
    """Mails of one commit. The ids between the first and the last of a bulk follow each other, or nearly so."""
    sentence = "mail %(mail_id)d is queued" if rows == 1 else "%(rows)d mails are queued, the first is %(mail_id)d"
    tell(log, logging.INFO, "mail.queued", sentence, mail_id=first, rows=rows)


def ended(settlement: Settlement, *, ours: bool = True) -> None:
    """What became of a mail, by the settlement that is on record; or, if it was not `ours`, is not."""
    id_, attempt = settlement.id, settlement.attempt
    number = attempt and attempt.number
    relay = attempt and attempt.relay
    why = settlement.last_error
    if not ours:
        tell(
            log, logging.ERROR, "mail.taken", "mail %(mail_id)d was not ours any more to be called %(status)s",
            mail_id=id_, status=settlement.status, relay=relay, attempt=number, why=why,
        )  # fmt: skip
    elif settlement.status is Status.SENT:
        assert attempt is not None
        tell(
            log, logging.INFO, "mail.sent", "mail %(mail_id)d is sent: %(relay)s said %(reply)s",
            mail_id=id_, relay=relay, reply=attempt.reply, attempt=number, seconds=round(attempt.seconds, 3),
        )  # fmt: skip
    elif settlement.status is Status.PENDING:
        tell(
            log, logging.INFO, "mail.deferred", "mail %(mail_id)d waits for %(delay).0f s after %(why)s",
            mail_id=id_, relay=relay, why=why, attempt=number, delay=round(settlement.delay, 1),
        )  # fmt: skip
    elif settlement.status is Status.DEAD:
        tell(
            log, logging.WARNING, "mail.dead", "mail %(mail_id)d is dead, %(reason)s: %(why)s",
            mail_id=id_, relay=relay, why=why, attempt=number, reason=settlement.dead_reason,
        )  # fmt: skip
    elif settlement.status is Status.UNCERTAIN:
        tell(
            log, logging.WARNING, "mail.uncertain", "mail %(mail_id)d is uncertain, and waits for a person: %(why)s",
            mail_id=id_, relay=relay, why=why, attempt=number,
        )  # fmt: skip
    else:
        tell(log, logging.INFO, "mail.cancelled", "mail %(mail_id)d is cancelled: %(why)s", mail_id=id_, why=why)
