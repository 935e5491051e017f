"""When the next mail is due, as far as this process knows: then it asks for a drain, rather than wait for the beat.

A hint, as the nudge is: a process that dies forgets it, and the beat comes by.
"""

import threading
import time
from collections.abc import Callable

LEAST_SECONDS = 1.0
"""Mails that are due within one second share a drain."""


class Alarm:
    """Rings once, at the earliest of the times that it was set to."""

    def __init__(self, ring: Callable[[], None]) -> None:
        self._ring = ring
        self._lock = threading.Lock()
        self._timer: threading.Timer | None = None
        self._at = 0.0

    def set(self, seconds: float) -> None:
        """Ring in so many seconds, unless it will ring before."""
        at = time.monotonic() + max(seconds, LEAST_SECONDS)
        with self._lock:
            if self._timer is not None:
                if self._at <= at:
                    return
                self._timer.cancel()
            self._at = at
            self._timer = threading.Timer(at - time.monotonic(), self._go_off)
            self._timer.daemon = True
            self._timer.start()

    def stop(self) -> None:
        """Ring no more."""
        with self._lock:
            if self._timer is not None:
                self._timer.cancel()
                self._timer = None

    def _go_off(self) -> None:
        with self._lock:
            if threading.current_thread() is not self._timer:
                return  # another was set, or none, in the meantime
            self._timer = None
        self._ring()
