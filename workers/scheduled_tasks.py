"""The application's tasks that beat starts, and the longer ones that a request asks for.

They are thin: what they do is in the rooms of `app`, as functions of the sessions, the settings and the time. Each may
be run twice, at once or after it was killed, and does its work once. What they return is for `flask tasks run`, Flower
and the log.
"""

from datetime import UTC, datetime
from typing import NamedTuple

from flask import current_app
from sqlalchemy.orm import Session, sessionmaker

from app.settings import AppSettings


class Tools(NamedTuple):
    """What the rooms' functions begin with."""

    sessions: sessionmaker[Session]
    settings: AppSettings
    now: datetime


def _tools() -> Tools:
    parts = current_app.extensions
    return Tools(parts["sessions"], parts["settings"], datetime.now(UTC))
