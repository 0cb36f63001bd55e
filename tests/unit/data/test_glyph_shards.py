"""Tars of glyphs: as downloaders write them, the same bytes every time, restartable, indexed and read by training."""

from __future__ import annotations

import gzip
import hashlib
import io
import json
import unicodedata
from pathlib import Path

import numpy as np
import pytest
from lab import conf
from PIL import Image

from nmm.commands import shards_main
from nmm.config import ConfigError
from nmm.data import glyph_fonts, glyph_shards
from nmm.data.glyph_fonts import Catalogue, matplotlib_fonts, read_catalogue
from nmm.data.glyph_shards import glyphs_for_tokens, write_glyph_shards
from nmm.data.glyph_sheet import glyph_sheet
from nmm.data.glyphs import GlyphConfig, Glyphs
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
