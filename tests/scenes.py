"""Databases that look like something: an empty queue, a healthy one, one that burns. For pictures, and tests of pages.

    scenes.healthy(engine)          a day of ordinary mail
    scenes.burning(engine, relay)   mail is late, the relay refuses us, beat and a worker are silent

`python -m tests.scenes burning` fills the database that DATABASE_URL names, and migrates it before.
"""

import random
import sys
import time
from collections.abc import Iterator, Sequence
from typing import Any

import sqlalchemy as sa

import migrations
from app.dead_tasks import DeadTask
from outbox import auditing, breaker, heartbeats, watching
from outbox.database import create_engine
from outbox.models import (
    EmailAttempt,
    EmailContent,
    EmailEvent,
    EmailHeartbeat,
    EmailSuppression,
    EmailTrouble,
    QueuedEmail,
)
from outbox.settings import Settings
from outbox.states import DeadReason, Feedback, Outcome, Priority, RelayState, Stage, Status
from tests.rows import from_now

RELAY = "mx1.example:587"

HOUR, DAY = 3600.0, 86400.0

_Said = dict[str, Any]

_TAKEN: _Said = {"outcome": Outcome.SENT, "stage": Stage.DOT, "code": 250, "reply": "2.0.0 Ok: queued as 4F1A2B"}
_GREYLISTED: _Said = {"outcome": Outcome.DEFERRED, "stage": Stage.RCPT, "code": 450, "reply": "4.2.0 greylisted"}
_LOST: _Said = {"outcome": Outcome.UNCERTAIN, "stage": Stage.DOT, "reply": "Connection unexpectedly closed"}

_KINDS = (
    ("login_code", "Your login code", "login", Priority.HIGH),
    ("receipt", "Your receipt", "receipts", Priority.NORMAL),
    ("task_changed", "Painting the fence: done", "tasks", Priority.NORMAL),
    ("daily_reminder", "Three quizzes are waiting for you", "reminders", Priority.LOW),
    (
        "weekly_news",
        "What is new this week: faster exports, fewer clicks, and a word about cookies",
        "news",
        Priority.LOW,
    ),
)
_NAMES = ("ada", "grace", "alan", "katherine", "edsger", "barbara.liskov", "jörg", "a.very.long.name.of.somebody")
_DOMAINS = ("example.com", "gmail.com", "example.org", "outlook.com", "uni-muenchen.example", "mail.example.net")


def empty(engine: sa.Engine, relay: str = RELAY) -> None:
    """Nothing but the processes that wait for it."""
    del relay
    with engine.begin() as connection:
        _processes(connection)


def healthy(engine: sa.Engine, relay: str = RELAY) -> None:
    """A day of ordinary mail: most is sent within a second, some is deferred once, a little bounced."""
    dice = random.Random(1)
    with engine.begin() as connection:
        _processes(connection)
        for age in _ages(dice, 600, DAY):
            tried = dice.random() < 0.04
            waited = dice.expovariate(1 / 0.3) + (70 if tried else 0)
            id_ = _mail(connection, dice, age, status=Status.SENT, sent_at=from_now(-age + waited), claims=1 + tried)
            if tried:
                _attempt(connection, id_, 1, age, **_GREYLISTED, relay=relay)
            _attempt(connection, id_, 1 + tried, age - waited, **_TAKEN, relay=relay)
        _dead(connection, dice, 3, DAY, relay)
        for seconds in (600, 7200, 3 * DAY):
            _mail(connection, dice, 60, scheduled_at=from_now(seconds), next_attempt_at=from_now(seconds))
        _on_record(connection)


def burning(engine: sa.Engine, relay: str = RELAY) -> None:
    """The relay no longer takes our password; mail is late, some is in doubt, beat and a worker have gone silent."""
    dice = random.Random(2)
    healthy(engine, relay)
    with engine.begin() as connection:
        for age in _ages(dice, 400, 2 * HOUR):
            _mail(connection, dice, age, next_attempt_at=from_now(-age * 0.9), attempts=dice.randrange(3))
        for status in (Status.CLAIMED, Status.SENDING):
            lease = {"claim_token": "t", "claimed_by": "worker-7:41", "lease_expires_at": from_now(30), "claims": 1}
            for _ in range(12):
                _mail(connection, dice, 300, status=status, relay=relay, **lease)
        _dead(connection, dice, 60, HOUR, relay)
        for age in _ages(dice, 9, HOUR):
            said = "dot: Connection unexpectedly closed"
            id_ = _mail(
                connection,
                dice,
                age,
                status=Status.UNCERTAIN,
                claims=1,
                last_error=said,
                on_uncertain="hold",
                relay=relay,
            )
            _attempt(connection, id_, 1, age, **_LOST, relay=relay)
        refused = "auth: 535 5.7.8 Error: authentication failed: Invalid user or password"
        latched = breaker.Rest(RelayState.OPEN, refused, 900, 900, latched=True)
        breaker.rest(connection, relay, latched, "", "worker-7:41")
        breaker.pause(connection, "mx2.example:587", "moving to another machine until Thursday", "ada@ops-1")
        silent = sa.update(EmailHeartbeat).where(EmailHeartbeat.name != "worker-7:41").values(at=from_now(-700))
        connection.execute(silent)
        _worker(connection, "worker-7", 41, ["celery", "email.high"], active=5, disk="/srv: 0.1 of 40.0 GB free")
        host, _, port = relay.rpartition(":")
        lines = [
            trouble._asdict() | {"began_at": from_now(-600), "told_at": from_now(-590)}
            for trouble in watching.troubles(connection, Settings.load(smtp_host=host, smtp_port=port))
        ]
        connection.execute(sa.insert(EmailTrouble), lines)
        for number, (name, error) in enumerate(_FAILURES):
            connection.execute(
                sa.insert(DeadTask).values(
                    task_id=f"8a7c-{number}", name=name, queue="celery", args=[number], kwargs={}, exception=error,
                    traceback=f'Traceback (most recent call last):\n  File "app/exports/making.py", line 41\n{error}',
                    tries=5, request_id=f"req-{number}", failed_at=from_now(-60 * (number + 1)),
                )
            )  # fmt: skip


_FAILURES = (
    ("workers.generate_user_export", "OSError: [Errno 28] No space left on device: 'var/files/exports'"),
    ("workers.generate_thumbnails", "PIL.UnidentifiedImageError: cannot identify image file"),
    ("workers.send_daily_reminders", "sqlalchemy.exc.OperationalError: the connection was lost"),
)


def _ages(dice: random.Random, count: int, longest: float) -> Iterator[float]:
    """Seconds ago, oldest first."""
    yield from sorted((dice.uniform(5, longest) for _ in range(count)), reverse=True)


def _mail(connection: sa.Connection, dice: random.Random, age: float, **columns: Any) -> int:
    template, subject, category, lane = dice.choice(_KINDS)
    recipient = f"{dice.choice(_NAMES)}@{dice.choices(_DOMAINS, (9, 6, 3, 3, 1, 1))[0]}"
    created = from_now(-age)
    number = dice.getrandbits(64)
    content = sa.insert(EmailContent).values(
        message_id=f"<{number:x}@example.com>", date=created, sender="Outbox <outbox@example.com>",
        to_header=recipient, subject=subject, text=f"Hello,\n\n{subject}.\n", html=f"<p>Hello,</p><p>{subject}.</p>",
        headers={}, template=template, category=category, size=900, created_at=created, request_id=f"{number:016x}",
    )  # fmt: skip
    (content_id,) = connection.execute(content).inserted_primary_key or (None,)
    values: dict[str, Any] = {
        "content_id": content_id, "recipient": recipient, "kind": "to", "subject": subject, "category": category,
        "status": Status.PENDING, "priority": lane, "created_at": created, "next_attempt_at": created,
        "max_attempts": 5, "on_uncertain": "retry", "request_id": f"{number:016x}",
    }  # fmt: skip
    values |= columns
    if values["status"] is Status.SENT:
        values["finalized_at"] = values["sent_at"]
    (id_,) = connection.execute(sa.insert(QueuedEmail).values(values)).inserted_primary_key or (0,)
    return int(id_)


def _attempt(connection: sa.Connection, id_: int, number: int, age: float, **columns: Any) -> None:
    defaults = {
        "started_at": from_now(-age),
        "finished_at": from_now(-age + 0.2),
        "worker": "worker-7:41",
        "code": None,
    }
    connection.execute(sa.insert(EmailAttempt).values(email_id=id_, number=number, **(defaults | columns)))


_DEATHS: Sequence[tuple[DeadReason, int, str]] = (
    (DeadReason.REJECTED, 550, "5.1.1 <somebody>: Recipient address rejected: User unknown in virtual mailbox table"),
    (
        DeadReason.REJECTED,
        554,
        "5.7.1 Message rejected as spam by Content Filtering. See https://example.net/why?id=4711",
    ),
    (DeadReason.EXHAUSTED, 451, "4.3.0 Temporary lookup failure"),
)


def _dead(connection: sa.Connection, dice: random.Random, count: int, longest: float, relay: str) -> None:
    for age in _ages(dice, count, longest):
        reason, code, reply = dice.choice(_DEATHS)
        ended = {
            "finalized_at": from_now(-age),
            "dead_reason": reason,
            "last_code": code,
            "last_error": f"rcpt: {reply}",
        }
        id_ = _mail(connection, dice, age + 1, status=Status.DEAD, claims=1, attempts=1, **ended)
        outcome = Outcome.REJECTED if code >= 500 else Outcome.DEFERRED
        said = {"outcome": outcome, "stage": Stage.RCPT, "code": code, "reply": reply, "relay": relay}
        _attempt(connection, id_, 1, age, **said)


def _processes(connection: sa.Connection) -> None:
    _worker(connection, "worker-7", 41, ["celery", "email.high"])
    _worker(connection, "worker-8", 42, ["email.low", "email.normal"])
    detail = _said_of("worker-7", 40) | {"ticked_seconds_ago": 12.5}
    heartbeats.give(connection, heartbeats.BEAT, "beat@worker-7", **detail)


def _worker(
    connection: sa.Connection, host: str, pid: int, queues: list[str], active: int = 0, **detail: object
) -> None:
    """A sign of life, as `workers/heartbeat.py` has it: drains that took a fifth of a second, a few of them two."""
    drains = {"succeeded": 4000, "failed": 3, "retried": 0, "took": {"-9": 3900, "4": 103}, "last_at": time.time() - 20}
    said = _said_of(host, pid) | {"queues": queues, "concurrency": 16, "active": active}
    said |= {"tasks": {"outbox.drain": drains} if "celery" in queues else {}} | detail
    heartbeats.give(connection, heartbeats.WORKER, f"{host}:{pid}", **said)


def _said_of(host: str, pid: int) -> _Said:
    return {"up_seconds": 3 * DAY, "host": host, "pid": pid, "journal": False, "disk": ""}


def _on_record(connection: sa.Connection) -> None:
    """What people did, who must not get mail, and what providers told."""
    ids = connection.scalars(sa.select(QueuedEmail.id).where(QueuedEmail.status == Status.SENT).limit(4)).all()
    auditing.record_mails(connection, "ada (admin page)", "requeue", ids[:2])
    auditing.record(connection, "grace@ops-1", "pause", f"relay {RELAY}", reason="certificate is being renewed")
    auditing.record(connection, "grace@ops-1", "resume", f"relay {RELAY}")
    for target, category in (("stopped@example.com", ""), ("example.net", ""), ("ada@example.com", "news")):
        line = {"target": target, "reason": "asked us to stop", "source": "ada@ops-1", "category": category}
        connection.execute(sa.insert(EmailSuppression).values(line))
    for id_, kind in zip(ids, (Feedback.DELIVERED, Feedback.BOUNCED, Feedback.COMPLAINED), strict=False):
        connection.execute(
            sa.insert(EmailEvent).values(
                email_id=id_, kind=kind, provider="sendgrid", provider_event_id=f"e{id_}", occurred_at=from_now(-300),
                said="550 5.1.1 The email account that you tried to reach does not exist",
            )
        )  # fmt: skip


SCENES = {scene.__name__: scene for scene in (empty, healthy, burning)}


if __name__ == "__main__":
    url = Settings.load().database_url
    migrations.upgrade(url)
    SCENES[sys.argv[1]](create_engine(url), *sys.argv[2:])
