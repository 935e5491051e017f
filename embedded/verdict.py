"""What became of the demo's mails: the queue's word held against what is in the inbox."""

from dataclasses import dataclass

import sqlalchemy as sa
from flask import Flask
from rich.box import SIMPLE_HEAD
from rich.markup import escape
from rich.table import Table

from embedded.demo import ADA, ROLLED_BACK, Demo
from embedded.maildir import Maildir
from outbox.models import EmailContent, QueuedEmail
from outbox.states import DeadReason, Kind, Priority, Status

_NEWEST = 1000
"""Messages of the inbox to look through: ours are among them, whatever else arrives meanwhile."""

_MARK = "*"
_NOTE = f"{_MARK} Sensitive: its template is shown; its subject is in the mail alone."


@dataclass(frozen=True)
class Verdict:
    """A table to show, what is wrong (nothing, one hopes), and the seconds that each delivered mail took, sorted."""

    table: Table
    problems: list[str]
    seconds: list[float]


def judge(app: Flask, demo: Demo, rows: list[QueuedEmail], inbox: Maildir | None) -> Verdict:
    """Look at every mail of the demo. Without an inbox of ours, the relay's word has to do."""
    arrived = None if inbox is None else _arrived(inbox)
    table = Table(box=SIMPLE_HEAD, padding=(0, 1, 0, 0), pad_edge=False, header_style="bold", caption_justify="left")
    # All of it fits in 80 columns.
    table.add_column("id", justify="right", no_wrap=True)
    table.add_column("priority", no_wrap=True)
    table.add_column("recipient", overflow="fold", min_width=len("books@example.com (bcc)"))
    table.add_column("subject")
    table.add_column("status")
    table.add_column("after", justify="right", no_wrap=True, min_width=len("0.00 s"))
    problems = []
    for row in rows:
        problem = _problem(row, arrived)
        problems += [problem] if problem else []
        table.add_row(*_cells(row, arrives=arrived is not None, ok=not problem))
    table.add_section()
    table.caption = _NOTE if any(row.content.sensitive for row in rows) else None
    if _exists(app, demo.rolled_back, inbox):
        problems.append(f"the mail that was rolled back, {demo.rolled_back}, exists")
    else:
        table.add_row("-", "normal", ADA, ROLLED_BACK, "[green]rolled back[/]", "-")
    seconds = sorted(filter(None, map(_seconds, rows)))
    if not seconds and not problems:
        problems.append("nobody gets mail: `python -m outbox suppress --list` says why, and --remove ends it")
    return Verdict(table, problems, seconds)


def _problem(row: QueuedEmail, arrived: set[tuple[str, str]] | None) -> str | None:
    if _is_suppressed(row):
        return None  # somebody has pressed the button in the mail of an earlier start
    if row.status != Status.SENT:
        return f"mail {row.id} to {row.recipient} is {row.status}: {row.last_error or 'no attempt is on record'}"
    if arrived is not None and (row.content.message_id, row.recipient) not in arrived:
        return f"mail {row.id} to {row.recipient} is sent, and is not in the inbox"
    return None


def _is_suppressed(row: QueuedEmail) -> bool:
    return row.dead_reason == DeadReason.SUPPRESSED


def _cells(row: QueuedEmail, *, arrives: bool, ok: bool) -> list[str]:
    status = f"{row.status}, in inbox" if ok and arrives else row.status
    if _is_suppressed(row):
        status = DeadReason.SUPPRESSED
    seconds = _seconds(row)
    return [
        str(row.id),
        Priority(row.priority).label,
        escape(row.recipient if row.kind == Kind.TO else f"{row.recipient} ({row.kind})"),
        escape(_subject(row)),
        f"[{_colour(row, ok=ok)}]{status}[/]",
        "-" if seconds is None else f"{seconds:.2f} s",
    ]


def _colour(row: QueuedEmail, *, ok: bool) -> str:
    return "red" if not ok else "yellow" if _is_suppressed(row) else "green"


def _subject(row: QueuedEmail) -> str:
    return f"{row.content.template}{_MARK}" if row.content.sensitive else row.subject


def _seconds(row: QueuedEmail) -> float | None:
    """From its insertion, just before the commit, to the relay's 250 on record; both by the database's clock."""
    return None if row.sent_at is None else (row.sent_at - row.created_at).total_seconds()


def _arrived(inbox: Maildir) -> set[tuple[str, str]]:
    """Message-ID and envelope recipient of what is there."""
    return {
        (str(mail.headers["Message-ID"]).strip(), recipient)
        for mail in inbox.newest(_NEWEST)
        for recipient in mail.envelope.recipients
    }


def _exists(app: Flask, message_id: str, inbox: Maildir | None) -> bool:
    with app.app_context(), app.extensions["sessions"]() as session:
        written = session.scalar(sa.select(sa.exists().where(EmailContent.message_id == message_id)))
    return written or (inbox is not None and any(received == message_id for received, _ in _arrived(inbox)))
