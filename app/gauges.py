"""The gauges of `/metrics`: how the mail stands, from SQL, when it is asked for.

So they are true under any number of processes, and each of them says the same. Prometheus' own name for what is here is
a collector: prometheus-client calls `collect` for every scrape.
"""

import logging
from collections import Counter
from collections.abc import Iterator

import sqlalchemy as sa
from prometheus_client.core import GaugeMetricFamily
from prometheus_client.registry import Collector

from outbox import breaker, heartbeats, stats, watching
from outbox.database import reading
from outbox.logs import tell
from outbox.settings import Settings
from outbox.states import Priority, RelayState

log = logging.getLogger(__name__)


class Gauges(Collector):
    """Of one database. A few statements, whose costs are in `outbox.stats`; the dearest counts the backlog."""

    def __init__(self, engine: sa.Engine, settings: Settings) -> None:
        self._engine = engine
        self._settings = settings

    def collect(self) -> Iterator[GaugeMetricFamily]:
        """All of them, or, while the database does not answer, that alone: what the workers have counted stays true."""
        try:
            with reading(self._engine) as connection:
                families = [*_mails(connection), *_relays(connection, self._settings), *_processes(connection)]
                families.append(_troubles(connection, self._settings))
        except sa.exc.SQLAlchemyError as error:
            tell(log, logging.WARNING, "gauges.away", "metrics: the database does not answer: %(why)s", why=str(error))
            families = []
        yield GaugeMetricFamily("outbox_database_up", "1: the database answers", value=float(bool(families)))
        yield from families

    def describe(self) -> Iterator[GaugeMetricFamily]:
        """Nothing: else they would be collected once more, to learn their names."""
        yield from ()


def _mails(connection: sa.Connection) -> Iterator[GaugeMetricFamily]:
    waiting = stats.waiting(connection)
    in_flight = stats.in_flight(connection)
    failed = stats.failed(connection)
    mails = GaugeMetricFamily(
        "outbox_mails", "Mails that are not over, by lane and state", labels=["priority", "state"]
    )
    oldest = GaugeMetricFamily(
        "outbox_oldest_due_seconds", "For how long the first due mail of a lane has waited", labels=["priority"]
    )
    dead = GaugeMetricFamily(
        "outbox_dead_mails", "Dead mails that nobody has moved or purged", labels=["priority", "reason"]
    )
    for lane in Priority:
        states = {
            "due": waiting[lane].due,
            "scheduled": waiting[lane].scheduled,
            "claimed": in_flight[lane].claimed,
            "sending": in_flight[lane].sending,
            "uncertain": failed[lane].uncertain,
        }
        for state, count in states.items():
            mails.add_metric([lane.label, state], count)
        oldest.add_metric([lane.label], waiting[lane].oldest_due_seconds or 0)
        for reason, count in failed[lane].dead.items():
            dead.add_metric([lane.label, reason], count)
    yield from (mails, oldest, dead)


def _relays(connection: sa.Connection, settings: Settings) -> Iterator[GaugeMetricFamily]:
    state = GaugeMetricFamily("outbox_relay_state", "1 for the state that a relay is in", labels=["relay", "state"])
    latched = GaugeMetricFamily(
        "outbox_relay_latched",
        "1: the relay does not take our settings, and waiting will not mend it",
        labels=["relay"],
    )
    for standing in breaker.standings(connection, settings.endpoints).values():
        for possible in RelayState:
            state.add_metric([standing.name, possible], float(standing.state is possible))
        latched.add_metric([standing.name], float(standing.latched))
    yield from (state, latched)


def _processes(connection: sa.Connection) -> Iterator[GaugeMetricFamily]:
    signs = heartbeats.signs(connection)
    workers = GaugeMetricFamily("outbox_workers", "Workers by whether they were heard of lately", labels=["state"])
    found = [sign.silent for sign in signs if sign.kind == heartbeats.WORKER]
    workers.add_metric(["alive"], found.count(False))
    workers.add_metric(["silent"], found.count(True))
    yield workers
    # A beat may live and yet tick no more, and says so.
    beats = [s.seconds_ago + s.detail.get("ticked_seconds_ago", 0.0) for s in signs if s.kind == heartbeats.BEAT]
    # Absent when no beat was ever heard of: no number would be true.
    tick = GaugeMetricFamily("outbox_beat_tick_seconds", "How long ago beat's last tick was")
    if beats:
        tick.add_metric([], min(beats))
    yield tick


def _troubles(connection: sa.Connection, settings: Settings) -> GaugeMetricFamily:
    # By kind: a worker that died has a name that never comes again, and Prometheus keeps all that it ever heard.
    kinds = Counter(trouble.key.split()[0] for trouble in watching.troubles(connection, settings))
    family = GaugeMetricFamily(
        "outbox_troubles", "Things that are wrong, as `outbox.watch` tells them", labels=["kind"]
    )
    for kind, count in kinds.items():
        family.add_metric([kind], count)
    return family
