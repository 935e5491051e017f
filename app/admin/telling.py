"""How the admin pages say what strangers wrote, and when something happened.

{{ mail.subject|plain }}        nothing invisible, nothing that turns the reading direction
{{ sentence|commands }}         what stands between backticks is code
{{ mail.created_at|exact }}     30 Nov 2026, 03:07:12, where the reader is
{{ mail.created_at|ago }}       5 min ago
"""

import re

from flask import Blueprint
from flask.sansio.blueprints import BlueprintSetupState
from markupsafe import Markup, escape

from app.accounts.access import me
from app.accounts.times import local_to_the_second
from outbox.printable import safe, safe_lines
from outbox.times import distance

_COMMAND = re.compile("`([^`]+)`")


def tell_plainly(blueprint: Blueprint) -> None:
    """Give the filters to all pages."""

    @blueprint.record_once
    def add(state: BlueprintSetupState) -> None:
        filters = {"plain": plain, "lines": safe_lines, "commands": commands, "exact": local_to_the_second}
        state.app.jinja_env.filters.update(filters | {"ago": distance})


def plain(value: object) -> str:
    """On one line, with all that is in it to be seen."""
    return safe(str(value))


def commands(sentence: str) -> Markup:
    """A sentence of the library, which quotes what to type as `outbox requeue 7`."""
    return Markup(_COMMAND.sub(r"<code>\1</code>", str(escape(plain(sentence)))))  # noqa: S704 - escaped before


def who() -> str:
    """Whoever asks, for the record."""
    return f"{me().username} (admin page)"
