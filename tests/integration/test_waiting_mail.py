"""What `./start_services.sh` asks a database of one's own, before its mail could go to the local inbox."""

from collections.abc import Callable
from pathlib import Path

import pytest
import sqlalchemy as sa

from embedded.errors import StartError
from embedded.waiting_mail import refuse_waiting_mail
from outbox.database import create_engine
from outbox.settings import Settings
from outbox.states import DeadReason, Status
from tests import rows
from tests.rows import from_now


@pytest.mark.parametrize("status", [Status.PENDING, Status.CLAIMED, Status.SENDING])
def test_waiting_mail_is_refused(database_url: str, engine: sa.Engine, status: Status) -> None:
    if status is Status.PENDING:
        rows.add(engine, 2, next_attempt_at=from_now(3600))
    else:
        rows.leased(engine, status, "token", 2)
    with pytest.raises(StartError, match=r"holds mail that waits \(rows: 2\).*set SMTP_HOST .* or DATABASE_URL"):
        refuse_waiting_mail(database_url)


def test_mail_that_is_settled_is_no_obstacle(database_url: str, engine: sa.Engine) -> None:
    rows.add(engine, status=Status.SENT, sent_at=from_now(-60), finalized_at=from_now(-60))
    rows.add(engine, status=Status.DEAD, dead_reason=DeadReason.REJECTED, finalized_at=from_now(-60))
    rows.add(engine, status=Status.UNCERTAIN)
    refuse_waiting_mail(database_url)


def test_what_is_not_migrated_yet_holds_no_mail(empty_postgresql: Callable[..., str], tmp_path: Path) -> None:
    refuse_waiting_mail(empty_postgresql())
    refuse_waiting_mail(f"sqlite:///{tmp_path / 'missing' / 'outbox.db'}")
    assert not (tmp_path / "missing").exists()
    (tmp_path / "empty.db").touch()
    refuse_waiting_mail(f"sqlite:///{tmp_path / 'empty.db'}")


def test_our_own_database_may_go_on_where_it_was_interrupted(sqlite_template: Path) -> None:
    url = Settings.model_fields["database_url"].default
    Path("var").mkdir()
    Path("var/outbox.db").write_bytes(sqlite_template.read_bytes())
    engine = create_engine(url)
    rows.add(engine)
    engine.dispose()
    refuse_waiting_mail(url)


def test_no_password_is_shown(postgresql_url: str) -> None:
    engine = create_engine(postgresql_url)
    rows.add(engine)
    engine.dispose()
    with pytest.raises(StartError) as refused:
        refuse_waiting_mail(postgresql_url)
    assert f":{engine.url.password}@" not in str(refused.value)
    assert ":***@" in str(refused.value)
