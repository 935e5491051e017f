"""Whether the database has the tables of this version.

The library does not import its migrations, which an application may keep elsewhere, or run from another machine; so the
newest of them is written down here, and a test holds it to the files.
"""

from collections.abc import Iterable

import sqlalchemy as sa

HEAD = "0005"
"""The newest migration of the library's tables."""

REMEDY = "run `python -m alembic upgrade heads`"


def lacking(connection: sa.Connection, heads: Iterable[str] = (HEAD,)) -> list[str]:
    """Those of `heads` that the database has not come to.

    One that is further on lacks nothing: in a rolling upgrade the database goes first. The two histories are told apart
    as they are written: `0005` is the library's, `a002` the application's.
    """
    if not sa.inspect(connection).has_table("alembic_version"):
        return list(heads)
    reached = connection.execute(sa.text("SELECT version_num FROM alembic_version")).scalars().all()
    return [head for head in heads if not any(_is_past(version, head) for version in reached)]


def _is_past(version: str, head: str) -> bool:
    return version.isdigit() is head.isdigit() and version >= head
