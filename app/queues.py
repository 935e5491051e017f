"""The Celery queues and tasks that the application and its workers know each other by."""

from outbox.states import Priority

DEFAULT_QUEUE = "celery"
"""Everything but the sending itself: a long export must not stand in a password reset's way."""


def queue_of(priority: Priority) -> str:
    """One queue a lane, since priorities within one Redis list are strict and starve the lowest."""
    return f"email.{priority.label}"


QUEUES = (DEFAULT_QUEUE, *(queue_of(priority) for priority in Priority))

DRAIN = "outbox.drain"
SEND_EMAILS = "outbox.send_emails"
REAP = "outbox.reap"
