import asyncio
import atexit
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from email.message import EmailMessage
from functools import cache
from smtplib import SMTP

from procrastinate import App, PsycopgConnector

from benchmarks.contenders.peers import Mail, Surroundings

_told = Surroundings.told()
_concurrency = _told.connections_each or 1
_thread = threading.local()

app = App(connector=PsycopgConnector(conninfo=_told.database))


@app.task(name="send", retry=3)
def send(*, sender: str, recipient: str, subject: str, text: str, html: str) -> None:
    message = EmailMessage()
    message["From"], message["To"], message["Subject"] = sender, recipient, subject
    message.set_content(text)
    message.add_alternative(html, subtype="html")
    if not hasattr(_thread, "smtp"):
        _thread.smtp = SMTP(_told.smtp_host, _told.smtp_port)
    try:
        _thread.smtp.send_message(message)
    except OSError:  # all of smtplib's are
        _thread.smtp.close()
        del _thread.smtp  # the retry takes a new one
        raise


@cache
def _opened() -> App:
    """With the connector for programs that are not asynchronous, which it makes of the other by itself."""
    atexit.register(app.close)
    return app.open()


def prepare() -> None:
    _opened().schema_manager.apply_schema()


def queue_one(mail: Mail) -> float:
    _opened()
    send.defer(**vars(mail))
    return time.monotonic()


def queue_many(batch: list[Mail]) -> None:
    _opened()
    send.batch_defer(*map(vars, batch))


fill = queue_many


def work(_number: int, ready: Callable[[], None]) -> None:
    asyncio.run(_work(ready))


async def _work(ready: Callable[[], None]) -> None:
    # A task that is no coroutine runs in asyncio's threads, of which there are four more than cores: fewer than jobs.
    asyncio.get_running_loop().set_default_executor(ThreadPoolExecutor(_concurrency))
    async with app.open_async():
        ready()
        await app.run_worker_async(concurrency=_concurrency)
