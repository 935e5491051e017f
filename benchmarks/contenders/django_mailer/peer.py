import time
from collections.abc import Callable

import django
import psycopg
from django.conf import settings
from django.core.mail import EmailMultiAlternatives, get_connection
from django.core.management import call_command
from django.db import transaction

from benchmarks.contenders.peers import Mail, Surroundings

settings.configure(
    **Surroundings.told().django(),
    INSTALLED_APPS=["mailer"],
    EMAIL_BACKEND="mailer.backend.DbBackend",
    MAILER_EMAIL_BACKEND="django.core.mail.backends.smtp.EmailBackend",
    MAILER_EMAIL_LOG_MESSAGE_DATA=False,
    MAILER_USE_FILE_LOCK=False,
)
django.setup()


def prepare() -> None:
    call_command("migrate", verbosity=0)


def _message(mail: Mail) -> EmailMultiAlternatives:
    message = EmailMultiAlternatives(mail.subject, mail.text, mail.sender, [mail.recipient])
    message.attach_alternative(mail.html, "text/html")
    return message


def queue_one(mail: Mail) -> float:
    with transaction.atomic():
        _message(mail).send()
    return time.monotonic()


def queue_many(batch: list[Mail]) -> None:
    get_connection().send_messages([_message(mail) for mail in batch])


fill = queue_many


def work(_number: int, ready: Callable[[], None]) -> None:
    ready()
    while True:
        try:
            call_command("runmailer_pg")
        except psycopg.InternalError:
            # Two that install its trigger at the same moment: "tuple concurrently updated". Its documentation has a
            # supervisor start it again when it crashes.
            continue
