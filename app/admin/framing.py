"""The HTML of a mail, for a frame with an empty `sandbox`: it runs nothing, fetches nothing and sends nothing.

Three walls, each of which would do for nearly all of it: the frame's sandbox; the policy of this answer, which holds
when somebody opens its address by itself; and that what only loads something else is no such element any more.
"""

import re

from flask import Response

_POLICY = (
    "default-src 'none'; style-src 'unsafe-inline'; img-src data:; base-uri 'none'; form-action 'none'; sandbox; "
    "frame-ancestors 'self'"
)
"""Its own styles stay, or nobody would see what the recipient saw; pictures are those that the mail itself brings."""

_LOADING = re.compile(r"(</?)(?=(?:iframe|frame|frameset|object|embed|link|base|meta)\b)", re.IGNORECASE)
"""Chromium (156) connects to where a frame within would lead before it asks the policy. It sends no request, and yet
the sender could tell when the mail is looked at, and from where. What `rel=preconnect` does is nobody's policy."""


def framed(html: str) -> Response:
    """The answer. What loads is renamed, not removed: of `<ifr<iframe>ame` removing would leave what it looks for."""
    response = Response(_LOADING.sub(r"\1x-", html), content_type="text/html; charset=utf-8")
    response.headers["Content-Security-Policy"] = _POLICY
    response.headers["X-Frame-Options"] = "SAMEORIGIN"
    response.headers["Referrer-Policy"] = "no-referrer"
    return response
