"""Many shards: which are found, kept and read again, in how many processes; what repeats."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest
from tars import captions, image, indexed, opened, tar_bytes, write_tar

from nmm.data.byte_bar import ByteBar
from nmm.data.index_file import index_path, text_digest
from nmm.data.indexing import find_shards, index_shards
from nmm.data.tokenizer import open_tokenizer
from nmm.record import file_sha256

BYTES = open_tokenizer("bytes")
CUT = tar_bytes(captions(0, 5))[:3000]


@pytest.fixture
def shard(tmp_path: Path) -> Path:
    return write_tar(tmp_path / "data" / "00000.tar", captions(0, 30))


def test_what_is_indexed_is_not_read_again(shard: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    indexed(shard)
    before = index_path(shard, BYTES.fingerprint).read_bytes()
    os.utime(shard)  # another time, the same bytes: hashed once and noted
    (report,) = indexed(shard).shards
    assert report.outcome == "kept" and report.samples == 30 and report.images == 30
    assert opened(shard).header["mtime_ns"] == shard.stat().st_mtime_ns != read_time(before)
    assert opened(shard).header["body_sha256"].encode() in before
    monkeypatch.setattr("nmm.data.indexing.file_sha256", lambda path: pytest.fail("read again"))
    assert indexed(shard).shards[0].outcome == "kept"


def read_time(data: bytes) -> int:
    length = int.from_bytes(data[12:16], "little")
    return int(json.loads(data[16 : 16 + length])["mtime_ns"])


def test_what_changed_is_read_again(shard: Path) -> None:
    indexed(shard)
    state, data = shard.stat(), bytearray(shard.read_bytes())
    data[data.index(b"thing 7", 15360)] ^= 1
    shard.write_bytes(data)
    os.utime(shard, ns=(state.st_atime_ns, state.st_mtime_ns + 1))
    assert indexed(shard).shards[0].outcome == "indexed"
    assert opened(shard).header["sha256"] == file_sha256(shard)
    assert indexed(shard, caption_field="alt").shards[0].outcome == "indexed"
    assert indexed(shard, force=True).shards[0].outcome == "indexed"
    file = index_path(shard, BYTES.fingerprint)
    file.write_bytes(file.read_bytes()[:-64])
    assert indexed(shard).shards[0].outcome == "indexed"
    write_tar(shard, captions(0, 3) + [("x.jpg", image())])
    assert indexed(shard).shards[0].outcome == "refused" and not file.exists()  # nobody may read the old one


def test_a_stricter_limit_is_held_against_old_indexes(tmp_path: Path) -> None:
    file = write_tar(tmp_path / "a.tar", captions(0, 9) + [("x.jpg", image())])
    assert indexed(file, max_bad=0.1).shards[0].outcome == "indexed"
    assert indexed(file, max_bad=0.1).shards[0].outcome == "kept"
    assert indexed(file, max_bad=0.05).shards[0].outcome == "refused"


def test_workers_do_what_one_process_does(tmp_path: Path) -> None:
    for number in range(5):
        write_tar(tmp_path / f"{number}.tar", captions(10 * number, 10))
    (tmp_path / "3.tar").write_bytes(CUT)
    one, two = (index_shards([tmp_path], "bytes", tmp_path / str(n), workers=n, progress=False) for n in (1, 2))
    assert one.shards == two.shards and len(one.refused) == 1
    files = [sorted((tmp_path / str(n)).iterdir()) for n in (1, 2)]
    assert [f.name for f in files[0]] == [f.name for f in files[1]]
    assert len(files[0]) == 8  # with the sizes of their pictures
    assert [f.read_bytes() for f in files[0]] == [f.read_bytes() for f in files[1]]


def test_repeats_are_counted_and_kept(tmp_path: Path) -> None:
    first = write_tar(tmp_path / "a.tar", captions(0, 20))
    again = [(f"again{name}", data) for name, data in captions(5, 3)]
    second = write_tar(tmp_path / "b.tar", again + captions(100, 10))
    repeats = indexed(first, second, val_fraction=0.5).repeats
    assert (repeats.samples, repeats.repeated) == (33, 3)
    assert repeats.examples == tuple((f"{first}: '00000000{n}'", f"{second}: 'again00000000{n}'") for n in (5, 6, 7))
    held = {key: (text_digest(key) >> 11) * 2**-53 < 0.5 for key in (f"{n:09d}" for n in range(20))}
    held |= {f"again{n:09d}": (text_digest(f"again{n:09d}") >> 11) * 2**-53 < 0.5 for n in (5, 6, 7)}
    assert repeats.leaked == sum(held[f"{n:09d}"] != held[f"again{n:09d}"] for n in (5, 6, 7))
    assert indexed(first).repeats.repeated == 0


def test_paths(tmp_path: Path, shard: Path) -> None:
    (shard.parent / "00000_stats.json").write_text("{}")
    lines = shard.parent / "deep" / "x.jsonl"
    lines.parent.mkdir()
    lines.write_text('{"text": "x"}')
    assert find_shards([tmp_path]) == find_shards([f"{shard}::{lines}"]) == [shard, lines]
    assert find_shards([str(shard.parent / "*"), shard]) == [shard]
    for wrong in (tmp_path / "nowhere", shard.parent / "*.tgz"):
        with pytest.raises(ValueError, match="names no shards"):
            find_shards([wrong])
    with pytest.raises(ValueError, match=r"00000_stats.json is no shard: .*\.tar"):
        find_shards([shard.parent / "00000_stats.json"])
    with pytest.raises(ValueError, match="workers=0"):
        index_shards([shard], "bytes", workers=0)


def test_the_bar_counts_bytes_and_shards(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    with ByteBar("indexing", 3, 3_000_000, True) as bar:
        bar.advance(1_000_000)
    assert capsys.readouterr().err == ""  # short work shows nothing
    monkeypatch.setattr("nmm.data.byte_bar.SHOWN_AFTER", 0.0)
    for show in (False, True):
        with ByteBar("indexing", 3, 3_000_000, show) as bar:
            bar.advance(1_000_000)
            bar.advance(500_000)
        err = capsys.readouterr().err
        assert ("2/3 shards" in err and "1.5/3.0 MB" in err and "MB/s" in err) == show
