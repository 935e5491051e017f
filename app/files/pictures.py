"""Whether a file is the picture that it says it is, found out at a bounded cost, before anything of it is kept.

    claimed type and suffix -> read the header (format, pixels) -> is it whole? -> decode every frame

Pillow is asked for four formats and no other of its many decoders. Each step refuses what would make the next one dear:
a few kilobytes can claim to be gigapixels.
"""

import re
import struct
import warnings
import zlib
from collections.abc import Callable
from contextlib import closing
from dataclasses import dataclass
from itertools import count
from pathlib import Path
from threading import BoundedSemaphore

from PIL import Image, UnidentifiedImageError

MOST_PIXELS = 25_000_000
"""Of one picture: 100 MB decoded, with transparency."""

MOST_PIXELS_OF_ALL_FRAMES = 4 * MOST_PIXELS
"""Of an animation: the time to decode it, some seconds."""

MOST_FRAMES = 1_000
"""However small: each costs a millisecond."""

MOST_SCANS = 100
"""Of a progressive JPEG, which has about ten: each goes over all pixels, and a scan of a few bytes costs as much."""

room = BoundedSemaphore(2)
"""Pictures decoded at a time in this process: two dozen uploads of 100 KB each could take 2.4 GB at once."""

# Pillow checks where we cannot: when a later frame of a GIF turns out to be larger than the first. Its warning, which
# comes at the limit (the error at twice that), is an error here. For the whole process, since what `warnings` offers to
# limit it to a block is not safe among threads.
Image.MAX_IMAGE_PIXELS = MOST_PIXELS
warnings.filterwarnings("error", category=Image.DecompressionBombWarning)


class NotAPicture(ValueError):
    """What was uploaded is refused. The message is for whoever did it."""


@dataclass(frozen=True)
class Format:
    """A format that is taken."""

    name: str
    media_type: str
    suffixes: tuple[str, ...]
    """The first is that of its key."""
    is_whole: Callable[[bytes], bool]
    """Whether its end is there. Decoders forgive a missing one, and the last frames with it."""
    claims: tuple[str, ...] = ()
    """Other media types that it goes by."""


def _png_is_whole(data: bytes) -> bool:
    return b"IEND\xaeB`\x82" in data


def _jpeg_is_whole(data: bytes) -> bool:
    # An end marker of an embedded thumbnail does not count; cameras append all kinds of things behind the real one.
    return b"\xff\xd9" in data[max(data.rfind(b"\xff\xda"), 0) :]


def _gif_is_whole(data: bytes) -> bool:
    return data.rstrip(b"\0").endswith(b";")


def _webp_is_whole(data: bytes) -> bool:
    return len(data) >= int.from_bytes(data[4:8], "little") + 8


FORMATS = {
    "PNG": Format("PNG", "image/png", ("png",), _png_is_whole),
    "JPEG": Format("JPEG", "image/jpeg", ("jpg", "jpeg", "jpe", "jfif"), _jpeg_is_whole, ("image/jpg", "image/pjpeg")),
    "GIF": Format("GIF", "image/gif", ("gif",), _gif_is_whole),
    "WEBP": Format("WebP", "image/webp", ("webp",), _webp_is_whole),
}
"""By their names in Pillow."""

ALLOWED = "PNG, JPEG, GIF or WebP"

_NO_CLAIM = {"", "application/octet-stream"}

BROKEN = (
    OSError,  # truncated; UnidentifiedImageError is one, too
    SyntaxError,  # Pillow's for a broken PNG
    ValueError,  # also text or a colour profile that decompresses to too much
    EOFError,
    IndexError,
    KeyError,
    OverflowError,
    RuntimeError,
    TypeError,
    struct.error,
    zlib.error,
)
"""What Pillow's decoders raise for what is no such picture."""


@dataclass(frozen=True)
class Picture:
    """A picture that was found to be one."""

    format: Format
    width: int
    height: int


def check(path: Path, filename: str, claimed_type: str) -> Picture:
    """What the file is. NotAPicture if it is not what its name and its media type say, or not fit to be kept."""
    try:
        # Closed before there is room for the next: `with Image.open` alone would leave it decoded until we return.
        with room, closing(Image.open(path, formats=tuple(FORMATS))) as image:
            # Cameras put a second picture behind the first and call that MPO. The first is a JPEG.
            found = FORMATS["JPEG" if image.format == "MPO" else str(image.format)]
            _check_claims(found, filename, claimed_type)
            _check_size(image)
            _check_bytes(path.read_bytes(), found)
            _decode(image, frames=1 if found is FORMATS["JPEG"] else MOST_FRAMES)
            return Picture(found, image.width, image.height)
    except NotAPicture:
        raise
    except UnidentifiedImageError as error:
        raise NotAPicture(
            f"{_said(filename, claimed_type)} is not a picture that we can read: upload a {ALLOWED}"
        ) from error
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        pixels = re.search(r"(\d+) pixels", str(error))
        raise NotAPicture(_too_large(f"{int(pixels[1]) / 1e6:,.1f} megapixels" if pixels else str(error))) from error
    except MemoryError as error:
        raise NotAPicture("the picture needs too much memory: make it smaller") from error
    except BROKEN as error:
        raise NotAPicture(f"the picture is damaged or incomplete ({error}): save it anew and upload that") from error


def _said(filename: str, claimed_type: str) -> str:
    return f"{filename or 'the file'} ({claimed_type})" if claimed_type else filename or "the file"


def _check_claims(found: Format, filename: str, claimed_type: str) -> None:
    claimed = claimed_type.lower()
    suffix = Path(filename).suffix.lower().removeprefix(".")
    if claimed not in _NO_CLAIM and claimed not in {found.media_type, *found.claims}:
        raise NotAPicture(f"it was sent as {claimed_type}, and is a {found.name} picture ({found.media_type})")
    if suffix and suffix not in found.suffixes:
        raise NotAPicture(f"its name ends in .{suffix}, and it is a {found.name} picture: name it .{found.suffixes[0]}")


def _check_size(image: Image.Image) -> None:
    if image.width * image.height > MOST_PIXELS:
        raise NotAPicture(_too_large(f"{image.width} x {image.height} pixels"))


def _too_large(found: str) -> str:
    return f"the picture is too large ({found}): at most {MOST_PIXELS // 1_000_000} megapixels are taken"


def _check_bytes(data: bytes, found: Format) -> None:
    if not found.is_whole(data):
        raise NotAPicture("the picture is incomplete, its end is missing: upload it again")
    if found is FORMATS["JPEG"] and data.count(b"\xff\xda") > MOST_SCANS:
        raise NotAPicture(f"the picture has more than {MOST_SCANS} scans: save it anew and upload that")


def _decode(image: Image.Image, frames: int) -> None:
    """All of it, one frame at a time; counting them first would cost as much for some formats."""
    pixels = 0
    for number in count():
        if number:
            if number == frames == 1:
                return
            try:
                image.seek(number)
            except EOFError:
                image.seek(0)
                return
        _check_size(image)
        pixels += image.width * image.height
        if number >= frames or pixels > MOST_PIXELS_OF_ALL_FRAMES:
            raise NotAPicture(
                f"the animation is too long: at most {MOST_FRAMES} frames, and "
                f"{MOST_PIXELS_OF_ALL_FRAMES // 1_000_000} megapixels in all of them together, are taken"
            )
        image.load()
