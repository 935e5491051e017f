"""Its integration with Celery, as its README sets it up.

Without the periodic task, which it offers for deliveries that failed. That task would also find a mail queued just when
another had looked for the last time and not yet let go of the lock: here, such a mail waits for the next.
"""

from collections.abc import Callable
from typing import Any

from celery import Celery
from celery.signals import worker_ready

from benchmarks.contenders.peers import Surroundings

_told = Surroundings.told()

app = Celery("post_office", broker=_told.redis)
app.autodiscover_tasks(["post_office"])


def work(ready: Callable[[], None]) -> None:
    def up(**_signal: Any) -> None:
        ready()

    worker_ready.connect(up, weak=False)
    app.worker_main(["worker", f"--concurrency={_told.processes}"])
