"""A template folder -> subject, text and HTML, in the language of the mail, or an error that says where to look."""

import importlib
import sys
from collections.abc import Callable
from datetime import UTC, date, datetime, time
from decimal import Decimal
from pathlib import Path
from typing import Any
from zoneinfo import ZoneInfo

import pytest

from outbox import templates
from outbox.draft import draft
from outbox.errors import InvalidEmail, InvalidTemplate, SettingsError
from outbox.settings import Settings
from outbox.templates import Rendered, Templates

Write = Callable[..., Templates]


@pytest.fixture
def write(tmp_path: Path) -> Write:
    """Files of a place, by name -> its templates."""

    def written(files: dict[str, str]) -> Templates:
        for name, text in files.items():
            (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
            (tmp_path / name).write_text(text, encoding="utf-8")
        return Templates([str(tmp_path)])

    return written


def test_a_folder_is_a_mail(write: Write) -> None:
    made = write(
        {
            "mail/subject.txt": "Order {{ number }} & more\n",
            "mail/body.txt": "Dear {{ name }},\n{% if number %}\nyour order.\n{% endif %}\n",
            "mail/body.html": "<p>Dear {{ name }}</p>",
            "_layout.html": "",
            ".git/subject.txt": "",
            "another/subject.txt": "",
        }
    )
    assert made.render("mail", {"number": 7, "name": "<Ada>"}) == Rendered(
        "Order 7 & more", "Dear <Ada>,\nyour order.\n", "<p>Dear &lt;Ada&gt;</p>"
    )
    assert made.names() == ["another", "mail"]


def test_layouts_and_includes(write: Write) -> None:
    made = write(
        {
            "_layout.html": "<body>{% block body %}{% endblock %}{% include '_parts/foot.html' %}</body>",
            "_parts/foot.html": "<p>Shop, {{ locale }}</p>",
            "_parts/foot.de.html": "<p>Laden, {{ locale }}</p>",
            "mail/subject.txt": "x",
            "mail/body.html": "{% extends '_layout.html' %}{% block body %}<p>{{ name }}</p>{% endblock %}",
        }
    )
    assert made.render("mail", {"name": "Ada"}).html == "<body><p>Ada</p><p>Shop, en</p></body>"
    assert made.render("mail", {"name": "Ada"}, "de_AT").html == "<body><p>Ada</p><p>Laden, de-AT</p></body>"


LADDER = {
    "mail/subject.txt": "default",
    "mail/subject.de.txt": "de",
    "mail/subject.de-AT.txt": "de-AT",
    "mail/subject.pt_BR.txt": "pt-BR",
    "mail/body.txt": "default",
}


@pytest.mark.parametrize(
    ("locale", "subject"),
    [
        (None, "default"),
        ("de-AT", "de-AT"),
        ("de_AT", "de-AT"),
        ("DE-at", "de-AT"),
        ("de-CH", "de"),
        ("de", "de"),
        ("pt-BR", "pt-BR"),
        ("pt", "default"),
        ("fr", "default"),
    ],
)
def test_a_file_falls_back_on_the_language_and_on_the_default(write: Write, locale: str, subject: str) -> None:
    assert write(LADDER).render("mail", {}, locale).subject == subject


@pytest.mark.parametrize(
    ("bodies", "text", "html"),
    [
        ("body.txt body.html", "body.txt", "body.html"),
        ("body.html", "body.html\n", "body.html"),
        ("body.txt", "body.txt", None),
        ("body.txt body.html body.de.txt body.de.html", "body.de.txt", "body.de.html"),
        # One of them is in German: the other must not be in English
        ("body.txt body.html body.de.html", "body.de.html\n", "body.de.html"),
        ("body.txt body.html body.de.txt", "body.de.txt", None),
        # Two steps of one language
        ("body.de-AT.txt body.de.html body.html", "body.de-AT.txt", "body.de.html"),
    ],
)
def test_text_and_html_are_in_one_language(write: Write, bodies: str, text: str, html: str | None) -> None:
    made = write({"mail/subject.txt": "x"} | {f"mail/{name}": name for name in bodies.split()})
    assert made.render("mail", {}, "de-AT")[1:] == (text, html)


PO = r"""
msgid ""
msgstr "Content-Type: text/plain; charset=utf-8\nPlural-Forms: nplurals=2; plural=(n != 1);\n"

msgid "Bye, %(name)s"
msgstr "{}, %(name)s"

msgid "one"
msgid_plural "%(num)s things"
msgstr[0] "ein Ding"
msgstr[1] "%(num)s Dinge"

#, fuzzy
msgid "Guess"
msgstr "Geraten"
"""


def test_translations(write: Write) -> None:
    made = write(
        {
            "mail/subject.txt": "{% trans %}Bye, {{ name }}{% endtrans %}",
            "mail/body.html": "{{ _('Bye, %(name)s', name=name) }} "
            "{{ ngettext('one', '%(num)s things', n) }} {{ _('Guess') }}"
            "{% trans n=n %}one{% pluralize %}{{ n }} more{% endtrans %}",
            "_translations/de/LC_MESSAGES/messages.po": PO.replace("{}", "Tschüs"),
            "_translations/de_AT/LC_MESSAGES/messages.po": 'msgid "Bye, %(name)s"\nmsgstr "Servus, %(name)s"\n',
        }
    )
    context = {"name": "<Ada>", "n": 2}
    assert made.render("mail", context).html == "Bye, &lt;Ada&gt; 2 things Guess2 more"
    assert made.render("mail", context).subject == "Bye, <Ada>"
    assert made.render("mail", context, "de").html == "Tschüs, &lt;Ada&gt; 2 Dinge Guess2 Dinge"
    assert made.render("mail", context, "de-AT").html == "Servus, &lt;Ada&gt; 2 Dinge Guess2 Dinge"
    assert made.render("mail", context | {"n": 1}, "de-CH").subject == "Tschüs, <Ada>"


PLURAL = 'msgid "one"\nmsgid_plural "many"\nmsgstr[0] "eins"\n'


@pytest.mark.parametrize(
    "po",
    [
        "msgid one\nTranslate!",
        'msgid ""\nmsgstr "Plural-Forms: nplu"\n"rals= 999999999; plural=n;\\n"\n\n' + PLURAL,
    ],
    ids=["not one", "with a text for each number"],
)
def test_a_catalog_that_is_none(write: Write, po: str) -> None:
    made = write({"mail/subject.txt": "x", "_translations/de/LC_MESSAGES/messages.po": po})
    with pytest.raises(SettingsError, match=r"messages\.po: not a catalog"):
        made.render("mail", {}, "de")


NOON = datetime(2026, 7, 1, 12, 0, tzinfo=UTC)


@pytest.mark.parametrize(
    ("expression", "english", "german"),
    [
        ("at|date", "Jul 1, 2026", "01.07.2026"),
        ("at|date('full')", "Wednesday, July 1, 2026", "Mittwoch, 1. Juli 2026"),
        ("at|date('yyyy')", "2026", "2026"),
        ("late|date('short')", "7/2/26", "02.07.26"),  # in Berlin, it is the next day
        ("day|date('short')", "7/1/26", "01.07.26"),
        ("at|time", "2:00 PM", "14:00"),
        ("naive|time", "12:00 PM", "12:00"),
        ("clock|time", "9:30 AM", "09:30"),
        ("at|datetime('short')", "7/1/26, 2:00 PM", "01.07.26, 14:00"),
        ("naive|datetime('short')", "7/1/26, 12:00 PM", "01.07.26, 12:00"),
        ("1234567.5|number", "1,234,567.5", "1.234.567,5"),
        ("amount|number('#,##0.00')", "1,234.50", "1.234,50"),
        ("amount|currency('EUR')", "€1,234.50", "1.234,50 €"),
        ("0.256|percent", "26%", "26 %"),
        ("0.256|percent(1)", "25.6%", "25,6 %"),
    ],
)
def test_dates_and_numbers_are_in_the_locale(write: Write, expression: str, english: str, german: str) -> None:
    made = write({"mail/subject.txt": "x", "mail/body.txt": "{{ " + expression + " }}"})
    context = {
        "at": NOON, "late": NOON.replace(hour=23), "naive": NOON.replace(tzinfo=None), "day": NOON.date(),
        "clock": time(9, 30), "amount": Decimal("1234.5"),
    }  # fmt: skip
    for zone in ("Europe/Berlin", ZoneInfo("Europe/Berlin")):
        said = [made.render("mail", context | {"time_zone": zone}, locale).text or "" for locale in ("en", "de")]
        assert [" ".join(text.split()) for text in said] == [english, german]


def test_times_are_in_utc_where_nothing_is_said(write: Write) -> None:
    made = write({"mail/subject.txt": "{{ at|time }}", "mail/body.txt": "x"})
    assert made.render("mail", {"at": NOON.astimezone(ZoneInfo("Asia/Tokyo"))}, "de").subject == "12:00"


HTML = """<!doctype html><html><head><title>Not this</title><style>
.hidden { display: none } a { color: red } p { margin: 0 }
@media (prefers-color-scheme: dark) { a { color: pink } }
</style></head><body><div class="hidden">Preheader</div><img src="cid:logo" alt="Logo">
<h1>Thank you</h1><p>For order_no_7,<br>5 * 3 &lt; 16 &amp; more.<br>
<a href="https://shop.example/o?a=1&amp;b_c=2">View order</a>
<a href="https://shop.example/(x)">it</a> <a href="https://shop.example">https://shop.example</a><br>
<a href="mailto:help@shop.example">help us</a></p>
<p>- not a list</p><ul><li>one<li>two</ul>
<table><tr><th>Item</th><th>Price</th></tr><tr><td>Lamp</td><td>9,90</td></tr></table></body></html>"""

TEXT = """# Thank you

For order_no_7,
5 * 3 < 16 & more.
View order <https://shop.example/o?a=1&b_c=2> it <https://shop.example/(x)> <https://shop.example>
help us <help@shop.example>

- not a list

- one
- two

| Item | Price |
| ---- | ----- |
| Lamp | 9,90  |
"""


def test_the_looks_of_a_mail(write: Write) -> None:
    rendered = write({"mail/subject.txt": "x", "mail/body.html": HTML}).render("mail", {})
    assert rendered.text == TEXT
    assert rendered.html is not None
    assert '<a href="https://shop.example/o?a=1&amp;b_c=2" style="color: red;">View order</a>' in rendered.html
    assert "@media (prefers-color-scheme: dark)" in rendered.html
    assert ".hidden" not in rendered.html


@pytest.mark.parametrize(
    ("files", "message"),
    [
        ({"subject.txt": "{{ oder }}"}, r"subject\.txt, line 1: 'oder' is undefined; .* \(it has 'order'\)"),
        ({"body.html": "\n\n{{ order.number }}"}, r"body\.html, line 3: 'dict object' has no attribute 'number'"),
        ({"body.html": "\n{% if %}"}, r"body\.html, line 2: Expected an expression"),
        ({"body.html": "{{ 1|shout }}"}, r"body\.html, line 1: No filter named 'shout'"),
        ({"body.html": "\n{% include '_gone.html' %}"}, r"body\.html, line 2: there is no '_gone\.html'"),
        ({"body.html": "{% include '_x.html' %}", "../_x.html": "\n{{ x }}"}, r"_x\.html, line 2: 'x' is undefined"),
        ({"body.txt": "{{ 1 / 0 }}"}, r"body\.txt, line 1: ZeroDivisionError"),
        ({"body.txt": "{{ 1 + 'x' }}"}, r"body\.txt, line 1: TypeError"),
        ({"body.txt": "{{ order|date }}"}, r"body\.txt, line 1: \w+Error"),
        ({"body.txt": "{{ boom() }}"}, r"body\.txt, line 1: MemoryError"),
        ({"body.txt": "{{ unsubscribe_url }}"}, r"only mail of a category in OUTBOX_SUBSCRIPTIONS has one"),
        ({"body.txt": "{{ nul }}"}, r"body\.txt writes a NUL"),
        ({"body.txt": "{{ surrogate }}"}, r"body\.txt writes what is not Unicode"),
        ({"subject.txt": "{{ lines }}"}, r"its subject has several lines"),
        ({"subject.txt": "a\nb"}, r"its subject has several lines"),
        ({"subject.txt": "a\u2028b"}, r"its subject has several lines"),
    ],
)  # fmt: skip
def test_what_is_wrong_is_said_where_it_is(write: Write, files: dict[str, str], message: str) -> None:
    def boom() -> None:
        raise MemoryError

    whole = {"subject.txt": "x", "body.txt": "x"} | files
    made = write({f"mail/{name}": text for name, text in whole.items()})
    context = {
        "order": {},
        "nul": "a\0b",
        "surrogate": "\ud800",
        "lines": "Hello\r\nBcc: eve@example.com",
        "boom": boom,
    }
    with pytest.raises(InvalidTemplate, match=rf"(?s)^template='mail': .*{message}"):
        made.render("mail", context)


@pytest.mark.parametrize(
    ("files", "message"),
    [
        ({"subject.txt": "x"}, "it has no body.html, nor body.txt, in"),
        ({"body.txt": "x"}, "it has no subject.txt in"),
    ],
)
def test_a_template_with_a_part_missing(write: Write, files: dict[str, str], message: str) -> None:
    with pytest.raises(InvalidTemplate, match=message):
        write({f"mail/{name}": text for name, text in files.items()}).render("mail", {})


def test_a_template_that_is_not_there(write: Write) -> None:
    made = write({"receipt/subject.txt": "x", "_layout.html": "x"})
    with pytest.raises(InvalidTemplate, match="template='reciept': there is no such template; did you mean 'receipt'"):
        made.render("reciept", {})
    with pytest.raises(InvalidTemplate, match="make a folder of that name"):
        made.render("zzz", {})


@pytest.mark.parametrize("locale", ["xx", "de-", "", "german", "../de", "de\n", 7, ["de"], "de-AT-x-" + "a" * 300])
def test_a_locale_that_nobody_knows(write: Write, locale: Any) -> None:
    with pytest.raises(InvalidEmail, match="give a language, such as de, or de-AT") as caught:
        write({"mail/subject.txt": "x", "mail/body.txt": "x"}).render("mail", {}, locale)
    assert caught.value.field == "locale"


def test_samples(write: Write) -> None:
    made = write(
        {
            "mail/sample.json": '{"a": 1}',
            "mail/sample.de.json": '{"a": 2}',
            "bad/sample.json": "{",
            "list/sample.json": "[]",
            "none/x": "",
        }
    )
    assert [made.sample("mail", locale)["a"] for locale in (None, "de-AT", "fr")] == [1, 2, 1]
    for name, problem in {
        "bad": "is not JSON",
        "list": "holds no object",
        "none": "has no sample.json",
        "gone": "no such template",
    }.items():
        with pytest.raises(InvalidTemplate, match=problem):
            made.sample(name)


def test_several_places_and_packages(write: Write, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write({"own/mail/subject.txt": "own", "own/mail/body.txt": "own", "own/_foot.txt": "own foot"})
    package = tmp_path / "lib" / "shopmails"
    (package / "mails" / "welcome").mkdir(parents=True)
    (package / "__init__.py").touch()
    (package / "mails" / "_foot.txt").write_text("package foot")
    (package / "mails" / "welcome" / "subject.txt").write_text("package")
    (package / "mails" / "welcome" / "body.txt").write_text("{% include '_foot.txt' %}")
    monkeypatch.syspath_prepend(str(tmp_path / "lib"))
    importlib.invalidate_caches()
    try:
        made = Templates([str(tmp_path / "own"), "shopmails:mails"])
        assert made.names() == ["mail", "welcome"]
        assert made.render("welcome", {})[:2] == ("package", "own foot")
        assert Templates(["shopmails:mails"]).render("welcome", {}).text == "package foot"
    finally:
        sys.modules.pop("shopmails", None)


@pytest.mark.parametrize("place", ["nowhere", "no.such.package:mails", "email:nowhere"])
def test_a_place_that_is_not_there(place: str) -> None:
    made = Templates([place])  # an application without templates may have the default
    with pytest.raises(SettingsError, match=f"OUTBOX_TEMPLATES={place}"):
        made.render("mail", {})


def test_a_process_compiles_once(write: Write, tmp_path: Path) -> None:
    write({"mail/subject.txt": "before", "mail/body.txt": "x"})
    settings = Settings.load(outbox_templates=(str(tmp_path),))
    assert templates.of(settings) is templates.of(Settings.load(outbox_templates=(str(tmp_path),)))
    templates.of(settings).render("mail", {})
    (tmp_path / "mail" / "subject.txt").write_text("after")
    assert templates.of(settings).render("mail", {}).subject == "before"
    assert Templates([str(tmp_path)]).render("mail", {}).subject == "after"


# --- In queue_email


@pytest.fixture
def hashed(write: Write, tmp_path: Path) -> Callable[..., Any]:
    """Arguments -> the payload's hash. The template is written anew each time, and read anew."""

    def of(subject: str = "x", **mail: Any) -> Any:
        write({"mail/subject.txt": subject + "{{ name }}", "mail/body.html": "<p>{{ name }}</p>"})
        templates._shared.cache_clear()
        settings = Settings.load(smtp_from_email="shop@example.com", outbox_templates=(str(tmp_path),))
        return draft(settings, "ada@example.com", template="mail", idempotency_key="k", **mail).content["payload_hash"]

    return of


PLAIN = {"name": "Ada", "at": NOON, "day": date(2026, 1, 2), "amount": Decimal("1.50"), "more": [{"a": None}]}


def test_a_template_reworded_makes_no_other_mail(hashed: Callable[..., Any]) -> None:
    assert hashed(context=PLAIN) == hashed("reworded", context=dict(reversed(PLAIN.items())))
    others: list[dict[str, Any]] = [
        {"context": PLAIN | {"name": "Bob"}},
        {"context": PLAIN | {"amount": Decimal(2)}},
        {"context": PLAIN, "locale": "de"},
    ]
    assert len({hashed(context=PLAIN), *(hashed(**other) for other in others)}) == 4


def test_what_is_not_data_is_compared_by_what_it_says(hashed: Callable[..., Any]) -> None:
    class Name:
        def __init__(self, name: str) -> None:
            self.name = name

        def __str__(self) -> str:
            return self.name

    assert hashed(context={"name": Name("Ada")}) == hashed(context={"name": Name("Ada")})
    assert hashed(context={"name": Name("Ada")}) != hashed(context={"name": Name("Bob")})
    assert hashed(context={"name": Name("Ada")}) != hashed("reworded", context={"name": Name("Ada")})


def test_a_draft_of_a_template(write: Write, tmp_path: Path) -> None:
    write({"mail/subject.txt": "For {{ name }}", "mail/body.html": "<p>{{ name }}</p>"})
    settings = Settings.load(smtp_from_email="shop@example.com", outbox_templates=(str(tmp_path),))
    drafted = draft(settings, "ada@example.com", template="mail", context={"name": "Ada"}, locale="de_AT")
    content = drafted.content
    assert [content[name] for name in ("subject", "text", "html", "template", "locale", "payload_hash")] == [
        "For Ada", "Ada\n", "<p>Ada</p>", "mail", "de_AT", None,
    ]  # fmt: skip
    assert drafted.row["subject"] == "For Ada"
    assert content["size"] == len("Ada\n<p>Ada</p>")
