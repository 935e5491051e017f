"""`outbox doctor`: is everything there that mail needs? For each thing: fine, or what to do."""

import threading
import time
from collections.abc import Sequence
from contextlib import nullcontext
from functools import partial
from typing import Any

import click
from rich.console import Console, RenderableType
from rich.live import Live
from rich.table import Table
from rich.text import Text

from outbox.cli import checks, dns_checks, relay_checks
from outbox.cli.findings import Check, Finding, Is, fine, wrong
from outbox.cli.following import GRACE_SECONDS, Journey, follow, send
from outbox.cli.terminal import count, json_option, put, put_json, table
from outbox.errors import SettingsError
from outbox.printable import safe
from outbox.settings import Settings

PATIENCE = 20.0
"""Seconds for all checks together. Each has shorter ones; a resolver or a disk that hangs has none."""

_MARKS = {Is.FINE: ("fine", "green"), Is.WRONG: ("WRONG", "bold red"), Is.UNKNOWN: ("-", "dim")}


class _Examination(threading.Thread):
    """A check under way, beside the others. One that hangs keeps nobody from leaving."""

    def __init__(self, name: str, check: Check) -> None:
        super().__init__(name=name, daemon=True)
        self._check = check
        self.findings: list[Finding] = []

    def run(self) -> None:
        """Check."""
        try:
            for finding in self._check():
                self.findings.append(finding)
        except Exception as error:  # noqa: BLE001 - the other findings are worth having all the more
            self.findings.append(
                wrong(self.name, f"{type(error).__name__}: {error}", "this is a fault of the doctor's")
            )

    def result(self, deadline: float) -> list[Finding]:
        """What was found until then (`time.monotonic()`)."""
        self.join(max(0.0, deadline - time.monotonic()))
        if not self.is_alive():
            return self.findings
        return [*self.findings, wrong(self.name, f"no answer within {PATIENCE:g} s", "see what it waits for")]


@click.command(short_help="Check everything that mail needs, and say what to do.")
@click.option(
    "--send-test", "address", metavar="ADDRESS", help="Then send a mail there and follow it to the relay's 250."
)
@click.option(
    "--deadline",
    metavar="SECONDS",
    type=click.FloatRange(min=0, min_open=True),
    help="How long to follow it. [default: OUTBOX_DRAIN_SECONDS and half a minute]",
)
@json_option
@click.pass_context
def doctor(ctx: click.Context, *, address: str | None, deadline: float | None, as_json: bool) -> None:
    """Check settings, database, clock, workers, beat, relays (TLS, login), DNS, Redis, journal and disks.

    Nothing is changed. --send-test queues a mail, as an application does, and follows it through drain, worker and
    relay. Nobody is woken for a mail from the command line: it may wait for OUTBOX_DRAIN_SECONDS first.

    Exit status: 0 if nothing is wrong; 1 if something is, or if the test mail was not sent in time.
    """
    if deadline is not None and address is None:
        raise click.UsageError("--deadline is for --send-test: give both")
    settings: Settings | None = None
    try:
        settings = Settings.load()
        findings = [fine("settings", "make sense"), *_examine(settings, quiet=as_json)]
    except SettingsError as error:
        findings = [wrong("settings", str(error), "correct the environment, or the file .env")]
    if not as_json:
        put(_report(findings), "", _summary(findings))
    journey = _send(settings, findings, address, deadline, quiet=as_json) if settings and address else None
    if as_json:
        put_json(_as_json(findings, journey))
    elif journey is not None:
        put(*_verdict(journey))
    is_well = all(finding.state is not Is.WRONG for finding in findings)
    if not is_well or (address and not (journey and journey.arrived)):
        ctx.exit(1)


def _examine(settings: Settings, *, quiet: bool) -> list[Finding]:
    examinations = [
        _Examination("database", partial(checks.database, settings)),
        _Examination("this machine", partial(checks.host, settings)),
        _Examination("Redis", checks.redis),
        *(_Examination(f"relay {e.name}", partial(relay_checks.relay, e, settings)) for e in settings.endpoints),
        _Examination("DNS", partial(dns_checks.records, settings)),
    ]
    deadline = time.monotonic() + PATIENCE
    for examination in examinations:
        examination.start()
    with _shown(examinations, quiet=quiet):
        return [finding for examination in examinations for finding in examination.result(deadline)]


def _shown(examinations: Sequence[_Examination], *, quiet: bool) -> Any:
    """On a terminal: what was found so far, and what is still being looked at."""
    console = Console(stderr=True, highlight=False, markup=False)
    if quiet or not console.is_terminal:
        return nullcontext()

    def so_far() -> RenderableType:
        made = _report([finding for examination in examinations for finding in examination.findings])
        for examination in examinations:
            if examination.is_alive():
                made.add_row(Text("...", style="dim"), Text(examination.name), Text("being looked at", style="dim"))
        return made

    return Live(console=console, get_renderable=so_far, transient=True, refresh_per_second=8)


def _report(findings: Sequence[Finding]) -> Table:
    made = table("", "", "", cut=("",))
    made.show_header = False
    for finding in findings:
        mark, style = _MARKS[finding.state]
        said = Text(safe(finding.said), style="dim" if finding.state is Is.UNKNOWN else "", overflow="fold")
        if finding.remedy:
            said.append(safe(f" \N{RIGHTWARDS ARROW} {finding.remedy}"), style="yellow")
        made.add_row(Text(mark, style=style), Text(safe(finding.name), overflow="fold"), said)
    return made


def _summary(findings: Sequence[Finding]) -> Text:
    number = sum(finding.state is Is.WRONG for finding in findings)
    if not number:
        return Text("Nothing is wrong.", style="green")
    return Text(f"{count(number, 'thing')} to mend, see WRONG.", style="bold red")


def _send(
    settings: Settings, findings: Sequence[Finding], address: str, deadline: float | None, *, quiet: bool
) -> Journey | None:
    """None: there is nowhere to queue it."""
    if ("migrations", Is.FINE) not in {(finding.name, finding.state) for finding in findings}:
        return None
    engine = checks.impatient(settings)
    seconds = deadline or settings.outbox_drain_seconds + GRACE_SECONDS

    def tell(what: str, after: float) -> None:
        if not quiet:
            click.echo(safe(f"{after:7.1f} s  {what}"))

    try:
        id_ = send(engine, settings, address)
        if not quiet:
            drain = f"a drain comes by every {settings.outbox_drain_seconds:g} s"
            put("", Text(safe(f"A mail to {address}, followed for at most {seconds:g} s; {drain}.")))
        return follow(engine, settings, id_, seconds, tell)
    finally:
        engine.dispose()


def _verdict(journey: Journey) -> list[RenderableType]:
    if journey.arrived:
        return [Text(safe(f"Sent: {journey.said}"), style="green")]
    still = f"It stays in the queue: `outbox cancel {journey.id}` calls it back."
    return [Text(safe(f"Stuck: {journey.said}"), style="bold red"), Text(still if journey.waits else "")]


def _as_json(findings: Sequence[Finding], journey: Journey | None) -> dict[str, Any]:
    return {
        "fine": all(finding.state is not Is.WRONG for finding in findings),
        "findings": [finding._asdict() for finding in findings],
        "test_mail": journey and journey.as_json(),
    }
