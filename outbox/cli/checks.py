"""What `outbox doctor` looks at, but for the relays and DNS.

A check is a group of findings that are found one after the other; the groups run side by side. None changes anything.
"""

import os
import re
import time
from collections.abc import Iterator
from datetime import UTC, datetime

import sqlalchemy as sa
from limits.errors import ConfigurationError
from limits.storage import storage_from_string
from pydantic import SecretStr
from pydantic_settings import BaseSettings, SettingsConfigDict

from outbox import breaker, disks, fence, heartbeats, schema
from outbox.cli.findings import Finding, fine, unknown, wrong
from outbox.cli.surroundings import explain
from outbox.database import LIVENESS, create_engine, reading, utcnow
from outbox.errors import OutboxError
from outbox.heartbeats import BEAT, WORKER
from outbox.journal import Journal
from outbox.settings import Settings
from outbox.states import RelayState
from outbox.times import duration
from outbox.watching import late_after, oldest_due

DATABASE_SECONDS = 5
REDIS_SECONDS = 3
"""To connect, and for an answer: this is typed by somebody who waits."""

MOST_SKEW = 5.0
"""Seconds by which two clocks that are kept by NTP never differ."""

_LOGIN = re.compile(r"//.*@")


def impatient(settings: Settings) -> sa.Engine:
    """An engine for whoever waits at a terminal. Raises OutboxError where there is no such SQLite file."""
    file = disks.database_file(settings)
    if file is not None and not file.exists():
        raise OutboxError(f"there is no file {file}")
    url = sa.make_url(settings.database_url)
    if url.get_backend_name() == "sqlite":
        return create_engine(settings.database_url)
    soon = LIVENESS | {"connect_timeout": DATABASE_SECONDS}
    given = {name: value for name, value in soon.items() if name not in url.query}
    return create_engine(settings.database_url, connect_args=given)


def database(settings: Settings) -> Iterator[Finding]:
    """That it answers, keeps what it is told and has our tables; then what it knows of everything else."""
    where = _without_password(settings.database_url)
    try:
        engine = impatient(settings)
    except (OutboxError, ImportError) as error:
        remedy = (
            "pip install 'psycopg[binary]'" if isinstance(error, ImportError) else f"correct it, or {schema.REMEDY}"
        )
        yield wrong("database", f"DATABASE_URL={where}: {error}", remedy)
        return
    try:
        with reading(engine) as connection:
            yield from _answers(connection)
            lacking = schema.lacking(connection)
            if lacking:
                yield wrong("migrations", f"lacks {', '.join(lacking)}", schema.REMEDY)
                return
            yield fine("migrations", f"at {schema.HEAD}, which this version wants")
            yield from _clock(connection)
            yield from _ours(connection, settings)
            yield from _lives(connection)
            yield from _queue(connection, settings)
            yield from _pauses(connection, settings)
    except sa.exc.SQLAlchemyError as error:
        yield wrong("database", f"{where}: {explain(error)}", "is it running, and DATABASE_URL right?")
    finally:
        engine.dispose()


def _answers(connection: sa.Connection) -> Iterator[Finding]:
    began = time.monotonic()
    if connection.dialect.name == "sqlite":
        version = connection.scalar(sa.text("SELECT sqlite_version()"))
        mode = connection.scalar(sa.text("PRAGMA journal_mode"))
        said = f"SQLite {version}, journal mode {mode}"
        if mode != "wal":
            yield wrong(
                "database", said, "keep the file on a local disk: WAL, which readers need, is not to be had there"
            )
            return
    else:
        version = connection.scalar(sa.text("SHOW server_version"))
        said = f"PostgreSQL {str(version).partition(' ')[0]} answers in {(time.monotonic() - began) * 1000:.0f} ms"
        loose = [name for name in ("fsync", "full_page_writes") if connection.scalar(sa.text(f"SHOW {name}")) != "on"]
        if full := disks.full(connection):
            yield wrong("database", f"{said}, and has no room on its disk: {full}", "make room there")
            return
        if loose:
            yield wrong("database", f"{said}, with {' and '.join(loose)} off", "turn it on: a crash would lose mail")
            return
    yield fine("database", said)


def _clock(connection: sa.Connection) -> Iterator[Finding]:
    before = datetime.now(UTC)
    theirs: datetime = connection.execute(sa.select(utcnow())).scalar_one()
    after = datetime.now(UTC)
    skew = (theirs - (before + (after - before) / 2)).total_seconds()
    # A transaction's time is when it began, a moment ago.
    if abs(skew) <= MOST_SKEW + (after - before).total_seconds():
        yield fine("clock", f"this machine and the database agree, within {max(abs(skew), 0.1):.1f} s")
    else:
        how = f"{duration(abs(skew))} {'behind' if skew > 0 else 'ahead of'} the database's"
        yield wrong("clock", f"this machine's is {how}", "keep both by NTP: mail is dated and scheduled by them")


def _ours(connection: sa.Connection, settings: Settings) -> Iterator[Finding]:
    why = fence.whose(connection, settings)
    if why:
        yield wrong("fence", why, "`outbox adopt`, if this is not a copy of production")
    elif settings.outbox_allow_recipients is not None or settings.outbox_redirect_to:
        name = "OUTBOX_REDIRECT_TO" if settings.outbox_redirect_to else "OUTBOX_ALLOW_RECIPIENTS"
        yield fine("fence", f"{name} is set: not everybody gets mail, as it is meant outside production")


def _lives(connection: sa.Connection) -> Iterator[Finding]:
    signs = heartbeats.signs(connection)
    for kind, start in ((WORKER, "./start_celery_worker.sh"), (BEAT, "./start_celery_beat.sh")):
        heard = [sign for sign in signs if sign.kind == kind]
        living = [sign for sign in heard if not sign.silent]
        if living:
            names = ", ".join(sign.name for sign in living)
            active = sum(sign.detail.get("active", 0) for sign in living)
            yield fine(
                kind, f"{names} {'lives' if len(living) == 1 else 'live'}" + (f", {active} active" * (kind == WORKER))
            )
        elif heard:
            ago = duration(min(sign.seconds_ago for sign in heard))
            yield wrong(kind, f"last heard of {ago} ago", f"start it ({start}), and look at its log")
        else:
            yield wrong(kind, "not heard of for a day", f"start it ({start}), or have cron run `outbox drain`")


def _queue(connection: sa.Connection, settings: Settings) -> Iterator[Finding]:
    waited = oldest_due(connection)
    if waited > late_after(settings):
        yield wrong("queue", f"the oldest due mail has waited for {duration(waited)}", "`outbox why ID` says what for")
    else:
        yield fine("queue", f"the oldest due mail has waited for {duration(waited)}" if waited else "nothing is due")


def _pauses(connection: sa.Connection, settings: Settings) -> Iterator[Finding]:
    for relay in breaker.standings(connection, settings.endpoints).values():
        if relay.state is not RelayState.CLOSED:
            yield wrong("relay's state", str(relay), f"when it may have mail again: `outbox resume {relay.name}`")


def host(settings: Settings) -> Iterator[Finding]:
    """What lies on this machine: the journal, and the disks."""
    journal = Journal(settings.outbox_journal)
    place = next(folder for folder in journal.path.parents if folder.exists())
    if journal.exists:
        yield wrong(
            "journal",
            f"{journal.path} holds what the database was not told",
            "start a worker here, or `outbox drain`: it brings that to the database",
        )
    elif not os.access(journal.path if journal.path.exists() else place, os.W_OK):
        yield wrong(
            "journal",
            f"{journal.path} cannot be written by this user",
            "set OUTBOX_JOURNAL to a file on a disk that outlives the worker",
        )
    else:
        yield fine("journal", "empty, and can be written")
    for disk in disks.look(disks.written_to(settings)):
        yield wrong("disk", str(disk), "make room") if disk.nearly_full else fine("disk", str(disk))


class _Redis(BaseSettings):
    """The library does without; but where the environment names it, somebody will want to know."""

    model_config = SettingsConfigDict(env_file=".env", env_ignore_empty=True, extra="ignore")

    redis_url: SecretStr | None = None
    celery_broker_url: SecretStr | None = None


def redis() -> Iterator[Finding]:
    """That each Redis which is named answers."""
    named = _Redis()
    urls = [url.get_secret_value() for url in (named.redis_url, named.celery_broker_url) if url]
    for url in dict.fromkeys(urls):
        where = _without_password(url)
        if not url.startswith(("redis://", "rediss://")):
            yield unknown("Redis", f"{where} is another broker, which this cannot ask")
            continue
        try:
            patience = {"socket_connect_timeout": REDIS_SECONDS, "socket_timeout": REDIS_SECONDS}
            answers = storage_from_string(url, **patience).check()
        except (ConfigurationError, ValueError) as error:
            yield wrong("Redis", f"{where}: {type(error).__name__}", "correct REDIS_URL, or pip install redis")
            continue
        if answers:
            yield fine("Redis", f"{where} answers")
        else:
            yield wrong(
                "Redis", f"{where} does not answer", "start it; mail waits for the beat meanwhile, and none is lost"
            )
    if not urls:
        yield unknown("Redis", "REDIS_URL is not set here: fine without Celery")


def _without_password(url: str) -> str:
    return _LOGIN.sub("//***@", url).partition("?")[0]
