"""The contenders, by name: what runs them, and how it is seen how far they are."""

from dataclasses import dataclass
from enum import StrEnum


class Kind(StrEnum):
    """Ours, those we are compared with, and what the machine allows."""

    OURS = "ours"
    PEER = "peer"
    LIMIT = "limit"


@dataclass(frozen=True)
class Contender:
    """One way to send mail, or to put it on record."""

    name: str
    title: str
    kind: Kind
    module: str
    progress: str | None = None
    """Counts the mails on record as sent; None: there is no record, and the sink is asked."""
    profile: str = ""
    is_slow: bool = False
    """Below 300 mails a second: it is given fewer."""


_OURS = "SELECT count(*) FROM email_queue WHERE status = 'sent'"
_POST_OFFICE = "SELECT count(*) FROM post_office_email WHERE status = 0"
_DJANGO_MAILER = "SELECT count(*) FROM mailer_messagelog WHERE result = '1'"
_PROCRASTINATE = "SELECT count(*) FROM procrastinate_jobs WHERE status = 'succeeded'"
_TUTORIAL = "SELECT count(*) FROM mails WHERE status = 'sent'"

CONTENDERS = {
    contender.name: contender
    for contender in (
        Contender("ours", "Outbox", Kind.OURS, "ours", _OURS),
        Contender("templated", "Outbox, from a template", Kind.OURS, "ours"),
        Contender(
            "post_office_tuned", "django-post_office, tuned", Kind.PEER, "post_office", _POST_OFFICE, profile="tuned"
        ),
        Contender("post_office", "django-post_office", Kind.PEER, "post_office", _POST_OFFICE, profile="default"),
        Contender("django_mailer", "django-mailer", Kind.PEER, "django_mailer", _DJANGO_MAILER, is_slow=True),
        Contender("procrastinate", "procrastinate", Kind.PEER, "procrastinate_app", _PROCRASTINATE, is_slow=True),
        Contender("tutorial", "a Celery task a mail", Kind.PEER, "tutorial", _TUTORIAL, is_slow=True),
        Contender("ready_bytes", "ready bytes, by emails", Kind.LIMIT, "ready_bytes", profile="emails"),
        Contender("pipelined", "ready bytes, pipelined", Kind.LIMIT, "ready_bytes", profile="pipelined"),
        Contender("insert", "INSERT and commit", Kind.LIMIT, "inserts", profile="one"),
        Contender("executemany", "executemany", Kind.LIMIT, "inserts", profile="executemany"),
        Contender("copy", "COPY", Kind.LIMIT, "inserts", profile="copy"),
    )
}


def title(name: str) -> str:
    """Of a contender, for people; the name of anything else that was measured."""
    return CONTENDERS[name].title if name in CONTENDERS else name
