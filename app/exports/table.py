"""The users and their results as CSV, fit for a spreadsheet, and safe in one.

Names and addresses are what users called themselves. A spreadsheet takes a cell that begins with `=`, `+`, `-` or `@`
for a formula, and a formula can send the sheet elsewhere or start a program. OWASP ("CSV Injection") advises: put a
single quote before a cell that begins with one of these, with a tab, a carriage return, or with the full-width forms
that some spreadsheets read as the same; put each cell in double quotes, and double those inside; and mind that a
separator or a quote inside a cell can begin another one where the reader splits lines differently than the writer (a
spreadsheet set to German splits at semicolons, whatever the quotes say). So the single quote is put behind separators
within a text, too. Figures come from us and stay figures.
"""

import csv
import io
import re
from collections.abc import Iterator
from dataclasses import dataclass

import sqlalchemy as sa
from sqlalchemy.orm import Session, sessionmaker

from app.accounts.models import Organisation, User
from app.quizzes.models import Attempt
from outbox.database import reading_engine

BATCH = 1000
"""Users for two statements."""

HEADER = (
    "id",
    "username",
    "name",
    "email",
    "organisation",
    "role",
    "last_login_utc",
    "quizzes_taken",
    "average_percent",
    "best_percent",
)

_FORMULA = re.compile(
    r"(^|[,;|\t\r\n])"  # where a cell begins, or might for another reader
    r"(?=[\s\x00-\x1f\u200b\u2060\ufeff\"']*[=+\-@\uff1d\uff0b\uff0d\uff20\ufe66\ufe62\ufe63\ufe6b\u2212])"
    r"|^(?=[\t\r\n])"
)


@dataclass(frozen=True)
class Table:
    """The file, and how many users are in it."""

    csv: bytes
    users: int


def table(sessions: sessionmaker[Session]) -> Table:
    """Read it in batches, outside of any transaction that writes: it takes a while for many users."""
    file = io.BytesIO()
    # Excel takes a file without a byte order mark for one in its own old encoding.
    text = io.TextIOWrapper(file, encoding="utf-8-sig", newline="", write_through=False)
    writer = csv.writer(text, quoting=csv.QUOTE_NONNUMERIC, lineterminator="\r\n")
    writer.writerow(HEADER)
    count = 0
    with sessions(bind=reading_engine(sessions.kw["bind"])) as session:
        for row in _rows(session):
            writer.writerow([harmless(cell) if isinstance(cell, str) else cell for cell in row])
            count += 1
    text.flush()
    return Table(file.getvalue(), count)


def harmless(text: str) -> str:
    """The text, with a single quote wherever a spreadsheet might begin to read a formula."""
    # What is no character in any encoding cannot be written.
    return _FORMULA.sub(r"\1'", text.encode(errors="replace").decode())


def _rows(session: Session) -> Iterator[tuple[str | int | float | None, ...]]:
    """In the order of the header, by id."""
    last = 0
    users = (
        sa.select(User.id, User.username, User.name, User.email, Organisation.name, User.role, User.last_login_at)
        .join(User.organisation)
        .order_by(User.id)
        .limit(BATCH)
    )
    while batch := session.execute(users.where(User.id > last)).all():
        first, last = batch[0].id, batch[-1].id
        results = _results(session, first, last)
        for id_, username, name, email, organisation, role, last_login_at in batch:
            seen = None if last_login_at is None else f"{last_login_at:%Y-%m-%d %H:%M:%S}"
            yield id_, username, name, email, organisation, role, seen, *results.get(id_, (0, None, None))


def _results(session: Session, first: int, last: int) -> dict[int, tuple[int, float, float]]:
    """By user id: attempts, the average of their results and the best, in percent. Of users from id to id."""
    share = sa.cast(Attempt.correct, sa.Float) / Attempt.questions
    query = (
        sa.select(Attempt.user_id, sa.func.count(), sa.func.avg(share), sa.func.max(share))
        .where(Attempt.user_id.between(first, last))
        .group_by(Attempt.user_id)
    )
    return {
        user_id: (count, round(100 * average, 1), round(100 * best, 1))
        for user_id, count, average, best in session.execute(query)
    }
