"""Hostile and broken shards from the outside: nothing is written, run or delivered that should not be."""

from __future__ import annotations

import io
import json
import os
import pickle
import struct
import subprocess
import sys
import tarfile
import zlib
from pathlib import Path
from typing import Any

import pytest
from lab import ROOT, child_environment
from shards_lab import (
    caption_members,
    caption_tar,
    index_all,
    interleaved_members,
    jsonl_tar,
    opened_index,
    picture,
    text_members,
    words,
)
from tars import write_tar

from nmm.cli import main
from nmm.data.indexed import IndexedSources, open_indexed
from nmm.data.reasons import REASONS
from nmm.data.source import RowSource
from nmm.groups import Data


def opened(shard: Path) -> IndexedSources:
    """A source of one shard, nothing held out."""
    return open_indexed(Data(sources={"one": str(shard)}, tokenizer="bytes", image_size=16, patch_size=8))


def delivered(shard: Path) -> list[str]:
    """The texts of an epoch, in order."""
    sources = opened(shard)
    rows = RowSource(sources, {"one": 1.0}, 128, 8, seed=0, once_in_order=True)
    found = []
    for row in range(rows.rows_available()):
        batch = rows.rows_at(row, 1)
        assert not batch.skipped
        tokens, documents = batch.tokens[0], batch.document[0]
        found += [sources.tokenizer.decode(tokens[documents == d].tolist()) for d in range(documents.max() + 1)]
    return found


def tree(folder: Path) -> dict[str, bytes]:
    return {str(file.relative_to(folder)): file.read_bytes() for file in folder.rglob("*") if file.is_file()}


def png_header(width: int, height: int) -> bytes:
    """All of an image but its pixels: a hundred bytes that claim any size."""
    header = b"IHDR" + struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    data = b"IDAT" + zlib.compress(bytes(100))
    chunks = (header, data, b"IEND")
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(chunk) - 4) + chunk + struct.pack(">I", zlib.crc32(chunk)) for chunk in chunks
    )


# ---------------------------------------------------------------------------------------------------------------------
# samples


def document(**record: Any) -> bytes:
    return json.dumps(record).encode()


BROKEN = {
    "a decompression bomb": ([("x.png", png_header(60_000, 60_000)), ("x.txt", b"bomb")], "too_many_pixels"),
    "more pixels than there are": ([("x.png", png_header(2**31 - 1, 2**31 - 1)), ("x.txt", b"x")], "too_many_pixels"),
    "an absurd aspect": ([("x.png", png_header(8000, 8)), ("x.txt", b"a strip")], "aspect_ratio"),
    "no pixels": ([("x.png", png_header(0, 10)), ("x.txt", b"nothing")], "bad_image_header"),
    "half a header": ([("x.jpg", picture(0)[:20]), ("x.txt", b"cut")], "bad_image_header"),
    "a caption that is not text": ([("x.jpg", picture(0)), ("x.txt", b"caf\xe9")], "bad_text"),
    "a blank caption": ([("x.jpg", picture(0)), ("x.txt", " \n\t\u3000".encode())], "empty_text"),
    "a blank caption in json": ([("x.jpg", picture(0)), ("x.json", document(caption=""))], "empty_text"),
    "no caption in json": ([("x.jpg", picture(0)), ("x.json", document(url="u"))], "no_text"),
    "an image that is not there": (
        [("x.json", document(texts=["one", None, None], images=[None, "a", "b"])), ("x.0.jpg", picture(0))],
        "no_image",
    ),
    "a document without text": (
        [("x.json", document(texts=[" ", None], images=[None, "a"])), ("x.0.jpg", picture(0))],
        "empty_text",
    ),
    "a document whose second image is a bomb": (
        [
            ("x.json", document(texts=["one", None, None], images=[None, "a", "b"])),
            ("x.0.jpg", picture(0)),
            ("x.1.png", png_header(40_000, 40_000)),
        ],
        "too_many_pixels",
    ),
    "text that is not UTF-8": ([("x.txt", b"\xff\xfe\x00")], "bad_text"),
    "blank text": ([("x.txt", b"")], "empty_text"),
    "json that is cut": ([("x.json", b'{"text": "some')], "bad_text"),
    "json without end": ([("x.json", b"[" * 100_000)], "bad_text"),
    "a number without end": ([("x.json", b'{"text": ' + b"9" * 5000 + b"}")], "bad_text"),
    "a line that is not UTF-8": ([("x.jsonl", b'{"text": "caf\xe9"}\n')], "bad_text"),
    "a lone surrogate": ([("x.jsonl", b'{"text": "\\ud800"}\n')], "bad_text"),
}


@pytest.mark.parametrize("name", BROKEN)
def test_a_broken_sample_is_left_out_and_its_neighbours_are_not(
    tmp_path: Path, name: str, capsys: pytest.CaptureFixture[str]
) -> None:
    members, reason = BROKEN[name]
    before = [*caption_members(0, 2), *interleaved_members(0, 1), *text_members(0, 1)]
    after = [*caption_members(5, 2), *interleaved_members(5, 1), *text_members(5, 1)]
    sound = write_tar(tmp_path / "sound" / "a.tar", [*before, *after])
    broken = write_tar(tmp_path / "broken" / "a.tar", [*before, *members, *after])
    assert main(["index", str(tmp_path), "--workers", "1", "--max-bad", "0.2"]) == 0
    said = capsys.readouterr().out
    assert f"1 bad samples are left out: {reason} 1" in said and f"{reason}: sample 'x" in said
    index = opened_index(broken)
    assert index.samples["reason"].tolist() == [0] * 4 + [1 + REASONS.index(reason)] + [0] * 4
    assert index.quarantined() == {reason: 1}
    assert sorted(delivered(broken)) == sorted(delivered(sound)) and len(delivered(sound)) == 8
    assert main(["index", str(broken), "--workers", "1", "--max-bad", "0.1"]) == 2  # 1 of 9
    assert "more than --max-bad 0.1" in capsys.readouterr().err


# ---------------------------------------------------------------------------------------------------------------------
# names that leave the folder, links, code


def special(kind: bytes, name: str, target: str = "") -> bytes:
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w") as tar:
        link = tarfile.TarInfo(name)
        link.type, link.linkname = kind, target
        tar.addfile(link)
        info = tarfile.TarInfo(f"{name}/a.txt")
        info.size = 4
        tar.addfile(info, io.BytesIO(b"text"))
    return out.getvalue()


ESCAPES = {
    "up": [("../outside.txt", b"x")],
    "absolute": [("/tmp/outside.txt", b"x")],
    "up and down": [("a/../../outside.txt", b"x")],
    "dots": [("a/..", b"x")],
    "a long way up": [("../" * 60 + "outside.txt", b"x")],  # a name in a record of its own
    "up, among sound ones": [*text_members(0, 3), ("../outside.json", b'{"text": "x"}')],
}
LINKS = {
    "symbolic link": special(tarfile.SYMTYPE, "a", ".."),
    "hard link": special(tarfile.LNKTYPE, "a.txt", "/etc/passwd"),
    "device": special(tarfile.CHRTYPE, "a.txt"),
    "pipe": special(tarfile.FIFOTYPE, "a.txt"),
}


@pytest.mark.parametrize("name", [*ESCAPES, *LINKS])
def test_nothing_leaves_the_folder(tmp_path: Path, name: str, capsys: pytest.CaptureFixture[str]) -> None:
    shard = tmp_path / "deep" / "down" / "here" / "a.tar"
    write_tar(shard, ESCAPES.get(name, []))
    if name in LINKS:
        shard.write_bytes(LINKS[name])
    caption_tar(shard.with_name("b.tar"), 3)
    before, outside = tree(tmp_path), os.path.exists("/tmp/outside.txt")
    assert main(["index", str(shard.parent), "--workers", "1"]) == 2
    error = capsys.readouterr().err
    assert str(shard) in error and ("leaves its folder" in error or "links and devices are refused" in error)
    index_all(shard.parent, quarantine=True)
    assert len(delivered(shard.with_name("b.tar"))) == 3
    with pytest.raises(ValueError, match="no train sample"):
        delivered(shard)
    after = tree(tmp_path)
    assert {name: after[name] for name in before} == before
    assert {name.rpartition(".")[2] for name in after.keys() - before.keys()} == {"index", "sizes"}
    assert all(name.startswith("deep/down/here/") for name in after) and os.path.exists("/tmp/outside.txt") == outside


class Mine:
    """A pickle that writes a file when it is loaded."""

    def __init__(self, file: Path) -> None:
        self.file = file

    def __reduce__(self) -> Any:
        return Path.write_text, (self.file, "it ran")


@pytest.fixture
def mark(tmp_path: Path) -> Path:
    return tmp_path / "it-ran"


def executables(mark: Path) -> list[tuple[str, bytes]]:
    code = f"open({str(mark)!r}, 'w').write('it ran')"
    return [
        ("pkl", pickle.dumps(Mine(mark))),
        ("pyd", pickle.dumps(Mine(mark))),
        ("pickle", pickle.dumps(Mine(mark))),
        ("pth", pickle.dumps(Mine(mark))),
        ("py", code.encode()),
        ("yaml", f"!!python/object/apply:exec [{json.dumps(code)}]".encode()),
        ("sh", f"#!/bin/sh\ntouch {mark}\n".encode()),
    ]


def test_the_proof_would_notice(mark: Path) -> None:
    pickle.loads(dict(executables(mark))["pkl"])
    assert mark.exists()


def test_members_with_code_beside_a_caption_are_not_even_read(tmp_path: Path, mark: Path) -> None:
    members = [
        member
        for n in range(3)
        for member in (
            (f"{n}.jpg", picture(n)),
            (f"{n}.txt", words(n).encode()),
            *((f"{n}.{extension}", data) for extension, data in executables(mark)),
        )
    ]
    shard = write_tar(tmp_path / "a.tar", members)
    (report,) = index_all(tmp_path, decode=True).shards
    assert report.outcome == "indexed" and opened_index(shard).header["names"] == ["jpg", "txt"]
    assert len(delivered(shard)) == 3 and not mark.exists()


def test_members_with_code_alone_are_an_unknown_format(tmp_path: Path, mark: Path) -> None:
    for extension, data in executables(mark):
        shard = write_tar(tmp_path / extension / "a.tar", [*caption_members(0, 2), (f"x.{extension}", data)])
        (report,) = index_all(shard.parent).shards
        assert report.outcome == "refused" and "Expected: an image" in report.error
        assert f"shard {shard}, sample 'x': members ['{extension}']" in report.error
    text = [("x.txt", b"a text"), ("x.pkl", pickle.dumps(Mine(mark)))]
    (report,) = index_all(write_tar(tmp_path / "text" / "a.tar", text).parent).shards
    assert report.outcome == "refused" and not mark.exists()


@pytest.mark.parametrize("disguise", ["x.jpg", "x.png", "x.txt", "x.json", "x.jsonl", "x.jsonl.gz", "x.jsonl.zst"])
def test_code_under_a_known_name_is_bad_data(tmp_path: Path, mark: Path, disguise: str) -> None:
    beside = [("x.txt", b"a caption")] if disguise.endswith(("jpg", "png")) else []
    code = dict(executables(mark))["pkl"]
    shard = write_tar(tmp_path / "a.tar", [*text_members(0, 3), (disguise, code), *beside])
    (report,) = index_all(tmp_path, max_bad=0.5, decode=True).shards
    assert (report.outcome == "refused") == disguise.endswith(("gz", "zst")) and not mark.exists()
    if report.outcome == "indexed":
        assert sum(report.bad.values()) >= 1 and len(delivered(shard)) == 3 and not mark.exists()


# ---------------------------------------------------------------------------------------------------------------------
# whole shards


def test_every_kind_of_truncation_is_refused_or_complete(tmp_path: Path) -> None:
    """Wherever a tar of samples is cut, no shorter tar passes for it; but for the padding after its end."""
    whole = caption_tar(tmp_path / "whole.tar", 3).read_bytes()
    end = len(whole.rstrip(b"\0"))
    padded = -(-end // 512) * 512 + 1024
    shard = tmp_path / "cut" / "a.tar"
    shard.parent.mkdir()
    for size in [*range(0, padded, 256), padded - 1, padded, len(whole)]:
        shard.write_bytes(whole[:size])
        (report,) = index_all(shard.parent, force=True).shards
        assert (report.outcome == "indexed") == (size >= padded), size
        assert report.samples == 3 if size >= padded else str(shard) in report.error


def test_a_jsonl_shard_that_is_cut(tmp_path: Path) -> None:
    tar = jsonl_tar(tmp_path / "tar" / "a.tar", 20, form="jsonl.gz")
    offset = tar.read_bytes().index(b"\x1f\x8b")
    packed = tar.read_bytes()[offset:].rstrip(b"\0")
    shard = tmp_path / "bare" / "a.jsonl.gz"
    shard.parent.mkdir()
    for size in range(1, len(packed) - 8, 97):
        shard.write_bytes(packed[:size])
        (report,) = index_all(shard.parent).shards
        assert report.outcome == "refused" and "cut or damaged" in report.error, size


def test_a_shard_that_is_no_file_or_changed_is_named_at_the_start(tmp_path: Path) -> None:
    shard = caption_tar(tmp_path / "a.tar", 4)
    with pytest.raises(ValueError, match=r"does not exist; `nmm index .* --tokenizer bytes` makes indexes"):
        opened(shard)
    index_all(tmp_path)
    assert len(delivered(shard)) == 4
    shard.write_bytes(shard.read_bytes() + bytes(512))
    with pytest.raises(ValueError, match=rf"shard {shard} has \d+ bytes, \d+ when it was indexed. Put the old"):
        opened(shard)
    index_all(tmp_path)
    assert len(delivered(shard)) == 4
    shard.unlink()
    with pytest.raises(ValueError, match=rf"{shard} (does not exist|has no shards)"):
        opened(shard)


def test_nothing_is_delivered_twice_from_damaged_tars() -> None:
    """A short run of the fuzz; the long one is the benchmark's own."""
    script = [sys.executable, str(ROOT / "benchmarks" / "tar_fuzz.py"), "--tars", "150", "--seed", "7"]
    done = subprocess.run(script, env=child_environment(), capture_output=True, text=True, timeout=300)
    assert done.returncode == 0 and "0 failures" in done.stdout, done.stdout + done.stderr
    before, after = (list(map(int, line.split()[1:])) for line in done.stdout.splitlines() if line[:5] == "  all")
    assert before[0] == after[0] == 75 and min(before[2], before[3], before[5], after[5], after[7]) > 10
