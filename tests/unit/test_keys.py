"""The keys that the embedded start makes, and keeps."""

import stat
from pathlib import Path

import pytest
from cryptography.fernet import Fernet

from embedded.errors import StartError
from embedded.keys import recall_keys

NAMES = {"ADMIN_PASSWORD", "FLOWER_BASIC_AUTH", "SECRET_KEY", "OUTBOX_SIGNING_KEYS", "OUTBOX_ENCRYPTION_KEYS"}


def test_they_are_made_once_and_for_their_owner_alone(tmp_path: Path) -> None:
    memory = tmp_path / "keys.json"
    made = recall_keys({}, memory)
    assert set(made) == NAMES
    assert len(set(made.values())) == len(NAMES)
    Fernet(made["OUTBOX_ENCRYPTION_KEYS"])
    assert len(made["OUTBOX_SIGNING_KEYS"]) >= 32
    assert stat.S_IMODE(memory.stat().st_mode) == 0o600
    assert recall_keys({}, memory) == made


def test_what_the_environment_has_is_not_made_and_what_is_new_is_added(tmp_path: Path) -> None:
    memory = tmp_path / "keys.json"
    first = recall_keys({"OUTBOX_ENCRYPTION_KEYS": "mine", "SECRET_KEY": ""}, memory)
    assert set(first) == NAMES - {"OUTBOX_ENCRYPTION_KEYS"}
    second = recall_keys({}, memory)
    assert second.items() >= first.items()
    assert set(second) == NAMES
    assert list(tmp_path.iterdir()) == [memory]


@pytest.mark.parametrize("content", ["", "[]", '{"SECRET_KEY": 1}', "\x00"])
def test_a_file_that_makes_no_sense_is_not_written_over(tmp_path: Path, content: str) -> None:
    memory = tmp_path / "keys.json"
    memory.write_text(content)
    with pytest.raises(StartError, match="restore it, or remove it and lose what it opens"):
        recall_keys({}, memory)
    assert memory.read_text() == content
