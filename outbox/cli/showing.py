"""`outbox show`: all that is known of one mail."""

from collections.abc import Sequence
from typing import Any

import click
import sqlalchemy as sa
from rich.console import RenderableType
from rich.text import Text
from sqlalchemy.orm import Session

from outbox import auditing, feedback, showing
from outbox.cli.auditing import AuditTable
from outbox.cli.listing import STYLES, MailTable, fields
from outbox.cli.moving import mail_id
from outbox.cli.surroundings import open_database
from outbox.cli.terminal import cell, facts, json_option, put, put_exactly, put_json, table
from outbox.database import reading
from outbox.explaining import explain
from outbox.models import Base, EmailAttempt, EmailContent, QueuedEmail
from outbox.operations import missing
from outbox.printable import safe, safe_lines
from outbox.states import Feedback, Outcome, Priority, Status
from outbox.times import clock

_TIMES = ("scheduled_at", "next_attempt_at", "expires_at", "lease_expires_at", "created_at", "sent_at", "finalized_at")

_OUTCOMES = {
    Outcome.SENT: "green",
    Outcome.DEFERRED: "",
    Outcome.REJECTED: "red",
    Outcome.UNCERTAIN: "yellow",
    Outcome.RELAY_DOWN: "",
    Outcome.RELAY_MISCONFIGURED: "red",
    Outcome.THROTTLED: "",
}

_FEEDBACK = {
    Feedback.DELIVERED: "green",
    Feedback.DELAYED: "",
    Feedback.BOUNCED: "red",
    Feedback.SOFT_BOUNCED: "yellow",
    Feedback.COMPLAINED: "red",
}


@click.command(short_help="Show all that is known of a mail.")
@click.argument("id_", metavar="ID", type=int)
@click.option("--html", is_flag=True, help="Print the HTML, and nothing else.")
@click.option("--source", is_flag=True, help="Print the message as it goes to the relay, and nothing else.")
@json_option
def show(id_: int, *, html: bool, source: bool, as_json: bool) -> None:
    """Show a mail: how it stands, its row, what it says, every attempt with the relay's words, what was told of it
    afterwards (bounces, complaints), who did what to it, and who else gets it.
    """
    if html + source + as_json > 1:
        raise click.UsageError("--html, --source and --json exclude each other: keep one")
    with open_database() as (settings, engine), reading(engine) as connection, Session(connection) as session:
        row = session.get(QueuedEmail, id_)
        if row is None:
            raise missing(id_)
        if html:
            put_exactly(showing.html(row).encode())
        elif source:
            put_exactly(showing.source(session, row))
        elif as_json:
            put_json({"why": explain(connection, settings, id_), **_everything(row), **_afterwards(connection, id_)})
        else:
            _put(row, explain(connection, settings, id_), **_afterwards(connection, id_))


@click.command(short_help="Say why a mail has not gone yet, or what became of it.")
@click.argument("id_", metavar="ID", type=mail_id)
@json_option
def why(id_: int, *, as_json: bool) -> None:
    """Say in one sentence why a mail has not gone yet and when it will, or what became of it."""
    with open_database() as (settings, engine), reading(engine) as connection:
        sentence = explain(connection, settings, id_)
    if as_json:
        put_json({"id": id_, "why": sentence})
    else:
        put(Text(safe(sentence)))  # between words, where the terminal is narrow


def _put(
    row: QueuedEmail, sentence: str, *, feedback: Sequence[dict[str, Any]], audit: Sequence[dict[str, Any]]
) -> None:
    content = row.content
    parts: list[RenderableType] = [Text(safe(sentence)), "", facts([*_row_facts(row), *_content_facts(content)])]
    if row.tries:
        parts += ["", Text("Attempts", style="bold"), _attempt_table(row.tries)]
    if feedback:
        parts += ["", Text("Feedback", style="bold"), _feedback_table(feedback)]
    if audit:
        parts += ["", Text("Who did what", style="bold"), AuditTable(audit)]
    others = [other for other in content.recipients if other.id != row.id]
    if others:
        parts += ["", Text("Other recipients of this mail", style="bold"), MailTable(others)]
    if content.text:
        parts += ["", Text("Text", style="bold"), Text(safe_lines(content.text.rstrip("\n")))]
    put(*parts)


def _row_facts(row: QueuedEmail) -> list[tuple[str, object]]:
    status = Status(row.status)
    moments = {name: clock(value) for name in _TIMES if (value := getattr(row, name)) is not None}
    if status is not Status.PENDING:
        moments.pop("next_attempt_at")  # of the past, and of no meaning any more
    return [
        ("Mail", row.id),
        ("Status", Text(f"{status} ({row.dead_reason})" if row.dead_reason else status, style=STYLES[status])),
        ("Recipient", f"{row.recipient} ({row.kind})"),
        ("Priority", Priority(row.priority).label),
        ("Category", row.category),
        ("Attempts", f"{row.attempts} of {row.max_attempts}"),
        ("If uncertain", row.on_uncertain),
        ("Last error", row.last_error),
        ("Last code", row.last_code),
        ("Relay", row.relay),
        ("Held back", row.waiting_for),
        ("Claimed by", row.claimed_by),
        ("Request", row.request_id),
        *((name.removesuffix("_at").replace("_", " ").capitalize(), moment) for name, moment in moments.items()),
    ]


def _content_facts(content: EmailContent) -> list[tuple[str, object]]:
    files = [
        f"{file.filename} ({file.content_type}{', inline ' + file.inline_id if file.inline_id else ''})"
        for file in content.attachments
    ]
    return [
        ("Message-ID", content.message_id),
        ("Date", clock(content.date)),
        ("From", content.sender),
        ("To", content.to_header),
        ("Cc", content.cc_header),
        ("Reply-To", content.reply_to),
        ("Subject", content.subject),
        ("Template", content.template),
        ("Locale", content.locale),
        *content.headers.items(),
        ("Key", content.idempotency_key),
        ("Body", f"{showing.body(content)}, {content.size:,} bytes{' with attachments' if files else ''}"),
        ("Purged", content.purged_at and clock(content.purged_at)),
        *(("Attachment", file) for file in files),
    ]


def _attempt_table(tries: list[EmailAttempt]) -> RenderableType:
    made = table("#", "Began", "Took", "Outcome", "Stage", "Code", "Reply", cut=("Reply",))
    for attempt in tries:
        seconds = (attempt.finished_at - attempt.started_at).total_seconds()
        made.add_row(
            cell(attempt.number),
            cell(f"{attempt.started_at.astimezone():%Y-%m-%d %H:%M:%S}"),
            cell(f"{seconds:.1f} s"),
            cell(attempt.outcome, _OUTCOMES[Outcome(attempt.outcome)]),
            cell(attempt.stage),
            cell(attempt.code),
            Text(safe(attempt.reply), overflow="fold"),
        )
    return made


def _feedback_table(told: Sequence[dict[str, Any]]) -> RenderableType:
    made = table("When", "Kind", "By", "Said", cut=("Said",))
    for event in told:
        made.add_row(
            cell(f"{event['occurred_at'].astimezone():%Y-%m-%d %H:%M:%S}"),
            cell(event["kind"].replace("_", " "), _FEEDBACK[Feedback(event["kind"])]),
            cell(event["provider"]),
            Text(safe(event["said"]), overflow="fold"),
        )
    return made


def _afterwards(connection: sa.Connection, id_: int) -> dict[str, list[dict[str, Any]]]:
    """What was told of the mail after its 250, and what people did to it."""
    told, deeds = feedback.of_mail(connection, id_), auditing.of_mail(connection, id_)
    return {"feedback": [row._asdict() for row in told], "audit": [row._asdict() for row in deeds]}


def _everything(row: QueuedEmail) -> dict[str, Any]:
    content = row.content
    return {
        "mail": fields(row),
        "content": _columns(content) | {"sealed": content.sealed is not None},
        "attachments": [_columns(file) for file in content.attachments],
        "attempts": [_columns(attempt) for attempt in row.tries],
        "others": [fields(other) for other in content.recipients if other.id != row.id],
    }


def _columns(thing: Base) -> dict[str, Any]:
    return {column.key: getattr(thing, column.key) for column in sa.inspect(thing).mapper.column_attrs}
