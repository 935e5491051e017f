"""`outbox suppress`: who must not get mail."""

from datetime import datetime

import click
import sqlalchemy as sa
from rich.text import Text

from outbox import auditing, subscriptions, suppressions
from outbox.cli.moments import moment
from outbox.cli.surroundings import open_database, who
from outbox.cli.terminal import RemarkTable, cell, json_option, put, put_json
from outbox.database import reading
from outbox.errors import OutboxError
from outbox.printable import safe
from outbox.settings import Settings
from outbox.suppressions import Suppression
from outbox.times import clock, distance


@click.command(short_help="Send no mail to an address or a domain.")
@click.argument("target", required=False)
@click.option("--reason", help="Why; needed to suppress.")
@click.option("--until", callback=moment, metavar="TIME", help="ISO 8601 with a zone. [default: for good]")
@click.option("--category", help="Only mail of this subscription. [default: all mail]")
@click.option("--list", "list_", is_flag=True, help="Show all, those that are over included.")
@click.option("--remove", is_flag=True, help="Let TARGET have mail (of CATEGORY) again.")
@json_option
def suppress(
    target: str | None,
    reason: str | None,
    until: datetime | None,
    category: str | None,
    *,
    list_: bool,
    remove: bool,
    as_json: bool,
) -> None:
    """Send no mail to TARGET: an address, or a domain for every address in it. Its subdomains are not in it.

    Mail to it that is queued, or queued later, ends as dead (suppressed). A target that is there gets the new reason
    and end. An address that does not exist, as the relay says, is suppressed by itself.

    With --category, only mail of that subscription: what unsubscribing from it does.
    """
    _check(target, reason, until, category, list_=list_, remove=remove)
    with open_database() as (settings, engine):
        if target is None:
            with reading(engine) as connection:
                _list(connection, as_json=as_json)
            return
        with engine.begin() as connection:
            if remove:
                _remove(connection, target, category or "", as_json=as_json)
            else:
                assert reason is not None
                _check_category(settings, category)
                added = auditing.suppress(connection, target, reason, who(), until, category=category or "")
                _put_added(added, as_json=as_json)


def _check(
    target: str | None, reason: str | None, until: datetime | None, category: str | None, *, list_: bool, remove: bool
) -> None:
    if list_ and (target or reason or until or category or remove):
        raise click.UsageError("--list takes nothing beside it but --json")
    if target is None and not list_:
        raise click.UsageError("give an address or a domain, or --list")
    if remove and (reason or until):
        raise click.UsageError("--remove takes neither --reason nor --until")
    if target is not None and not remove and reason is None:
        raise click.UsageError("say why: --reason 'asked us to stop'")


def _check_category(settings: Settings, category: str | None) -> None:
    if category is not None and subscriptions.declared(settings, category) is None:
        raise click.UsageError(
            f"--category {category!r} is not in OUTBOX_SUBSCRIPTIONS, so its mail is transactional and would go "
            "all the same: name one of those, or suppress all mail"
        )


def _list(connection: sa.Connection, *, as_json: bool) -> None:
    found = suppressions.listed(connection)
    if as_json:
        put_json([suppression._asdict() for suppression in found])
        return
    if not found:
        click.echo("Nobody is suppressed.", err=True)
        return
    # A column that says "all" in every line only takes room from the targets.
    mail = ("Mail",) if any(line.category for line in found) else ()
    columns = ("Target", *mail, "By", "Since", "Until")
    lines = ((_cells(line, with_mail=bool(mail)), line.reason) for line in found)
    put(RemarkTable(columns, "Reason", lines, cut=("Target", *mail, "By"), whole=True))


def _cells(line: Suppression, *, with_mail: bool) -> list[Text]:
    mail = [cell(line.category or "all")] if with_mail else []
    ends = distance(line.until) if line.until else "for good"
    return [cell(line.target), *mail, cell(line.source), cell(distance(line.created_at)), cell(ends)]


def _put_added(added: Suppression, *, as_json: bool) -> None:
    if as_json:
        put_json(added._asdict())
        return
    mail, option = (f"mail of {added.category!r}", f" --category {added.category}") if added.category else ("mail", "")
    ends = clock(added.until) if added.until else f"`outbox suppress --remove {added.target}{option}`"
    click.echo(safe(f"No {mail} goes to {added.target} until {ends}."))


def _remove(connection: sa.Connection, target: str, category: str, *, as_json: bool) -> None:
    of = f" of {category!r}" if category else ""
    if not auditing.unsuppress(connection, target, who(), category=category):
        raise OutboxError(
            f"{target} is not suppressed for {f'mail{of}' if category else 'all mail'}: `outbox suppress --list` shows "
            "who is, and for what"
        )
    if as_json:
        put_json({"removed": suppressions.spelled(target), "category": category})
    else:
        click.echo(safe(f"{suppressions.spelled(target)} gets mail{of} again; what died of it can be requeued."))
