"""Why a mail has not gone yet and when it will, or what became of it: one sentence for any row.

Here is what the database knows of it, by its own clock; `sentences` tells it.
"""

from datetime import timedelta, tzinfo

import sqlalchemy as sa

from outbox import breaker, feedback, fence, subscriptions, suppressions
from outbox.database import utcnow
from outbox.models import EmailAttempt, EmailContent, QueuedEmail
from outbox.operations import gone, missing
from outbox.sentences import Attempt, Facts, sentence
from outbox.settings import Settings
from outbox.states import DeadReason, Outcome, Stage, Status


def explain(connection: sa.Connection, settings: Settings, id_: int, zone: tzinfo | None = None) -> str:
    """One sentence on how the mail stands now. Raises NotPossible if there is no such mail.

    Its times are those of `zone`: of whoever reads it, if that is not where this runs.
    """
    content = EmailContent
    empty = content.purged_at.is_not(None) | sa.and_(content.sensitive, content.sealed.is_(None))
    query = sa.select(*_COLUMNS, content.sensitive, empty.label("empty"), utcnow().label("now")).join(
        QueuedEmail.content
    )
    row = connection.execute(query.where(QueuedEmail.id == id_)).first()
    if row is None:
        raise missing(id_)
    columns = dict(row._mapping) | {"now": row.now.astimezone(zone)}  # noqa: SLF001 - its public name
    recipient = columns.pop("recipient")
    question = (recipient, subscriptions.declared(settings, columns.pop("category")))
    reason = columns.pop("dead_reason")
    sensitive = columns.pop("sensitive")
    why_gone = gone(sensitive=sensitive) if columns.pop("empty") else None
    return sentence(
        Facts(
            **columns | {"status": Status(row.status), "dead_reason": reason and DeadReason(reason)},
            gone=why_gone,
            lease=timedelta(seconds=settings.outbox_lease_seconds),
            last=_last_attempt(connection, id_),
            feedback=feedback.last(connection, id_),
            suppression=suppressions.covering(connection, [question]).get(question),
            relays=list(breaker.standings(connection, settings.endpoints).values()),
            held=fence.held(settings, recipient),
            not_ours=fence.whose(connection, settings),
        )
    )


_COLUMNS = [
    getattr(QueuedEmail, name)
    for name in (
        "id", "recipient", "category", "status", "next_attempt_at", "attempts", "max_attempts", "scheduled_at",
        "expires_at", "finalized_at", "dead_reason", "last_error", "relay", "waiting_for", "claimed_by",
        "lease_expires_at",
    )
]  # fmt: skip


def _last_attempt(connection: sa.Connection, id_: int) -> Attempt | None:
    a = EmailAttempt
    query = sa.select(a.outcome, a.stage, a.code, a.reply, a.relay, a.finished_at)
    row = connection.execute(query.where(a.email_id == id_).order_by(a.number.desc()).limit(1)).first()
    if row is None:
        return None
    return Attempt(
        outcome=Outcome(row.outcome),
        stage=Stage(row.stage),
        code=row.code,
        reply=row.reply,
        relay=row.relay,
        finished_at=row.finished_at,
    )
