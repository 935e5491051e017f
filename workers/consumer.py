"""A worker that outlives its broker."""

import logging

from celery.worker import consumer

log = logging.getLogger(__name__)


class Consumer(consumer.Consumer):  # type: ignore[misc]  # Celery ships no types
    """Celery 5.7.0's worker ends with an AttributeError when Redis goes away while an `acks_late` task runs.

    (10 of 10 times; 5.6.3 does not.) Its clean-up of the lost connection asks a transport that is already gone for its
    host name. Without a connection the next step is the same as after the clean-up: connect again.
    """

    def on_connection_error_after_connected(self, exc: Exception) -> None:
        """Clean up after a lost connection; whatever fails in that is logged, and the connection is forgotten."""
        try:
            super().on_connection_error_after_connected(exc)
        except Exception:
            log.warning("could not clean up the lost connection to the broker; connecting anew", exc_info=True)
            self.connection = None
