"""The local inbox: an SMTP server that keeps whatever it is sent, and a page that shows it.

`python -m embedded.inbox --smtp-port 1025 --page-port 8025 --maildir var/inbox`. It listens on loopback alone: it asks
nobody who they are. Any recipient is accepted, nothing is ever passed on, nothing is ever deleted.
"""

import argparse
import logging
from pathlib import Path

import waitress
from aiosmtpd.controller import Controller
from aiosmtpd.smtp import SMTP, Envelope, Session

from embedded.inbox_page import create_page
from embedded.maildir import Maildir
from embedded.ports import LOOPBACK

LARGEST_MESSAGE = 50_000_000
"""Bytes; twice the default of OUTBOX_MAX_MESSAGE_BYTES, and more than the 35 MB that large providers accept."""

log = logging.getLogger("inbox")


class KeepEverything:
    """The server's answers; aiosmtpd speaks the protocol."""

    def __init__(self, maildir: Maildir) -> None:
        self._maildir = maildir

    async def handle_EHLO(  # noqa: N802 - aiosmtpd looks for this name
        self, server: SMTP, session: Session, envelope: Envelope, hostname: str, responses: list[str]
    ) -> list[str]:
        """Offer PIPELINING: aiosmtpd reads one line after the other from a buffer, and answers in that order."""
        del server, envelope
        session.host_name = hostname
        return [*responses[:-1], "250-PIPELINING", responses[-1]]

    async def handle_DATA(self, server: SMTP, session: Session, envelope: Envelope) -> str:  # noqa: N802 - as above
        """Accept it once it is kept."""
        del server, session
        assert isinstance(envelope.content, bytes)  # decode_data is off
        key = self._maildir.add(envelope.mail_from or "", envelope.rcpt_tos, envelope.content)
        log.info("%s for %d recipients", key, len(envelope.rcpt_tos))  # the page shows them, a log does not
        return f"250 2.0.0 Kept as {key}"


def smtp_server(maildir: Maildir, port: int) -> Controller:
    """The SMTP side, to be started; it runs in a thread of its own."""
    return Controller(
        KeepEverything(maildir),
        hostname=LOOPBACK,
        port=port,
        server_hostname="inbox.localhost",
        ident="Outbox's local inbox",
        data_size_limit=LARGEST_MESSAGE,
        enable_SMTPUTF8=True,
    )


def main() -> None:
    """Serve until killed: a message is kept before it is accepted, so there is nothing to finish."""
    parser = argparse.ArgumentParser(prog="python -m embedded.inbox", description=__doc__.partition("\n")[0])
    parser.add_argument("--smtp-port", type=int, default=1025)
    parser.add_argument("--page-port", type=int, default=8025)
    parser.add_argument("--maildir", type=Path, default=Path("var/inbox"))
    arguments = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(name)s %(message)s")
    logging.getLogger("mail.log").setLevel(logging.WARNING)  # aiosmtpd's own: a line for each command
    maildir = Maildir(arguments.maildir.absolute())
    smtp_server(maildir, arguments.smtp_port).start()
    log.info("SMTP on %s:%d, page on http://%s:%d/", LOOPBACK, arguments.smtp_port, LOOPBACK, arguments.page_port)
    waitress.serve(create_page(maildir), host=LOOPBACK, port=arguments.page_port, threads=4, ident=None)


if __name__ == "__main__":
    main()
