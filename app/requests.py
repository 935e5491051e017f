"""The id of each request, and its one line in the log.

The id is the caller's `X-Request-ID`, or ours if that is none; the answer has it, and whatever is logged, queued or
published meanwhile bears it.
"""

import logging
import re
import time
from uuid import uuid4

import sqlalchemy as sa
from flask import Flask, Response, g, request

from outbox.logs import request_id, tell

log = logging.getLogger(__name__)

HEADER = "X-Request-ID"

_WELL_FORMED = re.compile(r"[A-Za-z0-9][A-Za-z0-9._:+-]{0,127}")
"""UUIDs, ULIDs, W3C's trace ids and what proxies make: nothing that means anything to a header, a log or a shell."""

_PROBES = {"/healthz", "/readyz", "/health/detailed", "/metrics"}
"""Asked for every few seconds, by machines: seen in the log when something is wrong."""

_WRONG = 400


def identify(app: Flask) -> None:
    """To be called before anything else that looks at requests: what the others log has the id, too."""
    app.before_request(_begin)
    app.after_request(_end)
    app.teardown_request(_forget)


def well_formed(id_: str | None) -> str:
    """The id, or another one in its place."""
    return id_ if id_ is not None and _WELL_FORMED.fullmatch(id_) else uuid4().hex


def _begin() -> None:
    g.began = time.perf_counter()
    request_id.set(well_formed(request.headers.get(HEADER)))


def _end(response: Response) -> Response:
    """Told when the answer begins: a stream ends whenever its reader leaves."""
    response.headers[HEADER] = str(request_id.get())
    quiet = request.endpoint == "static" or request.path in _PROBES
    tell(
        log, logging.DEBUG if quiet and response.status_code < _WRONG else logging.INFO, "http.request",
        "%(method)s %(path)s: %(status)d", method=request.method, path=_path(), status=response.status_code,
        ms=round((time.perf_counter() - g.began) * 1000, 1), bytes=response.calculate_content_length(), user=_user(),
    )  # fmt: skip
    return response


def _forget(_: BaseException | None) -> None:
    request_id.set(None)  # the thread serves others


def _path() -> str:
    """Without its query, and without what in a path is a key."""
    key = (request.view_args or {}).get("token")
    return request.path.replace(str(key), "***") if key else request.path


def _user() -> int | None:
    """Who asked, if anybody found that out. It asks the database nothing."""
    user = g.get("_login_user")  # Flask-Login's, once somebody has looked
    return sa.inspect(user).identity[0] if user is not None and user.is_authenticated else None
