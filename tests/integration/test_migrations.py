"""The migrations lead to what the models describe; told by the databases, for Alembic's own check sees no CHECK."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import sqlalchemy as sa

import migrations
from app.models import Base
from outbox import models
from outbox.database import create_engine
from outbox.errors import SettingsError
from outbox.states import Outcome
from tests import rows

_ROOT = Path(migrations.__file__).parent.parent


@pytest.fixture(params=["sqlite", "postgresql"])
def empty_urls(request: pytest.FixtureRequest, tmp_path: Path) -> tuple[str, str]:
    """Two databases without any table, of each kind."""
    if request.param == "sqlite":
        return f"sqlite:///{tmp_path}/one.db", f"sqlite:///{tmp_path}/two.db"
    create = request.getfixturevalue("empty_postgresql")
    return create(), create()


def test_up_down_and_up_again(empty_urls: tuple[str, str]) -> None:
    url, _ = empty_urls
    assert _tables(url) == set()
    migrations.upgrade(url)
    assert _tables(url) == {"alembic_version", *models.Base.metadata.tables, *Base.metadata.tables}
    first = _reported(url)

    migrations.downgrade(url, "base")
    assert _tables(url) == {"alembic_version"}

    migrations.upgrade(url)
    assert _reported(url) == first


def test_a_step_down_and_up_keeps_the_mail_and_its_history(database_url: str, engine: sa.Engine) -> None:
    (id_,) = rows.add(engine, claims=1)
    with engine.begin() as connection:
        rows.add_attempt(connection, id_, 1, Outcome.THROTTLED)
    first = _reported(database_url)
    migrations.downgrade(database_url, "outbox@0001")
    migrations.upgrade(database_url)
    if database_url.startswith("sqlite"):  # PostgreSQL remembers a dropped column's place
        assert _reported(database_url) == first
    assert rows.statuses(engine, [id_]) == ["pending"]
    assert [line.outcome for line in rows.attempts(engine, id_)] == ["relay_down"]


def test_models_and_migrations_agree(empty_urls: tuple[str, str]) -> None:
    migrated, created = empty_urls
    migrations.upgrade(migrated)
    engine = create_engine(created)
    for base in (models.Base, Base):
        base.metadata.create_all(engine)
    engine.dispose()

    assert _reported(migrated) == _reported(created)


def test_the_report_shows_what_autogenerate_does_not(empty_urls: tuple[str, str]) -> None:
    """The guard of the guard: a comparison of empty lists would agree, too."""
    url, _ = empty_urls
    migrations.upgrade(url)
    report = "\n".join(_reported(url))
    assert "ck_email_queue_leased" in report
    assert "ON DELETE CASCADE" in report
    assert re.search(r"ix_email_queue_leased.*WHERE.*claimed", report)
    assert re.search(r"created_at.*(now\(\)|strftime)", report)
    if url.startswith("postgresql"):
        assert "fillfactor=85" in report


def test_two_processes_that_migrate_at_once(empty_urls: tuple[str, str]) -> None:
    """As two containers do that start together."""
    url, _ = empty_urls
    command = [sys.executable, "-c", f"import migrations; migrations.upgrade({url!r})"]
    processes = [subprocess.Popen(command) for _ in range(2)]
    assert [process.wait(60) for process in processes] == [0, 0]
    assert "email_queue" in _tables(url)


def test_the_command_line_reads_database_url(empty_urls: tuple[str, str]) -> None:
    url, _ = empty_urls
    for arguments in (["upgrade", "heads"], ["check"]):
        command = [sys.executable, "-m", "alembic", *arguments]
        subprocess.run(command, cwd=_ROOT, env=os.environ | {"DATABASE_URL": url}, check=True)
    assert "email_queue" in _tables(url)


def test_a_migration_that_fails_leaves_nothing(empty_urls: tuple[str, str]) -> None:
    url, _ = empty_urls
    engine = create_engine(url)
    with engine.begin() as connection:
        connection.execute(sa.text("CREATE TABLE email_attempts (id INTEGER)"))  # the last one that the migration makes
    engine.dispose()

    with pytest.raises(sa.exc.DatabaseError):
        migrations.upgrade(url)
    assert _tables(url) - {"alembic_version"} == {"email_attempts"}


def test_the_folder_of_an_sqlite_file_is_made(tmp_path: Path) -> None:
    migrations.upgrade(f"sqlite:///{tmp_path}/var/deeper/outbox.db")
    assert (tmp_path / "var/deeper/outbox.db").exists()


def test_an_address_that_is_none_is_said_in_a_sentence() -> None:
    with pytest.raises(SettingsError, match="DATABASE_URL"):
        migrations.upgrade("nonsense")


def _tables(url: str) -> set[str]:
    engine = create_engine(url)
    found = set(sa.inspect(engine).get_table_names())
    engine.dispose()
    return found


def _reported(url: str) -> list[str]:
    """Everything that the database says of the tables, a line each."""
    engine = create_engine(url)
    report = _report_of_postgresql if engine.dialect.name == "postgresql" else _report_of_sqlite
    with engine.connect() as connection:
        lines = report(connection)
    engine.dispose()
    return lines


def _report_of_postgresql(connection: sa.Connection) -> list[str]:
    ours = "relnamespace = 'public'::regnamespace AND relname NOT LIKE 'alembic_version%'"
    return _lines(
        connection,
        f"SELECT 'relation', relname, relkind, reloptions::text FROM pg_class WHERE {ours} ORDER BY relname",
        f"""
        SELECT 'column', relname, attnum, attname, format_type(atttypid, atttypmod), attnotnull,
               pg_get_expr(adbin, adrelid)
        FROM pg_class JOIN pg_attribute ON attrelid = pg_class.oid
        LEFT JOIN pg_attrdef ON (adrelid, adnum) = (attrelid, attnum)
        WHERE {ours} AND relkind = 'r' AND attnum > 0 ORDER BY relname, attnum
        """,
        f"""
        SELECT 'constraint', relname, conname, pg_get_constraintdef(pg_constraint.oid)
        FROM pg_class JOIN pg_constraint ON conrelid = pg_class.oid WHERE {ours} ORDER BY conname
        """,
        f"""
        SELECT 'index', pg_get_indexdef(indexrelid) FROM pg_class JOIN pg_index ON indexrelid = pg_class.oid
        WHERE {ours} ORDER BY relname
        """,
    )


def _report_of_sqlite(connection: sa.Connection) -> list[str]:
    """The statements as they were given, their clauses in one order; and what SQLite made of them."""
    statements = connection.execute(
        sa.text("SELECT name, sql FROM sqlite_master WHERE tbl_name <> 'alembic_version' ORDER BY name")
    )
    lines = [f"{name} {clause}" for name, sql in statements for clause in sorted(_clauses(sql or ""))]
    for table in sorted(Base.metadata.tables):
        for pragma in ("table_info", "foreign_key_list"):
            lines += sorted(f"{table} {pragma} {line}" for line in _lines(connection, f"PRAGMA {pragma}({table})"))
    return lines


def _clauses(sql: str) -> list[str]:
    """What stands between commas, but for those within parentheses: ALTER TABLE keeps the text of a table, its own way.

    The order of the constraints has no meaning, nor have the quotes around a name that needs none.
    """
    clauses, depth = [""], 0
    for character in sql.replace('"', ""):
        depth += {"(": 1, ")": -1}.get(character, 0)
        if character == "," and depth <= 1:
            clauses.append("")
        else:
            clauses[-1] += character
    return [" ".join(clause.strip(" ()\n\t").split()) for clause in clauses]


def _lines(connection: sa.Connection, *queries: str) -> list[str]:
    return [" ".join(map(str, row)) for query in queries for row in connection.execute(sa.text(query))]
