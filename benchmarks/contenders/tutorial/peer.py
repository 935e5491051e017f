import time
from collections.abc import Callable
from smtplib import SMTP
from typing import Any

import emails
import sqlalchemy as sa
from celery import Celery
from celery.signals import worker_ready
from sqlalchemy.orm import DeclarativeBase, Mapped, Session, mapped_column

from benchmarks.contenders.peers import Mail, Surroundings

_told = Surroundings.told()
_engine = sa.create_engine(sa.make_url(_told.database).set(drivername="postgresql+psycopg"))
app = Celery(broker=_told.redis)


class Base(DeclarativeBase):
    pass


class Row(Base):
    __tablename__ = "mails"

    id: Mapped[int] = mapped_column(primary_key=True)
    sender: Mapped[str]
    recipient: Mapped[str]
    subject: Mapped[str]
    text: Mapped[str]
    html: Mapped[str]
    status: Mapped[str] = mapped_column(default="pending", index=True)


@app.task(name="send")
def send(number: int) -> None:
    with Session(_engine) as session:
        row = session.get_one(Row, number)
        message = emails.Message(
            subject=row.subject, text=row.text, html=row.html, mail_from=row.sender, mail_to=row.recipient
        )
        with SMTP(_told.smtp_host, _told.smtp_port) as smtp:
            smtp.send_message(message.as_message())
        row.status = "sent"
        session.commit()


def prepare() -> None:
    Base.metadata.create_all(_engine)


def fill(batch: list[Mail]) -> None:
    with Session(_engine, expire_on_commit=False) as session:
        rows = [Row(**vars(mail)) for mail in batch]
        session.add_all(rows)
        session.commit()
    for row in rows:
        send.delay(row.id)


def queue_one(mail: Mail) -> float:
    with Session(_engine) as session:
        row = Row(**vars(mail))
        session.add(row)
        session.commit()
        committed = time.monotonic()
        send.delay(row.id)
    return committed


def queue_many(_batch: list[Mail]) -> None:
    raise SystemExit("the tutorial has no call for many mails: it publishes a task for each")


def work(number: int, ready: Callable[[], None]) -> None:
    def up(**_signal: Any) -> None:
        ready()

    worker_ready.connect(up, weak=False)
    threads = ["--pool=threads", f"--concurrency={_told.connections_each}"]
    processes = [f"--concurrency={_told.processes}"]
    app.worker_main(["worker", f"--hostname=tutorial-{number}@%h", *(threads if _told.connections else processes)])
