"""The SQL statements that move a row into a worker's hands and, untried, out of them again.

How a claim ends is in `settlement`, what a person may do in `operations`, what a newer mail does to older ones in
`superseding`. There is no other way to change a status.

A claim is a token on the row and a lease. Each statement on a leased row names its token; no row matched means that
somebody else owns it: do nothing. `begin` exchanges the token of the chunk for one of the conversation's own, so that
the same chunk, delivered twice by the broker, can never settle or release a mail that is in another's hands.

All of them run in the caller's transaction. Those that take lines take at most one for each row: an id cannot say which
of two lines it answers.
"""

import json
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple
from uuid import uuid4

import sqlalchemy as sa

from outbox.database import Statement, Words
from outbox.states import Priority


class Claim(NamedTuple):
    """Rows that are ours until the lease runs out, in the order in which they should go."""

    token: str
    ids: Mapping[Priority, Sequence[int]]


class Begin(NamedTuple):
    """The marker that a conversation sets before its dot."""

    id: int
    token: str
    own_token: str  # what `settle` must name from here on
    relay: str | None = None  # that is about to be spoken to; None while the mail is only being composed


class Release(NamedTuple):
    """A row handed back untried. It keeps its place in the queue unless `delay` seconds are given."""

    id: int
    token: str
    delay: float = 0
    waiting_for: str | None = None  # what the delay is for, in words
    relay: str | None = None  # that may have had the mail before: what `begin` wrote is taken back


def _due(sql: Words, priority: Priority, limit: str) -> str:
    return f"""SELECT id FROM (SELECT id FROM email_queue
         WHERE status = 'pending' AND priority = {priority:d} AND next_attempt_at <= {sql.now}
         ORDER BY next_attempt_at, id LIMIT {limit} {sql.skip_locked}) AS {priority.label}"""


def _claim(sql: Words) -> str:
    # A lane of its own for each priority: bulk cannot starve a password reset, nor the other way round.
    lanes = "\n UNION ALL ".join(_due(sql, lane, f":{lane.label}") for lane in Priority)
    return f"""
UPDATE email_queue
   SET status = 'claimed', claim_token = :token, claimed_by = :worker, claims = claims + 1,
       waiting_for = NULL, lease_expires_at = {sql.after(":lease")}
 WHERE id {sql.among(lanes)}
RETURNING id, priority, next_attempt_at"""


def _first_due(sql: Words) -> str:
    # Not EXISTS: where most of the history went through a lane, the planner hopes to meet a due row soon and reads it.
    # Not min(): where nothing was due when PostgreSQL last counted, it expects one row and reads all of a burst.
    first = """(SELECT next_attempt_at FROM email_queue WHERE status = 'pending' AND priority = {lane:d}
         ORDER BY next_attempt_at, id LIMIT 1)"""
    return "\n UNION ALL ".join(
        f"SELECT {lane:d} AS priority, -({sql.seconds_since(first.format(lane=lane))}) AS seconds" for lane in Priority
    )


def _in_flight(_: Words) -> str:
    return """
SELECT priority, count(*) AS rows FROM email_queue WHERE status IN ('claimed', 'sending') GROUP BY priority"""


def begin_words(sql: Words, lines: str = ":lines", lease: str = ":lease") -> str:
    """The statement of `begin`, with its parameters as they are written there."""
    # A doubt from before outlives the composing: should the worker die of that, the mail still goes to no other relay.
    return f"""
UPDATE email_queue
   SET status = 'sending', claim_token = line.own_token, lease_expires_at = {sql.after(lease)},
       relay = COALESCE(line.relay, email_queue.relay)
  FROM {sql.lines(lines, id="bigint", token="text", own_token="text", relay="text")}
 WHERE {sql.on_line("email_queue.id", lines)} AND email_queue.claim_token = line.token
   AND email_queue.status IN ('claimed', 'sending')
RETURNING email_queue.id"""


def _release(sql: Words) -> str:
    lines = sql.lines(":lines", id="bigint", token="text", delay="double precision", waiting_for="text", relay="text")
    return f"""
UPDATE email_queue
   SET status = 'pending', claims = email_queue.claims - 1,
       next_attempt_at = CASE WHEN line.delay > 0 THEN {sql.after("line.delay")}
                              ELSE email_queue.next_attempt_at END,
       relay = CASE WHEN email_queue.status = 'sending' THEN line.relay ELSE email_queue.relay END,
       waiting_for = line.waiting_for, claim_token = NULL, claimed_by = NULL, lease_expires_at = NULL
  FROM {lines}
 WHERE {sql.on_line("email_queue.id", ":lines")} AND email_queue.claim_token = line.token
   AND email_queue.status IN ('claimed', 'sending')
RETURNING email_queue.id"""


def _return_unbegun(sql: Words) -> str:
    return f"""
UPDATE email_queue
   SET status = 'pending', claim_token = NULL, claimed_by = NULL, lease_expires_at = NULL
 WHERE id {sql.among(_lapsed(sql, "id", "claimed"))}
RETURNING id"""


def _lapsed(sql: Words, columns: str, status: str, after: str = "0") -> str:
    # The first condition is the index's own, word by word; the others narrow it down.
    return f"""
SELECT {columns} FROM email_queue AS q
 WHERE q.status IN ('claimed', 'sending') AND q.status = '{status}' AND q.lease_expires_at < {sql.now}
   AND q.id > {after}
 ORDER BY q.id LIMIT :limit {sql.skip_locked}"""


def _find_lapsed_sendings(sql: Words) -> str:
    compositions = """(SELECT count(*) FROM email_attempts AS a WHERE a.email_id = q.id AND a.stage = 'compose')"""
    columns = f"""q.id, q.claim_token, q.claims, q.claimed_by, q.attempts, q.max_attempts, q.on_uncertain, q.relay,
       q.request_id, {compositions} AS compositions, {sql.seconds_since("q.lease_expires_at")} AS overdue,
       {standing_columns(sql)}"""
    return _lapsed(sql, columns, "sending", ":after")


def standing_columns(sql: Words) -> str:
    """What `retry.Standing` needs beside the row's own columns, for a query on `email_queue AS q`."""
    # From when it could first be tried: one that is scheduled for last week is no week old.
    first_due = "CASE WHEN q.scheduled_at > q.created_at THEN q.scheduled_at ELSE q.created_at END"
    return f"""{sql.seconds_since(first_due)} AS age,
       -({sql.seconds_since("q.expires_at")}) AS expires_in,
       CASE WHEN q.claims > 1 THEN (SELECT count(*) FROM email_attempts AS a
             WHERE a.email_id = q.id AND a.outcome = 'uncertain') ELSE 0 END AS resends,
       CASE WHEN q.claims > 1 THEN q.claims - 1 - (SELECT count(*) FROM email_attempts AS a
             WHERE a.email_id = q.id AND a.stage <> 'compose') ELSE 0 END AS deaths"""


_CLAIM = Statement(_claim)
_FIRST_DUE = Statement(_first_due)
_IN_FLIGHT = Statement(_in_flight)
_BEGIN = Statement(begin_words)
_RELEASE = Statement(_release)
_RETURN_UNBEGUN = Statement(_return_unbegun)
_FIND_LAPSED_SENDINGS = Statement(_find_lapsed_sendings)


def claim(connection: sa.Connection, quotas: Mapping[Priority, int], worker: str, lease: float) -> Claim:
    """pending -> claimed: up to `quotas[lane]` due rows of each lane, oldest first, for `lease` seconds."""
    token = uuid4().hex
    limits = {lane.label: quotas[lane] for lane in Priority}
    rows = _CLAIM(connection, token=token, worker=worker, lease=lease, **limits).all()
    ids: dict[Priority, list[int]] = {lane: [] for lane in Priority}
    for row in sorted(rows, key=lambda row: (row.next_attempt_at, row.id)):
        ids[Priority(row.priority)].append(row.id)
    return Claim(token, ids)


def first_due(connection: sa.Connection) -> dict[Priority, float]:
    """Seconds until the first pending mail of each lane is due, below 0 if it is late: one index probe each."""
    return {Priority(row.priority): row.seconds for row in _FIRST_DUE(connection) if row.seconds is not None}


def due_lanes(connection: sa.Connection) -> set[Priority]:
    """The lanes in which a claim would find something."""
    return {lane for lane, seconds in first_due(connection).items() if seconds <= 0}


def in_flight(connection: sa.Connection) -> dict[Priority, int]:
    """Rows claimed or sending, by lane."""
    counts = {row.priority: row.rows for row in _IN_FLIGHT(connection)}
    return {lane: counts.get(lane, 0) for lane in Priority}


def begin(connection: sa.Connection, begins: Iterable[Begin], lease: float) -> set[int]:
    """claimed -> sending, for `lease` seconds from now. Returns the ids that were ours.

    A mail that was begun to be composed is begun once more, under another token of its own, to be sent.
    """
    return set(_BEGIN(connection, lines=as_lines(begins), lease=lease).scalars())


def release(connection: sa.Connection, releases: Iterable[Release]) -> set[int]:
    """claimed, sending -> pending, as if it had not been claimed. Only for what was certainly not sent."""
    return set(_RELEASE(connection, lines=as_lines(releases)).scalars())


def return_unbegun(connection: sa.Connection, limit: int) -> list[int]:
    """claimed -> pending, where the lease ran out: it was never begun, so it was never sent."""
    return list(_RETURN_UNBEGUN(connection, limit=limit).scalars())


def find_lapsed_sendings(connection: sa.Connection, limit: int, after: int = 0) -> Sequence[sa.Row[Any]]:
    """Rows whose worker vanished after `begin`, locked, for the caller to settle; those with an id above `after`."""
    return _FIND_LAPSED_SENDINGS(connection, limit=limit, after=after).all()


def as_lines(tuples: Iterable[NamedTuple]) -> str:
    """For `Words.lines`."""
    return json.dumps([line._asdict() for line in tuples])
