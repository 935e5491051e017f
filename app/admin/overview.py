"""The overview: is it healthy, and if not, what is wrong, where to look and what to type."""

from dataclasses import dataclass
from datetime import datetime

import sqlalchemy as sa
from flask import current_app, render_template, url_for

from app.admin.bars import draw
from outbox import breaker, heartbeats, stats, trends, watching
from outbox.database import reading, utcnow
from outbox.models import EmailTrouble
from outbox.settings import Settings
from outbox.states import Priority
from outbox.times import duration
from outbox.watching import Trouble

_MINUTE, _QUARTER = 60, 15 * 60

_DOMAINS = 6
"""Lines of the table of domains, before all others become one."""

_SYMPTOMS = ("oldest due", "dead", "uncertain")
"""Troubles that others are the cause of, mostly: those come first."""

_PROCESSES = 6
"""Workers by name, the silent first; the others are a number."""


@dataclass(frozen=True, slots=True)
class Wrong:
    """A trouble as the page shows it."""

    sentence: str
    since: datetime | None
    """Since when it was known to `outbox.watch`; None: it has not looked since."""
    link: tuple[str, str] | None
    """Address and words of where to look."""


def overview() -> str:
    """All of it, from one view of the database."""
    settings = current_app.extensions["settings"]
    with reading(current_app.extensions["engine"]) as connection:
        return render_template(
            "admin/overview.html",
            now=connection.scalar(sa.select(utcnow())),
            wrong=_wrong(connection, settings),
            late_after=watching.late_after(settings),
            lanes=_lanes(connection),
            charts=_charts(connection),
            delays=trends.delays(connection),
            shape=_shape(connection),
            first=trends.FIRST,
            ages=_ages(),
            relays=breaker.standings(connection, settings.endpoints).values(),
            processes=_processes(connection),
            duration=duration,
        )


def _wrong(connection: sa.Connection, settings: Settings) -> list[Wrong]:
    """Looked for now, and not read from `email_troubles`, which nobody writes while beat is silent."""
    query = sa.select(EmailTrouble.key, EmailTrouble.began_at).where(EmailTrouble.ended_at.is_(None))
    began = {row.key: row.began_at for row in connection.execute(query)}
    troubles = sorted(watching.troubles(connection, settings), key=lambda trouble: trouble.key in _SYMPTOMS)
    return [Wrong(trouble.sentence, began.get(trouble.key), _where(trouble)) for trouble in troubles]


def _where(trouble: Trouble) -> tuple[str, str] | None:
    match trouble.key.split()[0]:
        case "oldest":
            return url_for("admin.mails.index", status="pending"), "Waiting mail"
        case "dead":
            return url_for("admin.mails.index", status="dead"), "Dead mail"
        case "uncertain":
            return url_for("admin.mails.index", status="uncertain"), "Mail in doubt"
        case "relay":
            return url_for("admin.relays.index"), "Relays"
        case "beat" | "worker" | "workers":
            return "#processes", "Workers and beat"
    return None


def _lanes(connection: sa.Connection) -> list[tuple[str, stats.Waiting, stats.InFlight, stats.Failed]]:
    waiting, in_flight, failed = stats.waiting(connection), stats.in_flight(connection), stats.failed(connection)
    return [(lane.label, waiting[lane], in_flight[lane], failed[lane]) for lane in Priority]


def _charts(connection: sa.Connection) -> list[dict[str, object]]:
    charts = (
        ("Last hour", "minute", _MINUTE, 60, ("60 min ago", "30 min ago", "now")),
        ("Last 24 hours", "quarter of an hour", _QUARTER, 96, ("24 h ago", "12 h ago", "now")),
    )
    found: list[dict[str, object]] = []
    for title, step, seconds, steps, ticks in charts:
        course = trends.course(connection, seconds, steps)
        found.append(
            {"title": title, "step": step, "ticks": ticks, "drawn": draw(course.steps), "complete": course.complete}
        )
    return found


def _shape(connection: sa.Connection) -> trends.Shape:
    lines, complete = trends.shape(connection)
    shown, others = list(lines[:_DOMAINS]), lines[_DOMAINS:]
    if others:
        shown.append(
            (f"{len(others):,} more", [sum(column) for column in zip(*(line for _, line in others), strict=True)])
        )
    return trends.Shape(shown, complete)


def _ages() -> list[str]:
    """The heads of the columns: each holds what is younger, and older than the column before."""
    return [duration(bound).replace(" min", "m").replace(" ", "") for bound in trends.AGES] + ["more"]


def _processes(connection: sa.Connection) -> dict[str, object]:
    signs = heartbeats.signs(connection)
    workers = sorted((sign for sign in signs if sign.kind == heartbeats.WORKER), key=lambda sign: -sign.seconds_ago)
    return {
        "beats": [sign for sign in signs if sign.kind == heartbeats.BEAT],
        "workers": workers[:_PROCESSES],
        "more": len(workers) - _PROCESSES,
    }
