"""Facts and the sentence they come to, as a table."""

import time
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from outbox.breaker import Standing
from outbox.sentences import Attempt, Facts, sentence
from outbox.states import DeadReason, Outcome, RelayState, Stage, Status
from outbox.suppressions import Suppression
from outbox.times import told

NOW = datetime(2026, 11, 22, 10, 0, tzinfo=UTC)


@pytest.fixture(autouse=True)
def _local_time_is_utc(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    with monkeypatch.context() as patch:
        patch.setenv("TZ", "UTC")
        time.tzset()
        yield
    time.tzset()


def at(minutes: float) -> datetime:
    return NOW + timedelta(minutes=minutes)


def attempt(outcome: Outcome, reply: str, code: int | None = None, stage: Stage = Stage.RCPT) -> dict[str, Any]:
    """The columns of a row after a conversation."""
    last = Attempt(outcome=outcome, stage=stage, code=code, reply=reply, relay="mx1:25", finished_at=at(-1))
    return {"last": last, "last_error": None if outcome is Outcome.SENT else f"{stage}: {reply}"}


OPEN = Standing("mx1:25")
PAUSED = Standing("mx1:25", RelayState.PAUSED, "moving house", changed_at=at(-60), changed_by="ada@office")
DOWN = Standing("mx2:25", RelayState.OPEN, "connect: refused", failures=2, seconds_left=120, changed_at=at(-3))
PROBE = Standing("mx2:25", RelayState.OPEN, "connect: refused", seconds_left=-1, changed_at=at(-3))
PROBED = Standing("mx2:25", RelayState.HALF_OPEN, "connect: refused", seconds_left=90, changed_at=at(-3))
LATCHED = Standing("mx2:25", RelayState.OPEN, "auth: 535 no", latched=True, seconds_left=600, changed_at=at(-3))
RESTING = Standing("mx2:25", reason="mail: 4.7.0 slowly", seconds_left=30, changed_at=at(-1))

GREYLISTED = attempt(Outcome.DEFERRED, "greylisted", 451)
LOST = attempt(Outcome.UNCERTAIN, "no answer within 600 s", None, Stage.DOT)
BOUNCED = Suppression("ann@x.example", "rcpt: 5.1.1 no such user", "mx1:25", None, at(-24 * 60))
DOMAIN = Suppression("x.example", "asked us to stop", "ada@office", at(90), at(-10))
UNSUBSCRIBED = Suppression("ann@x.example", "unsubscribed from 'news'", "one-click", None, at(-24 * 60), "news")
LEASED = {"claimed_by": "celery@a:1", "lease_expires_at": at(14), "lease": timedelta(minutes=15)}
RETRIED = {"next_attempt_at": at(32), "attempts": 2, **GREYLISTED}


SENTENCES: list[tuple[Status, dict[str, Any], str]] = [
    # --- pending
    (Status.PENDING, {}, "has been due since 09:57:00 (3 min ago), and waits for a worker"),
    (
        Status.PENDING,
        {"waiting_for": "14/second to mx1:25"},
        (
            "has been due since 09:57:00 (3 min ago), was held back until then (14/second to mx1:25), and waits for"
            " a worker"
        ),
    ),
    (
        Status.PENDING,
        {"scheduled_at": at(60 * 48), "next_attempt_at": at(60 * 48)},
        "is scheduled for 2026-11-24 10:00 (in 2 d)",
    ),
    (Status.PENDING, RETRIED, 'is waiting for retry 3 of 5 after "451 greylisted" until 10:32:00 (in 32 min)'),
    (
        Status.PENDING,
        {"next_attempt_at": at(1), **attempt(Outcome.RELAY_DOWN, "refused", None, Stage.CONNECT)},
        'waits until 10:01:00 (in 1 min) after "connect: refused", which counts as no attempt',
    ),
    (Status.PENDING, {"next_attempt_at": at(1)}, "waits until 10:01:00 (in 1 min)"),
    (
        Status.PENDING,
        {"next_attempt_at": at(2), "waiting_for": "20/minute to x.example"},
        "is held back until 10:02:00 (in 2 min): 20/minute to x.example",
    ),
    (
        Status.PENDING,
        {"held": "ann@x.example is not on the list"},
        "has been due since 09:57:00 (3 min ago), but will be held back: ann@x.example is not on the list",
    ),
    (
        Status.PENDING,
        {"next_attempt_at": at(15), "held": "not on the list", "waiting_for": "not on the list"},
        "is held back until 10:15:00 (in 15 min): not on the list",
    ),
    (
        Status.PENDING,
        {"not_ours": "this database holds the mail of 'production'"},
        "has been due since 09:57:00 (3 min ago), but this database holds the mail of 'production'",
    ),
    (
        Status.PENDING,
        {"expires_at": at(-1)},
        "has been due since 09:57:00 (3 min ago), but expired at 09:59:00 (1 min ago) and will not be sent",
    ),
    (
        Status.PENDING,
        RETRIED | {"expires_at": at(20)},
        (
            'is waiting for retry 3 of 5 after "451 greylisted" until 10:32:00 (in 32 min), but expires before '
            "that, at 10:20:00 (in 20 min) and will not be sent"
        ),
    ),
    (
        Status.PENDING,
        {"suppression": DOMAIN},
        (
            "has been due since 09:57:00 (3 min ago), but will not be sent, for x.example has been suppressed since"
            ' 09:50:00 (10 min ago) until 11:30:00 (in 1 h) by ada@office because "asked us to stop"'
        ),
    ),
    (
        Status.PENDING,
        {"attempts": 2, **GREYLISTED},
        ('has been due since 09:57:00 (3 min ago), for retry 3 of 5 after "451 greylisted", and waits for a worker'),
    ),
    # --- pending, and its relays
    (
        Status.PENDING,
        {"relays": [PAUSED]},
        (
            "has been due since 09:57:00 (3 min ago), but nothing can be sent: relay mx1:25 has been paused since "
            '09:00:00 (1 h ago) by ada@office because "moving house", until `outbox resume mx1:25`'
        ),
    ),
    (
        Status.PENDING,
        {"relays": [PAUSED, DOWN]},
        (
            "has been due since 09:57:00 (3 min ago), but nothing can be sent: relay mx1:25 has been paused since "
            '09:00:00 (1 h ago) by ada@office because "moving house", until `outbox resume mx1:25`; relay mx2:25 '
            'has been paused since 09:57:00 (3 min ago) because "connect: refused", and one mail will try it at '
            "10:02:00 (in 2 min)"
        ),
    ),
    (Status.PENDING, {"relays": [DOWN, OPEN]}, "has been due since 09:57:00 (3 min ago), and waits for a worker"),
    (
        Status.PENDING,
        {"relays": [PROBE]},
        (
            "has been due since 09:57:00 (3 min ago), but nothing can be sent: relay mx2:25 has been paused since "
            '09:57:00 (3 min ago) because "connect: refused", and one mail will try it with the next drain'
        ),
    ),
    (
        Status.PENDING,
        {"relays": [PROBED]},
        (
            "has been due since 09:57:00 (3 min ago), but nothing can be sent: relay mx2:25 has been paused since "
            '09:57:00 (3 min ago) because "connect: refused", and one mail is trying it'
        ),
    ),
    (
        Status.PENDING,
        {"relays": [LATCHED]},
        (
            "has been due since 09:57:00 (3 min ago), but nothing can be sent: relay mx2:25 has been paused since "
            '09:57:00 (3 min ago) because "auth: 535 no", which a person should mend, and one mail will try it at '
            "10:10:00 (in 10 min)"
        ),
    ),
    (
        Status.PENDING,
        {"relays": [RESTING]},
        (
            "has been due since 09:57:00 (3 min ago), but nothing can be sent: relay mx2:25 has been paused since "
            '09:59:00 (1 min ago) because "mail: 4.7.0 slowly", until 10:00:30 (in 30 s)'
        ),
    ),
    # A short pause is over long before this mail is due; a person's is not.
    (
        Status.PENDING,
        RETRIED | {"relays": [DOWN]},
        'is waiting for retry 3 of 5 after "451 greylisted" until 10:32:00 (in 32 min)',
    ),
    (
        Status.PENDING,
        RETRIED | {"relays": [PAUSED]},
        (
            'is waiting for retry 3 of 5 after "451 greylisted" until 10:32:00 (in 32 min), but nothing can be '
            'sent: relay mx1:25 has been paused since 09:00:00 (1 h ago) by ada@office because "moving house", '
            "until `outbox resume mx1:25`"
        ),
    ),
    (
        Status.PENDING,
        {"relay": "mx2:25", "relays": [OPEN, DOWN]},
        (
            "has been due since 09:57:00 (3 min ago), but it may go through no relay but the one that may have had "
            'it already: relay mx2:25 has been paused since 09:57:00 (3 min ago) because "connect: refused", and '
            "one mail will try it at 10:02:00 (in 2 min)"
        ),
    ),
    (
        Status.PENDING,
        {"relay": "mx1:25", "relays": [OPEN, DOWN]},
        "has been due since 09:57:00 (3 min ago), and waits for a worker",
    ),
    (
        Status.PENDING,
        {"relay": "old:25", "relays": [OPEN]},
        (
            "has been due since 09:57:00 (3 min ago), but it may go through no relay but the one that may have had "
            "it already, old:25, and that is no longer in the settings: put it back, or the mail becomes uncertain "
            "when its turn comes"
        ),
    ),
    # --- in a worker's hands
    (
        Status.CLAIMED,
        LEASED | {"lease_expires_at": at(2)},
        "is with worker celery@a:1, which begins it by 10:02:00 (in 2 min) or gives it back",
    ),
    (
        Status.CLAIMED,
        LEASED | {"lease_expires_at": at(-2)},
        (
            "was left by worker celery@a:1, whose lease ended at 09:58:00 (2 min ago); it did not send the mail, "
            "and the reaper, which beat and `outbox drain` start, puts it back in the queue"
        ),
    ),
    (Status.SENDING, LEASED, "is being composed by worker celery@a:1, which began at 09:59:00 (1 min ago)"),
    (
        Status.SENDING,
        LEASED | {"relay": "mx1:25"},
        "is being sent to relay mx1:25 by worker celery@a:1, which began at 09:59:00 (1 min ago)",
    ),
    (
        Status.SENDING,
        LEASED | {"relay": "mx1:25", "lease_expires_at": at(-2)},
        (
            "was left by worker celery@a:1, whose lease ended at 09:58:00 (2 min ago); relay mx1:25 may have sent "
            "it, and the reaper, which beat and `outbox drain` start, decides what follows"
        ),
    ),
    (
        Status.SENDING,
        LEASED | {"lease_expires_at": at(-2)},
        (
            "was left by worker celery@a:1, whose lease ended at 09:58:00 (2 min ago); it composed the mail and did"
            " not send it, and the reaper, which beat and `outbox drain` start, decides what follows"
        ),
    ),
    # --- over
    (
        Status.SENT,
        attempt(Outcome.SENT, "2.0.0 queued as 4711", 250, Stage.DOT),
        'was sent at 09:58:00 (2 min ago) by relay mx1:25, which said "250 2.0.0 queued as 4711"',
    ),
    (
        Status.SENT,
        LOST | {"last_error": "resolved as sent by ada@office"},
        "has counted as sent since 09:58:00 (2 min ago): resolved as sent by ada@office",
    ),
    (Status.CANCELLED, {}, "was cancelled at 09:58:00 (2 min ago); `outbox requeue 7` sends it after all"),
    (
        Status.UNCERTAIN,
        LOST,
        (
            'has been uncertain since 09:59:00 (1 min ago): relay mx1:25 may have sent it ("dot: no answer within '
            '600 s"); look for its Message-ID (`outbox show 7`) in the log of that relay, then `outbox resolve 7 '
            "sent|requeue|dead`"
        ),
    ),
    (
        Status.UNCERTAIN,
        {"relay": "old:25", "last_error": "old:25 is no longer among the relays"},
        (
            'is uncertain: relay old:25 may have sent it ("old:25 is no longer among the relays"); look for its '
            "Message-ID (`outbox show 7`) in the log of that relay, then `outbox resolve 7 sent|requeue|dead`"
        ),
    ),
    # --- dead
    (
        Status.DEAD,
        {"dead_reason": DeadReason.REJECTED, **attempt(Outcome.REJECTED, "5.1.1 no such user", 550)},
        ('has been dead since 09:58:00 (2 min ago): relay mx1:25 refused it for good with "550 5.1.1 no such user"'),
    ),
    (
        Status.DEAD,
        {"dead_reason": DeadReason.REJECTED, **attempt(Outcome.REJECTED, "5.1.1 no", 550), "suppression": BOUNCED},
        (
            'has been dead since 09:58:00 (2 min ago): relay mx1:25 refused it for good with "550 5.1.1 no"; '
            "ann@x.example is suppressed, until `outbox suppress --remove ann@x.example`"
        ),
    ),
    (
        Status.DEAD,
        {"dead_reason": DeadReason.EXHAUSTED, "attempts": 5, **GREYLISTED},
        (
            'has been dead since 09:58:00 (2 min ago): all of its 5 attempts failed, the last with "451 '
            'greylisted"; `outbox requeue 7` tries again'
        ),
    ),
    (
        Status.DEAD,
        {"dead_reason": DeadReason.EXHAUSTED, "attempts": 2, **GREYLISTED},
        (
            'has been dead since 09:58:00 (2 min ago): it had grown too old for another attempt after "451 '
            'greylisted"; `outbox requeue 7` tries again'
        ),
    ),
    (
        Status.DEAD,
        {"dead_reason": DeadReason.EXHAUSTED, **LOST, "last_error": "given up while uncertain, by ada@office"},
        (
            "has been dead since 09:58:00 (2 min ago): given up while uncertain, by ada@office; `outbox requeue 7` "
            "tries again"
        ),
    ),
    (
        Status.DEAD,
        {"dead_reason": DeadReason.EXPIRED, "expires_at": at(-5), "last_error": "expired before its turn came"},
        "has been dead since 09:58:00 (2 min ago): it expired at 09:55:00 (5 min ago) unsent",
    ),
    (
        Status.DEAD,
        {"dead_reason": DeadReason.EXPIRED, "expires_at": at(5), **GREYLISTED},
        (
            "has been dead since 09:58:00 (2 min ago): it expires at 10:05:00 (in 5 min), before it could be tried "
            'again after "451 greylisted"'
        ),
    ),
    (
        Status.DEAD,
        {"dead_reason": DeadReason.SUPPRESSED, "last_error": BOUNCED.reason, "suppression": BOUNCED},
        (
            "has been dead since 09:58:00 (2 min ago): ann@x.example has been suppressed since 2026-11-21 10:00 (1 "
            'd ago) for good by mx1:25 because "rcpt: 5.1.1 no such user"; `outbox suppress --remove ann@x.example`'
            " lifts that, then `outbox requeue 7`"
        ),
    ),
    (
        Status.DEAD,
        {"dead_reason": DeadReason.SUPPRESSED, "last_error": UNSUBSCRIBED.reason, "suppression": UNSUBSCRIBED},
        (
            "has been dead since 09:58:00 (2 min ago): ann@x.example unsubscribed from 'news' at 2026-11-21 10:00 (1 d"
            " ago) (one-click); `outbox suppress --remove ann@x.example --category news` lifts that, then `outbox"
            " requeue 7`"
        ),
    ),
    (
        Status.DEAD,
        {"dead_reason": DeadReason.SUPPRESSED, "last_error": "complained"},
        (
            'has been dead since 09:58:00 (2 min ago): its recipient was suppressed then because "complained" and '
            "is not any more; `outbox requeue 7` tries again"
        ),
    ),
    (
        Status.DEAD,
        {"dead_reason": DeadReason.INVALID, "last_error": "cannot be composed: KeyError('x')"},
        (
            "has been dead since 09:58:00 (2 min ago): it cannot be sent as a message (cannot be composed: "
            "KeyError('x'))"
        ),
    ),
    (
        Status.DEAD,
        {"dead_reason": DeadReason.INVALID, **attempt(Outcome.DEFERRED, "w1 vanished", None, Stage.COMPOSE)},
        ('has been dead since 09:58:00 (2 min ago): its workers died while they composed it, last with "w1 vanished"'),
    ),
    (
        Status.DEAD,
        {"dead_reason": DeadReason.INVALID, **attempt(Outcome.REJECTED, "5.3.4 too big", 552)},
        (
            'has been dead since 09:58:00 (2 min ago): relay mx1:25 does not take such a message and said "552 '
            '5.3.4 too big"'
        ),
    ),
    (
        Status.DEAD,
        {"dead_reason": DeadReason.INVALID, **attempt(Outcome.REJECTED, "j\xf6rg@x needs SMTPUTF8", None, Stage.MAIL)},
        "has been dead since 09:58:00 (2 min ago): it was not offered to relay mx1:25: j\xf6rg@x needs SMTPUTF8",
    ),
]


@pytest.mark.parametrize(("status", "columns", "said"), SENTENCES, ids=[said[:60] for *_, said in SENTENCES])
def test_a_sentence(status: Status, columns: dict[str, Any], said: str) -> None:
    final = status in {Status.SENT, Status.DEAD, Status.CANCELLED}
    defaults = {"next_attempt_at": at(-3), "finalized_at": at(-2) if final else None, "relays": [OPEN]}
    assert sentence(Facts(id=7, status=status, now=NOW, **(defaults | columns))) == f"Mail 7 {said}."


def test_every_status_and_every_reason_has_its_sentence() -> None:
    assert {status for status, *_ in SENTENCES} == set(Status)
    assert {columns["dead_reason"] for status, columns, _ in SENTENCES if status is Status.DEAD} == set(DeadReason)
    relays = [relay for _, columns, _ in SENTENCES for relay in columns.get("relays", ())]
    assert {relay.state for relay in relays} == set(RelayState)


def test_a_time_in_a_sentence_is_short_where_it_is_today() -> None:
    assert told(at(5), NOW) == "10:05:00 (in 5 min)"
    assert told(at(-10 * 60), NOW) == "00:00:00 (10 h ago)"
    assert told(at(-10 * 60 - 1), NOW) == "2026-11-21 23:59 (10 h ago)"
