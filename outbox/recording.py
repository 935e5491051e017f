"""Settlements of a chunk -> on record, and told. The last one is on its way while the next mail is being offered.

    mail 1: 250     its settlement is entered
    mail 2: MAIL    meanwhile its begin is entered, too: one commit has both
    mail 2: dot     not before both are durable

So a mail waits for one commit in place of two, and twice as many lines share each. What a crash can leave in doubt
stays the one mail: between two dots, the first one's settlement is durable.
"""

from collections.abc import Callable, Sequence
from functools import partial

from outbox import mail_log, signals
from outbox.chunk import Mail
from outbox.ledger import Ledger
from outbox.logs import on_behalf_of
from outbox.settlement import Settlement
from outbox.stages import Mark


class Recording:
    """Of one chunk, by the thread that delivers it."""

    def __init__(self, ledger: Ledger) -> None:
        self._ledger = ledger
        self._last: Callable[[], None] | None = None

    def enter(self, mail: Mail, settlement: Settlement, marks: Sequence[Mark] = ()) -> None:
        """Put it on record: it is there when `finish` returns. There is one at a time."""
        self.finish()
        self._last = partial(_tell, self._ledger.settling(settlement), mail, settlement, marks)

    def finish(self) -> None:
        """Wait for what was entered, and tell what became of the mail, or that it is in other hands.

        Raises NotRecorded as `Ledger.settle` does, once.
        """
        last, self._last = self._last, None
        if last is not None:
            last()


def _tell(durable: Callable[[], bool], mail: Mail, settlement: Settlement, marks: Sequence[Mark]) -> None:
    ours = durable()
    with on_behalf_of(mail.request_id):
        mail_log.ended(settlement, ours=ours)
        if ours:
            signals.tell(settlement, mail, marks)
        else:
            signals.announce(signals.lease_lost, None, why=f"mail {mail.id} was not ours to settle any more")
