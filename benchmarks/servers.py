"""PostgreSQL, with a disk that it waits for, and a Redis-compatible server: all contenders share them, in turns."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import count
from typing import LiteralString

import psutil
import psycopg
import redis
import sqlalchemy as sa
from psycopg import sql

from tests.servers import postgresql_server, redis_server


@dataclass
class Servers:
    """Both of them, running."""

    postgres: sa.URL
    redis_url: str
    _numbers: Iterator[int] = field(default_factory=count)

    def url(self, database: str) -> str:
        """As everybody reads it: `postgresql://...`."""
        return self.postgres.set(drivername="postgresql", database=database).render_as_string(hide_password=False)

    def create(self, template: str = "template1") -> str:
        """A new database, with what is in `template`, and a Redis without anything. Returns its name."""
        name = f"bench{next(self._numbers)}"
        with psycopg.connect(self.url("postgres"), autocommit=True) as connection:
            connection.execute(
                sql.SQL("CREATE DATABASE {} TEMPLATE {}").format(sql.Identifier(name), sql.Identifier(template))
            )
        self.flush()
        return name

    def drop(self, name: str) -> None:
        """Whoever is still connected is thrown out."""
        with psycopg.connect(self.url("postgres"), autocommit=True) as connection:
            connection.execute(sql.SQL("DROP DATABASE {} WITH (FORCE)").format(sql.Identifier(name)))

    def ask(self, database: str, query: LiteralString) -> int:
        """The one number that a query tells."""
        with psycopg.connect(self.url(database)) as connection:
            (told,) = connection.execute(query).fetchone() or (0,)
        return int(told)

    def flush(self) -> None:
        """Nothing is left in Redis."""
        with redis.Redis.from_url(self.redis_url) as client:
            client.flushall()

    def checkpoint(self) -> None:
        """What was written is on the disk: it does not come in the way of what is measured next."""
        with psycopg.connect(self.url("postgres"), autocommit=True) as connection:
            connection.execute("CHECKPOINT")

    @property
    def pids(self) -> dict[str, int]:
        """Role -> the process that has all others of it below."""
        with psycopg.connect(self.url("postgres")) as connection:
            postmaster = psutil.Process(connection.info.backend_pid).ppid()
        with redis.Redis.from_url(self.redis_url) as client:
            return {"postgresql": postmaster, "redis": client.info("server")["process_id"]}

    @property
    def versions(self) -> dict[str, str]:
        """As they tell."""
        with psycopg.connect(self.url("postgres")) as connection:
            (postgres,) = connection.execute("SHOW server_version").fetchone() or ("",)
        with redis.Redis.from_url(self.redis_url) as client:
            server = client.info("server")
        name = server.get("server_name", "redis")
        return {"postgresql": postgres.split()[0], name: server.get(f"{name}_version", server["redis_version"])}


@contextmanager
def servers() -> Iterator[Servers]:
    """Gone with the context, and with all that they hold."""
    with postgresql_server(fsync=True) as postgres, redis_server() as valkey:
        yield Servers(postgres, f"{valkey.connection_url}/0")
