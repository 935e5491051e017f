"""The page that says whether mail flows."""

import re

import pytest
import sqlalchemy as sa

from app.admin.bars import DOWN, UP, draw
from outbox.models import EmailHeartbeat
from outbox.trends import Step
from tests import rows, scenes
from tests.application import World


def page(world: World) -> str:
    answer = world.client(world.admin()).get("/admin/")
    assert answer.status_code == 200
    return re.sub(r"\s+", " ", answer.text)


def test_an_empty_queue(sqlite_world: World) -> None:
    scenes.empty(sqlite_world.engine, sqlite_world.settings.endpoints[0].name)
    shown = page(sqlite_world)
    assert "<h1>All is well</h1>" in shown
    for words in ("No mail went out in the last 24 hours", "Nothing was tried.", "Nothing waits.", "takes mail"):
        assert words in shown


def test_a_healthy_queue(sqlite_world: World) -> None:
    scenes.healthy(sqlite_world.engine, sqlite_world.settings.endpoints[0].name)
    shown = page(sqlite_world)
    assert "<h1>All is well</h1>" in shown
    assert re.search(r"6\d\d mails went out in the last 24 hours, half of the last hour's within 0\.\d\d s", shown)
    assert re.search(r'role="img" aria-label="Last 24 hours, by quarter of an hour: 6\d\d mails sent', shown)


def test_a_burning_queue_says_what_is_wrong_and_where_to_look(world: World) -> None:
    relay = world.settings.endpoints[0].name
    scenes.burning(world.engine, relay)
    rows.add(world.engine, recipient="x@<script>.example", created_at=rows.from_now(-20000))
    shown = page(world)
    assert re.search(r"<h1>\d things wrong</h1>", shown)
    verdict = shown.partition("<h1>")[2].partition("</section>")[0]
    assert "the oldest due mail has waited for" in verdict
    assert '<a href="/admin/mail/?status=pending">Waiting mail</a>' in verdict
    assert '<a href="/admin/mail/?status=dead">Dead mail</a>' in verdict
    assert "<code>outbox list --status dead</code>" in verdict
    assert verdict.index("is misconfigured") < verdict.index("the oldest due mail"), "the cause before what it caused"
    assert '<a href="/admin/relays/">Relays</a>' in verdict
    assert '<span class="faint">for 10 min</span>' in verdict
    assert ">silent for 11 min<" in shown
    assert re.search(r"<bdi>gmail.com</bdi></th><td><b>\d+</b></td>", shown)
    assert "<script>.example" not in shown
    assert "x@" not in shown, "domains, and no addresses"


def test_it_does_not_rely_on_who_may_be_silent(sqlite_world: World) -> None:
    """Nobody watched: `email_troubles` is empty."""
    with sqlite_world.engine.begin() as connection:
        connection.execute(sa.delete(EmailHeartbeat))
    rows.add(sqlite_world.engine, next_attempt_at=rows.from_now(-3600))
    assert "the oldest due mail has waited for 1 h" in page(sqlite_world)


@pytest.mark.parametrize("most", [1, 1000])
def test_bars_show_the_few_beside_the_many(most: int) -> None:
    steps = [Step(), Step(sent=most), Step(sent=1, dead=1), Step(not_now=3)]
    drawn = draw(steps)
    bars = {(bar.what, bar.x // 10): bar for bar in drawn.bars}
    assert bars.keys() == {("sent", 1), ("sent", 2), ("dead", 2), ("not-now", 3)}
    assert bars["sent", 1].height == UP
    assert bars["sent", 2].height >= 3
    assert bars["sent", 2].y + bars["sent", 2].height == UP, "it stands on the line"
    assert bars["dead", 2].y > UP, "and the others hang below"
    assert bars["not-now", 3].height == DOWN
    assert (drawn.total, drawn.most_sent, drawn.most_failed) == (Step(most + 1, 1, 3), most, 3)
    assert draw([Step()] * 60).bars == []
