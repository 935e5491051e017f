"""What is wrong with the mail right now, in sentences for whoever runs it."""

from collections.abc import Sequence
from typing import NamedTuple

import sqlalchemy as sa

from outbox import breaker, stats
from outbox.settings import Settings
from outbox.states import RelayState
from outbox.times import duration

LATE_DRAINS = 5
"""Periods of the drain for which the first due mail may have waited. Within two it should be on its way."""


class Trouble(NamedTuple):
    """One thing that is wrong."""

    key: str
    """The same as long as it lasts, whatever its figures: `oldest due`, `dead`, `uncertain`, `relay mx.example:25`."""
    sentence: str


class Memory:
    """What was wrong when it was last looked at. A process has its own: each that watches tells of a trouble once."""

    def __init__(self) -> None:
        self._troubles: dict[str, Trouble] = {}

    def compare(self, troubles: Sequence[Trouble]) -> tuple[list[Trouble], list[Trouble]]:
        """Those that have begun since, and those that have ended."""
        now = {trouble.key: trouble for trouble in troubles}
        before, self._troubles = self._troubles, now
        begun = [trouble for key, trouble in now.items() if key not in before]
        return begun, [trouble for key, trouble in before.items() if key not in now]


def troubles(connection: sa.Connection, settings: Settings) -> list[Trouble]:
    """All that is wrong: mail that is late, has died or become uncertain within the hour, and relays that take none."""
    found = []
    waited = oldest_due(connection)
    if waited > late_after(settings):
        found.append(Trouble("oldest due", f"the oldest due mail has waited for {duration(waited)}"))
    lately = stats.failed_lately(connection)
    if lately.dead:
        found.append(Trouble("dead", f"{_mails(lately.dead)} died within the hour: see `outbox list --status dead`"))
    if lately.uncertain:
        found.append(
            Trouble(
                "uncertain",
                f"{_mails(lately.uncertain)} became uncertain within the hour: a person decides, see "
                "`outbox list --status uncertain`",
            )
        )
    found += [
        Trouble(f"relay {standing.name}", f"relay {standing}")
        for standing in breaker.standings(connection, settings.endpoints).values()
        if standing.state is not RelayState.CLOSED
    ]
    return found


def oldest_due(connection: sa.Connection) -> float:
    """Seconds for which the first due mail of any priority has waited; 0 if none is due."""
    return max((lane.oldest_due_seconds or 0 for lane in stats.waiting(connection).values()), default=0)


def late_after(settings: Settings) -> float:
    """Seconds from which on a due mail counts as late."""
    return LATE_DRAINS * settings.outbox_drain_seconds


def _mails(number: int) -> str:
    return f"{number:,} mail{'' if number == 1 else 's'}"
