"""What PostgreSQL allows: a row for each mail, written without any library in between.

PROFILE=one: INSERT and commit, one by one. PROFILE=executemany, PROFILE=copy: all in one transaction.
"""

import os
import time
from collections.abc import Iterator

import psycopg

from benchmarks import mails
from benchmarks.contenders.commands import WARM_UP, main

_COLUMNS = "recipient, subject, text, html"
_INSERT = f"INSERT INTO bare_mails ({_COLUMNS}) VALUES (%s, %s, %s, %s)"

Row = tuple[str, str, str, str]


def prepare() -> None:
    """A table of what a mail needs."""
    with _connect() as connection:
        connection.execute(
            "CREATE TABLE bare_mails (id bigserial PRIMARY KEY, recipient text NOT NULL, subject text NOT NULL, "
            "text text, html text, status text NOT NULL DEFAULT 'pending', "
            "created_at timestamptz NOT NULL DEFAULT now())"
        )


def enqueue(count: str, size: str, _: str) -> dict[str, float]:
    """In the way that PROFILE says."""
    write = {"one": _one_by_one, "executemany": _executemany, "copy": _copy}[os.environ["PROFILE"]]
    warm_up, batch = list(_rows(int(count), WARM_UP, int(size))), list(_rows(0, int(count), int(size)))
    with _connect() as connection:
        write(connection, warm_up)
        began = time.monotonic()
        write(connection, batch)
        return {"seconds": time.monotonic() - began}


def _one_by_one(connection: psycopg.Connection, rows: list[Row]) -> None:
    for row in rows:
        connection.execute(_INSERT, row)
        connection.commit()


def _executemany(connection: psycopg.Connection, rows: list[Row]) -> None:
    with connection.cursor() as cursor:
        cursor.executemany(_INSERT, rows)
    connection.commit()


def _copy(connection: psycopg.Connection, rows: list[Row]) -> None:
    with connection.cursor() as cursor, cursor.copy(f"COPY bare_mails ({_COLUMNS}) FROM STDIN") as copy:
        for row in rows:
            copy.write_row(row)
    connection.commit()


def _rows(first: int, count: int, size: int) -> Iterator[Row]:
    for number in range(first, first + count):
        yield mails.recipient(number), mails.subject(number), mails.text(number), mails.html(number, size)


def _connect() -> psycopg.Connection:
    return psycopg.connect(os.environ["DATABASE_URL"])


if __name__ == "__main__":
    main(prepare=prepare, enqueue=enqueue)
