"""What is sealed opens with any of the keys, and with nothing else."""

import base64
import json
import os
from typing import Any

import pytest
from cryptography.fernet import Fernet

from outbox.errors import KeyMissing, SettingsError
from outbox.sealing import Safe, lock, new_key, unlock
from outbox.settings import Settings

OLD, NEW, OTHER = (Fernet.generate_key().decode() for _ in range(3))
SAID: dict[str, Any] = {
    "subject": "Your code",
    "text": "123456 \u2603",
    "html": None,
    "headers": {"X-Code": "123456"},
    "files": [],
    "files_key": new_key(),
}


def test_what_is_sealed_opens_with_its_key_and_shows_nothing() -> None:
    sealed = Safe([NEW]).seal(SAID)
    assert Safe([NEW]).open(sealed) == SAID
    assert Safe([OTHER, NEW]).open(sealed) == SAID
    assert b"123456" not in sealed
    assert b"123456" not in base64.urlsafe_b64decode(sealed)
    assert Safe([NEW]).seal(SAID) != sealed, "the same text twice cannot be told from two texts"


@pytest.mark.parametrize("spoil", [lambda sealed: sealed[:-8], lambda sealed: b"", lambda sealed: sealed[:-3] + b"AA="])
def test_what_was_tampered_with_does_not_open(spoil: Any) -> None:
    with pytest.raises(KeyMissing):
        Safe([NEW]).open(spoil(Safe([NEW]).seal(SAID)))


def test_without_its_key_it_says_which_setting() -> None:
    with pytest.raises(KeyMissing, match=r"^encrypted with a key that is not in OUTBOX_ENCRYPTION_KEYS$") as caught:
        Safe([OTHER]).open(Safe([NEW]).seal(SAID))
    assert caught.value.__suppress_context__


@pytest.mark.parametrize("said", [b"canary", b'"canary"', b'{"subject": "canary"}', b"\xff canary"])
def test_what_makes_no_sense_is_not_repeated(said: bytes) -> None:
    with pytest.raises(ValueError, match="not the text of a mail") as caught:
        Safe([NEW]).open(Fernet(NEW).encrypt(said))
    assert (caught.value.__cause__, caught.value.__context__) == (None, None)


def test_rotating_brings_it_to_the_first_key() -> None:
    sealed = Safe([OLD]).seal(SAID)
    rotated = Safe([NEW, OLD]).rotate(sealed)
    assert Safe([NEW]).open(rotated) == SAID
    assert Safe([NEW, OLD]).rotate(rotated) == rotated, "nothing to do"
    with pytest.raises(KeyMissing):
        Safe([OTHER]).rotate(sealed)


def test_fingerprints_are_of_the_payload_and_of_the_key() -> None:
    first, second = Safe([NEW, OLD]).fingerprints(b"payload")
    assert (first,) == Safe([NEW]).fingerprints(b"payload")
    assert (second,) == Safe([OLD]).fingerprints(b"payload")
    assert first != second
    assert Safe([NEW]).fingerprints(b"payloae") != (first,)


def test_files_are_locked_under_a_key_of_their_own() -> None:
    key, data = new_key(), os.urandom(1000)
    assert unlock(lock(data, key), key) == data
    assert lock(data, key) != lock(data, key)
    with pytest.raises(ValueError, match="not locked with the key of its mail"):
        unlock(lock(data, key), new_key())


def test_the_sealed_text_is_json() -> None:
    assert json.loads(Fernet(NEW).decrypt(Safe([NEW]).seal(SAID))) == SAID, "so that another version can read it"


def test_no_key_no_safe() -> None:
    assert Safe.of(Settings.load()) is None
    assert Safe.of(Settings.load(outbox_encryption_keys=f"{NEW}, {OLD}")) is not None


@pytest.mark.parametrize(
    "bad",
    ["hunter2hunter2", f"{NEW},hunter2hunter2", NEW[:-1], f"{NEW}hunter2", "\u2603" * 44],
    ids=["no key", "the second", "too short", "more behind it", "not ASCII"],
)
def test_what_is_no_key_is_named_and_not_shown(monkeypatch: pytest.MonkeyPatch, bad: str) -> None:
    monkeypatch.setenv("OUTBOX_ENCRYPTION_KEYS", bad)
    with pytest.raises(SettingsError) as caught:
        Settings.load()
    said = str(caught.value)
    assert said.startswith("OUTBOX_ENCRYPTION_KEYS=(hidden): number ")
    assert "F.generate_key()" in said
    assert "hunter2" not in said
    assert NEW[:20] not in said
