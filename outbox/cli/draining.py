"""`outbox drain`: send what is due from this process, for cron and for small sites. No Celery, no Redis."""

import os
import secrets
import signal
import socket
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from types import FrameType

import click
import sqlalchemy as sa
from sqlalchemy.orm import Session

import outbox.drain
import outbox.reaper
from outbox import stats
from outbox.cli.listing import MailTable, fields
from outbox.cli.progress import progress
from outbox.cli.surroundings import open_database
from outbox.cli.terminal import count, json_option, put, put_json
from outbox.database import reading, utcnow
from outbox.delivery import Courier
from outbox.models import QueuedEmail
from outbox.settings import Settings
from outbox.states import Priority, Status

_SHOWN = 50
"""Mails that `--dry-run` names; it counts them all."""

_SLICE = 10
"""Mails handed to the courier at a time: the progress bar moves as often."""


class _Enough(Exception):
    """Ends the drain from within; what is claimed and untried goes back at once."""


class Run:
    """One drain, until nothing is due, the relay is down or somebody wants an end."""

    def __init__(self, engine: sa.Engine, settings: Settings, progress: Callable[[int], object]) -> None:
        self._engine = engine
        self._settings = settings
        self._progress = progress
        self._worker = f"outbox-drain@{socket.gethostname()}:{os.getpid()}.{secrets.token_hex(2)}"
        self._courier = Courier(engine, settings, self._worker)
        self.became: Counter[Status] = Counter()
        self.taken_back = 0
        self.problem: str | None = None
        self.signal: signal.Signals | None = None
        self._begun: set[str] = set()
        """The claims of which something became."""

    def run(self) -> None:
        """Drain after drain: what was deferred is due later, so this ends."""
        try:
            self.taken_back = outbox.reaper.reap(self._engine, self._settings)
            while outbox.drain.drain(self._engine, self._settings, self._worker, self._deliver):
                pass
            if self.became[Status.PENDING] or outbox.drain.is_due(self._engine):
                self.problem = self._obstacle()
        except _Enough:
            pass
        finally:
            self._courier.close()

    def stop(self, number: int, _: FrameType | None = None) -> None:
        """As a signal handler: finish the mail in hand, hand back the rest. The same signal again ends it at once."""
        signal.signal(number, signal.SIG_DFL)
        self.signal = signal.Signals(number)
        self._courier.stop()

    def _deliver(self, _: Priority, ids: Sequence[int], token: str) -> None:
        for start in range(0, len(ids), _SLICE):
            part = ids[start : start + _SLICE]
            became = self._courier.deliver(part, token)
            self.became += became
            self._progress(became.total())
            if became:
                self._begun.add(token)
            elif self.signal is None:
                self.problem = self._obstacle()
                # With a slow relay, a claim's lease ends before its mails do: they are handed back, and claimed anew.
                if self.problem is None and token not in self._begun:
                    self.problem = "none of the mails at the head of the queue could be begun"
            if self.signal or self.problem:
                raise _Enough

    def _obstacle(self) -> str | None:
        return outbox.drain.obstacle(self._engine, self._settings)


@click.command(short_help="Send what is due from this process, without Celery or Redis.")
@click.option("--dry-run", is_flag=True, help=f"Say what is due, and name the first {_SHOWN}; touch nothing.")
@json_option
@click.pass_context
def drain(ctx: click.Context, *, dry_run: bool, as_json: bool) -> None:
    """Send everything that is due, from this process, without Celery or Redis.

    First takes back mail whose worker is gone. Ends when nothing is due any more; mail that was deferred goes with a
    later drain. Two drains at once, or workers beside it, do no harm. Ctrl-C or SIGTERM finishes the mail in hand and
    hands back the rest; the same again leaves at once.

    Exit status: 0 if nothing that is due was left, whatever the relay said to each mail; 1 if the relay was down or the
    database failed; 130 or 143 after Ctrl-C or SIGTERM.
    """
    with open_database() as (settings, engine):
        if dry_run:
            _say_what_is_due(engine, settings, as_json=as_json)
            return
        with reading(engine) as connection:
            due = sum(lane.due for lane in stats.waiting(connection).values())
        with progress("Sending:", due) as advance:
            run = Run(engine, settings, advance)
            with _handled(run.stop):
                run.run()
    _report(run, as_json=as_json)
    if run.signal is not None:
        ctx.exit(128 + run.signal)
    if run.problem is not None:
        ctx.exit(1)


def _say_what_is_due(engine: sa.Engine, settings: Settings, *, as_json: bool) -> None:
    query = (
        sa.select(QueuedEmail)
        .where(sa.text("status = 'pending'"), QueuedEmail.next_attempt_at <= utcnow())
        .order_by(QueuedEmail.priority, QueuedEmail.next_attempt_at, QueuedEmail.id)
        .limit(_SHOWN)
    )
    with reading(engine) as connection, Session(connection) as session:
        lanes = stats.waiting(connection)
        rows = session.scalars(query).all()
    due = {lane.label: waiting.due for lane, waiting in lanes.items()}
    problem = outbox.drain.obstacle(engine, settings)
    if as_json:
        put_json({"due": due, "problem": problem, "first": [fields(row) for row in rows]})
        return
    if rows:
        put(MailTable(rows))
    by_lane = ", ".join(f"{number:,} {label}" for label, number in due.items())
    total = sum(due.values())
    more = f"; the first {_SHOWN} are listed" if total > _SHOWN else ""
    click.echo(f"{count(total, 'mail')} due: {by_lane}{more}." if total else "Nothing is due.")
    if problem:
        click.echo(f"But nothing would go: {problem}.", err=True)


def _report(run: Run, *, as_json: bool) -> None:
    ends = (Status.SENT, Status.PENDING, Status.DEAD, Status.UNCERTAIN)
    if as_json:
        became = {str(status): run.became[status] for status in ends}
        put_json(became | {"taken_back": run.taken_back, "problem": run.problem, "signal": _name(run.signal)})
        return
    if run.taken_back:
        click.echo(f"{count(run.taken_back, 'mail')} came back from workers that are gone.")
    if not run.became and run.signal is None and run.problem is None:
        click.echo("Nothing is due.")
        return
    words = {Status.SENT: "sent", Status.PENDING: "to be tried again", Status.DEAD: "dead"}
    put(", ".join(f"{run.became[status]:,} {words.get(status, status)}" for status in ends) + ".")
    if run.signal is not None:
        click.echo(f"Ended by {_name(run.signal)}: the rest stays queued.", err=True)
    elif run.problem is not None:
        click.echo(f"Error: {run.problem}: the rest stays queued.", err=True)


def _name(number: signal.Signals | None) -> str | None:
    return None if number is None else number.name


@contextmanager
def _handled(handler: Callable[[int, FrameType | None], None]) -> Iterator[None]:
    before = {number: signal.signal(number, handler) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for number, old in before.items():
            signal.signal(number, old)
