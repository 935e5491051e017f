"""The process manager: Supervisor, in a session of its own, with everything it writes under `var`.

By hand: `.venv/bin/supervisorctl -c var/run/supervisord.conf status`.
"""

import hashlib
import os
import shlex
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from xmlrpc.client import Error, ServerProxy

from supervisor.xmlrpc import SupervisorTransport

from embedded.errors import StartError
from embedded.services import Service

_START_SECONDS = 10
_YOUNG_SECONDS = 1
"""A process that lives for so long has started (`RUNNING`); one that does not, three times over, is given up."""

_STOP_SECONDS = 60
"""Patience with one process. A worker finishes the mail in hand, and a relay may take its time over that; who is killed
after all leaves a row whose lease runs out, and no mail is lost."""

_LAST_SECONDS = 5
"""Patience with Supervisor itself, after the last of its processes has gone."""

_LONGEST_SOCKET_PATH = 100
"""Bytes; 108 on Linux, 104 on macOS, with the suffix that Supervisor appends while it binds."""

_DEAD = {"BACKOFF", "EXITED", "FATAL"}

# Paths are relative to the folder that Supervisor is started in, the root: it expands a % in some of them twice.
_HEAD = """\
[supervisord]
nodaemon=true
logfile=/dev/null
logfile_maxbytes=0
pidfile=var/run/supervisord.pid
{user}
[unix_http_server]
file={socket}
chmod=0700

[supervisorctl]
serverurl=unix://{socket}

[rpcinterface:supervisor]
supervisor.rpcinterface_factory=supervisor.rpcinterface:make_main_rpcinterface
"""

_PROGRAM = """
[program:{name}]
command={command}
priority={rank}
environment={environment}
autorestart=true
startsecs={young}
stopwaitsecs={patience}
killasgroup=true
redirect_stderr=true
stdout_logfile=var/log/{name}.log
stdout_logfile_maxbytes=10MB
stdout_logfile_backups=2
"""


@dataclass(frozen=True)
class State:
    """How a service is: Supervisor's name for it (`RUNNING`, `BACKOFF`, `FATAL`), and its reason."""

    name: str
    state: str
    reason: str
    pid: int


class Supervisor:
    """The one of this folder, running or not."""

    def __init__(self, root: Path) -> None:
        self._root = root
        self._run = root / "var" / "run"
        self._logs = root / "var" / "log"
        self._socket = _socket_path(self._run)
        self._first_pids: dict[str, int] = {}
        self._process: subprocess.Popen[bytes] | None = None

    def is_running(self) -> bool:
        """Whether it answers. When it does not, its services are gone, too: it ends after the last of them."""
        with socket.socket(socket.AF_UNIX) as conversation:
            return conversation.connect_ex(os.fsencode(self._socket)) == 0

    def start(self, services: Iterable[Service], environment: Mapping[str, str]) -> None:
        """Start it, and with it the services, as children that outlive this process. Does not wait for them."""
        self._make_folders()
        configuration = self._run / "supervisord.conf"
        configuration.write_text(self._configuration(services))
        with (self._logs / "supervisord.log").open("ab") as log:
            # A session of its own: Ctrl-C and a closed terminal reach us, and we stop it in good order. The services
            # inherit the environment, so that no password is written to a file.
            self._process = subprocess.Popen(  # noqa: S603 - our own interpreter
                [sys.executable, "-m", "supervisor.supervisord", "-c", str(configuration)],
                cwd=self._root,
                env=dict(environment),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
        deadline = time.monotonic() + _START_SECONDS
        while not self.is_running():
            if self._process.poll() is not None or time.monotonic() > deadline:
                raise StartError(f"The process manager did not start:\n{self.tail('supervisord')}")
            time.sleep(0.05)

    def states(self) -> list[State]:
        """How each service is."""
        try:
            with self._rpc() as rpc:
                rows: Any = rpc.supervisor.getAllProcessInfo()
        except (Error, OSError) as error:
            raise StartError("Somebody else stopped the services.") from error
        return [State(row["name"], row["statename"], row["spawnerr"] or row["description"], row["pid"]) for row in rows]

    def deaths(self) -> list[str]:
        """The services that died since they were first seen here, even if they run again by now."""
        states = self.states()
        for service in states:
            if service.pid:
                self._first_pids.setdefault(service.name, service.pid)
        return [s.name for s in states if s.state in _DEAD or s.pid != self._first_pids.get(s.name, s.pid)]

    def stop(self) -> bool:
        """Stop the services, the first to start last, then itself; returns when all are gone. False: nothing ran."""
        if not self.is_running():
            return False
        pid = 0
        with suppress(Error, OSError, StartError), self._rpc() as rpc:  # it may be on its way already
            pid = int(str(rpc.supervisor.getPID()))
            self._wait_for_newborns()
            rpc.supervisor.shutdown()
        while self.is_running() or (self._process is not None and self._process.poll() is None):
            time.sleep(0.05)
        # It closes its socket a moment before it ends. Not for ever: in a container, nobody may bury the dead.
        deadline = time.monotonic() + _LAST_SECONDS
        while time.monotonic() < deadline and _is_alive(pid):
            time.sleep(0.05)
        return True

    def _wait_for_newborns(self) -> None:
        """Between fork and exec a process has Supervisor's handlers: it swallows the SIGTERM, and is waited for."""
        deadline = time.monotonic() + 2 * _YOUNG_SECONDS
        while time.monotonic() < deadline and any(service.state == "STARTING" for service in self.states()):
            time.sleep(0.05)

    def tail(self, service: str, lines: int = 15) -> str:
        """The end of a service's log."""
        try:
            text = (self._logs / f"{service}.log").read_text(errors="replace")
        except OSError:
            return "(it has written no log)"
        return "\n".join(text.splitlines()[-lines:])

    def _make_folders(self) -> None:
        for folder in (self._run, self._logs):
            folder.mkdir(parents=True, exist_ok=True)
        self._socket.parent.mkdir(mode=0o700, exist_ok=True)
        if self._socket.parent.stat().st_uid != os.getuid():
            raise StartError(
                f"{self._socket.parent} belongs to somebody else: remove it, or move this folder elsewhere."
            )

    def _configuration(self, services: Iterable[Service]) -> str:
        user = "user=root\n" if os.getuid() == 0 else ""  # or it warns that it will stay what it is
        head = _HEAD.format(socket=_escaped(self._socket), user=user)
        return head + "".join(
            _PROGRAM.format(
                name=service.name,
                command=_escaped(shlex.join(service.command)),
                environment=_escaped(",".join(f'{name}="{value}"' for name, value in service.environment.items())),
                rank=service.rank,
                young=_YOUNG_SECONDS,
                patience=_STOP_SECONDS,
            )
            for service in services
        )

    def _rpc(self) -> ServerProxy:
        # The address is not used: the transport speaks to the socket.
        return ServerProxy("http://supervisor", transport=SupervisorTransport(None, None, f"unix://{self._socket}"))


def _is_alive(pid: int) -> bool:
    if not pid:
        return False
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


def _socket_path(run: Path) -> Path:
    """In `run`, unless that lies too deep for a Unix socket; then in a folder of our own that follows from its name."""
    path = run / "supervisor.sock"
    if len(os.fsencode(path)) <= _LONGEST_SOCKET_PATH:
        return path
    name = hashlib.sha256(os.fsencode(run)).hexdigest()[:16]
    return Path(tempfile.gettempdir()) / f"outbox-{os.getuid()}-{name}" / "supervisor.sock"


def _escaped(value: object) -> str:
    """Supervisor expands %(...)s."""
    return str(value).replace("%", "%%")
