"""Rates: how many mails a relay may be handed in a time, and how many of them for one recipient domain.

Counted by the `limits` library, in a moving window, which is exact: in no window, wherever it begins, are there more
mails than the rate allows. (A fixed window passes twice the rate across its border; a counter that slides estimates.)
It remembers a time for each mail in the window, 17 bytes in Redis: 1.7 MB for 100,000 a day, and no slower for it.

Workers share the windows through the storage they are given. Their clocks write the times: the window is as exact as
those agree. While the storage does not answer, each process keeps to a quarter of the rate by itself.
"""

import logging
import threading
import time
from collections.abc import Iterable
from dataclasses import dataclass
from typing import NamedTuple, Protocol

from limits import RateLimitItem
from limits.errors import StorageError
from limits.storage import MemoryStorage

from outbox.endpoints import Endpoint
from outbox.logs import tell

log = logging.getLogger(__name__)

QUIET_SECONDS = 5.0
"""After a failure the storage is left alone for this long, and then asked by one mail only: it may take its timeout."""

_ALONE = 4
"""The part of a rate, a quarter, for a process that cannot count with the others: two workers to a machine, on two
machines. Less is lost by a slow hour than by a relay that shuts the account."""

_PENALTIES = 10
"""The longest pause of a domain that is told to slow down, in first pauses. The relay's own rest has the same."""

_SOON = 0.01
"""Seconds. The window said no and has room a moment later: somebody else was about to give back."""


class Windows(Protocol):
    """What counts: a moving-window storage of `limits` that can take back."""

    def acquire_entry(self, key: str, limit: int, expiry: int, amount: int = 1) -> bool: ...
    def get_moving_window(self, key: str, limit: int, expiry: int) -> tuple[float, int]: ...
    def give_back(self, key: str) -> None:
        """Take the newest entry out again."""


class OwnWindows(MemoryStorage):
    """In the memory of this process. One thread at a time: the library loses entries otherwise."""

    def give_back(self, key: str) -> None:
        """Take the newest entry out again."""
        with self.locks[key]:
            if entries := self.events.get(key):
                del entries[0]


@dataclass(frozen=True, slots=True)
class Wait:
    """Not now."""

    seconds: float
    domain: str | None
    """Which recipient domain has to wait; None: the relay is not to be handed anything."""
    why: str
    rate: RateLimitItem | None = None
    """What is used up, if it is a rate."""


class _Window(NamedTuple):
    relay: str
    domain: str | None
    rate: RateLimitItem

    @property
    def key(self) -> str:
        return "/".join((self.relay, *filter(None, (self.domain,)), repr(self.rate)))

    @property
    def why(self) -> str:
        whose = f"{self.relay} for {self.domain}" if self.domain else self.relay
        return f"the rate of {whose}, {self.rate!r}, is used up"


class _Penalty(NamedTuple):
    until: float
    seconds: float


class Rates:
    """Asked before each mail. Any thread may; none waits here, but for a storage that does not answer, once."""

    def __init__(self, storage: Windows | None = None, *, base: float = 10.0) -> None:
        """Without a storage, this process counts alone. `base`: the first pause of `penalise`, in seconds."""
        self._shared = storage
        self._base = base
        self._own: OwnWindows | None = None  # it starts a thread: not before it is needed
        self._failing = False
        self._quiet_until = 0.0
        self._full: dict[str, float] = {}
        self._penalties: dict[tuple[str, str], _Penalty] = {}
        self._lock = threading.Lock()

    def wait(self, endpoint: Endpoint, domain: str) -> Wait | None:
        """None: a mail for that domain may go through that relay, and is counted. Else how long it has to wait."""
        if endpoint.rate is None and endpoint.domain_rate is None and not self._penalties:
            return None
        domain = domain.lower()
        if penalty := self._penalty(endpoint, domain):
            return penalty
        # The domain's first: what only it refuses must not cost the relay's, and only it may have to be given back.
        rates = ((domain, endpoint.domain_rate), (None, endpoint.rate))
        windows = [_Window(endpoint.name, whose, rate) for whose, rate in rates if rate is not None]
        return self._take(windows) if windows else None

    def penalise(self, endpoint: Endpoint, domain: str) -> None:
        """The relay said that mail to this domain comes too fast: none from this process for a while, longer each time.

        What was under way when the pause began does not make it longer.
        """
        key, now, longest = (endpoint.name, domain.lower()), time.monotonic(), self._base * _PENALTIES
        with self._lock:
            recent = {name: penalty for name, penalty in self._penalties.items() if now < penalty.until + longest}
            before = recent.get(key)
            if before and now < before.until:
                return
            seconds = min(before.seconds * 2, longest) if before else self._base
            self._penalties = recent | {key: _Penalty(now + seconds, seconds)}

    def forgive(self, endpoint: Endpoint, domain: str) -> None:
        """The relay took a mail to this domain: the next pause is a short one. A pause that runs goes on."""
        key = (endpoint.name, domain.lower())
        if key in self._penalties:
            with self._lock:
                if (penalty := self._penalties.get(key)) and penalty.until <= time.monotonic():
                    del self._penalties[key]

    def _penalty(self, endpoint: Endpoint, domain: str) -> Wait | None:
        penalty = self._penalties.get((endpoint.name, domain))
        left = penalty.until - time.monotonic() if penalty else 0
        return Wait(left, domain, f"{endpoint.name} wants mail to {domain} to come more slowly") if left > 0 else None

    def _take(self, windows: list[_Window]) -> Wait | None:
        if self._shared is not None and self._may_ask():
            try:
                wait = self._enter(self._shared, windows)
            except (StorageError, OSError) as error:
                self._be_quiet(error)
            else:
                self._be_well()
                return wait
        if self._shared is not None:
            windows = [window._replace(rate=quarter(window.rate)) for window in windows]
        with self._lock:
            self._own = self._own or OwnWindows()
            return self._enter(self._own, windows)

    def _enter(self, storage: Windows, windows: list[_Window]) -> Wait | None:
        """Count the mail in all windows, or in none."""
        if full := self._known_full(windows[-1:]):
            return full
        entered: list[_Window] = []
        for window in windows:
            if not storage.acquire_entry(window.key, window.rate.amount, window.rate.get_expiry()):
                for other in entered:
                    storage.give_back(other.key)
                return self._refused(storage, window)
            entered.append(window)
        return None

    def _refused(self, storage: Windows, window: _Window) -> Wait:
        expiry = window.rate.get_expiry()
        oldest, entries = storage.get_moving_window(window.key, window.rate.amount, expiry)
        seconds = oldest + expiry - time.time() if entries >= window.rate.amount else 0
        seconds = min(max(seconds, _SOON), expiry)
        if window.domain is None:
            # Nothing is given back to a relay's window: until its oldest entry leaves, it need not be asked again.
            self._full[window.key] = time.monotonic() + seconds
        return Wait(seconds, window.domain, window.why, window.rate)

    def _known_full(self, windows: Iterable[_Window]) -> Wait | None:
        """A whole backlog finds the relay busy: all but the first are told so without a word to the storage."""
        for window in windows:
            left = self._full.get(window.key, 0) - time.monotonic()
            if left > 0:
                return Wait(left, None, window.why)
        return None

    def _may_ask(self) -> bool:
        if not self._failing:
            return True
        with self._lock:
            if time.monotonic() < self._quiet_until:
                return False
            self._quiet_until = time.monotonic() + QUIET_SECONDS
            return True

    def _be_quiet(self, error: Exception) -> None:
        with self._lock:
            self._quiet_until = time.monotonic() + QUIET_SECONDS
            first, self._failing = not self._failing, True
        if first:
            sentence = "rates: Redis does not answer; each process keeps to a quarter of the rates (%(why)s)"
            tell(log, logging.WARNING, "rates.alone", sentence, why=str(error))

    def _be_well(self) -> None:
        if self._failing:
            with self._lock:
                first, self._failing = self._failing, False
            if first:
                tell(log, logging.INFO, "rates.together", "rates: Redis answers again")


def quarter(rate: RateLimitItem) -> RateLimitItem:
    """A quarter of the rate, or a little less: fewer mails a window, or, where those are few, one in a longer one."""
    if rate.amount >= _ALONE:
        return type(rate)(rate.amount // _ALONE, rate.multiples)
    return type(rate)(1, rate.multiples * -(-_ALONE // rate.amount))
