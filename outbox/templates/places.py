"""Where templates are: folders, or folders in a Python package. Nothing outside of them can be read through here."""

import re
from collections.abc import Mapping, Sequence
from functools import lru_cache
from gettext import NullTranslations
from importlib.abc import Traversable
from importlib.resources import files
from pathlib import Path

from babel.support import Translations

from outbox.errors import SettingsError
from outbox.templates.wording import ladder, read_catalog

_PACKAGE = re.compile(r"(?P<package>[A-Za-z_][\w.]+):(?P<folder>.+)")
"""Two letters and more before the colon: one is a drive of Windows."""

_VARIANT = re.compile(r"(?P<stem>[^.]+)\.(?P<locale>[A-Za-z]{2,3}(?:[-_][A-Za-z0-9]+)*)\.(?P<kind>\w+)")

_TRANSLATIONS = "_translations"


_REMEMBERED = 1000
"""Folders and locales: a template may make up names of folders, and a stranger names such as de-DE-abcde of locales."""


class Places:
    """Several places as one; the first that has a file wins."""

    def __init__(self, places: Sequence[str]) -> None:
        self._names = places
        self._variants = lru_cache(_REMEMBERED)(self._list_variants)
        self.translations = lru_cache(_REMEMBERED)(self._read_translations)

    def templates(self) -> dict[str, str]:
        """Name -> the place it is in. What begins with `_` holds layouts, includes and translations."""
        found: dict[str, str] = {}
        for place in self._names:
            for entry in _folder(place).iterdir():
                if entry.is_dir() and not entry.name.startswith(("_", ".")):
                    found.setdefault(entry.name, place)
        return found

    def find(self, name: str, locale: str | None = None, place: str | None = None) -> tuple[str, str] | None:
        """The variant of `name` nearest to the locale: its name, and the step of the ladder at which it was found."""
        folder, _, file = name.rpartition("/")
        stem, _, kind = file.rpartition(".")
        for within in [place] if place else self._names:
            variants = self._variants(within, folder)
            for step in (*ladder(locale), ""):
                if (stem, step, kind) in variants:
                    return f"{folder}/{variants[stem, step, kind]}".lstrip("/"), step
        return None

    def locales(self, folder: str, place: str) -> list[str]:
        """Those that some file of a folder has a variant for, in lower case."""
        return sorted({step for _, step, _ in self._variants(place, folder) if step})

    def read(self, name: str) -> tuple[str, str] | None:
        """The text of a file and where it is, or None if no place has it. Raises UnicodeDecodeError."""
        for within in self._names if is_inside(name) else ():
            found = _folder(within).joinpath(*name.split("/"))
            if found.is_file() and _stays(found, within):
                return found.read_text(encoding="utf-8"), str(found)
        return None

    def _list_variants(self, place: str, folder: str) -> Mapping[tuple[str, str, str], str]:
        """(stem, step of the ladder, kind) -> file name."""
        at = _folder(place).joinpath(*filter(None, folder.split("/"))) if is_inside(folder or "x") else None
        variants = {}
        for entry in at.iterdir() if at is not None and at.is_dir() else ():
            match = _VARIANT.fullmatch(entry.name)
            stem, _, kind = entry.name.rpartition(".")
            key = (match["stem"], ladder(match["locale"])[0], match["kind"]) if match else (stem, "", kind)
            variants[key] = entry.name
        return variants

    def _read_translations(self, locale: str | None) -> NullTranslations:
        """The catalogs of `_translations/<locale>/LC_MESSAGES/messages.po`: each falls back on the next."""
        translations = NullTranslations()
        for step in reversed(ladder(locale)):
            for place in reversed(self._names):
                folder = _folder(place).joinpath(_TRANSLATIONS)
                for entry in folder.iterdir() if folder.is_dir() else ():
                    po = entry.joinpath("LC_MESSAGES").joinpath("messages.po")
                    if ladder(entry.name)[0] == step and po.is_file() and _stays(po, place):
                        catalog = _catalog(po)
                        catalog.add_fallback(translations)
                        translations = catalog
        return translations


def is_inside(name: str) -> bool:
    """A plain relative path with `/` between its parts, on whatever system."""
    return all(part not in ("", ".", "..") and "\\" not in part and ":" not in part for part in name.split("/")) and (
        name.isprintable()
    )


def _folder(place: str) -> Traversable:
    match = _PACKAGE.fullmatch(place)
    try:
        folder = files(match["package"]).joinpath(*match["folder"].split("/")) if match else Path(place)
    except ModuleNotFoundError as error:
        raise SettingsError(f"OUTBOX_TEMPLATES={place}: {error}; install it, or take it off the list") from error
    if not folder.is_dir():
        raise SettingsError(
            f"OUTBOX_TEMPLATES={place}: there is no such folder; make it, or name the one that your templates are in"
        )
    return folder


def _stays(found: Traversable, place: str) -> bool:
    """No link leads out of the place. What is in an archive cannot be a link."""
    root = _folder(place)
    return not isinstance(found, Path) or not isinstance(root, Path) or found.resolve().is_relative_to(root.resolve())


def _catalog(po: Traversable) -> Translations:
    try:
        return read_catalog(po.read_bytes())
    except Exception as error:  # Babel's reader raises whatever it stumbles over
        raise SettingsError(f"{po}: not a catalog of translations ({error})") from error
