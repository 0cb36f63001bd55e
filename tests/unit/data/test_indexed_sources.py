"""Which shards are found, and which of their samples are held out."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from known_documents import PATCH, Known, index, opened, texts
from known_documents import write_documents as write

from nmm.data.index_file import read_index, text_digest
from nmm.data.index_records import in_split
from nmm.data.indexed import Content, IndexedCorpus, shard_paths
from nmm.data.indexing import index_shards


@pytest.mark.parametrize("fraction", [0.0, 0.01, 0.25, 0.9])
def test_every_key_is_in_one_split(fraction: float) -> None:
    hashes = np.array([text_digest(str(n)) for n in range(4000)], np.uint64)
    train, val = in_split(hashes, "train", fraction), in_split(hashes, "val", fraction)
    assert (train ^ val).all()
    assert val.mean() == pytest.approx(fraction, abs=0.03)
    assert not (val & ~in_split(hashes, "val", min(1.0, fraction + 0.05))).any(), "more held out includes the same"


def test_other_splits_are_refused() -> None:
    with pytest.raises(ValueError, match="splits train and val, not 'test'"):
        in_split(np.zeros(1, np.uint64), "test", 0.1)


def test_the_split_follows_the_key_wherever_it_is(tmp_path: Path) -> None:
    """The same keys in other shards, with other bytes, in other company: the same are held out."""
    documents = texts("k", 0, 60)
    write(tmp_path / "one/a.tar", documents)
    others = [Known(known.key, (f"other {known.key}",)) for known in documents[::-1]]
    write(tmp_path / "two/a.tar", others[:25])
    write(tmp_path / "two/b.tar", [*texts("z", 0, 9), *others[25:]])
    index(tmp_path)
    held = {}
    for folder in ("one", "two"):
        source = IndexedCorpus(opened(tmp_path, {"text": folder}), "text", "val", 64, PATCH, None)
        records = source.records(np.arange(int(source.units.sum())))
        shards = [read_index(shard.index) for shard in source.shards]
        held[folder] = {shards[record["shard"]].key(int(record["start"])) for record in records}
    assert held["one"] == {key for key in held["two"] if key.startswith("k")}
    assert 5 < len(held["one"]) < 30


def test_another_byte_is_another_fingerprint(tmp_path: Path) -> None:
    found = set()
    for name, documents in (("a", texts("k", 0, 9)), ("b", [*texts("k", 0, 8), Known("k00008", ("changed",))])):
        write(tmp_path / name / "x.tar", documents)
        index(tmp_path / name)
        found.add(opened(tmp_path, {"text": name}).fingerprint)
    assert len(found) == 2


def test_indexes_may_lie_elsewhere(tmp_path: Path) -> None:
    """Also those of shards of one name in two folders."""
    for name, first in (("a", 0), ("b", 50)):
        write(tmp_path / name / "x.tar", texts("k", first, 12))
    index_shards([tmp_path], "bytes", into=tmp_path / "indexes", workers=1, progress=False)
    assert len(list((tmp_path / "indexes").iterdir())) == 2
    assert [file.name for file in sorted((tmp_path / "a").iterdir())] == ["x.tar"]
    sources = opened(tmp_path, {"text": "a::b"}, index_dir=str(tmp_path / "indexes"), val_fraction=0.0)
    source = IndexedCorpus(sources, "text", "train", 100, PATCH, None)
    read = [source.read(record) for record in source.records(np.arange(24))]
    expected = [known.tokens(100) for known in [*texts("k", 0, 12), *texts("k", 50, 12)]]
    assert [one.tokens.tolist() for one in read if isinstance(one, Content)] == expected
    with pytest.raises(ValueError, match=r"data.sources.text: .*x.tar.*index does not exist; `nmm index .*/a --tok"):
        opened(tmp_path, {"text": "a"})


def test_where_shards_are_looked_for(tmp_path: Path) -> None:
    for name in ("b.tar", "a.tar", "sub/c.jsonl.gz", "sub/d.jsonl", "notes.txt", "a.tar.1234.index", "e.jsonl.zst"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(b"")

    def names(where: str, root: Path = tmp_path) -> list[str]:
        return [str(path.relative_to(tmp_path)) for path in shard_paths("s", where, str(root))]

    assert names(".") == ["a.tar", "b.tar", "e.jsonl.zst", "sub/c.jsonl.gz", "sub/d.jsonl"]
    assert names(str(tmp_path), Path("/")) == names(".")
    assert names("*.tar") == ["a.tar", "b.tar"]
    assert names("sub::b.tar") == ["sub/c.jsonl.gz", "sub/d.jsonl", "b.tar"]
    assert names("**/*.jsonl") == ["sub/d.jsonl"]
    assert names("c.jsonl.gz", tmp_path / "sub") == ["sub/c.jsonl.gz"]
    for where in ("nothing", "*.zip", "b.tar::missing.tar", ""):
        if where:
            with pytest.raises(ValueError, match=r"data\.sources\.s: .* has no shards \(files that end in \.tar"):
                names(where)
    with pytest.raises(ValueError, match=r"data\.sources\.s=\*\.tar::b\.tar names .*b\.tar twice"):
        names("*.tar::b.tar")
