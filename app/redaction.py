"""What monitors may see of a task: how much it was given, and none of what it says.

Celery sends a text of the arguments along with every event, to whoever listens to the broker, and Flower and `celery
inspect` show it. It is made here instead, where a task is published: the arguments themselves go to the worker alone.
"""

from collections.abc import Mapping, Sequence
from typing import Any


def arguments(values: Sequence[Any]) -> str:
    """`(100 ids, …)`."""
    return f"({', '.join(map(_seen, values))})"


def keywords(values: Mapping[str, Any]) -> str:
    """`{'upload_id': 7}`."""
    return f"{{{', '.join(f'{name!r}: {_seen(value)}' for name, value in values.items())}}}"


def _seen(value: Any) -> str:
    match value:
        case None | bool() | int() | float():
            return repr(value)
        case str():
            return "…"
        case list() | tuple():
            noun = "id" if value and all(isinstance(item, int) for item in value) else "value"
            return f"{len(value):,} {noun}{'' if len(value) == 1 else 's'}"
    return f"a {type(value).__name__}"
