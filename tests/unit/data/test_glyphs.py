"""Glyphs: what may be drawn, what is drawn and said, and the tars: standard, repeatable, restartable, indexable."""

from __future__ import annotations

import gzip
import hashlib
import io
import json
import unicodedata
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from fontTools.ttLib import TTFont
from lab import conf
from PIL import Image

from nmm.commands import shards_main
from nmm.config import ConfigError
from nmm.data import glyph_fonts, glyph_shards
from nmm.data.glyph_fonts import MASTER, Catalogue, Pen, matplotlib_fonts, read_catalogue
from nmm.data.glyph_shards import glyphs_for_tokens, write_glyph_shards
from nmm.data.glyph_sheet import glyph_sheet
from nmm.data.glyph_text import CATEGORIES, base_and_marks, facts, other_case, script_of
from nmm.data.glyphs import COLOURS, CONTRAST, MOST_INK, SHADES, SOURCES, GlyphConfig, GlyphDocument, Glyphs
from nmm.data.opening import open_data, row_source
from nmm.data.tar import group_samples, open_bytes, walk_tar
from nmm.data.tokenizer import open_tokenizer
from nmm.groups import Data

CONFIG = GlyphConfig(seed=3)
SAMPLES = {"caption": 45, "interleaved": 25, "text": 30}


@pytest.fixture(scope="module")
def catalogue() -> Catalogue:
    return read_catalogue(matplotlib_fonts())


@pytest.fixture(scope="module")
def glyphs(catalogue: Catalogue) -> Glyphs:
    return Glyphs(CONFIG, catalogue)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write(tmp_path_factory.mktemp("glyphs") / "out")


def write(out: Path, **changes: object) -> Path:
    options: dict = {"config": CONFIG, "samples": SAMPLES, "shard_samples": 20, "progress": False} | changes
    write_glyph_shards(out=out, **options)
    return out


def contents(out: Path) -> dict[str, str]:
    """sha256 of every file by its name, without the lock."""
    files = [path for path in out.rglob("*") if path.is_file() and path.name != ".lock"]
    return {str(path.relative_to(out)): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


def samples_of(tar: Path) -> dict[str, dict[str, bytes]]:
    """Key -> member name -> bytes."""
    data = open_bytes(tar)
    grouped = group_samples(walk_tar(data, tar.name), tar.name)
    return {
        key: {name: data[m.offset : m.offset + m.size] for name, m in members.items()}
        for key, members in zip(grouped.keys, grouped.members, strict=True)
    }


def every_sample(folder: Path, source: str) -> dict[str, dict[str, bytes]]:
    return {key: sample for tar in sorted((folder / source).glob("*.tar")) for key, sample in samples_of(tar).items()}


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
    pen = Pen(catalogue.fonts)
    for place, font in enumerate(catalogue.fonts):
        with TTFont(font.path, lazy=True) as table:
            outlines, names, em = table["glyf"], table.getBestCmap(), table["head"].unitsPerEm
            for code in font.codes[:: max(1, len(font.codes) // 25)]:
                outline, mask = outlines[names[code]], pen.mask(code, place)
                sides = [(outline.xMax - outline.xMin) * MASTER / em, (outline.yMax - outline.yMin) * MASTER / em]
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
    assert min(said.values()) > 300


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


# -- the tars ---------------------------------------------------------------------------------------------------------


def test_captions_are_laid_out_as_img2dataset_does(folder: Path, glyphs: Glyphs) -> None:
    samples = every_sample(folder, "caption")
    assert list(samples)[19:21] == ["000000019", "000010000"] and len(samples) == 45
    for sample, document in zip(samples.values(), glyphs.documents("caption", 0, 45), strict=True):
        assert list(sample) == ["png", "txt", "json"]
        np.testing.assert_array_equal(np.asarray(Image.open(io.BytesIO(sample["png"]))), document.pictures[0].pixels)
        truth = json.loads(sample["json"])
        assert sample["txt"].decode() == truth["caption"] == document.text
        assert truth["name"] == unicodedata.name(chr(int(truth["codepoint"][2:], 16))).lower()
    stats = json.loads((folder / "caption/00002_stats.json").read_text())
    assert (stats["count"], stats["successes"], stats["pictures"]) == (5, 5, 5)


def test_interleaved_tars_hold_ordered_segments(folder: Path, glyphs: Glyphs) -> None:
    samples = every_sample(folder, "interleaved").values()
    for sample, document in zip(samples, glyphs.documents("interleaved", 0, 25), strict=True):
        content = json.loads(sample["json"])
        images = [segment["image"] for segment in content["segments"] if "image" in segment]
        assert images == [name for name in sample if name != "json"] == [f"{n}.png" for n in range(len(images))]
        assert "".join(segment.get("text", "") for segment in content["segments"]) == document.text
        assert [p["name"] for p in content["pictures"]] == [p.character.name for p in document.pictures]


def test_text_tars_hold_lines(folder: Path, glyphs: Glyphs, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    def lines_of(sample: dict[str, bytes]) -> list[str]:
        return [json.loads(line)["text"] for line in gzip.decompress(sample["jsonl.gz"]).splitlines()]

    expected = [document.text for document in glyphs.documents("text", 0, 30)]
    members = every_sample(folder, "text")
    assert [line for sample in members.values() for line in lines_of(sample)] == expected
    monkeypatch.setattr(glyph_shards, "LINES", 8)
    members = every_sample(write(tmp_path / "short", samples={"text": 30}), "text")
    assert list(members) == ["000000000", "000000008", "000000016", "000010000", "000010008"]
    assert [line for sample in members.values() for line in lines_of(sample)] == expected


def test_the_record_names_fonts_versions_and_counts(folder: Path, catalogue: Catalogue) -> None:
    record = json.loads((folder / "glyphs.json").read_text())
    assert record["unicode"] == unicodedata.unidata_version and record["characters"] == len(catalogue.characters)
    for font in record["fonts"]:
        assert font["sha256"] == hashlib.sha256((matplotlib_fonts() / font["file"]).read_bytes()).hexdigest()
    assert {source: total["samples"] for source, total in record["sources"].items()} == SAMPLES
    assert record["sources"]["caption"]["pictures"] == 45 and record["sources"]["text"]["shards"] == 2


def test_the_same_bytes_with_any_number_of_workers_and_after_harm(folder: Path, tmp_path: Path) -> None:
    again = write(tmp_path / "again", workers=2)
    assert contents(again) == contents(folder)
    tar = again / "text/00001.tar"
    tar.write_bytes(tar.read_bytes()[:-1])
    (again / "caption/00000_stats.json").unlink()
    (again / "interleaved/00001.tar").unlink()
    (again / "caption/.00001.tar.tmp-1").write_bytes(b"left by a killed run")
    write(again)
    assert contents(again) == contents(folder)


def test_finished_tars_are_kept_and_others_refused(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = {path: path.stat().st_mtime_ns for path in folder.rglob("*.tar")}
    monkeypatch.setattr(glyph_shards, "write_tar_of_glyphs", None)
    write(folder)
    assert {path: path.stat().st_mtime_ns for path in folder.rglob("*.tar")} == before
    with pytest.raises(ValueError, match=r"other parameters \(config.seed is 3, asked for 0\)"):
        write(folder, config=GlyphConfig())
    monkeypatch.setattr(glyph_fonts.features, "version", lambda name: "1.0")
    with pytest.raises(ValueError, match=r"drawn_with.freetype is .*, asked for 1.0"):
        write(folder)


def test_a_foreign_folder_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "thesis.tex").write_text("precious")
    with pytest.raises(ValueError, match="not made by this command"):
        write(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.tex"]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"samples": {"video": 1}}, "no source 'video'; sources: caption"),
        ({"samples": {"text": -1}}, "must not be negative"),
        ({"samples": {"text": 0}}, "no document at all"),
        ({"shard_samples": 0}, "shard_samples=0"),
        ({"shard_samples": 20_000}, "from 1 to 10,000"),
        ({"workers": 0}, "workers=0"),
    ],
)
def test_impossible_requests_leave_no_trace(tmp_path: Path, changes: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        write(tmp_path / "out", **changes)
    assert not (tmp_path / "out").exists()


def test_as_many_documents_as_training_and_evaluation_need(glyphs: Glyphs) -> None:
    mixture = {"caption": 0.45, "interleaved": 0.45, "text": 0.10}
    needed = glyphs_for_tokens(CONFIG, mixture, len, 16, train=100_000, held_out=1_000, val_fraction=0.05)
    for source, share in mixture.items():
        documents = glyphs.documents(source, 0, needed[source])
        tokens = sum(len(d.text) + 16 * len(d.pictures) for d in documents)
        assert tokens * 0.95 > 1.05 * 100_000 * share and tokens * 0.05 > 1.05 * 1_000
    with pytest.raises(ValueError, match="val_fraction=0.0"):
        glyphs_for_tokens(CONFIG, mixture, len, 16, train=1000, held_out=10, val_fraction=0.0)


def test_the_sheet_is_a_picture(tmp_path: Path) -> None:
    with Image.open(glyph_sheet(CONFIG, tmp_path / "deep" / "sheet.png")) as sheet:
        assert sheet.width == 1280 and sheet.height > 2000 and len(sheet.convert("RGB").getcolors(1 << 20) or []) > 500


def test_the_command_writes_indexes_and_draws_what_training_can_read(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "shards"
    small = ["train_tokens=4000", "data.eval_rows=2", "data.val_fraction=0.2", "workers=1", "+data.world.seed=5"]
    assert shards_main(["data=glyphs", f"out={out}", *small]) == 0
    said = capsys.readouterr().out
    assert f"nmm train data=glyphs data.path={out}" in said and (out / "sheet.png").exists()
    assert json.loads((out / "glyphs.json").read_text())["config"]["seed"] == 5
    assert not (out / "manifest.json").exists()
    values = {**conf("data", "glyphs"), "path": str(out), "val_fraction": 0.2}
    opened = open_data(Data(**values))
    assert tuple(opened.names) == ("caption", "interleaved", "text")
    for split in ("train", "val"):
        batch = row_source(opened, Data(**values), 0, split).rows_at(0, 4, 0, 1)
        told = open_tokenizer("bytes").decode(batch.tokens[batch.tokens > 2].tolist())
        assert sum(word in told for word in ("letter", "latin", "digit", "sign", "with")) >= 3, told
    before = contents(out)
    assert shards_main(["data=glyphs", f"out={out}", *small]) == 0
    assert contents(out) == before


def test_only_worlds_and_glyphs_are_rendered(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="data=paper is nothing that can be rendered; allowed: data=world"):
        shards_main(["data=paper", f"out={tmp_path}"])
