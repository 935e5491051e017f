"""Exports are personal data of everybody: they are kept for a day."""

from datetime import datetime, timedelta

import sqlalchemy as sa
from sqlalchemy.orm import Session, sessionmaker

from app.exports.models import Export

KEPT = timedelta(days=1)
"""From when it was made. Also how long one that was asked for may wait, before its page says that it never came."""

BATCH = 100
"""Exports a transaction. They are large."""

LOST = "it was asked for a day ago and never made: ask for another"


def forget(sessions: sessionmaker[Session], now: datetime) -> tuple[int, int]:
    """Wipe what was exported more than a day ago; the row stays, and says so. How many, and how many bytes."""
    with sessions.begin() as session:
        never_made = sa.update(Export).where(Export.finished_at.is_(None), Export.created_at < now - KEPT)
        session.execute(never_made.values(finished_at=now, error=LOST))
    old = sa.select(Export.id, sa.func.length(Export.csv)).where(
        Export.csv.is_not(None), Export.finished_at < now - KEPT
    )
    count = size = 0
    while True:
        with sessions.begin() as session:
            batch = session.execute(old.order_by(Export.id).limit(BATCH)).all()
            if not batch:
                return count, size
            wiped = sa.update(Export).where(Export.id.in_([id_ for id_, _ in batch]), Export.csv.is_not(None))
            gone = set(session.scalars(wiped.values(csv=None).returning(Export.id)))
        count += len(gone)
        size += sum(length for id_, length in batch if id_ in gone)
