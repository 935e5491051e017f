"""The bars: what the project promises itself, as data."""

import statistics
from collections.abc import Mapping
from dataclasses import dataclass

from benchmarks.questions.enqueue import BULK, ONE
from benchmarks.results import Results


def ratios(above: Mapping[int, float], below: Mapping[int, float]) -> list[float]:
    """One for each round that both have: what slowed the machine down in it slowed both."""
    return [above[number] / below[number] for number in above.keys() & below.keys()]


PEERS = ("post_office_tuned", "post_office", "django_mailer", "procrastinate", "tutorial")


@dataclass(frozen=True)
class Bar:
    """A figure of ours, alone or as a ratio to somebody's, and where it has to be."""

    title: str
    question: str
    case: str
    bar: float
    against: tuple[str, ...] = ()
    """Contenders in the same case, of whom the best counts. Empty: the figure itself is measured."""
    of: str = "ours"
    baseline: str | None = None
    """In place of others: ourselves in another case."""
    figure: str = "rate"
    at_most: bool = False
    aim: float | None = None
    unit: str = ""

    def measured(self, results: Results) -> float | None:
        """The median of the rounds; None if it was not measured."""
        ours = results.rounds(self.question, self.case, self.of, self.figure)
        below = self._below(results)
        if below is None:
            return statistics.median(ours.values()) if ours else None
        found = ratios(ours, below)
        return statistics.median(found) if found else None

    def met(self, value: float) -> bool:
        """Whether a value is good enough."""
        return value <= self.bar if self.at_most else value >= self.bar

    def _below(self, results: Results) -> dict[int, float] | None:
        """Round -> what ours is divided by; None if by nothing."""
        if self.baseline is not None:
            return results.rounds(self.question, self.baseline, self.of, self.figure)
        if not self.against:
            return None
        everybody = [results.rounds(self.question, self.case, name, self.figure) for name in self.against]
        return max(
            (rounds for rounds in everybody if rounds), key=lambda it: statistics.median(it.values()), default={}
        )


_BULK_PEERS = ("post_office", "django_mailer", "procrastinate")

BARS = (
    Bar("drain, 2 KB / post_office, tuned", "drain", "2 KB", 4, ("post_office_tuned",), aim=5),
    Bar("drain, 2 KB / a Celery task a mail", "drain", "2 KB", 15, ("tutorial",)),
    Bar("drain, 2 KB / ready bytes, by emails", "drain", "2 KB", 0.9, ("ready_bytes",), aim=1.1),
    Bar("drain, 20 KB / post_office, tuned", "drain", "20 KB", 3, ("post_office_tuned",)),
    Bar("CPU for 1,000 mails, all but the relay", "drain", "2 KB", 0.75, figure="cpu_all", at_most=True, unit="s"),
    Bar("enqueue one by one / post_office", "enqueue", ONE, 1.0, ("post_office",)),
    Bar("enqueue one by one / INSERT and commit", "enqueue", ONE, 0.6, ("insert",)),
    Bar("enqueue in bulk / the best peer", "enqueue", BULK, 1.5, _BULK_PEERS),
    Bar("enqueue in bulk, templated / the best peer", "enqueue", BULK, 0.5, _BULK_PEERS, of="templated"),
    Bar("commit to 250, median", "latency", "2 KB", 30, figure="p50_ms", at_most=True, unit="ms"),
    Bar("commit to 250, of 99 in 100", "latency", "2 KB", 150, figure="p99_ms", at_most=True, unit="ms"),
    Bar("relay 50 ms away / the best peer", "relay", "50 ms", 2, PEERS),
    Bar("relay 50 ms away / two round trips", "relay", "50 ms", 0.85, figure="of_two_round_trips"),
    Bar("drain after a long history / a short one", "scale", "long history", 0.9, baseline="short history"),
    Bar("memory of a worker in a burst", "memory", "burst", 60, figure="growth_mb", at_most=True, unit="MB more"),
    Bar("drain of a burst / usual", "memory", "burst", 0.95, baseline="usual"),
    Bar("CPU of waiting, of one core", "memory", "idle", 0.01, figure="share_contender", at_most=True),
)
