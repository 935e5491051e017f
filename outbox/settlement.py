"""The SQL statements that end a claim: the row's next state, the attempt that led to it, and what else it teaches.

As in `claims`, each names the row's token, runs in the caller's transaction and takes at most one line for each row.
"""

import json
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, NamedTuple, Self

import sqlalchemy as sa

from outbox import wiping
from outbox.claims import as_lines
from outbox.database import Statement, Words
from outbox.retry import Verdict
from outbox.states import FINAL, DeadReason, Outcome, Stage, Status

if TYPE_CHECKING:
    from outbox.relay import Report


class Attempt(NamedTuple):
    """A conversation, for the record. `seconds`: how long it took."""

    id: int
    number: int
    seconds: float
    outcome: Outcome
    stage: Stage
    code: int | None
    reply: str
    relay: str
    worker: str

    @classmethod
    def of(cls, id_: int, number: int, report: "Report", seconds: float, relay: str, worker: str) -> Self:  # noqa: PLR0917
        """What a conversation with a relay came to."""
        return cls(id_, number, seconds, report.outcome, report.stage, report.code, report.reply, relay, worker)


class Settlement(NamedTuple):
    """The end of a claim: the row's next state, and the conversation that led to it, if there was one."""

    id: int
    token: str
    status: Status
    counted: bool = False
    delay: float = 0
    dead_reason: DeadReason | None = None
    last_code: int | None = None
    last_error: str | None = None
    relay: str | None = None  # that may have had the mail, and must be the one to have it again
    suppress: bool = False  # the recipient does not exist
    attempt: Attempt | None = None
    sensitive: bool = False  # maybe: if it is, it is wiped when its last row is final

    @property
    def wipes(self) -> bool:
        """Whether what the mail said may have to be wiped."""
        return self.sensitive and self.status in FINAL

    @classmethod
    def of(
        cls,
        token: str,
        verdict: Verdict,
        attempt: Attempt,
        *,
        relay: str | None = None,
        suppress: bool = False,
        sensitive: bool = False,
    ) -> Self:
        """What a conversation, and the verdict on it, make of the row.

        `relay`: the one that may have had the mail in an earlier conversation.
        """
        return cls(
            id=attempt.id,
            token=token,
            status=verdict.status,
            counted=verdict.counted,
            delay=verdict.delay,
            dead_reason=verdict.dead_reason,
            last_code=attempt.code,
            last_error=None if attempt.outcome is Outcome.SENT else f"{attempt.stage}: {attempt.reply}",
            relay={Outcome.UNCERTAIN: attempt.relay, Outcome.SENT: None}.get(attempt.outcome, relay),
            suppress=suppress,
            attempt=attempt,
            sensitive=sensitive,
        )


def settle_words(sql: Words, lines: str = ":lines") -> str:
    """The statement that ends claims, with its parameter as it is written there."""
    table = sql.lines(
        lines,
        id="bigint", token="text", status="text", counted="boolean", delay="double precision",
        dead_reason="text", last_code="integer", last_error="text", relay="text",
    )  # fmt: skip
    return f"""
UPDATE email_queue
   SET status = line.status,
       attempts = email_queue.attempts + CASE WHEN line.counted THEN 1 ELSE 0 END,
       next_attempt_at = CASE WHEN line.status = 'pending' THEN {sql.after("line.delay")}
                              ELSE email_queue.next_attempt_at END,
       sent_at = CASE WHEN line.status = 'sent' THEN {sql.now} END,
       finalized_at = CASE WHEN line.status IN ('sent', 'dead', 'cancelled') THEN {sql.now} END,
       relay = line.relay, dead_reason = line.dead_reason, last_code = line.last_code, last_error = line.last_error,
       claim_token = NULL, claimed_by = NULL, lease_expires_at = NULL
  FROM {table}
 WHERE {sql.on_line("email_queue.id", lines)} AND email_queue.claim_token = line.token
   AND email_queue.status IN ('claimed', 'sending')
   AND line.status <> CASE email_queue.status WHEN 'claimed' THEN 'sent' ELSE 'cancelled' END
RETURNING email_queue.id"""


def _gone(sql: Words) -> str:
    return f"""
SELECT q.recipient, q.last_error, a.relay FROM email_queue AS q
  JOIN email_attempts AS a ON a.email_id = q.id AND a.number = q.claims
 WHERE q.id {sql.among(sql.numbers(":ids"))} ORDER BY q.id"""


def _suppress(sql: Words) -> str:
    return f"""
INSERT INTO email_suppressions (target, category, reason, source)
SELECT target, '', reason, source FROM {sql.lines(":lines", target="text", reason="text", source="text")} WHERE true
ON CONFLICT (target, category) DO UPDATE
   SET reason = excluded.reason, source = excluded.source, until = NULL, created_at = {sql.now}
 WHERE email_suppressions.until <= {sql.now}"""


def record_words(sql: Words, lines: str = ":lines") -> str:
    """The statement that writes attempts, with its parameter as it is written there."""
    table = sql.lines(
        lines,
        id="bigint", number="integer", seconds="double precision", outcome="text", stage="text", code="integer",
        reply="text", relay="text", worker="text",
    )  # fmt: skip
    return f"""
INSERT INTO email_attempts (email_id, number, started_at, finished_at, outcome, stage, code, reply, relay, worker)
SELECT id, number, {sql.after("-seconds")}, {sql.now}, outcome, stage, code, reply, relay, worker FROM {table}"""


def _settle_late(sql: Words) -> str:
    # The reaper has written `uncertain` about this very conversation, and nobody has claimed the row since.
    lines = sql.lines(":lines", id="bigint", number="integer", relay="text", code="integer")
    return f"""
UPDATE email_queue
   SET status = 'sent', sent_at = {sql.now}, finalized_at = {sql.now}, last_code = line.code, last_error = NULL,
       relay = NULL, waiting_for = NULL, dead_reason = NULL
  FROM {lines}
 WHERE {sql.on_line("email_queue.id", ":lines")} AND email_queue.claims = line.number
   AND email_queue.status IN ('pending', 'uncertain')
   AND EXISTS (SELECT 1 FROM email_attempts AS a WHERE a.email_id = line.id AND a.number = line.number
                  AND a.outcome = 'uncertain' AND a.relay = line.relay)
RETURNING email_queue.id"""


def _correct(sql: Words) -> str:
    lines = sql.lines(":lines", id="bigint", number="integer", stage="text", code="integer", reply="text")
    return f"""
UPDATE email_attempts
   SET outcome = 'sent', stage = line.stage, code = line.code, reply = line.reply
  FROM {lines}
 WHERE {sql.on_line("email_attempts.email_id", ":lines")} AND email_attempts.number = line.number"""


def _known_as_sent(sql: Words) -> str:
    return f"""
SELECT email_queue.id FROM email_queue, {sql.lines(":lines", id="bigint", number="integer")}
 WHERE {sql.on_line("email_queue.id", ":lines")} AND email_queue.claims = line.number
   AND email_queue.status = 'sent'"""


_SETTLE = Statement(settle_words)
_SETTLE_LATE = Statement(_settle_late)
_CORRECT = Statement(_correct)
_KNOWN_AS_SENT = Statement(_known_as_sent)
_GONE = Statement(_gone)
_SUPPRESS = Statement(_suppress)
_RECORD = Statement(record_words)


def settle_lines(settlements: Iterable[Settlement]) -> str:
    """For `settle_words`."""
    return as_lines(s._replace(attempt=None) for s in settlements)


def settle(connection: sa.Connection, settlements: Sequence[Settlement]) -> set[int]:
    """sending -> sent, pending, dead or uncertain; claimed -> pending, dead, uncertain or cancelled.

    With the attempt, if there was one. A recipient that does not exist is suppressed in the same transaction, and a
    sensitive mail of which nothing more is to come is wiped.
    Returns the ids that were ours.
    """
    ours = set(_SETTLE(connection, lines=settle_lines(settlements)).scalars())
    attempts = [s.attempt for s in settlements if s.attempt is not None and s.id in ours]
    if attempts:
        _RECORD(connection, lines=as_lines(attempts))
    gone = [s.id for s in settlements if s.suppress and s.id in ours]
    if gone:
        _suppress_all(connection, gone)
    ended = [s.id for s in settlements if s.wipes and s.id in ours]
    if ended:
        wiping.wipe(connection, ended)
    return ours


def _suppress_all(connection: sa.Connection, ids: Sequence[int]) -> None:
    """The recipients of these mails, each once: two of its mails may be settled together, with the relay's two replies.

    In Python, since the databases differ in which letters `lower` knows. By name, lest two transactions wait for each
    other.
    """
    found = {row.recipient.lower(): row for row in _GONE(connection, ids=json.dumps(ids))}
    lines = [{"target": name, "reason": row.last_error, "source": row.relay} for name, row in sorted(found.items())]
    _SUPPRESS(connection, lines=json.dumps(lines))


def settle_late(connection: sa.Connection, settlements: Sequence[Settlement]) -> set[int]:
    """pending, uncertain -> sent: the relay had said 250, and the reaper, who could not know, was faster.

    For lines that `settle` did not take. Where `claims` still is the attempt's number, nobody has claimed the row
    since, so nobody is sending it again; and the attempt, which the reaper called uncertain, gets the relay's words.
    Returns the ids that were moved; of those that stood as sent before, `known_as_sent` knows.
    """
    attempts = _of_sent(settlements)
    if not attempts:
        return set()
    corrected = set(_SETTLE_LATE(connection, lines=as_lines(attempts.values())).scalars())
    if corrected:
        _CORRECT(connection, lines=as_lines(attempts[id_] for id_ in corrected))
        wiping.wipe(connection, corrected)
    return corrected


def known_as_sent(connection: sa.Connection, settlements: Sequence[Settlement]) -> set[int]:
    """The ids that stand as sent by these very conversations, whoever has put that on record."""
    attempts = _of_sent(settlements)
    return set(_KNOWN_AS_SENT(connection, lines=as_lines(attempts.values())).scalars()) if attempts else set()


def _of_sent(settlements: Sequence[Settlement]) -> dict[int, Attempt]:
    return {s.id: s.attempt for s in settlements if s.status is Status.SENT and s.attempt is not None}
