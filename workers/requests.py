"""A task in a worker's hands, as Celery knows it: monitors are told what `app.redaction` and `app.masking` leave."""

from typing import Any

from celery.worker.request import Request as CeleryRequest

from app.masking import Mask

_mask = Mask()

_WORDS = ("exception", "result", "traceback")
"""Of an event: what the task raised or returned, which may name somebody."""


class Request(CeleryRequest):  # type: ignore[misc]  # Celery ships no types
    """Celery's, discreet."""

    def info(self, *_: Any, **__: Any) -> Any:
        """For `celery inspect` and Flower's page of a worker, which ask for the arguments of what waits as they are."""
        return super().info(safe=True)

    def send_event(self, type: str, **fields: Any) -> None:  # noqa: A002 - Celery's name
        """For whoever listens: Flower."""
        words = {name: _mask(fields[name], keep="\n") for name in _WORDS if isinstance(fields.get(name), str)}
        super().send_event(type, **fields | words)
