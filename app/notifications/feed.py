"""Tell users something in their pages: rows of the caller's transaction, and a word to open pages after its commit.

A stream resumes at the highest id that its page has seen, so the ids of one user must become visible in their order.
They come from a sequence, though, which knows no commits: a long transaction may draw 7 and commit after a short one
that drew 8, and whoever has seen 8 would never see 7. So whoever writes for a user locks that user's notifications
first, and until the commit.

The lock is an advisory one. Locking the users' rows would do as well, but a login updates its row and would wait for a
broadcast; nobody but another notification waits for this one. Users share `_LOCKS` locks, for a lock each would fill
the server's lock table (6,400 entries by default) with one broadcast or two.

It is taken as late as can be: `notify` only takes note, and the rows are written as the last act before the commit, for
all its calls together. So the lock is held for some milliseconds, however long the transaction was, and nothing is
locked after it: two transactions cannot wait for each other here, whatever they locked before and in which order they
called.
"""

from collections.abc import Collection
from functools import partial

import sqlalchemy as sa
from flask import current_app
from sqlalchemy import event
from sqlalchemy.orm import Session, SessionTransaction

from app.accounts.models import User
from app.notifications.models import Notification
from app.notifications.wakes import channel_of_user
from outbox.database import insert
from outbox.waking import wake_after_commit

TITLE_CHARACTERS = 200
BODY_CHARACTERS = 1000
"""More is cut off with an ellipsis: what somebody called a task must not keep its status from changing."""
URL_CHARACTERS = 2000

_LOCKS = 64
_LOCK_CLASS = 0x6E6F7465
"""The first half of the advisory lock's name ("note"), which keeps it apart from other locks of the application."""

_PENDING = "notifications_pending"
"""The key of `session.info` for what is written before the commit."""
_WAKES = "notifications_wakes"
"""The key of `session.info` for whom to call after it; the application's context may have ended by then."""


def notify(session: Session, user_ids: Collection[int], title: str, body: str = "", url: str = "") -> None:
    """Tell these users, if the session's transaction is committed; rolled back (or its savepoint), nobody hears of it.

    `url` is where it leads: a path of the application, or nothing. The rows are there from the commit on, not before.
    Ids of users who are no more are passed over. ValueError for an empty title, or a `url` that leads elsewhere.
    """
    message = Message(title, body, url)
    session.info[_WAKES] = current_app.extensions["wakes"]
    session.connection()  # begins the transaction, if nothing has: `_transaction` must find one
    session.info.setdefault(_PENDING, []).append((_transaction(session), frozenset(user_ids), message))
    if not event.contains(session, "before_commit", _write_pending):
        event.listen(session, "before_commit", _write_pending)
        event.listen(session, "after_soft_rollback", _forget)


class Message:
    """What is said: checked, and cut to a length that a page can show."""

    def __init__(self, title: str, body: str = "", url: str = "") -> None:
        self.title = _cut(title, TITLE_CHARACTERS)
        self.body = _cut(body, BODY_CHARACTERS)
        self.url = _path(url)
        if not self.title:
            raise ValueError("a notification needs a title: say in a few words what happened")


def write(session: Session, users: sa.Select[int], message: Message, task_id: str | None = None) -> list[int]:
    """Tell the users whose ids are selected; returns who was not told before under this `task_id`.

    Call `lock` before, for all of them, and commit soon after.
    """
    # KEY SHARE, as the foreign key's own check: somebody who is being deleted is waited for, and left out.
    rows = users.add_columns(*map(sa.literal, (message.title, message.body, message.url, task_id)))
    statement = insert(Notification, session.connection()).from_select(
        ["user_id", "title", "body", "url", "task_id"], rows.with_for_update(read=True, key_share=True)
    )
    if task_id is not None:
        statement = statement.on_conflict_do_nothing()
    return list(session.scalars(statement.returning(Notification.user_id)))


def lock(session: Session, user_ids: Collection[int]) -> None:
    """Until the commit, nobody else writes notifications to these users. SQLite has one writer anyway."""
    if session.get_bind().dialect.name == "postgresql":
        keys = sorted({user_id % _LOCKS for user_id in user_ids})
        column = sa.func.unnest(sa.cast(keys, sa.ARRAY(sa.Integer))).column_valued()  # in the array's order
        session.execute(sa.select(sa.func.pg_advisory_xact_lock(_LOCK_CLASS, column)))


def _write_pending(session: Session) -> None:
    if session.in_nested_transaction():
        return  # a savepoint's release
    pending = session.info.pop(_PENDING, ())
    if not pending:
        return
    session.flush()  # now, so that nothing is locked after our lock
    user_ids = sorted(frozenset().union(*(ids for _, ids, _ in pending)))
    lock(session, user_ids)
    for _, ids, message in pending:
        write(session, sa.select(User.id).where(User.id.in_(ids)), message)
    wake_after_commit(session, partial(session.info[_WAKES], [channel_of_user(user_id) for user_id in user_ids]))


def _transaction(session: Session) -> SessionTransaction | None:
    return session.get_nested_transaction() or session.get_transaction()


def _forget(session: Session, rolled_back: SessionTransaction) -> None:
    """What was said in the transaction or savepoint that is undone, or in a savepoint within it."""
    pending = session.info.get(_PENDING, ())
    session.info[_PENDING] = [said for said in pending if not _within(said[0], rolled_back)]


def _within(transaction: SessionTransaction | None, outer: SessionTransaction) -> bool:
    while transaction is not None and transaction is not outer:
        transaction = transaction.parent
    return transaction is outer


def _cut(text: str, characters: int) -> str:
    # PostgreSQL takes neither a NUL nor half a surrogate pair, which JSON can carry.
    text = text.replace("\0", "").encode(errors="replace").decode().strip()
    return text if len(text) <= characters else text[: characters - 1].rstrip() + "…"


def _path(url: str) -> str:
    # Browsers read a backslash as a slash, and pass over tabs and newlines: both would make of "/\example.com" another
    # host's address.
    ours = not url or (url.startswith("/") and not url.startswith("//") and "\\" not in url and url.isprintable())
    if not ours or len(url) > URL_CHARACTERS:
        raise ValueError(
            f"a notification cannot lead to {url[:URL_CHARACTERS]!r}: give a path of the application, such as /tasks/7"
        )
    return url
