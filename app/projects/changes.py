"""What becomes of a task: the row, its history, the mails and the notifications about it, in one transaction.

A change that somebody else made first is none: it leaves no line in the history, and sends no mail.
"""

import logging
from collections.abc import Collection, Mapping
from datetime import datetime
from typing import Any, TypeVar

import sqlalchemy as sa
from sqlalchemy.orm import Session, sessionmaker

from app.accounts.mails import about
from app.accounts.models import User
from app.categories import TASKS
from app.notifications.feed import notify
from app.projects.mails import task_url
from app.projects.models import ChangedField, Task, TaskChange, TaskStatus
from app.settings import AppSettings
from outbox.errors import InvalidEmail
from outbox.logs import tell
from outbox.service import EmailService

log = logging.getLogger(__name__)

T = TypeVar("T")

_TEMPLATES = {ChangedField.STATUS: "task_changed", ChangedField.ASSIGNEE: "task_assigned"}


def update_status(
    sessions: sessionmaker[Session],
    settings: AppSettings,
    now: datetime,
    *,
    task_id: int,
    new_status: str,
    changed_by: int | None = None,
    reason: str = "",
) -> bool:
    """`set_status` by ids, in a transaction of its own, for a worker. May they? Whoever asked the worker knows.

    ValueError for a status, a task or a user that does not exist.
    """
    if new_status not in list(TaskStatus):
        raise ValueError(f"new_status={new_status!r}: choose from {', '.join(TaskStatus)}")
    with sessions.begin() as session:
        task = _of_id(session, Task, task_id)
        if task is None:
            raise ValueError(f"task_id={task_id!r}: there is no such task; it may have been deleted meanwhile")
        by = None if changed_by is None else _of_id(session, User, changed_by)
        if changed_by is not None and by is None:
            raise ValueError(f"changed_by={changed_by!r}: there is no such user; leave it out where nobody did it")
        return set_status(session, settings, task, TaskStatus(new_status), by, reason, now)


def _of_id(session: Session, model: type[T], id_: int) -> T | None:
    """None for what is no id either, which a task may be given: the databases would raise."""
    return session.get(model, id_) if type(id_) is int and 0 < id_ < 2**63 else None


def set_status(  # noqa: PLR0917 - what, to which, by whom, why, when: all of it is on record
    session: Session, settings: AppSettings, task: Task, status: TaskStatus, by: User | None, reason: str, now: datetime
) -> bool:
    """Move the task to any status; False if it is there already. `by` None: a task of the schedule did it.

    The row is locked until the caller's commit: of two who complete it, the second finds it done.
    """
    _lock(session, task)
    old = TaskStatus(task.status)
    if old == status:
        return False
    task.status = status
    task.completed_at = now if status == TaskStatus.DONE else None
    task.archived_at = None  # only what is done is archived; and what was just done is not old
    change = TaskChange(changed_by=by, field=ChangedField.STATUS, old=old, new=status, reason=reason, changed_at=now)
    _record(session, task, change)
    said = {"old": _words(old), "new": _words(status)}
    _mail(session, settings, task, change, said)
    _notify(session, task, [], f"{task.title}: {_words(status)}", _by(by, f"was {_words(old)}", reason))
    return True


def assign(  # noqa: PLR0917 - as above
    session: Session,
    settings: AppSettings,
    task: Task,
    assignee: User | None,
    by: User | None,
    reason: str,
    now: datetime,
) -> bool:
    """Hand the task to somebody, or to nobody; False if it is theirs already. May they have it? The caller asks."""
    _lock(session, task)
    former = task.assignee
    if former == assignee:
        return False
    task.assignee = assignee
    task.reminded_of = None  # that was somebody else
    old, new = former and former.name, assignee and assignee.name
    change = TaskChange(changed_by=by, field=ChangedField.ASSIGNEE, old=old, new=new, reason=reason, changed_at=now)
    _record(session, task, change)
    _mail(session, settings, task, change, {"old": old, "new": new})
    # Who had it is told as well, though without a mail: else they would go on with it.
    title = f"{task.title}: assigned to {new or 'nobody'}"
    _notify(session, task, [former.id] if former else [], title, _by(by, f"was {old or 'nobody'}'s", reason))
    return True


def _lock(session: Session, task: Task) -> None:
    """And see it as it is now. KEY SHARE stays possible, which is what the history's foreign key needs."""
    session.flush()
    row = sa.select(Task).where(Task.id == task.id).with_for_update(key_share=True)
    session.scalars(row, execution_options={"populate_existing": True}).one()


def _record(session: Session, task: Task, change: TaskChange) -> None:
    change.task_id = task.id
    session.add(change)
    session.flush()  # the mails are named after it


def _mail(session: Session, settings: AppSettings, task: Task, change: TaskChange, said: Mapping[str, Any]) -> None:
    """One to the owner and one to the assignee; one, if that is the same person."""
    service, template = EmailService(session, settings), _TEMPLATES[ChangedField(change.field)]
    task_said = {
        "title": task.title,
        "project": task.project.name,
        "priority": task.priority,
        "due_at": task.due_at,
        "url": task_url(task.id, settings),
    }
    by = change.changed_by.name if change.changed_by else None
    for user in _concerned(task):
        own = {**about(user), "is_assignee": user.id == task.assignee_id}
        changed = {"task": task_said, "by": by, "reason": change.reason, "changed_at": change.changed_at}
        try:
            if user.email is not None:
                service.queue_email(
                    to=user.email,
                    template=template,
                    category=TASKS,
                    context={**own, **changed, **said},
                    idempotency_key=f"{template}:{change.id}:{user.id}",
                )
        except InvalidEmail as error:  # nothing was written; and an address must not keep a task from being completed
            tell(
                log, logging.WARNING, "task_mail.left_out",
                "%(template)s of task %(project_task)d to user %(user)d cannot be written: %(why)s",
                template=template, project_task=task.id, user=user.id, why=str(error),
            )  # fmt: skip


def _notify(session: Session, task: Task, others: Collection[int], title: str, body: str) -> None:
    notify(session, {*others, *(user.id for user in _concerned(task))}, title, body, f"/tasks/{task.id}")


def _concerned(task: Task) -> list[User]:
    people = [task.project.owner, task.assignee]
    return list({user.id: user for user in people if user is not None}.values())


def _by(by: User | None, was: str, reason: str) -> str:
    return ", ".join(filter(None, (was, by and f"changed by {by.name}"))) + (f": {reason}" if reason else "")


def _words(status: str) -> str:
    return status.replace("_", " ")
