"""Pictures to upload: sound ones of each kind, and hostile ones, made byte by byte."""

import io
import math
import struct
import zlib
from typing import Any

from PIL import Image

SUFFIXES = {"PNG": "png", "JPEG": "jpg", "GIF": "gif", "WEBP": "webp"}
TYPES = {"PNG": "image/png", "JPEG": "image/jpeg", "GIF": "image/gif", "WEBP": "image/webp"}


def picture(format_: str = "PNG", size: tuple[int, int] = (300, 200), **options: Any) -> bytes:
    """Noise, so that half of its bytes are not the whole picture."""
    file = io.BytesIO()
    noise = Image.effect_noise(size, 80).convert("P" if format_ == "GIF" else "RGB")
    noise.save(file, format_, **options)
    return file.getvalue()


def picture_of_one_colour(pixels: int) -> bytes:
    """A square with transparency: four bytes a pixel when it is decoded, and hardly any before."""
    file = io.BytesIO()
    side = math.isqrt(pixels)
    Image.new("RGBA", (side, side)).save(file, "PNG")
    return file.getvalue()


def animation(format_: str = "GIF", frames: int = 3, size: tuple[int, int] = (20, 10)) -> bytes:
    file = io.BytesIO()
    first, *others = (Image.new("RGB", size, (10 * n % 256, n // 25, 0)) for n in range(frames))
    first.save(file, format_, save_all=True, append_images=others, duration=50)
    return file.getvalue()


def chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def png(*extra: bytes, size: tuple[int, int] = (4, 4), pixels: bytes | None = None) -> bytes:
    """Grey, with further chunks before its pixels."""
    rows = (b"\0" + b"\x7f" * size[0]) * size[1] if pixels is None else pixels
    header = chunk(b"IHDR", struct.pack(">IIBBBBB", *size, 8, 0, 0, 0, 0))
    body = chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + header + b"".join(extra) + body


def gif_that_grows() -> bytes:
    """A screen of 1 x 1, whose second frame is 65,000 x 65,000."""

    def frame(width: int, height: int) -> bytes:
        return b"," + struct.pack("<HHHHB", 0, 0, width, height, 0) + b"\x02\x02\x44\x01\x00"

    head = b"GIF89a" + struct.pack("<HHBBB", 1, 1, 0x80, 0, 0) + b"\0\0\0\xff\xff\xff"
    return head + frame(1, 1) + frame(65000, 65000) + b";"


def jpeg_of_many_scans(scans: int) -> bytes:
    """A progressive JPEG whose last scan is repeated."""
    data = picture("JPEG", (64, 64), progressive=True)
    end = data.rindex(b"\xff\xda")
    return data[:end] + data[end:-2] * scans + data[-2:]
