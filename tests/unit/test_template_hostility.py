"""A template that means harm: it reaches nothing private, no file but a template, and ends within its bounds.

Each line is only a little beyond a bound: without it, the template would render, within seconds, and the test fail.
"""

import http.server
import os
import threading
from collections.abc import Callable, Iterator
from datetime import date
from enum import StrEnum
from pathlib import Path
from typing import Any

import pytest

from outbox.errors import InvalidTemplate
from outbox.templates import Templates
from outbox.templates.bounds import CHARACTERS, STEPS

pytestmark = pytest.mark.timeout(30)

CANARY = "canary-7f3a91"


class Status(StrEnum):
    PAID = "paid"


class Order:
    """As an application's own."""

    number = 42
    _secret = CANARY

    def total(self) -> int:
        return 7

    def __str__(self) -> str:
        return "an order"


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A place with one template, and secrets all around it."""
    monkeypatch.setenv("CANARY", CANARY)
    monkeypatch.chdir(tmp_path)
    (tmp_path / "secret.txt").write_text(CANARY)
    place = tmp_path / "templates"
    (place / "mail").mkdir(parents=True)
    (place / "mail" / "subject.txt").write_text("Hello")
    (place / "mail" / "link.txt").symlink_to(tmp_path / "secret.txt")
    (place / "outside").symlink_to(tmp_path)
    return place


@pytest.fixture
def render(place: Path) -> Callable[..., str]:
    """Source of body.txt -> what it says."""

    def rendered(source: str, **context: Any) -> str:
        (place / "mail" / "body.txt").write_text(source)
        return Templates([str(place)]).render("mail", context).text or ""

    return rendered


PRIVATE = [
    "{{ ''.__class__ }}",
    "{{ ''['__class__'] }}",
    "{{ ''.__class__.__mro__[1].__subclasses__() }}",
    "{{ order|attr('_secret') }}",
    "{{ ['x']|map('attr', '__class__')|list }}",
    "{{ [order]|map(attribute='_secret')|join }}",
    "{{ [order]|sum('_secret') }}",
    "{{ [order]|groupby('_secret')|first|first }}",
    "{{ [order]|selectattr('__dict__')|list }}",
    "{{ order._secret }}",
    "{{ order['_secret'] }}",
    "{{ order.total.__func__.__globals__ }}",
    "{{ order.__init__.__globals__ }}",
    "{{ self._TemplateReference__context }}",
    "{{ self.__init__.__globals__ }}",
    "{{ cycler.__init__.__globals__.os.environ }}",
    "{{ joiner.__init__.__globals__ }}",
    "{{ namespace.__init__.__globals__ }}",
    "{{ lipsum.__globals__.os.environ }}",
    "{{ lipsum(100) }}",
    "{{ range.__class__ }}",
    "{{ _.__globals__ }}",
    "{{ date.__globals__ }}",
    "{{ os.environ }}",
    "{{ '{0.__class__}'.format(order) }}",
    "{{ '{0._secret}'.format(order) }}",
    "{{ '{x._secret}'.format_map({'x': order}) }}",
    "{{ ('{0._secret}'|safe).format(order) }}",
    "{{ status.format() }}",
    "{{ Status.format('{0._secret}', order) }}",
    "{{ dict.update(items, x=1) }}",
    "{{ items.update(x=1) }}",
    "{{ items.pop('a') }}",
    "{{ numbers.append(1) }}",
    "{{ (1).to_bytes(8) }}",
    "{{ ''.encode() }}",
    "{% macro m() %}{% endmacro %}{{ m.__globals__ }}{{ m._func }}",
    "{% for x in [1] %}{{ loop.__class__ }}{% endfor %}",
    "{% set x.y = 1 %}",
    "{% do order.total() %}",
    "{% debug %}",
    "{{ order|pprint }}",
    "{{ order|xmlattr }}",
    "{{ 1 is callable }}",
]


@pytest.mark.parametrize("source", PRIVATE)
def test_nothing_private(render: Callable[..., str], source: str) -> None:
    items, numbers = {"a": 1}, [1]
    with pytest.raises(InvalidTemplate) as caught:
        render(source, order=Order(), os=os, status=Status.PAID, Status=Status, items=items, numbers=numbers)
    assert CANARY not in str(caught.value)
    assert "body.txt" in str(caught.value)
    assert (items, numbers) == ({"a": 1}, [1])


def test_what_is_public_is_there(render: Callable[..., str]) -> None:
    said = render(
        "{{ order.number }} {{ order.total() }} {{ order }} {{ status.upper() }} {{ Status.PAID }} "
        "{{ items.get('a') }} {% for k, v in items.items() %}{{ k }}{{ v }}{% endfor %} {{ day.strftime('%Y') }} "
        "{{ 'a-b'.split('-')|join('+') }}",
        order=Order(), status=Status.PAID, Status=Status, items={"a": 1}, day=date(2026, 1, 2),
    )  # fmt: skip
    assert said == "42 7 an order PAID paid 1 a1 2026 a+b"


NO_FILES = [
    "/etc/passwd",
    "//etc/passwd",
    "../secret.txt",
    "mail/../../secret.txt",
    "mail/./../../secret.txt",
    "..\\\\secret.txt",
    "mail/..\\\\..\\\\secret.txt",
    "mail/link.txt",
    "outside/secret.txt",
    "file:///etc/passwd",
    "C:/secret.txt",
    "mail/subject.txt\\0.html",
    "http://127.0.0.1:9/",
    "",
    ".",
    "mail",
    "mail/",
]


@pytest.mark.parametrize("name", NO_FILES)
@pytest.mark.parametrize(
    "tag",
    [
        "{{% include '{}' %}}",
        "{{% extends '{}' %}}",
        "{{% import '{}' as m %}}{{{{ m }}}}",
        "{{% from '{}' import m %}}",
    ],
    ids=["include", "extends", "import", "from"],
)
def test_no_file_but_a_template(render: Callable[..., str], tag: str, name: str) -> None:
    with pytest.raises(InvalidTemplate, match=r"body.txt, line 1: there is no '.*'; names are relative"):
        render(tag.format(name))


def test_a_file_that_is_no_template_is_not_tried_either(render: Callable[..., str]) -> None:
    assert render("[{% include '../secret.txt' ignore missing %}{% include ['/etc/passwd'] ignore missing %}]") == "[]"


@pytest.mark.parametrize(
    "name", ["../templates/mail", "mail/", "outside", "/etc", "", ".", "..", "mail\0", None, 7, ["mail"]]
)
def test_a_template_is_a_folder_of_its_place(place: Path, name: Any) -> None:
    with pytest.raises(InvalidTemplate):
        Templates([str(place)]).render(name, {})


def doubled(start: str, step: str, show: str = "{{ x|length }}") -> str:
    """24 lines, each of which doubles `x`: 16 million."""
    return start + step * 24 + show


BOUNDLESS = {
    "loops in loops": "{% for a in range(600) %}{% for b in range(1000) %}{% endfor %}{% endfor %}",
    "a huge range": "{{ range(1000000)|length }}",
    "a loop with a condition": "{% for a in range(600) %}{% for b in r if b < 0 %}{% endfor %}{% endfor %}",
    "a recursive loop": "{% for a in t recursive %}{{ loop(t) }}{% endfor %}",
    "much in a loop": "{% for a in range(4000) %}" + "{% if a %}{% endif %}" * 300 + "{% endfor %}",
    "text in a loop": "{% for a in range(4100) %}" + "x" * 1000 + "{% endfor %}",
    "text in a macro": "{% macro m() %}"
    + "x" * 1000
    + "{% endmacro %}{% for a in range(4100) %}{% set y = m() %}{% endfor %}",
    "text in a block": "{% block b %}" + "x" * 41000 + "{% endblock %}" + "{% set y = self.b() %}" * 100,
    "macros that call macros": "{% macro m0() %}{% endmacro %}"
    + "".join(f"{{% macro m{n + 1}() %}}{{{{ m{n}() }}}}{{{{ m{n}() }}}}{{% endmacro %}}" for n in range(18))
    + "{{ m18() }}",
    "a macro that calls itself": "{% macro m() %}{{ m() }}{% endmacro %}{{ m() }}",
    "a template that includes itself": "{% include 'mail/body.txt' %}",
    "a template that extends itself": "{% extends 'mail/body.txt' %}",
    "~": doubled("{% set x = 'x' %}", "{% set x = x ~ x %}"),
    "+ of text": doubled("{% set x = 'x' %}", "{% set x = x + x %}"),
    "+ of lists": doubled("{% set x = [1] %}", "{% set x = x + x %}"),
    "* of text": "{{ ('x' * 5000000)|length }}",
    "* of text, the other way round": "{{ (5000000 * 'x')|length }}",
    "* of lists": "{{ ([1] * 5000000)|length }}",
    "* of tuples": "{% set x = (1,) * 500 %}{% set x = (x,) * 500 %}{% set x = (x,) * 500 %}{{ {}[x] is defined }}",
    "* of numbers": "{% set x = 3 %}" + "{% set x = x * x %}" * 16 + "{{ x > 0 }}",
    "**": "{{ 2 ** 100000 > 0 }}",
    "** of **": "{{ 9 ** 9 ** 999 > 0 }}",
    "a wide %": "{{ ('%5000000d' % 1)|length }}",
    "a precise %": "{{ ('%.5000000f' % 1)|length }}",
    "a % as wide as it is told": "{{ ('%*d' % (5000000, 1))|length }}",
    "a wide % with a strange name": "{{ ('%(a(b)c)5000000d' % {'a(b)c': 1})|length }}",
    "many %": "{% set x = 'x' * 10000 %}{{ ('%(x)s' * 1000) % {'x': x} }}",
    "a wide format": "{{ '%5000000d'|format(1)|length }}",
    "a wide translation": "{{ _('%(x)5000000d', x=1)|length }}",
    "is odd": "{{ '%5000000d' is odd }}",
    "is divisibleby": "{{ '%5000000d' is divisibleby 3 }}",
    "a set block": doubled("{% set x %}x{% endset %}", "{% set x %}{{ x }}{{ x }}{% endset %}"),
    "a filter block": doubled(
        "{% set x %}x{% endset %}", "{% set x %}{% filter upper %}{{ x }}{{ x }}{% endfilter %}{% endset %}"
    ),
    "center": "{{ 'x'|center(5000000)|length }}",
    "indent": "{{ ('\\n' * 5000)|indent(1000, blank=true)|length }}",
    "indent with a text": "{{ ('\\n' * 5000)|indent('x' * 1000, blank=true)|length }}",
    "wordwrap": "{{ ('x' * 5000)|wordwrap(1, wrapstring='y' * 1000)|length }}",
    "wordwrap of much": "{{ ('x-' * 60000)|wordwrap(70)|length }}",
    "replace": "{{ ('x' * 5000)|replace('x', 'y' * 1000)|length }}",
    "replace of nothing": "{{ ('x' * 5000)|replace('', 'y' * 1000)|length }}",
    "join": "{{ (['x' * 1000] * 5000)|join|length }}",
    "join with much": "{{ ([1] * 5000)|join('x' * 1000)|length }}",
    "batch": "{{ [1]|batch(1000000, 0)|list|length }}",
    "slice": "{{ [1]|slice(1000000)|list|length }}",
    "round": "{{ 1|round(200000, 'ceil') > 0 }}",
    "round below": "{{ 1|round(-200000, 'floor') > 0 }}",
    "sum": "{{ ([[1] * 1000] * 2000)|sum(start=[])|length }}",
    "striptags": "{{ ('<>' * 100000)|striptags|length }}",
    "trim": "{{ ('x' * 100000)|trim('y' * 100000)|length }}",
    "strip": "{{ ('x' * 100000).strip('y' * 100000)|length }}",
    "rfind": "{{ ('x' * 100000).rfind('y' + 'x' * 50000) }}",
    "split, often": "{% set ns = namespace(x=[]) %}{% set y = 'x ' * 50000 %}"
    "{% for a in range(20) %}{% set ns.x = ns.x + [y.split()] %}{% endfor %}",
    "upper, often": "{% set x = 'x' * 100000 %}{% for a in range(50) %}{% set y = x|upper %}{% endfor %}",
    "a list of a text": "{% set x = 'x' * 100000 %}{% for a in range(15) %}{% set y = x|list %}{% endfor %}",
    "tojson": "{{ (['x' * 1000] * 5000)|tojson|length }}",
    "tojson, indented": "{{ [[[1]]]|tojson(indent=5000000)|length }}",
    "a list of lists, shown": doubled("{% set x = [1] %}", "{% set x = [x, x] %}", "{{ x }}"),
    "a list of lists, compared": doubled(
        "{% set x = [1] %}{% set y = [1] %}", "{% set x = [x, x] %}{% set y = [y, y] %}", "{{ x == y }}"
    ),
    "a tuple of tuples": doubled("{% set x = (1, 2) %}", "{% set x = (x, x) %}", "{{ {x: 1}|length }}"),
    "a dictionary of dictionaries": doubled("{% set x = {} %}", "{% set x = {1: x, 2: x} %}", "{{ x|string|length }}"),
    "dict()": doubled("{% set x = {} %}", "{% set x = dict(a=x, b=x) %}", "{{ x|string|length }}"),
    "namespaces": doubled("{% set x = namespace() %}", "{% set x = namespace(a=x, b=x) %}", "{{ x }}"),
    "a comparison, often": "{% set x = [1] * 1000 %}{% set y = [1] * 1000 %}"
    "{% for a in range(2000) %}{{ x == y }}{% endfor %}",
    "a slice, often": "{% set x = 'x' * 100000 %}{% for a in range(50) %}{% set y = x[1:] %}{% endfor %}",
    "a long strftime": "{{ day.strftime('%Y' * 1000) }}",
    "a long pattern": "{{ day|date('y' * 5000) }}",
    "a long number": "{{ 1e300|number }}",
    "a precise percentage": "{{ 1|percent(5000) }}",
    "dates, often": "{% for a in range(20000) %}{% set y = day|date %}{% endfor %}",
    "numbers divided": "{% set a = ('f' * 2000000)|int(0, 16) %}{{ a // ('f' * 1000000)|int(0, 16) > 0 }}",
    "tuples that are generated": "{% set x = (1,) * 50000 %}"
    "{{ ([0] * 50000)|map('default', x, true)|unique|list|length }}",
    "tuples that are generated, for dict": "{% set x = (1,) * 50000 %}"
    "{{ dict(([0] * 50000)|map('default', (x, 1), true))|length }}",
    "generators of generators": "{% set ns = namespace(x=range(50000)|select) %}"
    "{% for a in range(15) %}{% set ns.x = ns.x|select %}{% endfor %}{{ ns.x|list|length }}",
    "a long attribute": "{% set ns = namespace() %}{% set ns.a = ns %}"
    "{{ ([0] * 100)|map('default', ns, true)|map(attribute='a.' * 2000 ~ 'b')|list }}",
    "rfind of a class": "{{ Status.rfind('x' * 100000, 'y' + 'x' * 50000) }}",
    "striptags, often": "{% set x = '<>' * 15000 %}{% for a in range(40) %}{% set y = x|striptags %}{% endfor %}",
    "wordcount, often": "{% set x = 'ab ' * 100000 %}{% for a in range(20) %}{% set y = x|wordcount %}{% endfor %}",
    "includes, often": "{% for a in range(50000) %}{% include 'x' ~ a ignore missing %}{% endfor %}",
    "a long file": "{# " + "x" * 260_000 + " #}",
    "nested brackets": "{{ " + "(" * 3000 + "1" + ")" * 3000 + " }}",
    "nested loops": "{% for a in [1] %}" * 50 + "{% endfor %}" * 50,
    "a long literal": "{{ " + "9" * 10_000 + " }}",
}


@pytest.mark.parametrize("source", BOUNDLESS.values(), ids=BOUNDLESS)
def test_rendering_has_a_bound(render: Callable[..., str], source: str) -> None:
    t: list[Any] = []
    t.append(t)
    with pytest.raises(InvalidTemplate, match=r"body\.txt"):
        render(source, r=range(1000), t=[t, t], day=date(2026, 1, 2), Status=Status)


def test_what_a_large_digest_needs_is_far_inside_the_bounds(render: Callable[..., str]) -> None:
    rows = [{"name": f"Comment {n}", "at": date(2026, 1, 2), "words": "x" * 500} for n in range(2000)]
    said = render(
        "{% macro row(c) %}{{ c.name|upper }} {{ c.at|date }}: {{ c.words|truncate(80) }}{% endmacro %}"
        "{% for c in rows|sort(attribute='name') if c.words %}{{ loop.index }}. {{ row(c) }}\n{% endfor %}"
        "{{ rows|map(attribute='name')|join(', ')|length }} {{ rows|length }}",
        rows=rows,
    )
    assert said.count("\n") == 2000


STYLES = {
    "much of both": ("p:hover {color: red}" * 4000, "<p>" * 5000),
    "many properties": ("p {" + "".join(f"--a{n}: 1;" for n in range(3000)) + "}", "<p>" * 300),
    "many properties, as if one": ("p {" + "".join(f"--a{n}/*;*/:1;" for n in range(3000)) + "}", "<p>" * 300),
    "many properties, with escapes": ("p {" + "".join(f"--a{n}\\;b:1;" for n in range(3000)) + "}", "<p>" * 300),
    "siblings": ("p:not(i ~ p) {color: red}" * 200, "<p>" * 2000),
    "siblings, with an escape": ("p:n\\6ft(i ~ p) {color: red}" * 200, "<p>" * 2000),
}


@pytest.mark.parametrize(("css", "html"), STYLES.values(), ids=STYLES)
def test_css_and_elements_are_bounded_together(place: Path, css: str, html: str) -> None:
    (place / "mail" / "body.html").write_text(f"<style>{css}</style>{{{{ html|safe }}}}")
    with pytest.raises(InvalidTemplate, match="characters of style sheets"):
        Templates([str(place)]).render("mail", {"html": html})


def test_a_framework_s_style_sheet_is_far_inside_the_bounds(place: Path) -> None:
    css = "".join(f".a{n}:hover {{color: red; margin: {n}px; padding: 0}} " for n in range(300))
    (place / "mail" / "body.html").write_text(f"<style>p:not(.b) {{top: 0}} {css}</style>{{{{ html|safe }}}}")
    said = Templates([str(place)]).render("mail", {"html": "<p class=a1>x</p>" * 1000})
    assert (said.html or "").count("top: 0") == 1000


INDENTED = {
    "quotations": "<blockquote>x" * 20_000,
    "pre": "<pre>x\n" * 20_000,
    "lines in quotations": "<blockquote>" * 390 + "<pre>" + "x\n" * 50_000,
}


@pytest.mark.parametrize("html", INDENTED.values(), ids=INDENTED)
def test_text_made_from_html_is_bounded(place: Path, html: str) -> None:
    """Each level indents each line: the text would be hundreds of times as long."""
    (place / "mail" / "body.html").write_text("{{ html|safe }}")
    with pytest.raises(InvalidTemplate, match="its HTML cannot be made ready"):
        Templates([str(place)]).render("mail", {"html": html})


DEEP = {
    "divs": "<div>" * 20_000,
    "divs, as if closed by others": "<div></b>" * 20_000,
    "divs, as if closed in attributes": "<div a='</div>'>" * 20_000,
    "divs, as if closed after a quote": '<div "></div>' * 20_000,
    "divs, as if closed in comments": "<div><!--</div>-->" * 20_000,
    "divs, as if closed in comments that are not": "<!--><div><!-- </div> -->" * 20_000,
    "divs, as if closed in a style": "<div><style></div></style>" * 20_000,
    "elements that open again": "<div><b></div>" * 20_000,
    "divs in paragraphs": "<b><div></b>" * 20_000,
    "list items of two kinds": "<p><li></p><p><dd></p>" * 20_000,
    "lists in list items": "<li><ul></li>" * 20_000,
    "drawings": "<svg><div></svg>" * 20_000,
    "lists in lists": "<ul><li>" * 20_000,
}


@pytest.mark.parametrize("html", DEEP.values(), ids=DEEP)
def test_html_is_only_so_deep(place: Path, html: str) -> None:
    """css-inline takes a level of the stack for each; without a bound the test run ends here."""
    (place / "mail" / "body.html").write_text("<style>p {color: red}</style>{{ html|safe }}")
    with pytest.raises(InvalidTemplate, match="its HTML cannot be made ready"):
        Templates([str(place)]).render("mail", {"html": html})


def test_a_long_mail_is_not_deep(place: Path) -> None:
    row = "<!--[if mso]><table><tr><td><![endif]--><p>a < b<br/><b>c</b>"
    row += "<ul><li>d<li>e</ul><table><tr><td>f<td>g<tr></table>"
    (place / "mail" / "body.html").write_text(
        f"<!doctype html><title>x</title><style>p {{color: red}}</style>{row * 500}"
    )
    assert (Templates([str(place)]).render("mail", {}).html or "").count("color: red") == 500


def test_style_sheets_are_not_fetched(place: Path, unused_server: tuple[str, list[str]]) -> None:
    url, asked = unused_server
    (place / "mail" / "body.html").write_text(
        f"<link rel=stylesheet href='{url}/a.css'><link rel=stylesheet href='file://{place.parent}/secret.txt'>"
        f"<link rel=stylesheet href='../secret.txt'><link rel=stylesheet href='{place.parent}/secret.txt'>"
        f"<style>@import url('{url}/b.css'); @import url('file://{place.parent}/secret.txt');"
        " p { color: red }</style>"
        f"<p style=\"background: url('{url}/c.png')\">x</p><img src='{url}/d.png'>"
    )
    rendered = Templates([str(place)]).render("mail", {})
    assert "color: red" in (rendered.html or "")
    assert CANARY not in str(rendered)
    assert asked == []


@pytest.fixture
def unused_server() -> Iterator[tuple[str, list[str]]]:
    """A web server of this machine: its address, and the lines of those who came."""
    asked: list[str] = []

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            asked.append(self.path)
            self.send_error(404)

        def log_message(self, *_: Any) -> None:
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}", asked
        server.shutdown()
        thread.join()


def test_no_mail_sees_what_another_left_behind(place: Path) -> None:
    """An imported template that collects: Jinja would keep its variables for the next mail."""
    (place / "_box.txt").write_text(
        "{% set ns = namespace(all=[]) %}{% macro put(x) %}"
        "{% set ns.all = ns.all + [x] %}{{ ns.all|join(' ') }}{% endmacro %}"
    )
    (place / "mail" / "body.txt").write_text("{% from '_box.txt' import put %}{{ put(name) }}")
    templates = Templates([str(place)])
    assert [templates.render("mail", {"name": name}).text for name in ("Ada", "Bob")] == ["Ada", "Bob"]


@pytest.mark.parametrize("file", ["_row.txt", "_row.jinja"])
@pytest.mark.parametrize("tag", ["{{% include '{}' %}}", "{{% from '{}' import row %}}{{{{ row(name) }}}}"])
def test_html_takes_in_no_file_that_escapes_nothing(place: Path, tag: str, file: str) -> None:
    (place / file).write_text("{% macro row(x) %}{{ x }}{% endmacro %}{{ name }}")
    (place / "mail" / "body.html").write_text(tag.format(file))
    with pytest.raises(InvalidTemplate, match=r"would escape nothing .*: name it \*\.html"):
        Templates([str(place)]).render("mail", {"name": "<b>"})


@pytest.mark.parametrize("call", ["_(name)", "gettext(name)", "ngettext('one', name, 2)", "ngettext(name, 'all', 1)"])
def test_a_variable_is_escaped_though_it_is_translated(place: Path, call: str) -> None:
    (place / "mail" / "body.html").write_text(f"{{{{ {call} }}}}{{{{ _('<i>%(x)s</i>', x=name) }}}}")
    (place / "mail" / "body.txt").write_text(f"{{{{ {call} }}}}{{{{ _('<i>%(x)s</i>', x=name) }}}}")
    said = Templates([str(place)]).render("mail", {"name": "<b>"})
    assert said.html == "&lt;b&gt;<i>&lt;b&gt;</i>"
    assert said.text == "<b><i><b></i>"


def test_each_rendering_has_a_budget_of_its_own(place: Path) -> None:
    """Eight threads, each with a template that takes most of one."""
    (place / "mail" / "body.txt").write_text(
        "{% for n in range(steps) %}{% endfor %}{{ ('x' * characters)|length }}{{ name }}"
    )
    templates = Templates([str(place)])
    said: list[str | None] = []

    def work(name: str) -> None:
        said.append(templates.render("mail", {"steps": STEPS // 4, "characters": CHARACTERS // 2, "name": name}).text)

    threads = [threading.Thread(target=work, args=(str(n),)) for n in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(filter(None, said)) == [f"{CHARACTERS // 2}{n}" for n in range(4)]
