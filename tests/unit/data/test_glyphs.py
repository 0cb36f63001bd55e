"""Glyphs: what may be drawn, what is drawn, and what is said."""

from __future__ import annotations

import unicodedata
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from fontTools.ttLib import TTFont

from nmm.data import glyph_fonts
from nmm.data.glyph_fonts import Catalogue, Pen, matplotlib_fonts, read_catalogue
from nmm.data.glyph_pictures import COLOURS, CONTRAST, LEAST_EM, MOST_INK, SHADES
from nmm.data.glyph_text import CATEGORIES, base_and_marks, facts, other_case, script_of
from nmm.data.glyphs import SOURCES, GlyphConfig, GlyphDocument, Glyphs

CONFIG = GlyphConfig(seed=3)


@pytest.fixture(scope="module")
def catalogue() -> Catalogue:
    return read_catalogue(matplotlib_fonts())


@pytest.fixture(scope="module")
def glyphs(catalogue: Catalogue) -> Glyphs:
    return Glyphs(CONFIG, catalogue)


def same(one: GlyphDocument, two: GlyphDocument) -> bool:
    texts = [document.text for document in (one, two)]
    pictures = [[picture.pixels.tobytes() for picture in document.pictures] for document in (one, two)]
    return texts[0] == texts[1] and pictures[0] == pictures[1]


# -- what may be drawn ------------------------------------------------------------------------------------------------


def test_every_character_has_a_name_a_shape_of_its_own_and_a_font(catalogue: Catalogue) -> None:
    assert len(catalogue.characters) > 5000 and len(catalogue.fonts) > 20
    for character in catalogue.characters:
        assert character.name == unicodedata.name(chr(character.code)).lower()
        assert unicodedata.category(chr(character.code)) in CATEGORIES
        assert character.fonts and all(character.code in catalogue.fonts[place].codes for place in character.fonts[:1])
    codes = [character.code for character in catalogue.characters]
    assert codes == sorted(set(codes))
    assert not {" ", "\u00a0", "\u200d", "\u2800", "\ufe00"} & {chr(code) for code in codes}


def test_fonts_that_lie_or_only_stand_in_are_left_out(catalogue: Catalogue) -> None:
    by_file = {font.path.name: set(font.codes) for font in catalogue.fonts}
    assert "cmex10.ttf" in catalogue.left_out and "STIXNonUni.ttf" in catalogue.left_out
    assert not any(name.startswith("LastResort") for name in by_file)
    assert ord("A") in by_file["cmsy10.ttf"] and ord("!") not in by_file["cmsy10.ttf"]  # there an arrow
    assert ord("<") not in by_file["cmr10.ttf"] and ord("7") in by_file["cmr10.ttf"]


def test_what_pillow_draws_is_the_outline_the_font_has_for_the_character(catalogue: Catalogue) -> None:
    pen = Pen(catalogue.fonts, LEAST_EM)
    for place, font in enumerate(catalogue.fonts):
        with TTFont(font.path, lazy=True) as table:
            outlines, names, em = table["glyf"], table.getBestCmap(), table["head"].unitsPerEm
            for code in font.codes[:: max(1, len(font.codes) // 25)]:
                outline, mask = outlines[names[code]], pen.mask(code, place)
                sides = [(outline.xMax - outline.xMin) * LEAST_EM / em, (outline.yMax - outline.yMin) * LEAST_EM / em]
                assert mask.size == pytest.approx(sides, abs=6), (font.title, hex(code))  # hinting moves edges
                assert mask.getbbox() == (0, 0, *mask.size) and mask.getextrema()[1] > 60


def test_without_fonts_the_error_says_what_is_missing(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="holds no TrueType font"):
        read_catalogue(tmp_path)
    monkeypatch.setattr(glyph_fonts, "find_spec", lambda name: None)
    with pytest.raises(ValueError, match="pip install matplotlib"):
        matplotlib_fonts()


# -- what is drawn and said -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("source", SOURCES)
def test_a_document_is_a_function_of_seed_source_and_index(source: str, catalogue: Catalogue, glyphs: Glyphs) -> None:
    whole = glyphs.documents(source, 0, 40)
    fresh = Glyphs(CONFIG, catalogue)
    parts = [*fresh.documents(source, 25, 15), *fresh.documents(source, 0, 25)]
    parts.sort(key=lambda document: document.index)
    assert all(same(one, two) for one, two in zip(whole, parts, strict=True))
    other = Glyphs(GlyphConfig(seed=4), catalogue).documents(source, 0, 40)
    assert not any(same(one, two) for one, two in zip(whole, other, strict=True))


def test_a_picture_is_what_its_truth_says(glyphs: Glyphs) -> None:
    for document in glyphs.documents("caption", 0, 300):
        (drawn,) = document.pictures
        left, top, width, height = drawn.box
        assert drawn.pixels.shape == (32, 32, 3) and drawn.pixels.dtype == np.uint8
        assert max(width, height) <= round(MOST_INK * 32) and left + width <= 32 and top + height <= 32
        ground = np.array(COLOURS[drawn.ground])
        outside = np.ones((32, 32), bool)
        outside[top : top + height, left : left + width] = False
        assert np.abs(drawn.pixels[outside] - ground).max() <= SHADES
        assert np.ptp(drawn.pixels[outside], axis=0).max() == 0
        inside = drawn.pixels[top : top + height, left : left + width]
        assert np.abs(inside - drawn.pixels[outside][0].astype(int)).max() > CONTRAST / 4
        row, column = (top + height / 2) / 32 * 3, (left + width / 2) / 32 * 3
        assert ("top" in drawn.place, "bottom" in drawn.place) == (row < 1, row >= 2)
        assert ("left" in drawn.place, "right" in drawn.place) == (column < 1, column >= 2)


def test_a_caption_says_the_name_and_nothing_that_is_not_so(glyphs: Glyphs) -> None:
    said = Counter()
    for document in glyphs.documents("caption", 0, 1500):
        (drawn,) = document.pictures
        before, found, after = document.text.partition(drawn.character.name)
        assert found and set(before.split()) <= {drawn.size, drawn.ink}
        for words in after.removeprefix(f" on {drawn.ground}").split(", ")[1:]:
            assert words in (drawn.place, f"in {drawn.font}")
        said.update(before=bool(before), after=bool(after), bare=document.text == found)
    assert min(said.values()) > 100


def test_interleaved_documents_name_their_pictures_in_order(glyphs: Glyphs) -> None:
    openings = Counter()
    for document in glyphs.documents("interleaved", 0, 600):
        names = [picture.character.name for picture in document.pictures]
        assert 2 <= len(names) <= 3 and not isinstance(document.segments[0], str)
        text = document.text
        if text.startswith("which one is "):
            asked, answer = text.removeprefix("which one is ").split("? ", 1)
            asked_for = document.pictures[answer.startswith("the second")]
            assert asked in (asked_for.character.name, asked_for.ink)
        elif "are both" not in text:
            assert names[0] in text
        form = ("1. ", "which one ", "is ", "once ", "and its ")
        openings[next((f for f in form if text.startswith(f)), next((f for f in form if f in text), "both"))] += 1
    assert set(openings) >= {"1. ", "which one ", "is ", "once ", "and its "}
    assert min(count for form, count in openings.items() if form != "both") > 60, openings


def test_characters_are_long_tailed(glyphs: Glyphs) -> None:
    drawn = Counter(d.pictures[0].character.code for d in glyphs.documents("caption", 0, 3000))
    seen_once = sum(count == 1 for count in drawn.values())
    ascii_share = sum(count for code, count in drawn.items() if code < 128) / 3000
    assert 0.2 < ascii_share < 0.4 and len(drawn) > 1000 and 0.1 < seen_once / 3000 < 0.6
    assert max(drawn.values()) > 5


def test_text_speaks_for_itself_and_is_true_of_unicode(glyphs: Glyphs) -> None:
    names = {character.name: character.code for character in glyphs.catalogue.characters}
    for document in glyphs.documents("text", 0, 400):
        assert document.pictures == []
        for sentence in document.text.removesuffix(".").split(". "):
            name, _, said = sentence.partition(": ")
            assert all(clause in facts(names[name]) for clause in _clauses(said, facts(names[name])))


def _clauses(said: str, known: tuple[str, ...]) -> list[str]:
    """The clauses of a sentence; a known clause may hold ", " itself."""
    left = [clause for clause in known if clause in said]
    assert left, said
    rest = said
    for clause in sorted(left, key=len, reverse=True):
        rest = rest.replace(clause, "", 1)
    assert not rest.replace(", ", ""), (said, rest)
    return left


@pytest.mark.parametrize(
    ("character", "expected"),
    [
        ("ά", {"it is a lowercase letter", "its code point is u+03ac", "it belongs to the greek script",
               "it is made of greek small letter alpha and combining acute accent",
               "its capital is greek capital letter alpha with tonos"}),
        ("¾", {"its value is 3/4", "it is a number that is no digit"}),
        ("(", {"it is mirrored where text runs from right to left", "it is an opening punctuation mark"}),
        ("\u0301", {"it stands above its base", "it is a mark that takes no room of its own"}),
        ("₂", {"it is a subscript form of digit two"}),
        ("א", {"it runs from right to left", "it belongs to the hebrew script"}),
    ],
)  # fmt: skip
def test_facts(character: str, expected: set[str]) -> None:
    assert expected <= set(facts(ord(character)))


def test_relations_between_characters() -> None:
    assert base_and_marks("é") == ("e", "\u0301") and base_and_marks("e") == () and base_and_marks("½") == ()
    assert (other_case("é"), other_case("É"), other_case("ß"), other_case("1")) == ("É", "é", "", "")
    assert [script_of(c) for c in ("a", "я", "ᚠ", "1", "𝐀")] == ["latin", "cyrillic", "runic", "", ""]


@pytest.mark.parametrize("values", [{"image_size": 4}, {"head": 0.0}, {"exponent": -1.0}, {"zipf": 1}])
def test_impossible_configs_are_refused(values: dict) -> None:
    with pytest.raises(ValueError, match=next(iter(values))):
        GlyphConfig.from_dict(values)
