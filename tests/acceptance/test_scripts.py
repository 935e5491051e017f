"""The start scripts: each starts its part from the environment alone, or says in one sentence what to do."""

import base64
import os
import re
import runpy
import shutil
import subprocess
import sys
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from flower import urls
from flower.command import apply_env_options
from tornado.options import options

from tests.servers import free_port
from tests.system import StartSystem, System, wait_until

ROOT = Path(__file__).parent.parent.parent


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """The scripts in a folder without .venv and .env: they take what is on the PATH."""
    for script in [*ROOT.glob("st*_celery_*.sh"), ROOT / "venv.sh", ROOT / "flowerconfig.py"]:
        shutil.copy(script, tmp_path)
    return tmp_path


@pytest.fixture
def run(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., subprocess.CompletedProcess[str]]:
    monkeypatch.setenv("PATH", str(Path(sys.executable).parent), prepend=os.pathsep)

    def run(script: str, **environment: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [folder / script], env=os.environ | environment, capture_output=True, text=True, timeout=60, check=False
        )

    return run


Run = Callable[..., subprocess.CompletedProcess[str]]


def test_worker_and_beat_start_from_the_environment_and_stop(
    folder: Path, run: Run, start_system: StartSystem, postgresql_url: str
) -> None:
    system = start_system(postgresql_url)
    (folder / ".env").write_text("CELERY_WORKER_QUEUES=celery,email.high\nCELERY_WORKER_CONCURRENCY=2\n")
    worker = system.start("worker", "./start_celery_worker.sh", CELERY_WORKER_CONCURRENCY="3")
    beat = system.start("beat", "./start_celery_beat.sh")

    worker.wait_for(" ready.")
    beat.wait_for("beat: Starting")
    assert "3 threads take from celery, email.high" in worker.log  # the environment wins
    assert all(line.startswith("{") for part in (worker, beat) for line in part.log.splitlines())
    assert int((folder / "var/celerybeat.pid").read_text()) == beat.process.pid
    system.queue("ada@example.com", priority="high")
    system.wait_until_sent(1)

    # The process is our child, and somebody must take note of its end: a shell or a supervisor does.
    with subprocess.Popen([folder / "stop_celery_beat.sh"], stdout=subprocess.PIPE, text=True) as stop:
        beat.process.wait(30)
        output, _ = stop.communicate(timeout=30)
    assert stop.returncode == 0
    assert "has stopped" in output
    assert not (folder / "var/celerybeat.pid").exists()


def test_stopping_beat_when_there_is_none_or_its_pid_is_stale(folder: Path, run: Run) -> None:
    assert run("stop_celery_beat.sh").stdout.startswith("Celery beat is not running")

    pidfile = folder / "var/celerybeat.pid"
    pidfile.parent.mkdir(exist_ok=True)
    pidfile.write_text(str(os.getpid()))  # ours: not a beat, and not to be killed
    result = run("stop_celery_beat.sh")
    assert result.returncode == 0
    assert "was not running" in result.stdout
    assert not pidfile.exists()


@pytest.mark.parametrize("proc", ["/proc", "/nowhere"])
def test_beat_is_found_without_ps(folder: Path, run: Run, system: System, proc: str) -> None:
    """As in slim images; and where there is no /proc either, what runs under that number is taken for beat."""
    (folder / "bin").mkdir()
    for tool in ("sh", "dirname", "cat", "tr", "rm", "sleep"):
        (folder / "bin" / tool).symlink_to(shutil.which(tool) or tool)
    script = folder / "stop_celery_beat.sh"
    script.write_text(script.read_text().replace("/proc", proc))
    beat = system.start("beat", "./start_celery_beat.sh")
    beat.wait_for("beat: Starting")

    command = [folder / "bin" / "sh", script]
    with subprocess.Popen(command, env={"PATH": str(folder / "bin")}, stdout=subprocess.PIPE, text=True) as stop:
        beat.process.wait(30)
        output, _ = stop.communicate(timeout=30)
    assert stop.returncode == 0
    assert output == f"Celery beat (process {beat.process.pid}) has stopped.\n"


def test_a_pid_of_nobody_is_stale_without_ps(folder: Path) -> None:
    ended = subprocess.Popen(["true"])
    ended.wait()
    pidfile = folder / "var/celerybeat.pid"
    pidfile.parent.mkdir(exist_ok=True)
    for proc in ("/proc", "/nowhere"):
        pidfile.write_text(str(ended.pid))
        script = folder / "stop_celery_beat.sh"
        script.write_text((ROOT / script.name).read_text().replace("/proc", proc).replace("ps -o", "missing-ps -o"))
        result = subprocess.run([script], capture_output=True, text=True, check=True)
        assert "was not running" in result.stdout
        assert not pidfile.exists()


@pytest.mark.parametrize("part", ["worker", "beat", "flower"])
def test_a_wrong_setting_ends_in_one_sentence(run: Run, part: str) -> None:
    result = run(f"start_celery_{part}.sh", REDIS_URL="localhost:6379")
    assert result.returncode == 1
    assert result.stderr.count("\n") == 1
    assert "REDIS_URL='localhost:6379'" in result.stderr


def test_missing_tools_end_in_one_sentence(folder: Path, run: Run) -> None:
    (folder / "bin").mkdir()
    for tool in ("dirname", "bash"):
        (folder / "bin" / tool).symlink_to(shutil.which(tool) or tool)
    result = run("start_celery_worker.sh", PATH=str(folder / "bin"))
    assert result.returncode == 1
    assert result.stderr.count("\n") == 1
    assert "run ./start_services.sh" in result.stderr


def test_flower_does_not_start_without_a_password(run: Run) -> None:
    result = run("start_celery_flower.sh", FLOWER_BASIC_AUTH="", FLOWER_PORT="")
    assert result.returncode == 1
    assert result.stderr.count("\n") == 1
    assert "FLOWER_BASIC_AUTH" in result.stderr


def test_flower_refuses_half_a_login(run: Run) -> None:
    result = run("start_celery_flower.sh", FLOWER_BASIC_AUTH="ada:secret,secret")
    assert result.returncode == 1
    assert result.stderr.startswith("FLOWER_BASIC_AUTH has an entry that is not user:password: "), result.stderr
    assert result.stderr.count("\n") == 1
    assert "secret" not in result.stderr


@pytest.mark.parametrize(
    ("logins", "says"),
    [
        (" , ", "Flower asks everybody for a password, and has none: set FLOWER_BASIC_AUTH=user:password."),
        *(
            (logins, "FLOWER_BASIC_AUTH has an entry that is not user:password: ")
            for logins in (":", "ada:", ":secret", "secret", "ada:secret,secret")
        ),
    ],
)
def test_what_flower_refuses(monkeypatch: pytest.MonkeyPatch, logins: str, says: str) -> None:
    """Its settings alone, in this process, as it reads them: a start of Flower takes two seconds."""
    monkeypatch.setattr(options.mockable(), "basic_auth", [])  # and so put back
    monkeypatch.setenv("FLOWER_BASIC_AUTH", logins)
    apply_env_options()
    with pytest.raises(SystemExit) as refused:
        runpy.run_path(str(ROOT / "flowerconfig.py"))
    assert str(refused.value.code).startswith(says)
    assert "\n" not in str(refused.value.code)
    assert "secret" not in str(refused.value.code)


def test_flower_asks_for_its_password_everywhere_and_changes_nothing(folder: Path, run: Run, system: System) -> None:
    port = free_port()
    login = {"FLOWER_ADDRESS": "0.0.0.0", "FLOWER_PORT": str(port), "FLOWER_BASIC_AUTH": "ada:secret,"}
    system.start("flower", "./start_celery_flower.sh", **login)
    wait_until(lambda: _status(port, "/") is not None)

    for path in ("/", "/workers", "/tasks", "/api/workers", "/metrics", "/healthcheck"):
        assert _status(port, path) == 401, path
        for wrong in ("ada:wrong", "ada:", ":", "="):
            assert _status(port, path, wrong) == 401, path
        assert _status(port, path, header="Basic =") == 401, path  # nothing, encoded
        assert _status(port, path, "ada:secret") == 200, path
    tried = set()
    for path, methods in _routes():
        for method in methods:
            assert _status(port, path, method=method) == 401, (method, path)
        if "POST" in methods and path != "/tasks/datatable":  # which only looks
            assert _status(port, path, "ada:secret", method="POST") == 403, path
            tried.add(path)
    assert len(tried) >= 14


def _routes() -> Iterator[tuple[str, list[str]]]:
    """All that this version of Flower answers, but what anybody may see: the style sheets, and where to log in."""
    for handler in urls.handlers:
        pattern, view = (handler.regex.pattern, handler.handler_class) if hasattr(handler, "regex") else handler[:2]
        path = re.sub(r"\(\.[+*]\)", "anything", pattern).rstrip("$")
        if not path.startswith((".*", "/static", "/login", "/logout")):
            yield path, [name for name in ("GET", "POST") if name.lower() in vars(view)]


def _status(port: int, path: str, login: str = "", header: str = "", method: str = "GET") -> int | None:
    request = urllib.request.Request(f"http://127.0.0.1:{port}{path}", method=method)
    if login:
        header = f"Basic {base64.b64encode(login.encode()).decode()}"
    if header:
        request.add_header("Authorization", header)
    try:
        with urllib.request.urlopen(request, timeout=10) as answer:
            return int(answer.status)
    except urllib.error.HTTPError as error:
        return error.code
    except OSError:
        return None
