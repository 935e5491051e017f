"""The bars of a monthly report, as a PNG that reads well on white and on black."""

from collections.abc import Sequence
from functools import cache, lru_cache
from io import BytesIO

from PIL import Image, ImageDraw, ImageFont

WIDTH, HEIGHT = 1068, 448
"""Pixels: twice those of its place in the mail (534 wide), so that it is sharp on dense screens."""

_TOP, _BOTTOM = 70, 360
"""Where 100 % and 0 % are, from above. Beyond them is room for the words."""

_GREY = (127, 131, 140)
_BLUE = (74, 123, 224)
"""Both stand out on white as well as on near black: mail programs show the same picture in both."""

_SHADES = 15
"""Of the grey, from nothing to opaque, for the edges of the letters. With the blue they fill four bits a pixel: a file
of 5 to 9 KB, drawn in a tenth of the time that reducing a picture in full colour takes."""

_WORDS = 48
"""Height of the letters: 24 pixels in the mail, and 13 on a telephone, which shows all of it smaller."""

Bar = tuple[str, int | None]
"""What it is of, and percent; None: nothing to show."""


def draw(bars: Sequence[Bar]) -> bytes:
    """A PNG with a bar for each. The same figures make the same bytes, which the database keeps once."""
    return _draw(tuple(bars))


@lru_cache(maxsize=1000)  # of 100,000 users with a quiz or two, many have the same figures
def _draw(bars: tuple[Bar, ...]) -> bytes:
    image = Image.new("L", (WIDTH, HEIGHT))
    place = WIDTH / len(bars)
    middles = [place * (number + 0.5) for number in range(len(bars))]
    tops = [_BOTTOM - (_BOTTOM - _TOP) * (percent or 0) / 100 for _, percent in bars]
    pen = ImageDraw.Draw(image)
    for (label, percent), middle, top in zip(bars, middles, tops, strict=True):
        _write(pen, middle, top - 12, "-" if percent is None else f"{percent}%", "md")
        _write(pen, middle, _BOTTOM + 18, label, "ma")
    image = image.point(lambda grey: grey * (_SHADES - 1) // 255)
    pen = ImageDraw.Draw(image)
    half = min(place * 0.38, 100)
    for middle, top in zip(middles, tops, strict=True):
        if top < _BOTTOM:
            box = (middle - half, top, middle + half, _BOTTOM)
            pen.rounded_rectangle(box, min(8, (_BOTTOM - top) / 2), _SHADES, corners=(True, True, False, False))
    pen.line((0, _BOTTOM, WIDTH, _BOTTOM), _SHADES - 1, 2)
    return _png(image)


def _write(pen: ImageDraw.ImageDraw, x: float, y: float, words: str, anchor: str) -> None:
    pen.text((x, y), words, 255, _font(), anchor)


@cache
def _font() -> ImageFont.FreeTypeFont | ImageFont.ImageFont:
    """Pillow's own, which no machine lacks. It has ASCII, and no dashes."""
    return ImageFont.load_default(_WORDS)


def _png(image: Image.Image) -> bytes:
    """Of an image whose values are places in our palette."""
    image.putpalette([*_GREY * _SHADES, *_BLUE])
    transparency = bytes(255 * shade // (_SHADES - 1) for shade in range(_SHADES)) + b"\xff"
    file = BytesIO()
    image.save(file, "PNG", bits=4, transparency=transparency)
    return file.getvalue()
