"""Pictures: what is taken, what is refused and leaves nothing, whom they are shown to, and their thumbnails."""

import io
import subprocess
import sys
import threading
import zlib
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa
import time_machine
from PIL import Image
from sqlalchemy.orm import Session
from werkzeug.test import TestResponse

from app.accounts.models import User
from app.files import pictures as checking
from app.files import thumbnails
from app.files.models import Upload
from app.files.storage import SIZES
from app.queues import GENERATE_THUMBNAILS
from tests import pictures
from tests.application import World
from tests.pictures import animation, picture, picture_of_one_colour
from tests.smtp_server import SmtpServer

_JSON = {"Accept": "application/json"}


def _upload(
    world: World, user: User, data: bytes, name: str = "a.png", type_: str | None = None, **headers: str
) -> TestResponse:
    form = {"picture": (io.BytesIO(data), name, type_)}
    return world.client(user).post("/files/", data=form, headers=_JSON | headers)


def _kept(world: World) -> list[Path]:
    return [path for path in world.settings.files_dir.rglob("*") if path.is_file()]


def _rows(world: World) -> list[Upload]:
    with world.session() as session:
        return list(session.scalars(sa.select(Upload)))


def _assert_nothing_is_kept(world: World) -> None:
    assert _kept(world) == []
    assert _rows(world) == []


def test_a_picture_is_kept_listed_served_and_deleted(world: World) -> None:
    ada = world.user("ada")
    for format_ in pictures.TYPES:
        _keep_list_serve_and_delete(world, ada, format_)


def _keep_list_serve_and_delete(world: World, ada: User, format_: str) -> None:
    data = picture(format_)
    answer = _upload(world, ada, data, f"Holiday.{pictures.SUFFIXES[format_].upper()}")
    assert answer.status_code == 201
    assert answer.json is not None
    assert (answer.json["width"], answer.json["height"], answer.json["size"]) == (300, 200, len(data))
    client = world.client(ada)
    assert "Holiday." in client.get("/files/").text
    served = client.get(answer.json["url"], buffered=True)
    assert served.data == data
    assert served.mimetype == pictures.TYPES[format_]
    assert served.headers["X-Content-Type-Options"] == "nosniff"
    assert "sandbox" in served.headers["Content-Security-Policy"]
    assert served.headers["Content-Disposition"].startswith("inline; filename=Holiday.")
    assert world.run(GENERATE_THUMBNAILS, answer.json["id"]) == {"made": 1, "failed": 0}
    assert len(_kept(world)) == 1 + len(SIZES)
    assert client.post(f"{answer.json['url']}/delete").status_code == 303
    _assert_nothing_is_kept(world)


def test_a_form_goes_back_to_the_page(world: World) -> None:
    answer = world.client(world.user()).post("/files/", data={"picture": (io.BytesIO(picture()), "a.png")})
    assert (answer.status_code, answer.location) == (303, "/files/")


def _refused() -> list[tuple[bytes, str, str | None, str]]:
    """A function: every process that only collects tests would make them, too."""
    return [
        (b"", "a.png", None, "not a picture that we can read"),
        (b"GIF89a", "a.gif", None, "not a picture that we can read"),
        (b"<svg xmlns='http://www.w3.org/2000/svg'/>", "a.svg", "image/svg+xml", "PNG, JPEG, GIF or WebP"),
        (picture("TIFF"), "a.tiff", "image/tiff", "not a picture that we can read"),
        (picture("BMP"), "a.png", "image/png", "not a picture that we can read"),
        (picture("PNG"), "a.jpg", "image/jpeg", "sent as image/jpeg, and is a PNG picture (image/png)"),
        (picture("JPEG"), "a.png", "image/jpeg", "ends in .png, and it is a JPEG picture"),
        (picture("GIF"), "a.html", "image/gif", "ends in .html, and it is a GIF picture"),
        (pictures.png(size=(6000, 5000)), "a.png", None, "(30.0 megapixels): at most 25 megapixels"),
        (pictures.png(size=(60000, 50000), pixels=b""), "a.png", None, "at most 25 megapixels"),
        (
            pictures.png(pictures.chunk(b"zTXt", b"Comment\0\0" + zlib.compress(bytes(50_000_000)))),
            "a.png",
            None,
            "damaged or incomplete (Decompressed data too large",
        ),
        (
            pictures.png(pictures.chunk(b"iCCP", b"sRGB\0\0" + zlib.compress(bytes(50_000_000)))),
            "a.png",
            None,
            "Decompressed data too large",
        ),
        (pictures.png(pixels=bytes(3)), "a.png", None, "damaged or incomplete"),
        (pictures.gif_that_grows(), "a.gif", None, "too large"),
        (pictures.jpeg_of_many_scans(200), "a.jpg", None, "more than 100 scans"),
        (animation("GIF", frames=1001, size=(2, 1)), "a.gif", None, "at most 1000 frames"),
        (animation("PNG", frames=1001, size=(2, 1)), "a.png", None, "at most 1000 frames"),
    ]


def test_what_is_refused_says_why_and_leaves_nothing(sqlite_world: World) -> None:
    ada = sqlite_world.user()
    for data, name, type_, says in _refused():
        answer = _upload(sqlite_world, ada, data, name, type_)
        assert answer.status_code == 400
        assert answer.json is not None
        assert says in answer.json["error"]
        _assert_nothing_is_kept(sqlite_world)


@pytest.mark.parametrize("format_", pictures.TYPES)
@pytest.mark.parametrize("animated", [False, True])
def test_every_truncation_is_found(tmp_path: Path, format_: str, animated: bool) -> None:
    data = animation(format_, size=(64, 48)) if animated and format_ != "JPEG" else picture(format_, (64, 48))
    path = tmp_path / "cut"
    for left in [1, *range(13, len(data), max(1, len(data) // 30)), len(data) - 1]:
        path.write_bytes(data[:left])
        with pytest.raises(checking.NotAPicture):
            checking.check(path, f"a.{pictures.SUFFIXES[format_]}", pictures.TYPES[format_])
    path.write_bytes(data)
    assert checking.check(path, "", "").width == 64


_CHECK_AT_ONCE = """
import sys, threading
from pathlib import Path
from app.files.pictures import check
threads = [threading.Thread(target=check, args=(Path(sys.argv[1]), "a.png", "")) for _ in range(8)]
for thread in threads: thread.start()
for thread in threads: thread.join()
status = Path("/proc/self/status").read_text()
print(next(line.split()[1] for line in status.splitlines() if line.startswith("VmHWM")))
"""


def test_the_memory_for_pictures_is_bounded(tmp_path: Path) -> None:
    """However many come at once. A process of its own, but not by its `ru_maxrss`: Linux begins that at the peak of the
    process that started it, here pytest after all its tests before this one."""
    path = tmp_path / "large.png"
    path.write_bytes(picture_of_one_colour(checking.MOST_PIXELS))
    checked = subprocess.run(
        [sys.executable, "-c", _CHECK_AT_ONCE, str(path)], capture_output=True, text=True, check=True
    )
    # Two at a time take 0.3 GB with Python itself; all eight at once take 0.75.
    assert int(checked.stdout) < 600_000, "kilobytes"


def test_a_picture_is_gone_before_there_is_room_for_the_next(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (path := tmp_path / "a.png").write_bytes(picture())
    opened: list[Image.Image] = []
    left: list[str] = []

    class Room:
        def __enter__(self) -> None:
            """There always is."""

        def __exit__(self, *_: object) -> None:
            with pytest.raises(ValueError, match="closed image") as refused:
                opened[-1].getpixel((0, 0))
            left.append(str(refused.value))

    original = Image.open

    def remembered(*args: Any, **kwargs: Any) -> Image.Image:
        opened.append(original(*args, **kwargs))
        return opened[-1]

    monkeypatch.setattr(checking, "room", Room())
    monkeypatch.setattr(Image, "open", remembered)
    checking.check(path, "a.png", "")
    assert len(left) == 1


def test_frames_are_bounded_by_their_pixels(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(checking, "MOST_PIXELS_OF_ALL_FRAMES", 20 * 10 * 5)
    for format_ in ("GIF", "PNG", "WEBP"):
        path = tmp_path / format_
        path.write_bytes(animation(format_, frames=5))
        checking.check(path, "", "")
        path.write_bytes(animation(format_, frames=6))
        with pytest.raises(checking.NotAPicture, match="animation is too long"):
            checking.check(path, "", "")


@pytest.mark.parametrize("extra", [1, 100_000])
def test_too_many_bytes_are_refused_in_a_sentence(sqlite_world: World, extra: int) -> None:
    """More than the picture may have, and more than the request may."""
    object.__setattr__(sqlite_world.settings, "max_upload_bytes", 5_000)
    answer = _upload(sqlite_world, sqlite_world.user(), picture()[:5_000] + bytes(extra))
    assert answer.status_code == 413
    assert answer.json == {"error": "the file is too large: at most 5,000 bytes (0.005 MB) are taken"}
    _assert_nothing_is_kept(sqlite_world)
    page = sqlite_world.client(sqlite_world.user()).post("/files/", data={"picture": (io.BytesIO(bytes(99_000)), "a")})
    assert page.status_code == 413
    assert "the file is too large" in page.text


def test_a_form_without_a_picture_is_told_so(sqlite_world: World) -> None:
    client = sqlite_world.client(sqlite_world.user())
    for form in ({}, {"picture": "text"}, {"picture": (io.BytesIO(b""), "")}):
        answer = client.post("/files/", data=form)
        assert answer.status_code == 400
        assert "choose a PNG, JPEG, GIF or WebP" in answer.text


def test_a_strangers_too_large_upload_asks_for_a_login(sqlite_world: World) -> None:
    sqlite_world.app.config["WTF_CSRF_ENABLED"] = True
    object.__setattr__(sqlite_world.settings, "max_upload_bytes", 5_000)
    answer = sqlite_world.app.test_client().post("/files/", data={"picture": (io.BytesIO(bytes(99_000)), "a.png")})
    assert answer.status_code == 302
    assert "/login" in answer.location


def test_a_name_is_shown_and_never_used(sqlite_world: World) -> None:
    ada = sqlite_world.user()
    client = sqlite_world.client(ada)
    for sent, shown in {
        "../../etc/passwd": "passwd",
        "gnp.\u202egif.png": "gnp.gif.png",
        "Füße 猫.png": "Füße 猫.png",
        "x" * 500 + ".png": "x" * 196 + ".png",
        "<script>.png": "<script>.png",
    }.items():
        answer = _upload(sqlite_world, ada, picture(), sent)
        assert answer.json is not None
        assert answer.json["filename"] == shown
        assert client.get(answer.json["url"], buffered=True).status_code == 200
    assert {path.parent for path in _kept(sqlite_world)} == {sqlite_world.settings.files_dir / "uploads"}
    assert {len(path.stem) for path in _kept(sqlite_world) if path.stem.isalnum()} == {32}
    assert "<script>.png" not in client.get("/files/").text


def test_others_pictures_are_not_there(world: World) -> None:
    ada, bob, root = world.user("ada"), world.user("bob"), world.admin()
    answer = _upload(world, ada, picture())
    assert answer.json is not None
    url = answer.json["url"]
    world.run(GENERATE_THUMBNAILS)
    for user in (bob, root):
        client = world.client(user)
        assert [client.get(f"{url}{path}").status_code for path in ("", "/thumbnail/64")] == [404, 404]
        assert client.post(f"{url}/delete").status_code == 404
        assert "a.png" not in client.get("/files/").text
    assert world.client().get(url).status_code == 302
    assert world.client().post("/files/").status_code == 302
    assert world.client(ada).get(f"{url}/thumbnail/64", buffered=True).status_code == 200
    for path in ("/files/0", f"/files/{2**63}", "/files/1e9", f"{url}/thumbnail/65", f"/files/{2**63 - 1}"):
        assert world.client(ada).get(path).status_code == 404


def test_a_commit_that_fails_leaves_no_file(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    ada = world.user()

    def fail(_: Session) -> None:
        raise sa.exc.OperationalError("COMMIT", {}, Exception("the database is away"))

    sa.event.listen(Session, "before_commit", fail)
    try:
        assert _upload(world, ada, picture()).status_code == 503
    finally:
        sa.event.remove(Session, "before_commit", fail)
    _assert_nothing_is_kept(world)


def test_without_a_broker_the_upload_stands(sqlite_url: str, smtp: SmtpServer, tmp_path: Path) -> None:
    away = "redis://127.0.0.1:1/0"
    world = World(smtp, database_url=sqlite_url, redis_url=away, files_dir=tmp_path / "files")
    ada = world.user()
    assert _upload(world, ada, picture()).status_code == 201
    page = world.client(ada).get("/files/")
    assert "preview is being made" in page.text
    assert page.headers["Refresh"] == "2"
    with time_machine.travel(datetime.now(UTC) + timedelta(minutes=2), tick=False):  # it waits for the hourly run
        assert "Refresh" not in world.client(ada).get("/files/").headers
    world.close()


def test_a_long_list_goes_on(sqlite_world: World) -> None:
    ada = sqlite_world.user()
    columns = {"media_type": "image/png", "size": 1, "width": 1, "height": 1, "user_id": ada.id}
    sqlite_world.add(*(Upload(key=f"{n:032x}.png", filename=f"number {n}!", **columns) for n in range(30)))
    client = sqlite_world.client(ada)
    first = client.get("/files/").text
    assert "number 29!" in first
    assert "number 5!" not in first
    assert "/files/?before=7" in first
    second = client.get("/files/?before=7").text
    assert "number 5!" in second
    assert "number 6!" not in second


def test_thumbnails_fit_stand_upright_and_tell_nothing(world: World) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6  # held upright: to be turned by 90 degrees
    exif.get_ifd(0x8825)[1] = "N"  # GPS
    exif[0x010F] = "Camera maker"
    ada = world.user()
    answer = _upload(world, ada, picture("JPEG", (1500, 600), exif=exif), "a.jpg")
    assert answer.json is not None
    assert world.run(GENERATE_THUMBNAILS, answer.json["id"]) == {"made": 1, "failed": 0}
    for size, expected in ((64, (26, 64)), (256, (102, 256)), (1024, (410, 1024))):
        served = world.client(ada).get(f"{answer.json['url']}/thumbnail/{size}", buffered=True)
        assert served.mimetype == "image/webp"
        with Image.open(io.BytesIO(served.data)) as made:
            assert made.size == expected
            assert not made.getexif()
            assert made.info.keys() <= {"loop", "background", "timestamp", "duration"}
        assert b"Camera" not in served.data
    # A second run finds nothing to do.
    assert (
        world.run(GENERATE_THUMBNAILS, answer.json["id"])
        == world.run(GENERATE_THUMBNAILS)
        == {
            "made": 0,
            "failed": 0,
        }
    )


def test_thumbnails_of_every_kind_of_png(sqlite_world: World) -> None:
    ada = sqlite_world.user()
    modes = ("1", "L", "LA", "I;16", "P", "RGB", "RGBA")
    for mode in modes:
        file = io.BytesIO()
        Image.new(mode, (40, 20), 40_000 if mode == "I;16" else 0).save(file, "PNG")
        _upload(sqlite_world, ada, file.getvalue())
    assert sqlite_world.run(GENERATE_THUMBNAILS) == {"made": len(modes), "failed": 0}
    for path in _kept(sqlite_world):
        with Image.open(path) as made:
            assert made.size == (40, 20)  # never enlarged
            if path.suffix == ".webp":
                assert max(made.convert("L").tobytes()) < 170  # 16 bits of grey are not white


def test_what_fails_fails_once_and_keeps_nobody_back(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(thumbnails, "BATCH", 2)
    ada = world.user()
    for _ in range(5):
        _upload(world, ada, picture())
    first, second, *_ = _rows(world)
    uploads = world.settings.files_dir / "uploads"
    (uploads / first.key).unlink()
    (uploads / second.key).write_bytes(b"no picture")
    assert world.run(GENERATE_THUMBNAILS) == {"made": 3, "failed": 2}
    page = world.client(ada).get("/files/").text
    assert "No preview: the picture is gone." in page
    assert "No preview: the picture cannot be read" in page
    assert world.run(GENERATE_THUMBNAILS) == {"made": 0, "failed": 0}


def test_a_full_disk_is_tried_again(sqlite_world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    _upload(sqlite_world, sqlite_world.user(), picture())
    # Somebody put a file where the folder should be.
    folder = sqlite_world.settings.files_dir / "thumbnails"
    folder.write_bytes(b"")
    assert sqlite_world.run(GENERATE_THUMBNAILS) == {"made": 0, "failed": 1}
    folder.unlink()
    assert sqlite_world.run(GENERATE_THUMBNAILS) == {"made": 1, "failed": 0}
    assert not any((sqlite_world.settings.files_dir / "tmp").iterdir())


def test_thumbnails_of_what_is_deleted_meanwhile_are_not_left(
    sqlite_world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    ada = sqlite_world.user()
    answer = _upload(sqlite_world, ada, picture())
    assert answer.json is not None
    url, make = answer.json["url"], thumbnails.make

    def slowly(*arguments: Any) -> None:
        make(*arguments)
        assert sqlite_world.client(ada).post(f"{url}/delete").status_code == 303
        (sqlite_world.settings.files_dir / "thumbnails" / f"{Path(arguments[1]).stem}-64.webp").write_bytes(b"late")

    monkeypatch.setattr(thumbnails, "make", slowly)
    sqlite_world.run(GENERATE_THUMBNAILS)
    _assert_nothing_is_kept(sqlite_world)


def test_two_runs_at_once_make_the_same(sqlite_world: World) -> None:
    for _ in range(3):
        _upload(sqlite_world, sqlite_world.user(), picture())
    sessions = sqlite_world.app.extensions["sessions"]
    now = _rows(sqlite_world)[0].created_at
    runs = [threading.Thread(target=thumbnails.generate, args=(sessions, sqlite_world.settings, now)) for _ in range(2)]
    for run in runs:
        run.start()
    for run in runs:
        run.join()
    assert all(row.thumbnails_at for row in _rows(sqlite_world))
    assert len(_kept(sqlite_world)) == 3 * (1 + len(SIZES))
