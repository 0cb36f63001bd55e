"""The file an index is: what is written is what is read, and damage is noticed."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from nmm.data.index_file import (
    ALIGN,
    MEMBER,
    SAMPLE_ROW,
    ShardIndex,
    check_index,
    content_digest,
    index_path,
    read_index,
    text_digest,
    write_index,
)
from nmm.data.reasons import REASONS

KEYS = ["a", "b/c", "d 7.jsonl:12", "ключ", ""]
HEADER = {"shard": "x.tar", "bytes": 123, "names": ["jpg", "txt"], "units": [2, 1], "refused": ""}


def arrays(samples: int = 5) -> dict[str, np.ndarray]:
    """Random numbers in every field; the second and fourth sample are left out."""
    rng = np.random.default_rng(samples)
    rows = np.frombuffer(rng.bytes(samples * SAMPLE_ROW.itemsize), SAMPLE_ROW).copy()
    rows["reason"] = 0
    rows["reason"][1::2] = 1 + REASONS.index("bad_text")
    members = np.frombuffer(rng.bytes(7 * MEMBER.itemsize), MEMBER)
    return {"samples": rows, "segments": rng.integers(-1, 99, 6).astype("<i4"), "members": members}


def written(file: Path) -> ShardIndex:
    write_index(file, HEADER, arrays(), KEYS)
    return read_index(file)


def test_what_is_written_is_read(tmp_path: Path) -> None:
    index = written(tmp_path / "x.index")
    check_index(index)
    for name, values in arrays().items():
        assert np.array_equal(getattr(index, name), values)
        assert getattr(index, name).dtype == values.dtype
    assert [index.key(sample) for sample in range(5)] == KEYS
    assert {name: index.header[name] for name in HEADER} == HEADER
    assert index.quarantined() == index.header["left_out"] == {"bad_text": 2}


def test_the_same_content_is_the_same_file(tmp_path: Path) -> None:
    first, second = (written(tmp_path / name) for name in ("a.index", "b.index"))
    assert first.file.read_bytes() == second.file.read_bytes()
    assert first.header["body_sha256"] == second.header["body_sha256"]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.index", "b.index"], "and nothing is left beside it"


def test_arrays_are_aligned_and_may_not_be_written_to(tmp_path: Path) -> None:
    index = written(tmp_path / "x.index")
    assert all(place["offset"] % ALIGN == 0 for place in index.header["arrays"].values())
    with pytest.raises(ValueError, match="read-only"):
        index.samples["id"] = 0


def test_an_index_of_nothing(tmp_path: Path) -> None:
    empty = {name: values[:0] for name, values in arrays().items()}
    write_index(tmp_path / "x.index", {**HEADER, "refused": "cut"}, empty, [])
    index = read_index(tmp_path / "x.index")
    check_index(index)
    assert (len(index.samples), len(index.segments), len(index.members)) == (0, 0, 0)
    assert index.header["left_out"] == {}


def places(index: ShardIndex) -> dict[str, Any]:
    return dict(index.header["arrays"])


@pytest.mark.parametrize("array", ["samples", "segments", "members", "key_ends", "keys"])
def test_a_changed_byte_is_noticed(tmp_path: Path, array: str) -> None:
    """In the table of samples when it is opened, anywhere by ``check_index``."""
    index = written(tmp_path / "x.index")
    data = bytearray(index.file.read_bytes())
    data[places(index)[array]["offset"] + 3] ^= 4
    index.file.write_bytes(data)
    if array == "samples":
        with pytest.raises(ValueError, match=r"x\.index is damaged: delete it and run `nmm index` again"):
            read_index(index.file)
    with pytest.raises(ValueError, match=r"x\.index is damaged: delete it and run `nmm index` again"):
        check_index(read_index(index.file, verify=False))


def test_a_changed_header_is_noticed(tmp_path: Path) -> None:
    index = written(tmp_path / "x.index")
    whole = index.file.read_bytes()
    for at in range(places(index)["samples"]["offset"]):
        index.file.write_bytes(whole[:at] + bytes([whole[at] ^ 1]) + whole[at + 1 :])
        with pytest.raises(ValueError, match="is not an index of a shard: delete it"):
            read_index(index.file)


def test_a_cut_file_is_noticed(tmp_path: Path) -> None:
    file = written(tmp_path / "x.index").file
    whole = file.read_bytes()
    for size in [*range(0, len(whole), 13), len(whole) - 1]:
        file.write_bytes(whole[:size])
        with pytest.raises(ValueError, match=r"x\.index is (cut \(\d+ bytes\)|not an index of a shard)"):
            read_index(file)
    file.write_bytes(whole + b"\0")
    with pytest.raises(ValueError, match="is cut"):
        read_index(file)


def test_another_format_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("nmm.data.index_file.INDEX_FORMAT", 99)
    file = written(tmp_path / "x.index").file
    monkeypatch.undo()
    with pytest.raises(ValueError, match="has format 99, this version reads 1: `nmm index` again"):
        read_index(file)
    (tmp_path / "y.index").write_text(json.dumps({"not": "an index"}))
    with pytest.raises(ValueError, match="is not an index of a shard"):
        read_index(tmp_path / "y.index")


def test_where_an_index_lies(tmp_path: Path) -> None:
    shard, other = tmp_path / "a/x.tar", tmp_path / "b/x.tar"
    tokenizer = "0123456789abcdef" * 4
    assert index_path(shard, tokenizer) == tmp_path / "a/x.tar.01234567.index"
    elsewhere = {index_path(file, tokenizer, tmp_path / "into") for file in (shard, other)}
    assert len(elsewhere) == 2
    assert {file.parent for file in elsewhere} == {tmp_path / "into"}
    assert index_path(shard, "f" * 64) != index_path(shard, tokenizer)


def test_digests_are_part_of_the_contract() -> None:
    """Change one and every index, split and row id is another."""
    assert text_digest("key") == 0xF54CA9C3ADCC7CCE
    assert content_digest([b"jpg", b"text"]) == 0xAE124962C10FE5A1
    assert content_digest([b"jpgt", b"ext"]) != content_digest([b"jpg", b"text"])
    assert text_digest("ab", "c") != text_digest("a", "bc")
