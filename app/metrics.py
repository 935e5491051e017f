"""`/metrics`, for Prometheus: the gauges of the moment, and what the workers of this host have counted.

No address is in it, but how much mail goes and how much fails is nobody's business: it takes METRICS_TOKEN, or an
admin. It does not ask where the request comes from: behind a proxy on the same machine all of the world is loopback.
"""

from flask import Blueprint, Response, current_app, request

from app.accounts.access import monitoring_required

metrics = Blueprint("metrics", __name__)


@metrics.get("/metrics")
@monitoring_required
def show() -> Response:
    """All of it, in the format that the scraper asks for."""
    # Not at the start of every process: it takes 60 ms, and web processes alone are ever asked.
    from prometheus_client import CollectorRegistry  # noqa: PLC0415
    from prometheus_client.exposition import choose_encoder  # noqa: PLC0415

    from app.counted import Counted  # noqa: PLC0415
    from app.gauges import Gauges  # noqa: PLC0415

    settings = current_app.extensions["settings"]
    registry = CollectorRegistry()
    registry.register(Gauges(current_app.extensions["engine"], settings))
    registry.register(Counted(settings.metrics_dir))
    encode, content_type = choose_encoder(request.headers.get("Accept", ""))
    return Response(encode(registry), content_type=content_type)
