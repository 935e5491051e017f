"""`/metrics`, for Prometheus: the gauges of the moment, and what the workers of this host have counted.

No address is in it, but how much mail goes and how much fails is nobody's business: it takes METRICS_TOKEN, or an
admin. It does not ask where the request comes from: behind a proxy on the same machine all of the world is loopback.
"""

import fcntl
import hmac
import logging
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

from flask import Blueprint, Response, abort, current_app, request
from flask_login import current_user
from prometheus_client import CollectorRegistry, Metric
from prometheus_client.exposition import choose_encoder
from prometheus_client.multiprocess import MultiProcessCollector
from prometheus_client.registry import Collector
from pydantic import SecretStr

from app.accounts.access import ask_nobody, has_bearer, is_admin, log_in_first
from app.gauges import Gauges

log = logging.getLogger(__name__)

KINDS = ("counter", "histogram")
"""Of files in METRICS_DIR, one each for a process. There is no gauge among them: those come from SQL."""

metrics = Blueprint("metrics", __name__)


@metrics.get("/metrics")
def show() -> Response:
    """All of it, in the format that the scraper asks for."""
    settings = current_app.extensions["settings"]
    if not _shows(settings.metrics_token):
        if not current_user.is_authenticated:
            return log_in_first()
        if not is_admin():
            abort(403)
    registry = CollectorRegistry()
    registry.register(Gauges(current_app.extensions["engine"], settings))
    registry.register(Counted(settings.metrics_dir))
    encode, content_type = choose_encoder(request.headers.get("Accept", ""))
    return Response(encode(registry), content_type=content_type)


class Counted(Collector):
    """The sums of what the workers count (`workers.counting`), of those that are gone, too."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def collect(self) -> Iterable[Metric]:
        """Nothing, where no worker has ever counted, or what they wrote is not ours to read, which is logged."""
        try:
            with locked(self._folder):
                files = sorted(map(str, self._folder.glob("*.db")))
                return list(MultiProcessCollector.merge(files))
        except FileNotFoundError:
            return []
        except OSError as error:
            log.warning("metrics: what the workers count cannot be read from METRICS_DIR=%s: %s", self._folder, error)
            return []

    def describe(self) -> Iterable[Metric]:
        """Nothing: else it would be collected once more, to learn the names."""
        return []


@contextmanager
def locked(folder: Path, *, writing: bool = False) -> Iterator[None]:
    """No file is folded into another meanwhile. Who only reads needs no right to write."""
    with (folder / "lock").open("ab" if writing else "rb") as file:
        fcntl.flock(file, fcntl.LOCK_EX if writing else fcntl.LOCK_SH)
        yield


def _shows(token: SecretStr | None) -> bool:
    """Whether the request shows the token. Then it is nobody else's, and the database is not asked who that may be."""
    if token is None or not has_bearer():
        return False
    assert request.authorization is not None
    shown = (request.authorization.token or "").encode()
    if not hmac.compare_digest(shown, token.get_secret_value().encode()):
        return False
    ask_nobody()
    return True
