"""What was done long ago leaves the lists."""

from datetime import datetime, timedelta

import sqlalchemy as sa
from sqlalchemy.orm import Session, sessionmaker

from app.projects.models import Task, TaskStatus

KEPT = timedelta(days=30)
"""How long a task stays on the lists when it is done."""

BATCH = 1000
"""Tasks in a transaction: nobody who reopens one waits for longer than it takes to mark these."""


def archive(sessions: sessionmaker[Session], now: datetime) -> int:
    """How many tasks were archived. Their history stays, and so do they."""
    old = (Task.status == TaskStatus.DONE, Task.archived_at.is_(None), Task.completed_at < now - KEPT)
    archived = last = 0
    while True:
        with sessions.begin() as session:
            query = sa.select(Task.id).where(*old, Task.id > last).order_by(Task.id).limit(BATCH)
            ids = session.scalars(query).all()
            if not ids:
                return archived
            last = ids[-1]
            # Asked once more: somebody may have reopened one meanwhile, or another run have come first.
            done = sa.update(Task).where(Task.id.in_(ids), *old).values(archived_at=now).returning(Task.id)
            archived += len(session.scalars(done, execution_options={"synchronize_session": False}).all())
