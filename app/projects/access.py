"""Who sees which projects and tasks, and what they may do with them.

An organisation's projects are seen by its users, and by admins. What one does not see is not there: 404. What one sees
and may not do: 403.
"""

from collections.abc import Sequence
from typing import TypeVar

import sqlalchemy as sa
from flask import abort
from sqlalchemy.orm import Session, joinedload

from app.accounts.models import User
from app.projects.models import Project, Task

T = TypeVar("T")


def seen_by(user: User) -> sa.ColumnElement[bool]:
    """SQL: that they see the `projects` row."""
    return sa.true() if user.is_admin else Project.organisation_id == user.organisation_id


def project_or_404(session: Session, id_: int, user: User) -> Project:
    """With its owner."""
    query = sa.select(Project).options(joinedload(Project.owner)).where(Project.id == id_, seen_by(user))
    return _or_404(session.scalar(query))


def task_or_404(session: Session, id_: int, user: User) -> Task:
    """With its project, the project's owner, and its assignee."""
    query = (
        sa.select(Task)
        .join(Task.project)
        .options(joinedload(Task.project).joinedload(Project.owner), joinedload(Task.assignee))
        .where(Task.id == id_, seen_by(user))
    )
    return _or_404(session.scalar(query))


def may_change(user: User, task: Task) -> bool:
    """Whether they may say how far it is."""
    return user.id == task.assignee_id or may_assign(user, task.project)


def may_assign(user: User, project: Project) -> bool:
    """Whether they may say whose the project's tasks are."""
    return user.is_admin or user.id == project.owner_id


def members(session: Session, project: Project) -> Sequence[User]:
    """Whom its tasks may be assigned to."""
    return session.scalars(_of(project).order_by(User.name, User.id)).all()


def member(session: Session, project: Project, id_: int) -> User | None:
    """One of them."""
    return session.scalar(_of(project).where(User.id == id_))


def _of(project: Project) -> sa.Select[User]:
    return sa.select(User).where(User.organisation_id == project.organisation_id)


def _or_404(found: T | None) -> T:
    if found is None:
        abort(404)
    return found
