"""`/metrics`, for Prometheus: the gauges of the moment, and what the workers of this host have counted.

No address is in it, but how much mail goes and how much fails is nobody's business: it takes METRICS_TOKEN, or an
admin. It does not ask where the request comes from: behind a proxy on the same machine all of the world is loopback.
"""

import hmac

from flask import Blueprint, Response, abort, current_app, request
from flask_login import current_user
from pydantic import SecretStr

from app.accounts.access import ask_nobody, has_bearer, is_admin, log_in_first

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
    # Not at the start of every process: it takes 60 ms, and web processes alone are ever asked.
    from prometheus_client import CollectorRegistry  # noqa: PLC0415
    from prometheus_client.exposition import choose_encoder  # noqa: PLC0415

    from app.counted import Counted  # noqa: PLC0415
    from app.gauges import Gauges  # noqa: PLC0415

    registry = CollectorRegistry()
    registry.register(Gauges(current_app.extensions["engine"], settings))
    registry.register(Counted(settings.metrics_dir))
    encode, content_type = choose_encoder(request.headers.get("Accept", ""))
    return Response(encode(registry), content_type=content_type)


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
