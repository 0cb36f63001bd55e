"""Shards that cannot be used as a whole: each has a clear error, and none stops another."""

from __future__ import annotations

import gzip
import io
import os
import random
import tarfile
from pathlib import Path
from typing import Any

import pytest
import zstandard
from tars import captions, image, indexed, opened, tar_bytes, write_tar

from nmm.data import scan
from nmm.data.index_file import index_path
from nmm.data.scan import Rules, scan_shard
from nmm.data.tokenizer import open_tokenizer

BYTES = open_tokenizer("bytes")


@pytest.fixture
def shard(tmp_path: Path) -> Path:
    return write_tar(tmp_path / "data" / "00000.tar", captions(0, 30))


def with_link() -> bytes:
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w") as tar:
        link = tarfile.TarInfo("0.jpg")
        link.type, link.linkname = tarfile.SYMTYPE, "/etc/passwd"
        tar.addfile(link)
    return out.getvalue()


def negative_size() -> bytes:
    """A header whose size sends a careless reader back to it for ever."""
    data = bytearray(tar_bytes([("a.txt", b"x" * 600)]))
    data[124:136] = b"-0000001000\0"
    data[148:156] = b" " * 8
    data[148:156] = b"%06o\0 " % sum(data[:512])
    return bytes(data)


def odd_name(name: bytes) -> bytes:
    data = bytearray(tar_bytes([("a" * len(name) + ".txt", b"x")]))
    data[: len(name)] = name
    data[148:156] = b" " * 8
    data[148:156] = b"%06o\0 " % sum(data[:512])
    return bytes(data)


GOOD = tar_bytes(captions(0, 5))
SECOND = GOOD.index(b"000000000.json")  # where a header begins


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (b"", "cut"),
        (GOOD[:3000], "cut"),
        (GOOD[: len(GOOD) - 10240 + 200], "cut"),
        (GOOD + b"more", "does not end properly"),
        (GOOD[:SECOND] + b"x" * 512 + GOOD[SECOND + 512 :], "damaged header"),
        (GOOD[:SECOND] + b"1" + GOOD[SECOND + 1 :], "checksum is wrong"),
        (with_link(), "links and devices are refused"),
        (tar_bytes([("/etc/a.txt", b"x")]), "leaves its folder"),
        (tar_bytes([("../a.txt", b"x")]), "leaves its folder"),
        (tar_bytes([("a/../../b.txt", b"x")]), "leaves its folder"),
        (negative_size(), "damaged header"),
        (odd_name(b"\xff\xfe"), "not UTF-8"),
        (tar_bytes([]), "holds no samples"),
        (tar_bytes([("a.mp4", b"x"), ("a.txt", b"x")]), "sample 'a': members"),
        (tar_bytes([("a.txt", b"x"), ("b.txt", b"y"), ("a.txt", b"z")]), "'a' in two places"),
        (tar_bytes([("a.txt", b"x"), ("a.txt", b"z")]), "'a.txt' twice"),
        (tar_bytes([("a.jsonl.gz", gzip.compress(b"x" * 9999)[:-4])]), "'a.jsonl.gz': it does not unpack"),
        (tar_bytes([("a.jsonl.zst", zstandard.compress(bytes(1 << 24)))]), "unpacks to more than"),
        (tar_bytes(captions(0, 3) + [("x.jpg", image())]), "1 of 4 samples are bad"),
    ],
)
def test_a_shard_that_is_refused_stops_no_other(shard: Path, data: bytes, words: str) -> None:
    bad = shard.with_name("00001.tar")
    bad.write_bytes(data)
    summary = indexed(shard.parent)
    assert [report.outcome for report in summary.shards] == ["indexed", "refused"]
    assert words in summary.refused[0].error and str(bad) in summary.refused[0].error
    assert not index_path(bad, BYTES.fingerprint).exists()
    indexed(shard.parent, quarantine=True)
    found = opened(bad)
    assert len(found.samples) == 0 and words in found.header["refused"] and found.header["bytes"] == len(data)
    assert [report.outcome for report in indexed(shard.parent).shards] == ["kept", "refused"]


def test_the_statistics_of_img2dataset_are_compared(shard: Path) -> None:
    statistics = shard.with_name("00000_stats.json")
    statistics.write_text('{"count": 40, "successes": 30, "status_dict": {"success": 30}}')
    assert indexed(shard).shards[0].outcome == "indexed"
    statistics.write_text('{"count": 40, "successes": 31}')
    (report,) = indexed(shard).shards
    assert report.outcome == "refused" and "31 successes" in report.error
    statistics.write_text("{")
    assert "is not JSON" in indexed(shard).shards[0].error
    statistics.write_text("[]")  # somebody else's file
    assert indexed(shard).shards[0].outcome == "indexed"


def test_a_shard_that_changes_while_it_is_read(shard: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def shrink(members: Any, name: str) -> Any:
        os.truncate(shard, 4096)
        return ()

    monkeypatch.setattr(scan, "stream_samples", shrink)
    with pytest.raises(ValueError, match="got shorter while it was read"):
        scan_shard(shard, Rules(BYTES))
    monkeypatch.setattr(scan, "stream_samples", lambda members, name: (os.utime(shard), ())[1])
    with pytest.raises(ValueError, match="was changed while it was read"):
        scan_shard(shard, Rules(BYTES))
    shard.unlink()
    with pytest.raises(FileNotFoundError):
        scan_shard(shard, Rules(BYTES))


def test_what_is_too_large_is_not_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(scan, "MAX_UNPACKED", 50)
    lines = tmp_path / "a.jsonl"
    lines.write_bytes(b'{"text": "a line"}\n' * 3)
    assert "at most 50 are read" in indexed(lines).shards[0].error
    monkeypatch.setattr(scan, "MAX_MEMBER", 1000)
    file = write_tar(tmp_path / "b.tar", [*captions(0, 20), ("x.jpg", image() + bytes(1000)), ("x.txt", b"large")])
    assert indexed(file).shards[0].bad == {"too_long": 1}
    monkeypatch.setattr(scan, "MAX_NAMES", 3)
    many = [(f"d.{n}.jpg", image("jpg", n)) for n in range(4)]
    file = write_tar(tmp_path / "c.tar", [*many, ("d.json", b"{}")])
    assert "more than 3 different member names" in indexed(file).shards[0].error


def test_damaged_tars_end_in_clear_errors(tmp_path: Path) -> None:
    """A short fuzz; every damage is refused or changes a sample, none escapes as anything but a ValueError."""
    rng, file = random.Random(5), tmp_path / "a.tar"
    lines = ("l.jsonl.zst", zstandard.compress(b'{"text": "a line"}\n' * 9))
    good = tar_bytes(captions(0, 3) + [("i.0.png", image("png")), ("i.json", b'{"segments": [{"text": "x"}]}'), lines])
    refused = 0
    for _ in range(300):
        data = bytearray(good)
        for _ in range(rng.randrange(1, 4)):
            data[rng.randrange(len(good) - 9000)] = rng.randrange(256)
        file.write_bytes(data[: rng.choice((len(data), len(data), rng.randrange(len(data))))])
        try:
            scan_shard(file, Rules(BYTES))
        except ValueError as error:
            refused += 1
            assert str(file) in str(error) and len(str(error)) < 1000
    assert 100 < refused < 300
