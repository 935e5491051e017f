"""A user's notifications as server-sent events, for as long as a page is open.

    listen to Redis -> read the table after the last id -> send -> wait for a word -> read -> ...

The table is the truth; the word only says when to look. It listens first, so that nothing falls between the reading
and the waiting. While it waits it holds a thread of the web server, and neither a session nor a connection to the
database. Redis away: it looks every few seconds.

A thread each is much where there are few, so a process has a bounded number of streams (`NOTIFICATION_STREAMS`).
Beyond it, an answer is what was missed and then the end: the browser comes back by itself, as if it were polling.
"""

import json
import logging
import random
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import sqlalchemy as sa
from sqlalchemy.orm import Session

from app.accounts.models import User
from app.notifications.bell import latest, unread
from app.notifications.models import Notification
from app.notifications.wakes import LEAVE, Wakes, channel_of_organisation, channel_of_user
from outbox.database import reading_engine
from outbox.logs import tell

log = logging.getLogger(__name__)

HEARTBEAT_SECONDS = 15.0
"""Proxies close a connection that is silent for a minute, or for half of one."""
LIFE_SECONDS = 300.0
"""Then the browser connects again, and its login is checked again."""
RETRY_MILLISECONDS = 2_000
RETRY_WHEN_FULL_MILLISECONDS = 10_000
"""Pages without a stream of their own: one request in so many, of a few milliseconds."""

_AT_ONCE = 100
"""Rows in memory at a time, of a page that was away for long."""


@dataclass(frozen=True)
class Reader:
    """Who listens, as they were when they connected."""

    user_id: int
    login: str
    """Flask-Login's id of the user. It changes when their logins are to end."""
    organisation_id: int

    @property
    def channels(self) -> tuple[str, str]:
        """Where words for them are said."""
        return channel_of_user(self.user_id), channel_of_organisation(self.organisation_id)


@dataclass(frozen=True)
class News:
    """What the table says."""

    rows: Sequence[Notification]
    after: int
    unread: int


class Streams:
    """Those of this process, at most `at_once` of them."""

    def __init__(self, engine: sa.Engine, wakes: Wakes, at_once: int) -> None:
        self._engine = reading_engine(engine)
        self._wakes = wakes
        self._free = threading.Semaphore(at_once)

    def events(self, reader: Reader, after: int | None, gone: Callable[[], bool]) -> Iterator[str]:
        """What came after that id (None: after now), and what comes. `gone` says that the page has been closed."""
        if not self._free.acquire(blocking=False):
            yield _retry(RETRY_WHEN_FULL_MILLISECONDS)
            if news := self._look(reader, after):
                yield _told(news, None)
            return
        try:
            yield _retry(RETRY_MILLISECONDS)
            yield from self._live(reader, after, gone)
        except sa.exc.SQLAlchemyError as error:
            sentence = "notifications: the table cannot be read; the page will come again"
            tell(log, logging.ERROR, "notifications.broken", sentence, exc_info=error)
        finally:
            self._free.release()

    def _live(self, reader: Reader, after: int | None, gone: Callable[[], bool]) -> Iterator[str]:
        # Not all at once, should all have begun at once.
        end = time.monotonic() + random.uniform(0.8, 1) * LIFE_SECONDS  # noqa: S311 - no secret
        counted = None
        with self._wakes.listen(reader.channels) as ear:
            while (news := self._look(reader, after)) is not None:
                yield _told(news, counted) or ": nothing new\n\n"
                after, counted = news.after, news.unread
                if len(news.rows) == _AT_ONCE:
                    continue
                if time.monotonic() > end or ear.wait(HEARTBEAT_SECONDS, gone) == LEAVE:
                    return

    def _look(self, reader: Reader, after: int | None) -> News | None:
        """None for somebody who has been deleted, or whose logins have ended."""
        with Session(self._engine, expire_on_commit=False) as session:
            user = session.get(User, reader.user_id)
            if user is None or user.get_id() != reader.login:
                return None
            if after is None:
                after = latest(session, user.id)
            rows = session.scalars(
                sa.select(Notification)
                .where(Notification.user_id == user.id, Notification.id > after)
                .order_by(Notification.id)
                .limit(_AT_ONCE)
            ).all()
            return News(rows, rows[-1].id if rows else after, unread(session, user.id))


def _told(news: News, counted: int | None) -> str:
    told = "".join(_event(row) for row in news.rows)
    return told if news.unread == counted else f"{told}event: unread\ndata: {news.unread}\n\n"


def _event(row: Notification) -> str:
    data = {"id": row.id, "title": row.title, "body": row.body, "url": row.url, "at": row.created_at.isoformat()}
    return f"id: {row.id}\nevent: notification\ndata: {json.dumps(data)}\n\n"


def _retry(milliseconds: int) -> str:
    return f"retry: {milliseconds}\n\n"
