"""Make an export: read the users, then store the file, its mail and its notification in one transaction.

The row is the memory. Of two runs for the same export, or of one that was killed and the next, whoever locks the row
first and finds it unfinished writes; the other leaves. The mail is queued exactly when the file is there.
"""

from datetime import datetime
from typing import Any

import sqlalchemy as sa
from sqlalchemy.orm import Session, sessionmaker

from app.accounts.mails import about
from app.accounts.models import Role, User
from app.exports.forgetting import KEPT
from app.exports.models import Export
from app.exports.table import Table, table
from app.notifications.feed import notify
from app.settings import AppSettings
from outbox.attachments import Attachment
from outbox.database import insert
from outbox.errors import TooLarge
from outbox.service import EmailService

FILENAME = "user_export.csv"
MEDIA_TYPE = "text/csv; charset=utf-8"

_FAILED = "it could not be made; the log of the workers says why. Ask for another"


def generate(
    sessions: sessionmaker[Session],
    settings: AppSettings,
    now: datetime,
    admin_email: str,
    export_id: str,
    *,
    asked_for: bool = True,
) -> dict[str, Any]:
    """Make the export of that id for the admin of that address, unless it was made before.

    ValueError if nobody has the address, or no admin; or if there is no such export of theirs. Unless it was
    `asked_for` (in a page, where its row was written) a row is begun here.
    """
    admin_id = _admin(sessions, admin_email)
    if not asked_for:
        _begin(sessions, export_id, admin_id)
    if _finished(sessions, export_id, admin_id):
        return {"export_id": export_id, "users": 0, "made": False}
    try:
        made = table(sessions)
        stored = _store(sessions, settings, now, export_id, made)
    except Exception:
        _give_up(sessions, now, export_id)
        raise
    return {"export_id": export_id, "users": made.users, "made": stored}


def _admin(sessions: sessionmaker[Session], email: str) -> int:
    with sessions() as session:
        found = session.scalars(sa.select(User).where(User.email == email.strip().lower())).one_or_none()
        if found is None:
            raise ValueError(f"admin_email={email!r}: nobody has this address; give that of an admin")
        if found.role != Role.ADMIN:
            raise ValueError(
                f"admin_email={email!r}: {found.username} is not an admin, and exports are for admins only"
            )
        id_: int = found.id
        return id_


def _begin(sessions: sessionmaker[Session], export_id: str, admin_id: int) -> None:
    with sessions.begin() as session:
        new = insert(Export, session.connection()).values(id=export_id, user_id=admin_id)
        session.execute(new.on_conflict_do_nothing(index_elements=["id"]))


def _finished(sessions: sessionmaker[Session], export_id: str, admin_id: int) -> bool:
    with sessions() as session:
        found = session.execute(
            sa.select(Export.finished_at).where(Export.id == export_id, Export.user_id == admin_id)
        ).first()
    if found is None:
        raise ValueError(f"export_id={export_id!r}: there is no such export of theirs; leave it out to begin one")
    return found.finished_at is not None


def _store(sessions: sessionmaker[Session], settings: AppSettings, now: datetime, export_id: str, made: Table) -> bool:
    """False if another run has."""
    with sessions.begin() as session:
        waiting = sa.select(Export).where(Export.id == export_id, Export.finished_at.is_(None))
        export = session.scalar(waiting.with_for_update(key_share=True))
        if export is None:
            return False
        admin = session.get_one(User, export.user_id)
        export.csv, export.finished_at = made.csv, now
        _mail(EmailService(session, settings), settings, admin, export, made)
        title = "Your export of all users is ready"
        notify(session, [admin.id], title, f"{made.users:,} users. It is kept for a day.", f"/export/{export_id}")
    return True


def _mail(service: EmailService, settings: AppSettings, admin: User, export: Export, made: Table) -> None:
    """With the file; with the link alone where it is too large for a mail."""
    assert export.finished_at is not None
    mail: dict[str, Any] = {
        "to": admin.email,
        "template": "user_export",
        "idempotency_key": f"user_export:{export.id}",
    }
    context = {
        **about(admin),
        "users": made.users,
        "kilobytes": max(1, round(len(made.csv) / 1000)),
        "made_at": export.finished_at,
        "kept_until": export.finished_at + KEPT,
        "url": f"{settings.app_url}/export/{export.id}",
    }
    try:
        file = Attachment(FILENAME, made.csv, MEDIA_TYPE)
        service.queue_email(**mail, context=context | {"attached": True}, attachments=[file])
    except TooLarge:
        service.queue_email(**mail, context=context | {"attached": False})


def _give_up(sessions: sessionmaker[Session], now: datetime, export_id: str) -> None:
    """So that the page does not wait for what will not come."""
    with sessions.begin() as session:
        unfinished = sa.update(Export).where(Export.id == export_id, Export.finished_at.is_(None))
        session.execute(unfinished.values(finished_at=now, error=_FAILED))
