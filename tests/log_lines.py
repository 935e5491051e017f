"""The log of this process, as its JSON lines.

with log_lines() as lines:
    client.get("/")
assert lines()[-1]["event"] == "http.request"
"""

import io
import json
import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from app.logs import formatter
from app.settings import AppSettings


@contextmanager
def log_lines(level: int = logging.INFO, **settings: Any) -> Iterator[Callable[[], list[dict[str, Any]]]]:
    """Everything that is logged within, by whomever."""
    stream, root = io.StringIO(), logging.getLogger()
    handler = logging.StreamHandler(stream)
    handler.setFormatter(formatter(AppSettings.load(log_format="json", **settings), people=False))
    before = root.level
    root.addHandler(handler)
    root.setLevel(level)
    try:
        yield lambda: [json.loads(line) for line in stream.getvalue().splitlines()]
    finally:
        root.removeHandler(handler)
        root.setLevel(before)
