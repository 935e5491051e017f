import time
from collections.abc import Callable

import django
from django.conf import settings
from django.core.management import call_command
from django.db import transaction

from benchmarks.contenders.peers import Mail, Surroundings

_told = Surroundings.told()
_tuned, _celery = _told.profile == "tuned", _told.profile == "celery"
_processes = _told.workers if _tuned else 1

_options: dict[str, int] = {"CELERY_ENABLED": _celery}
if _tuned:
    # "0 logs nothing". The timeout is for a whole batch, which one connection to a slow relay is minutes at.
    _options |= {"BATCH_SIZE": 1_000, "LOG_LEVEL": 0, "BATCH_DELIVERY_TIMEOUT": 3_600}
if _told.connections:
    # A thread keeps a connection through its batch.
    _options["THREADS_PER_PROCESS"] = _told.connections // _processes

settings.configure(
    **_told.django(), INSTALLED_APPS=["post_office"], EMAIL_BACKEND="post_office.EmailBackend", POST_OFFICE=_options
)
django.setup()

# It takes a Django that is set up to import its models.
from post_office import mail as post_office

if _celery:
    from benchmarks.contenders.post_office import by_celery


def prepare() -> None:
    call_command("migrate", verbosity=0)


def queue_one(mail: Mail) -> float:
    committed: list[float] = []
    with transaction.atomic():
        transaction.on_commit(lambda: committed.append(time.monotonic()))  # before it publishes its task
        post_office.send(mail.recipient, mail.sender, subject=mail.subject, message=mail.text, html_message=mail.html)
    return committed[0]


def queue_many(batch: list[Mail]) -> None:
    post_office.send_many(
        [
            {
                "recipients": mail.recipient,
                "sender": mail.sender,
                "subject": mail.subject,
                "message": mail.text,
                "html_message": mail.html,
            }
            for mail in batch
        ]
    )


fill = queue_many


def work(_number: int, ready: Callable[[], None]) -> None:
    if _celery:
        by_celery.work(ready)
    else:
        _by_command(ready)


def _by_command(ready: Callable[[], None]) -> None:
    ready()
    while True:
        call_command("send_queued_mail", processes=_processes)
        if not post_office.get_queued().exists():
            time.sleep(1)
