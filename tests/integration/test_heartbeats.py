"""Signs of life."""

import sqlalchemy as sa

from outbox import heartbeats
from outbox.models import EmailHeartbeat
from tests import rows


def test_who_lives(engine: sa.Engine) -> None:
    with engine.begin() as connection:
        heartbeats.give(connection, heartbeats.WORKER, "host:1", queues=["celery"])
        heartbeats.give(connection, heartbeats.BEAT, "beat@host")
        heartbeats.give(connection, heartbeats.WORKER, "host:1", queues=["email.high"])
        (worker,) = heartbeats.signs(connection, heartbeats.WORKER)
        assert (worker.name, worker.detail, worker.silent) == ("host:1", {"queues": ["email.high"]}, False)
        age(connection, "host:1", heartbeats.SILENT_AFTER + 5)
        assert {sign.name: sign.silent for sign in heartbeats.signs(connection)} == {"host:1": True, "beat@host": False}
        age(connection, "host:1", heartbeats.FORGOTTEN_AFTER + 5)
        heartbeats.give(connection, heartbeats.BEAT, "beat@host")
        assert [sign.name for sign in heartbeats.signs(connection)] == ["beat@host"]
        heartbeats.take_back(connection, "beat@host")
        assert heartbeats.signs(connection) == []


def age(connection: sa.Connection, name: str, seconds: float) -> None:

    table = EmailHeartbeat
    connection.execute(sa.update(table).where(table.name == name).values(at=rows.from_now(-seconds)))
