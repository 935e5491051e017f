"""Who did what."""

from collections.abc import Iterable, Iterator, Sequence
from datetime import datetime
from itertools import groupby
from typing import Any, NamedTuple

import sqlalchemy as sa
from flask import Blueprint, render_template, request

from app.database import request_session
from app.fields import Fields
from outbox import auditing

_PAGE = 500
"""Lines that are read. A move on a filter has one for each mail: on the page they are one."""

_LONGEST = 320

record_pages = Blueprint("record", __name__, url_prefix="/audit")


class Deed(NamedTuple):
    """What somebody did, to one thing or to many mails."""

    who: str
    action: str
    detail: dict[str, Any]
    first: datetime
    last: datetime
    targets: Sequence[str]
    mails: Sequence[int]
    """Their ids, newest first."""


@record_pages.get("/")
def index() -> str:
    """The newest first, in pages; of one person, or to one thing, if the address says so."""
    fields = Fields(request.args)
    who, target, before = fields.text("who", _LONGEST), fields.text("target", _LONGEST), fields.id("before")
    connection = request_session().connection()
    lines = auditing.lines(connection, who=who or None, target=target or None, before=before, limit=_PAGE)
    return render_template(
        "admin/record.html",
        deeds=list(_deeds(lines)),
        wanted={"who": who, "target": target},
        before=before,
        older=lines[-1].id if len(lines) == _PAGE else None,
    )


def _deeds(lines: Iterable[sa.Row[Any]]) -> Iterator[Deed]:
    """Lines that follow each other and say the same of several mails are one deed."""

    def same(line: sa.Row[Any]) -> tuple[object, ...]:
        return (line.who, line.action, repr(line.detail), None if line.email_id else line.id)

    for _, group in groupby(lines, same):
        of = list(group)
        yield Deed(
            who=of[0].who,
            action=of[0].action,
            detail=of[0].detail,
            first=of[-1].at,
            last=of[0].at,
            targets=[line.target for line in of],
            mails=[line.email_id for line in of if line.email_id],
        )
