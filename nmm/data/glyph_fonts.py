"""Which characters the fonts that matplotlib installs can draw, and their masks.

Shape legend: h, w sides of the ink of a glyph in pixels.

A font is believed only where its own name for a glyph says the same character as its character map: TeX's fonts put an
arrow where "%" should be, and a font of placeholders has one box for thousands of characters. What has no Unicode name,
no ink or no shape of its own (control and format characters, spaces) is left out.
"""

from __future__ import annotations

import hashlib
import logging
import unicodedata
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import lru_cache
from importlib.util import find_spec
from pathlib import Path
from typing import Any, NamedTuple

from fontTools import agl
from fontTools.ttLib import TTFont
from PIL import Image, ImageDraw, ImageFont, features

KEPT_PIXELS = 1 << 26  # of masks in memory, a byte each
_PLAIN_STYLES = ("regular", "book", "roman", "normal")


@dataclass(frozen=True)
class Font:
    """One font file. ``title`` is its name in words, lower case; ``codes`` are the characters it can draw, sorted."""

    path: Path
    title: str
    sha256: str
    codes: tuple[int, ...]


class Character(NamedTuple):
    """A character, its Unicode name in lower case, and the places of its fonts in the catalogue."""

    code: int
    name: str
    fonts: tuple[int, ...]


@dataclass(frozen=True)
class Catalogue:
    """All fonts that can draw something, and all characters that some font can draw, by code point.

    ``left_out``: file name of a font -> why none of its glyphs is used.
    """

    fonts: tuple[Font, ...]
    characters: tuple[Character, ...]
    left_out: Mapping[str, str]

    def record(self) -> dict[str, Any]:
        """What decides the pictures and the texts, as JSON: files with digests, versions of what draws and names."""
        return {
            "fonts": [
                {"file": font.path.name, "title": font.title, "sha256": font.sha256, "glyphs": len(font.codes)}
                for font in self.fonts
            ],
            "left_out": dict(self.left_out),
            "characters": len(self.characters),
            "glyphs": sum(len(font.codes) for font in self.fonts),
            "unicode": unicodedata.unidata_version,
            "freetype": features.version("freetype2"),
        }


def matplotlib_fonts() -> Path:
    """The folder of TrueType fonts of the installed matplotlib, which is not imported for it.

    Raises ValueError if there is none.
    """
    spec = find_spec("matplotlib")
    if spec is None or spec.origin is None:
        raise ValueError(
            "data=glyphs draws with the fonts of matplotlib, which is not installed: pip install matplotlib"
        )
    folder = Path(spec.origin).parent / "mpl-data" / "fonts" / "ttf"
    if not folder.is_dir():
        raise ValueError(f"data=glyphs draws with the fonts of matplotlib, but {folder} is missing: install it again")
    return folder


@lru_cache(maxsize=2)
def read_catalogue(folder: Path) -> Catalogue:
    """Look through every ``*.ttf`` of a folder, once in a process. Raises ValueError if nothing can be drawn."""
    fonts, left_out = [], {}
    for path in sorted(folder.glob("*.ttf")):
        font = _read_font(path)
        if font.codes:
            fonts.append(font)
        else:
            left_out[path.name] = "no named character whose glyph is known by that name"
    drawn_by: dict[int, list[int]] = {}
    for place, font in enumerate(fonts):
        for code in font.codes:
            drawn_by.setdefault(code, []).append(place)
    if not drawn_by:
        raise ValueError(f"{folder} holds no TrueType font with a glyph that can be used")
    characters = (
        Character(code, unicodedata.name(chr(code)).lower(), tuple(drawn_by[code])) for code in sorted(drawn_by)
    )
    return Catalogue(tuple(fonts), tuple(characters), left_out)


def _read_font(path: Path) -> Font:
    logging.getLogger("fontTools.ttLib.tables._h_e_a_d").setLevel(logging.ERROR)  # dates of TeX's fonts
    with TTFont(path, lazy=True) as font:
        codes = tuple(sorted(_drawable(font)))
        family, style = ((font["name"].getDebugName(number) or "").lower() for number in (1, 2))
    title = family if style in (*_PLAIN_STYLES, family) else f"{family} {style}"
    return Font(path, title, hashlib.sha256(path.read_bytes()).hexdigest(), codes)


def _drawable(font: TTFont) -> Iterator[int]:
    """Characters that have a Unicode name, ink, and a glyph that is called after them."""
    glyph_of = font.getBestCmap() or {}
    meaning = {name: _folded(agl.toUnicode(name)) for name in set(glyph_of.values())}
    if not any(meaning.values()):
        return
    offsets = font["loca"]
    for code, name in glyph_of.items():
        character = chr(code)
        if not unicodedata.name(character, "") or unicodedata.category(character)[0] in "CZ":
            continue
        glyph = font.getGlyphID(name)
        has_ink = offsets[glyph + 1] > offsets[glyph]
        if has_ink and meaning[name] == _folded(character):
            yield code


def _folded(text: str) -> str:
    return unicodedata.normalize("NFKC", text)


class Pen:
    """Draws masks of ``em`` pixels an em; other sizes are resized from them. A font is opened when first used."""

    def __init__(self, fonts: tuple[Font, ...], em: int) -> None:
        self.em = em
        self._fonts = fonts
        self._opened: dict[int, ImageFont.FreeTypeFont] = {}
        self._masks: dict[tuple[int, int], Image.Image] = {}
        self._kept = 0

    def mask(self, code: int, font: int) -> Image.Image:
        """The ink of a character as a grey picture (h, w), 255 where it covers, with no margin."""
        if (code, font) not in self._masks:
            if self._kept > KEPT_PIXELS:
                self._masks.clear()
                self._kept = 0
            mask = self._masks[code, font] = _ink(chr(code), self._font(font))
            self._kept += mask.width * mask.height
        return self._masks[code, font]

    def _font(self, font: int) -> ImageFont.FreeTypeFont:
        if font not in self._opened:
            path = str(self._fonts[font].path)
            self._opened[font] = ImageFont.truetype(path, self.em, layout_engine=ImageFont.Layout.BASIC)
        return self._opened[font]


def _ink(character: str, font: ImageFont.FreeTypeFont) -> Image.Image:
    left, top, right, bottom = (round(side) for side in font.getbbox(character))
    canvas = Image.new("L", (right - left + 2, bottom - top + 2))
    ImageDraw.Draw(canvas).text((1 - left, 1 - top), character, fill=255, font=font)
    return canvas.crop(canvas.getbbox())
