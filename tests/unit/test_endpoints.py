"""How relays are written, and what is said about one that is written badly."""

import pytest
from limits import parse
from pydantic import SecretStr

from outbox.endpoints import Endpoint, default_port, parse_endpoints, parse_rate


@pytest.mark.parametrize(
    ("url", "endpoint"),
    [
        ("smtp://mx.example", Endpoint("mx.example", 25)),
        ("smtp+starttls://mx.example", Endpoint("mx.example", 587, starttls=True)),
        ("smtps://mx.example/", Endpoint("mx.example", 465, tls=True)),
        ("SMTPS://MX.example:2465", Endpoint("MX.example", 2465, tls=True)),
        ("smtp://127.0.0.1:2525", Endpoint("127.0.0.1", 2525)),
        ("smtp://[2001:DB8::1]", Endpoint("2001:db8::1", 25)),
        ("smtp://[::1]:2525", Endpoint("::1", 2525)),
        ("smtp://ada:pw@mx.example", Endpoint("mx.example", 25, "ada", SecretStr("pw"))),
        (
            "smtps://ada%40example.com:%2F%3A%40%25%20,;%23:@mx.example",
            Endpoint("mx.example", 465, "ada@example.com", SecretStr("/:@% ,;#:"), tls=True),
        ),
        ("smtp://mx?rate=5/second", Endpoint("mx", 25, rate=parse("5/second"))),
        ("smtp://mx/?domain_rate=500+per+10+minutes", Endpoint("mx", 25, domain_rate=parse("500 per 10 minute"))),
    ],
)
def test_a_relay(url: str, endpoint: Endpoint) -> None:
    assert parse_endpoints(url) == (endpoint,)


@pytest.mark.parametrize("between", [" ", ",", ", ", "\n", " ,\n "])
def test_several_keep_their_order(between: str) -> None:
    found = parse_endpoints(f" smtp://b{between}smtps://u:a,b@a?rate=1/hour{between}smtp://a:26{between}")
    assert [endpoint.name for endpoint in found] == ["b:25", "a:465", "a:26"]
    assert found[1].password == SecretStr("a,b")


def test_a_rate_of_its_own_comes_first() -> None:
    first, second = parse_endpoints(
        "smtp://a?rate=1/hour smtp://b?domain_rate=2/hour", rate=parse("9/minute"), domain_rate=parse("3/minute")
    )
    assert (first.rate, first.domain_rate) == (parse("1/hour"), parse("3/minute"))
    assert (second.rate, second.domain_rate) == (parse("9/minute"), parse("2/hour"))


@pytest.mark.parametrize(
    ("endpoint", "name"),
    [
        (Endpoint("MX.Example", 25), "mx.example:25"),
        (Endpoint("::1", 25), "[::1]:25"),
    ],
)
def test_a_name_is_the_same_however_the_host_is_spelled(endpoint: Endpoint, name: str) -> None:
    assert endpoint.name == name


@pytest.mark.parametrize(
    ("urls", "sentence"),
    [
        ("mx.example:587", "mx.example:587: a relay begins with smtp://, smtp+starttls:// or smtps://"),
        ("redis://mx.example", "redis://mx.example: a relay begins with smtp://, smtp+starttls:// or smtps://"),
        ("smtp://", "smtp://: a relay is written smtps://user:password@host:port"),
        ("smtp://mx.example/path", "smtp://mx.example/path: a relay is written"),
        ("smtp://mx.example:0", "smtp://mx.example:0: there is no port 0: ports are 1 to 65535"),
        ("smtp://mx.example:65536", "there is no port 65536"),
        ("smtp://[1::2::3]", "1::2::3] is no IPv6 address"),
        ("smtp://[127.0.0.1]", "is no IPv6 address"),
        ("smtp://mx?speed=5", "'speed' is no option of a relay; there are rate and domain_rate"),
        ("smtp://mx?rate=fast", "rate='fast': a rate is one number of mails, above 0, in a time: 14/second"),
        ("smtp://mx?rate=", "rate='': a rate is one number"),
        ("smtp://mx?rate=1/hour&rate=2/hour", "rate is given twice"),
        ("smtp://MX smtps://b smtp://mx:25", "smtp://mx:25: mx:25 is there twice: keep one of them"),
        ("smtp://mx smtps://mx:25", "mx:25 is there twice"),
        ("smtp://mx.example mx2.example", "a relay is written"),
    ],
)
def test_what_is_wrong_is_named(urls: str, sentence: str) -> None:
    with pytest.raises(ValueError, match=r"^OUTBOX_RELAYS: ") as refused:
        parse_endpoints(urls)
    assert sentence in str(refused.value)


@pytest.mark.parametrize(
    "url",
    [
        "smtp://ada:S3CRET/x@mx.example",
        "smtp://ada:S3CRET?x@mx.example",
        "smtp://ada:S3CRET#x@mx.example",
        "smtp://ada:S3CRET@x@mx.example",
        "smtp://ada:S3CRET x@mx.example",
        "smtp://ada:25?S3CRET@mx.example",
        "smtp://ada:S3CRET%zz@mx.example",
        "smtp://ada:S3CRET%C3%BC@mx.example",
        "smtp://ada%C3%BC:S3CRET@mx.example",
        "smtp://:S3CRET@mx.example",
        "smtp://S3CRET@mx.example",
        "smtp://S3CRET:@mx.example",
        "smtp://ada:S3CRET",
        "smtp://ada:S3CRET@",
        "smtp://ada:S3CRET@mx.example:x",
        "smtp://ada:S3CRET@mx.example:99999",
        "smtp://ada:S3CRET@[::g]",
        "smtp://ada:S3CRET@mx.example?rate=x",
        "smtp://ada:S3CRET@mx.example?x=y",
        "http://ada:S3CRET@mx.example",
        "ada:S3CRET@mx.example",
        "smtp://ada:S3CRET@mx.example smtp://bob:S3CRET@mx.example",
        "smtp://mx, ada:S3CRET@mx.example",
    ],
)
def test_no_password_in_any_message(url: str) -> None:
    with pytest.raises(ValueError, match=r"^OUTBOX_RELAYS: ") as refused:
        parse_endpoints(url)
    assert "S3CRET" not in f"{refused.value}{refused.value.__cause__}"


def test_no_password_in_what_a_log_may_show() -> None:
    assert "S3CRET" not in repr(parse_endpoints("smtp://ada:S3CRET@mx.example"))


@pytest.mark.parametrize(
    "value", ["", "fast", "5", "0/second", "-1/second", "1/second;5/minute", "5/fortnight", 5, None]
)
def test_what_is_no_rate(value: object) -> None:
    with pytest.raises(ValueError, match="14/second"):
        parse_rate(value)


def test_the_port_goes_with_the_kind_of_tls() -> None:
    assert default_port(starttls=False, tls=False) == 25
    assert default_port(starttls=True, tls=False) == 587
    assert default_port(starttls=False, tls=True) == 465
