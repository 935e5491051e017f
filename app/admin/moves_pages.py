"""Requeue, cancel and resolve: one mail, those that were picked, or all that a filter finds."""

from collections.abc import Sequence

import sqlalchemy as sa
from flask import Blueprint, current_app, flash, redirect, render_template, request, url_for
from werkzeug.exceptions import BadRequest
from werkzeug.wrappers import Response

from app.accounts.access import me
from app.admin import criteria
from app.admin.moves import MOVES, Move
from app.admin.telling import who
from app.database import request_session
from app.fields import Fields
from outbox import auditing, operations, searching

_TOLD = 5
"""Refusals that are told in full: a flash is kept in a cookie, which holds 4 KB."""

_PICKED = 1000
"""Mails that can be picked one by one: twenty pages of the list."""

moves_pages = Blueprint("moves", __name__, url_prefix="/mail")


@moves_pages.post("/move")
def move() -> Response:
    """Those whose ids are sent. What could not be moved is told why."""
    wish = _wish(request.form)
    ids = [id_ for value in request.form.getlist("id") if (id_ := Fields({"id": value}).id("id"))]
    if len(ids) > _PICKED:
        raise BadRequest(
            f"{len(ids):,} mails were picked, more than {_PICKED:,}: move them by what they have in common."
        )
    if not ids:
        flash("Nothing was picked: tick the mails first.", "trouble")
        return redirect(_back(), 303)
    session = request_session()
    connection = session.connection()
    moved = wish.act(connection, ids, who())
    left = [id_ for id_ in dict.fromkeys(ids) if id_ not in moved]
    refusals = _refusals(connection, left, wish)
    session.commit()
    _tell(wish, len(moved), len(left), refusals)
    return redirect(_back(), 303)


@moves_pages.get("/all")
def confirm() -> str:
    """How many a move on a filter would take, before it is made."""
    wish, wanted = _wish(request.args), criteria.read(request.args, me())
    count = searching.count_matching(request_session().connection(), wanted, wish.statuses)
    return render_template(
        "admin/confirm.html", move=wish, wanted=wanted, count=count, address=criteria.spelled(wanted)
    )


@moves_pages.post("/all")
def move_all() -> Response:
    """All that the filter finds now, a batch in each transaction: whatever ends this half-way, the rest can follow."""
    wish, wanted, whom = _wish(request.form), criteria.read(request.form, me()), who()
    request_session().rollback()  # on SQLite it would keep the batches out
    left: list[int] = []

    def act(connection: sa.Connection, ids: Sequence[int]) -> set[int]:
        moved = wish.act(connection, ids, whom, filter=wanted.given())
        left.extend(id_ for id_ in ids if id_ not in moved)
        return moved

    engine = current_app.extensions["engine"]
    moved = auditing.on_filter(engine, wanted, wish.statuses, act)
    _tell(wish, moved, len(left), _refusals(request_session().connection(), left, wish))
    return redirect(url_for("admin.mails.index", **criteria.spelled(wanted)), 303)


def _wish(given: dict[str, str]) -> Move:
    name = given.get("move", "")
    if name not in MOVES:
        raise BadRequest(f"move={name[:100]!r}: choose from {', '.join(MOVES)}.")
    return MOVES[name]


def _back() -> str:
    """The page of the form, which says so itself. Nothing outside of the mails."""
    back = request.form.get("back", "")
    return back if back.startswith("/admin/mail/") else url_for("admin.mails.index")


def _refusals(connection: sa.Connection, left: Sequence[int], wish: Move) -> list[str]:
    return [str(operations.refusal(connection, id_, wish.done)) for id_ in left[:_TOLD]]


def _tell(wish: Move, moved: int, left: int, refusals: Sequence[str]) -> None:
    """What has come of it; and if any mail is due now, a drain is asked for, rather than waited for."""
    if moved:
        flash(f"{moved:,} mail{'' if moved == 1 else 's'} {wish.done}.")
    if moved and wish.name in {"requeue", "again"}:
        current_app.extensions["nudge"]()
    lines = [f"{sentence[0].upper()}{sentence[1:]}." for sentence in refusals]
    if left > len(refusals):
        lines.append(f"And {left - len(refusals):,} more.")
    if lines:
        flash("\n".join(lines), "trouble")
    elif not moved:
        flash(f"There was nothing to be {wish.done}.", "trouble")
