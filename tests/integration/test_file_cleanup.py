"""What is cleaned up, at which age, and that nothing else is, whatever somebody put there."""

import os
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
import sqlalchemy as sa

from app.exports.models import Export
from app.files import cleanup
from app.files.models import Upload
from app.queues import CLEANUP_FILES
from tests.application import World

_NOTHING = {"temporary_files": 0, "orphaned_uploads": 0, "exports": 0, "bytes": 0}

NOW = datetime.now(UTC)
OLD = NOW - timedelta(days=91)


def _file(world: World, path: str, days: float, data: bytes = b"12345") -> Path:
    made = world.settings.files_dir / path
    made.parent.mkdir(parents=True, exist_ok=True)
    made.write_bytes(data)
    _age(made, days)
    return made


def _age(path: Path, days: float) -> None:
    then = (NOW - timedelta(days=days)).timestamp()
    os.utime(path, (then, then), follow_symlinks=False)


def _upload(user_id: int | None, number: int, days: float) -> Upload:
    return Upload(
        user_id=user_id,
        key=f"{number:032x}.png",
        filename="a.png",
        media_type="image/png",
        size=5,
        width=1,
        height=1,
        created_at=NOW - timedelta(days=days),
    )


def _clean_up(world: World) -> dict[str, int]:
    return cleanup.clean_up(world.app.extensions["sessions"], world.settings, NOW)


def test_nothing_was_ever_uploaded(world: World) -> None:
    assert world.run(CLEANUP_FILES) == _NOTHING


def test_each_goes_at_its_age_and_is_counted(world: World) -> None:
    ada = world.user()
    world.add(_upload(ada.id, 1, 200), _upload(None, 2, 91), _upload(None, 3, 89))
    stays = [
        _file(world, "tmp/young", 0.9),
        _file(world, f"uploads/{1:032x}.png", 200),
        _file(world, f"thumbnails/{1:032x}-64.webp", 200),
        _file(world, f"uploads/{3:032x}.png", 89),
        _file(world, f"uploads/{4:032x}.png", 89),
        _file(world, f"thumbnails/{4:032x}-64.webp", 89),
    ]
    _file(world, "tmp/old", 1.1)
    _file(world, f"uploads/{2:032x}.png", 91, b"1" * 100)
    _file(world, f"thumbnails/{2:032x}-256.webp", 91, b"1" * 10)
    _file(world, f"uploads/{5:032x}.jpg", 91, b"1" * 1000)
    _file(world, f"thumbnails/{5:032x}-64.webp", 1)  # goes with its picture
    _file(world, f"thumbnails/{6:032x}-64.webp", 91)
    _file(world, "uploads/Übung \udcff.png", 91)  # bytes that are no text
    expected = {"temporary_files": 1, "orphaned_uploads": 3, "exports": 0, "bytes": 5 + 110 + 1005 + 5 + 5}
    assert world.run(CLEANUP_FILES) == expected
    assert sorted(path for path in world.settings.files_dir.rglob("*") if path.is_file()) == sorted(stays)
    with world.session() as session:
        assert set(session.scalars(sa.select(Upload.key))) == {f"{n:032x}.png" for n in (1, 3)}
    assert world.run(CLEANUP_FILES) == _NOTHING


def test_exports_are_wiped_after_a_day(world: World) -> None:
    root = world.admin()
    yesterday, today = NOW - timedelta(days=1.1), NOW - timedelta(days=0.9)
    world.add(
        Export(id="old", user_id=root.id, created_at=yesterday, finished_at=yesterday, csv=b"12345"),
        Export(id="new", user_id=root.id, created_at=yesterday, finished_at=today, csv=b"123"),
        Export(id="lost", user_id=root.id, created_at=yesterday),
        Export(id="waiting", user_id=root.id, created_at=today),
    )
    assert world.run(CLEANUP_FILES) == _NOTHING | {"exports": 1, "bytes": 5}
    with world.session() as session:
        found = {row.id: row for row in session.scalars(sa.select(Export).options(sa.orm.undefer(Export.csv)))}
    assert found["old"].csv is None
    assert found["new"].csv == b"123"
    assert "never made" in str(found["lost"].error)
    assert found["waiting"].finished_at is None
    assert world.run(CLEANUP_FILES) == _NOTHING


@pytest.fixture
def outside(tmp_path: Path) -> Path:
    """A file that nobody may touch."""
    folder = tmp_path / "outside"
    folder.mkdir()
    path = folder / "precious"
    path.write_bytes(b"precious")
    _age(path, 365)
    return path


def test_nothing_outside_is_touched(world: World, outside: Path) -> None:
    """Links to files and folders, hard links, folders, pipes, and keys that are paths."""
    root = world.settings.files_dir
    for folder in ("tmp", "uploads", "thumbnails"):
        (root / folder / "folder").mkdir(parents=True)
        links = [root / folder / "link", root / folder / "folder-link", root / folder / "dangling"]
        for link, target in zip(links, [outside, outside.parent, root / "nowhere"], strict=True):
            link.symlink_to(target)
        os.mkfifo(root / folder / "pipe")
        (root / folder / "folder" / "inside").write_bytes(b"1")
        for path in (root / folder).iterdir():
            _age(path, 365)
        _age(root / folder / "folder" / "inside", 365)
    os.link(outside, root / "tmp" / "hard-link")
    hostile = (
        "../../outside/precious",
        "../tmp/link",
        str(outside),
        "..",
        ".",
        "",
        "nul\0" if _is_sqlite(world) else "/",
    )
    for number, key in enumerate(hostile):
        row = _upload(None, number, 365)
        row.key = key
        world.add(row)
    found = _clean_up(world)
    assert found["temporary_files"] == 1  # the hard link: the name was ours, the bytes are not
    assert found["bytes"] == 0
    assert outside.read_bytes() == b"precious"
    assert {path.name for path in (root / "tmp").iterdir()} == {"folder", "link", "folder-link", "dangling", "pipe"}
    assert (root / "uploads" / "folder" / "inside").exists()
    assert _clean_up(world) == _NOTHING


@pytest.mark.parametrize("folder", ["tmp", "uploads", "thumbnails"])
def test_a_folder_that_is_a_link_is_left_alone(
    sqlite_world: World, outside: Path, folder: str, caplog: pytest.LogCaptureFixture
) -> None:
    sqlite_world.settings.files_dir.mkdir()
    (sqlite_world.settings.files_dir / folder).symlink_to(outside.parent)
    sqlite_world.add(_upload(None, 1, 365))
    target = outside.parent / f"{1:032x}.png"
    target.write_bytes(b"not ours")
    assert _clean_up(sqlite_world)["bytes"] == 0
    assert outside.exists()
    assert target.exists()
    assert "must be a folder, and no link" in caplog.text


def test_the_whole_place_may_be_a_link(sqlite_world: World, tmp_path: Path) -> None:
    """The operator's, to another disk."""
    (tmp_path / "disk").mkdir()
    sqlite_world.settings.files_dir.symlink_to(tmp_path / "disk")
    _file(sqlite_world, "tmp/old", 2)
    assert _clean_up(sqlite_world) == _NOTHING | {"temporary_files": 1, "bytes": 5}


@pytest.mark.parametrize("becomes", ["nothing", "link", "folder"])
def test_what_changes_after_it_was_looked_at(sqlite_world: World, outside: Path, becomes: str) -> None:
    """Between the look and the removal: at worst the name goes, never what it points to."""
    path, unlink = _file(sqlite_world, "tmp/old", 2), os.unlink

    def swap(name: str, *, dir_fd: int | None = None) -> None:
        patch.undo()
        path.unlink()
        if becomes == "link":
            path.symlink_to(outside)
        elif becomes == "folder":
            path.mkdir()
        unlink(name, dir_fd=dir_fd)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "unlink", swap)
        found = _clean_up(sqlite_world)
    assert found["temporary_files"] == (becomes == "link")
    assert outside.read_bytes() == b"precious"


def test_many_files_need_few_queries(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    ada = world.user()
    world.add(*(_upload(ada.id, number, 200) for number in range(300)))
    for number in range(300):
        _file(world, f"uploads/{number:032x}.png", 200)
        _file(world, f"thumbnails/{number:032x}-64.webp", 200)
        _file(world, f"uploads/{number:032x}.gif", 200)
    statements: list[str] = []
    sa.event.listen(world.engine, "before_cursor_execute", lambda *event: statements.append(event[2]))
    monkeypatch.setattr(cleanup, "BATCH", 200)
    assert _clean_up(world)["orphaned_uploads"] == 300
    assert len(statements) < 15


def _is_sqlite(world: World) -> bool:
    return world.engine.dialect.name == "sqlite"
