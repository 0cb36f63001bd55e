"""Bytes by offset out of shards that are slow, changed, cut or gone: right, or an error that says what to do."""

from __future__ import annotations

import errno
import gc
import gzip
import json
import multiprocessing
import os
import re
from collections.abc import Callable
from pathlib import Path

import pytest
import zstandard
from shards_lab import caption_tar, index_all, jsonl_tar, overwrite, place_of
from tars import write_tar

from nmm.data import reading
from nmm.data.index_file import index_path
from nmm.data.reading import PAUSES, OpenShard, ShardError, ShardReader
from nmm.data.tokenizer import ByteTokenizer

COUNT = 6
BYTES = ByteTokenizer().fingerprint


@pytest.fixture
def shard(tmp_path: Path) -> Path:
    found = caption_tar(tmp_path / "a.tar", COUNT)
    index_all(tmp_path)
    return found


@pytest.fixture
def pauses() -> list[float]:
    """What the reader of the test has waited."""
    return []


@pytest.fixture
def reader(pauses: list[float]) -> ShardReader:
    return ShardReader(sleep=pauses.append)


def opened(reader: ShardReader, shard: Path) -> OpenShard:
    return reader.shard(shard, index_path(shard, BYTES))


def parts(reader: ShardReader, shard: Path, place: int) -> dict[str, bytes]:
    return reader.parts(opened(reader, shard), place)


def expected(shard: Path, place: int) -> dict[str, bytes]:
    data = shard.read_bytes()
    spans = {name: place_of(shard, f"{place:06d}.{name}") for name in ("jpg", "txt")}
    return {name: data[offset : offset + size] for name, (offset, size) in spans.items()}


def failing(times: int, number: int = errno.EIO) -> Callable[[int, int, int], bytes]:
    """``os.pread`` that fails at first."""
    left, pread = [times], os.pread

    def read(handle: int, size: int, offset: int) -> bytes:
        if left[0]:
            left[0] -= 1
            raise OSError(number, os.strerror(number))
        return pread(handle, size, offset)

    return read


def test_samples_in_any_order(reader: ShardReader, shard: Path, pauses: list[float]) -> None:
    for place in (3, 0, 5, 3):
        assert parts(reader, shard, place) == expected(shard, place)
    assert pauses == []


def test_a_read_that_fails_twice_succeeds(
    reader: ShardReader, shard: Path, pauses: list[float], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(reading.os, "pread", failing(2))
    assert parts(reader, shard, 1) == expected(shard, 1)
    assert pauses == [*PAUSES[:2]]


@pytest.mark.parametrize("number", [errno.EIO, errno.ESTALE, errno.EACCES])
def test_a_read_that_always_fails(
    reader: ShardReader, shard: Path, pauses: list[float], monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    with monkeypatch.context() as broken:
        broken.setattr(reading.os, "pread", failing(10**6, number))
        with pytest.raises(ShardError, match=re.escape(os.strerror(number))) as error:
            parts(reader, shard, 1)
    assert f"shard {shard}, sample '000001' cannot be read after 4 tries" in str(error.value)
    assert "run again: the run goes on" in str(error.value)
    assert pauses == [*PAUSES]
    assert parts(reader, shard, 1) == expected(shard, 1)  # the same reader, once the disk is back


def test_reads_that_come_in_pieces(reader: ShardReader, shard: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pread = os.pread
    monkeypatch.setattr(reading.os, "pread", lambda handle, size, at: pread(handle, min(size, 100), at))
    assert parts(reader, shard, 2) == expected(shard, 2)


def test_a_shard_that_vanishes_and_comes_back(reader: ShardReader, shard: Path, pauses: list[float]) -> None:
    right = expected(shard, 4)
    away = shard.rename(shard.with_suffix(".away"))
    with pytest.raises(ShardError, match="'000004': the shard has vanished. Put it back and run again"):
        parts(reader, shard, 4)
    assert pauses == [*PAUSES]
    away.rename(shard)
    assert parts(reader, shard, 4) == right
    shard.unlink()  # an open file stays what it was
    assert parts(reader, shard, 5).keys() == right.keys()
    opened(reader, shard).close()
    with pytest.raises(ShardError, match="vanished"):
        parts(reader, shard, 4)


def test_a_shard_that_comes_back_while_it_is_waited_for(shard: Path) -> None:
    right, away = expected(shard, 4), shard.rename(shard.with_suffix(".away"))
    patient = ShardReader(sleep=lambda seconds: away.rename(shard) if away.exists() and seconds > 0.1 else None)
    assert parts(patient, shard, 4) == right


def test_a_shard_that_is_cut(reader: ShardReader, shard: Path) -> None:
    offset, size = place_of(shard, "000003.jpg")
    right = expected(shard, 2)
    os.truncate(shard, offset + size // 2)
    assert parts(reader, shard, 2) == right
    with pytest.raises(ShardError, match=rf"'000003' cannot be read .* the file ends after {size // 2}"):
        parts(reader, shard, 3)
    os.truncate(shard, 0)
    with pytest.raises(ShardError, match="'000002' cannot be read"):
        parts(reader, shard, 2)


@pytest.mark.parametrize("name", ["000003.jpg", "000003.txt"])
def test_other_bytes_of_the_same_size(reader: ShardReader, shard: Path, name: str) -> None:
    offset, _ = place_of(shard, name)
    overwrite(shard, offset + 2, b"!")
    with pytest.raises(ShardError, match=r"'000003': its bytes are not those that were indexed; .* a new run"):
        parts(reader, shard, 3)
    assert parts(reader, shard, 2) == expected(shard, 2)


def test_bytes_between_samples_do_not_matter(reader: ShardReader, shard: Path) -> None:
    offset, _ = place_of(shard, "000003.json")
    overwrite(shard, offset, b"!!!!")
    assert parts(reader, shard, 3) == expected(shard, 3)


def test_another_shard_in_its_place(reader: ShardReader, shard: Path) -> None:
    right = parts(reader, shard, 3)
    os.replace(caption_tar(shard.with_suffix(".new"), COUNT, first=COUNT), shard)
    assert parts(reader, shard, 3) == right  # the old file is open
    opened(reader, shard).close()
    with pytest.raises(ShardError, match="was changed after `nmm index`"):
        parts(reader, shard, 3)


def test_a_folder_in_its_place(reader: ShardReader, shard: Path) -> None:
    shard.unlink()
    shard.mkdir()
    with pytest.raises(ShardError, match=r"cannot be read after 4 tries: .*directory"):
        parts(reader, shard, 3)


@pytest.mark.parametrize(("form", "damage"), [("jsonl", b"##"), ("jsonl.gz", b"\0\0"), ("jsonl.zst", b"\0\0")])
def test_a_damaged_member_of_lines(reader: ShardReader, tmp_path: Path, form: str, damage: bytes) -> None:
    shard = jsonl_tar(tmp_path / "a.tar", 40, form=form)
    index_all(tmp_path)
    name = f"part000000.{form}"
    offset, size = place_of(shard, name)
    good = parts(reader, shard, 0)
    overwrite(shard, offset + size // 3, damage)
    found = ShardReader(sleep=lambda seconds: None)
    wrong, right = [], []
    for place in range(40):
        try:
            right.append(json.loads(parts(found, shard, place)["jsonl"]))
        except ShardError as error:
            wrong.append(place)
            assert f"shard {shard}, sample '{name}:{place + 1}'" in str(error) and "a new run" in str(error)
    assert wrong and max(wrong) < 20 and len(right) == 40 - len(wrong) and all(record["text"] for record in right)
    assert parts(reader, shard, 0) == good or form == "jsonl"


def test_a_bomb_in_the_place_of_lines(reader: ShardReader, tmp_path: Path) -> None:
    """A member that is swapped after indexing is held to the limits of indexing."""
    lines = json.dumps({"text": "a line"}).encode() + b"\n"
    padded = gzip.compress(lines, mtime=0) + bytes(3000)  # zeros after the end are no bytes
    shard = write_tar(tmp_path / "a.tar", [("x.jsonl.gz", padded)])
    index_all(tmp_path)
    assert parts(reader, shard, 0)["jsonl"] == lines.strip()
    bomb = gzip.compress(bytes(3_000_000), mtime=0)
    overwrite(shard, place_of(shard, "x.jsonl.gz")[0], bomb + bytes(len(padded) - len(bomb)))
    with pytest.raises(ShardError, match="unpacks to more than"):
        parts(ShardReader(sleep=lambda seconds: None), shard, 0)


@pytest.mark.parametrize(("form", "pack"), [("gz", gzip.compress), ("zst", zstandard.compress)])
def test_members_packed_in_pieces(
    reader: ShardReader, tmp_path: Path, form: str, pack: Callable[[bytes], bytes]
) -> None:
    """pzstd and bgzip write one frame after the other; what was indexed is what is read."""
    lines = [json.dumps({"text": f"line {n}"}).encode() for n in range(9)]
    packed = b"".join(pack(b"\n".join(lines[at : at + 3]) + b"\n") for at in (0, 3, 6))
    shard = write_tar(tmp_path / "a.tar", [(f"x.jsonl.{form}", packed)])
    index_all(tmp_path)
    assert [parts(reader, shard, place)["jsonl"] for place in range(9)] == lines


def test_an_index_that_is_gone_or_another(reader: ShardReader, shard: Path) -> None:
    file = index_path(shard, BYTES)
    file.write_bytes(b"nothing of the kind")
    with pytest.raises(ShardError, match=r"the index of .* cannot be read any more: .* `nmm index` again"):
        parts(reader, shard, 0)
    file.unlink()
    with pytest.raises(ShardError, match=r"the index of .* cannot be read any more"):
        parts(reader, shard, 0)
    index_all(shard.parent)
    assert parts(reader, shard, 0) == expected(shard, 0)


def test_few_files_stay_open(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reading, "OPEN_SHARDS", 3)
    shards = [caption_tar(tmp_path / f"{n}.tar", 2, 2 * n) for n in range(8)]
    index_all(tmp_path)
    reader, before = ShardReader(), len(os.listdir("/proc/self/fd"))
    for shard in [*shards, *reversed(shards)]:
        assert parts(reader, shard, 1)["txt"]
        assert len(os.listdir("/proc/self/fd")) - before <= 2 * 3  # the shard and its index


def test_a_reader_that_is_let_go_closes_its_files(tmp_path: Path) -> None:
    """A warm process opens the sources of many runs, one after another."""
    shards = [caption_tar(tmp_path / f"{number}.tar", 5, first=10 * number) for number in range(4)]
    index_all(tmp_path)
    gc.collect()
    reader, before = ShardReader(), len(os.listdir("/proc/self/fd"))
    for shard in shards:
        assert parts(reader, shard, 1)["txt"]
    assert len(os.listdir("/proc/self/fd")) >= before + 4
    del reader
    gc.collect()
    assert len(os.listdir("/proc/self/fd")) == before


def test_unpacked_members_are_let_go(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reading, "UNPACKED_BYTES", 5000)
    shard = jsonl_tar(tmp_path / "a.tar", 200)
    index_all(tmp_path)
    reader = ShardReader()
    for place in range(0, 200, 7):
        parts(reader, shard, place)
        assert sum(map(len, reader._unpacked.values())) <= 5000 or len(reader._unpacked) == 1


def test_a_forked_worker_opens_files_of_its_own(reader: ShardReader, shard: Path) -> None:
    parts(reader, shard, 0)
    handle = opened(reader, shard).handle
    receive, send = multiprocessing.get_context("fork").Pipe(duplex=False)

    def work() -> None:
        send.send((parts(reader, shard, 3), reader._process == os.getpid()))

    worker = multiprocessing.get_context("fork").Process(target=work)
    worker.start()
    assert receive.poll(60)
    assert receive.recv() == (expected(shard, 3), True)
    worker.join()
    assert parts(reader, shard, 3) == expected(shard, 3) and opened(reader, shard).handle == handle
