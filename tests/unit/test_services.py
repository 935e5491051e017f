"""What `./start_services.sh` decides to run, and where."""

import os
import socket
import subprocess
from contextlib import ExitStack
from pathlib import Path
from urllib.request import urlopen

import pytest

from embedded.errors import StartError
from embedded.ports import FIRST_CHOICE, choose_ports, free_port, is_free, recall_ports
from embedded.services import Plan, plan
from tests.system import wait_until

PORTS = {"application": 8000, "inbox": 8025, "flower": 5555, "smtp": 1025, "redis": 6380}


def planned(**given: str) -> Plan:
    return plan(given, PORTS, Path("/somewhere/var"))


def names(of: Plan) -> set[str]:
    return {service.name for service in of.services}


APPLICATION = {"worker-urgent", "worker-bulk", "beat", "flower", "application"}


def test_nothing_is_set_and_everything_is_embedded() -> None:
    found = planned()
    assert names(found) == {"redis", "inbox", *APPLICATION}
    assert found.environment == {
        "REDIS_URL": "redis://127.0.0.1:6380/0",
        "NOTIFICATION_STREAMS": "16",
        "LOG_FORMAT": "pretty",
        "SMTP_HOST": "127.0.0.1",
        "SMTP_PORT": "1025",
        "SMTP_FROM_EMAIL": "outbox@example.com",
        "APP_URL": "http://127.0.0.1:8000",
        "FILES_DIR": "/somewhere/var/files",
        "INBOX_URL": "http://127.0.0.1:8025/",
        "FLOWER_URL": "http://127.0.0.1:5555/",
    }
    assert list(found.urls) == ["Application", "Inbox", "Flower"]


@pytest.mark.parametrize("name", ["SMTP_HOST", "MAIL_SERVER", "OUTBOX_RELAYS"])
def test_what_is_set_is_used(name: str) -> None:
    found = planned(REDIS_URL="redis://cache/0", **{name: "relay.example", "SMTP_PORT": "587", "SMTP_USER": "me"})
    assert names(found) == APPLICATION
    assert set(found.environment) == {"FLOWER_URL", "APP_URL", "FILES_DIR", "NOTIFICATION_STREAMS", "LOG_FORMAT"}
    assert list(found.urls) == ["Application", "Flower"]


def test_set_to_nothing_is_not_set() -> None:
    assert names(planned(REDIS_URL="", SMTP_HOST="", SMTP_USER="", SMTP_USE_TLS="false")) >= {"redis", "inbox"}


@pytest.mark.parametrize("name", ["APP_URL", "FILES_DIR"])
def test_an_address_and_a_folder_of_ones_own_are_kept(name: str) -> None:
    assert name not in planned(**{name: "set"}).environment


@pytest.mark.parametrize("name", ["SMTP_FROM_EMAIL", "MAIL_DEFAULT_SENDER"])
def test_a_sender_is_kept(name: str) -> None:
    assert "SMTP_FROM_EMAIL" not in planned(**{name: "shop@shop.example"}).environment


@pytest.mark.parametrize(
    "name", ["SMTP_PORT", "MAIL_PORT", "SMTP_USER", "MAIL_PASSWORD", "SMTP_USE_TLS", "MAIL_USE_SSL"]
)
def test_half_a_relay_is_refused(name: str) -> None:
    with pytest.raises(StartError, match=f"^{name} is set and SMTP_HOST is not: set SMTP_HOST"):
        planned(**{name: "1"})


def test_every_lane_has_a_worker_and_high_has_its_own() -> None:
    queues = [s.environment["CELERY_WORKER_QUEUES"] for s in planned().services if s.name.startswith("worker-")]
    assert queues == ["email.high,celery", "email.normal,email.low"]


def test_what_others_need_starts_first_and_stops_last() -> None:
    ranks = {service.name: service.rank for service in planned().services}
    assert max(ranks["redis"], ranks["inbox"]) < min(ranks[name] for name in APPLICATION)


def test_a_taken_port_is_passed_over() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        taken: int = server.getsockname()[1]
        assert not is_free(taken)
        assert free_port(taken) > taken


def test_no_free_port_says_what_to_do() -> None:
    everything = frozenset(range(30_000, 31_000))
    with pytest.raises(StartError, match=r"^No port between 30000 and 30199 is free .*: stop what listens there"):
        free_port(30_000, everything)


def test_ports_are_remembered_while_they_are_free(tmp_path: Path) -> None:
    memory = tmp_path / "ports.json"
    first = choose_ports(memory)
    assert first.keys() == FIRST_CHOICE.keys()
    assert len(set(first.values())) == len(first)
    assert choose_ports(memory) == recall_ports(memory) == first
    with socket.create_server(("127.0.0.1", first["inbox"])):
        second = choose_ports(memory)
    assert second["inbox"] != first["inbox"]
    assert {name for name in first if first[name] != second[name]} == {"inbox"}


@pytest.mark.parametrize("content", ["", "[]", '{"inbox": "x"}', "\x00"])
def test_a_memory_that_makes_no_sense_is_forgotten(tmp_path: Path, content: str) -> None:
    memory = tmp_path / "ports.json"
    memory.write_text(content)
    assert recall_ports(memory) == {}
    assert choose_ports(memory).keys() == FIRST_CHOICE.keys()


def test_idle_connections_keep_nobody_out(tmp_path: Path) -> None:
    """Browsers leave theirs open, six each; and whoever sends nothing at all can open many."""
    port = free_port(20_000 + os.getpid() % 10_000)  # below those of outgoing connections
    services = plan({}, PORTS | {"application": port}, tmp_path).services
    (web,) = (service for service in services if service.name == "application")
    environment = os.environ | {"DATABASE_URL": f"sqlite:///{tmp_path / 'none.db'}", "REDIS_URL": "redis://127.0.0.1:1"}
    with ExitStack() as stack:
        process = stack.enter_context(subprocess.Popen(web.command, env=environment, cwd=tmp_path))
        stack.callback(process.terminate)
        wait_until(lambda: not is_free(port))
        assert process.poll() is None
        for _ in range(200):
            stack.enter_context(socket.create_connection(("127.0.0.1", port)))
        with urlopen(f"http://127.0.0.1:{port}/healthz", timeout=5) as answer:
            assert answer.status == 200
