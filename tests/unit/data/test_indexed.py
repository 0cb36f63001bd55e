"""Indexed sources: what is found, what their documents are, what is held out, and what identifies them."""

from __future__ import annotations

import dataclasses
import os
import pickle
import shutil
from pathlib import Path

import numpy as np
import pytest
from known_documents import PATCH, SIDE, Known, M, captions, index, interleaved, opened, pixels, texts, write_lines
from known_documents import write_documents as write

from nmm.batch import IMAGE_ID
from nmm.data.corpus import TOTALS
from nmm.data.images import patchify
from nmm.data.index_file import read_index, text_digest
from nmm.data.index_records import shard_records
from nmm.data.indexed import Content, IndexedCorpus
from nmm.data.indexing import index_shards
from nmm.data.reading import ShardError
from nmm.data.shares import mixture_shares
from nmm.data.source import RowSource
from nmm.groups import Data
from nmm.record import file_sha256

Sources = dict[str, list[list[Known]]]


@pytest.fixture(scope="module")
def mixed(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Sources]:
    """Three sources of two shards each, and what they hold."""
    folder = tmp_path_factory.mktemp("mixed")
    known: Sources = {"caption": [], "interleaved": [], "text": []}
    for shard in range(2):
        known["caption"].append(captions("c", 100 * shard, 40))
        known["interleaved"].append(interleaved("d", 1000 + 100 * shard, 60))
        for name in ("caption", "interleaved"):
            write(folder / name / f"{shard:05d}.tar", known[name][shard])
        known["text"].append(write_lines(folder / "text" / f"{shard:05d}.tar", texts(f"t{shard}-", 0, 50), 15))
    index(folder)
    return folder, known


def corpus(mixed: tuple[Path, Sources], name: str, width: int, split: str = "train", seed: int | None = None):
    return IndexedCorpus(opened(mixed[0], {name: name}), name, split, width, PATCH, seed)


def split_of(documents: list[Known], split: str) -> list[Known]:
    """By the definition: a key whose digest, as a share of 2**64, lies below the fraction is held out."""
    return [known for known in documents if (text_digest(known.key) / 2**64 < 0.25) == (split == "val")]


@pytest.mark.parametrize("split", ["train", "val"])
@pytest.mark.parametrize("width", [5, 9, 16, 23, 64, 10_000])
@pytest.mark.parametrize("name", ["caption", "interleaved", "text"])
def test_documents_are_those_that_were_written(mixed: tuple[Path, Sources], name: str, width: int, split: str) -> None:
    """Every field of every record, and the tokens and patches that are read, against the slow way."""
    source = corpus(mixed, name, width, split)
    expected = [(shard, known) for shard in (0, 1) for known in split_of(mixed[1][name][shard], split)]
    records = source.records(np.arange(len(expected)))
    assert int(source.units.sum()) == len(expected) > 5
    for record, (shard, known) in zip(records, expected, strict=True):
        tokens, images = known.tokens(width), known.images(width)
        assert record["id"] == text_digest(source.shards[shard].header["sha256"], known.key)
        assert (record["length"], record["images"], record["shard"]) == (len(tokens), len(images), shard)
        assert (record["targets"], record["truncated"]) == (known.targets(width), len(known.whole()) > width)
        assert mixed[1][name][shard][record["start"]].key == known.key
        content = source.read(record)
        assert isinstance(content, Content)
        assert content.tokens.tolist() == tokens
        assert np.array_equal(content.patches.reshape(-1, M, 192), [patchify(pixels(n), PATCH) for n in images]) or (
            not images and not len(content.patches)
        )
    for at, column in enumerate(TOTALS):
        assert source.totals[:, at].sum() == records[column].sum()


def test_long_documents_are_cut_everywhere(mixed: tuple[Path, Sources]) -> None:
    """The widths above do cut: in a text, before an image, right behind one, and not at all."""
    ends = set()
    for known in mixed[1]["interleaved"][0]:
        for width in (9, 16, 23):
            tokens, whole = known.tokens(width), known.whole()
            if len(whole) <= width:
                ends.add("not at all")
            elif len(tokens) < width:
                ends.add("before an image")
            else:
                ends.add("behind an image" if tokens[-1] == IMAGE_ID else "in a text")
    assert ends == {"not at all", "before an image", "behind an image", "in a text"}


def test_units_are_stretches_that_are_read_together(mixed: tuple[Path, Sources]) -> None:
    """A tar of single samples is one unit, a jsonl member is one; with their own sums."""
    assert len(corpus(mixed, "caption", 64).units) == 2
    source = corpus(mixed, "text", 20)
    members = [shard[first : first + 15] for shard in mixed[1]["text"] for first in range(0, 50, 15)]
    kept = [split_of(member, "train") for member in members]
    assert source.units.tolist() == [len(member) for member in kept]
    lengths = [sum(len(known.tokens(20)) for known in member) for member in kept]
    assert source.totals[:, TOTALS.index("length")].tolist() == lengths


def test_records_can_be_asked_for_in_any_order(mixed: tuple[Path, Sources], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("nmm.data.indexed.KEPT_RECORDS", 0)
    source = corpus(mixed, "interleaved", 23)
    count = int(source.units.sum())
    whole = source.records(np.arange(count))
    chosen = np.random.default_rng(0).permutation(count)
    assert np.array_equal(source.records(chosen), whole[chosen])
    assert len(source.records(chosen[:0])) == 0
    assert len(source._records) == 1, "records of one shard at a time are kept"


def test_quarantined_samples_are_left_out_and_counted(tmp_path: Path) -> None:
    documents = captions("c", 0, 40)
    documents[7] = dataclasses.replace(documents[7], segments=(7, "  "))
    documents[20] = dataclasses.replace(documents[20], segments=("",))
    write(tmp_path / "a.tar", documents)
    (summary,) = index_shards([tmp_path], "bytes", workers=1, progress=False, max_bad=0.1).shards
    assert summary.bad == {"empty_text": 2}
    sources = opened(tmp_path, {"caption": "."}, val_fraction=0.0)
    source = IndexedCorpus(sources, "caption", "train", 64, PATCH, None)
    assert source.holdings() == {"shards": 1, "refused_shards": 0, "samples": 38, "left_out": {"empty_text": 2}}
    places = source.records(np.arange(38))["start"].tolist()
    assert places == [place for place in range(40) if place not in (7, 20)]
    last = source.read(source.records(np.array([37]))[0])
    assert isinstance(last, Content)
    assert last.tokens.tolist() == documents[39].tokens(64)


def test_refused_shards_are_empty(tmp_path: Path) -> None:
    write(tmp_path / "a.tar", captions("c", 0, 20))
    (tmp_path / "b.tar").write_bytes(b"no tar" * 1000)
    index_shards([tmp_path], "bytes", workers=1, progress=False, quarantine=True)
    source = IndexedCorpus(opened(tmp_path, {"caption": "."}, val_fraction=0.0), "caption", "train", 64, PATCH, None)
    assert source.holdings() == {"shards": 2, "refused_shards": 1, "samples": 20, "left_out": {}}
    assert sorted(source.records(np.arange(20))["start"].tolist()) == list(range(20))


# ---------------------------------------------------------------------------------------------------------------------
# what is found, and what identifies it


def test_the_fingerprint_is_of_the_content(mixed: tuple[Path, Sources], tmp_path: Path) -> None:
    here = opened(mixed[0], {"caption": "caption", "text": "text"})
    shutil.copytree(mixed[0], tmp_path / "elsewhere/deep")
    there = opened(tmp_path, {"caption": "elsewhere/deep/caption", "text": "elsewhere/deep/text"})
    assert there.fingerprint == here.fingerprint
    (tmp_path / "elsewhere/deep/caption/00000.tar").rename(tmp_path / "elsewhere/deep/caption/00000b.tar")
    for file in (tmp_path / "elsewhere/deep/caption").glob("00000.tar.*.index"):
        file.rename(file.with_name(file.name.replace("00000.tar", "00000b.tar")))
    assert opened(tmp_path, {"caption": "elsewhere/deep/caption", "text": "elsewhere/deep/text"}).fingerprint == (
        here.fingerprint
    )
    changed = {
        "another name": opened(mixed[0], {"pictures": "caption", "text": "text"}),
        "a source less": opened(mixed[0], {"caption": "caption"}),
        "a shard less": opened(mixed[0], {"caption": "caption/00000.tar", "text": "text"}),
        "another order": opened(mixed[0], {"caption": "caption/00001.tar::caption/00000.tar", "text": "text"}),
    }
    assert len({here.fingerprint, *(sources.fingerprint for sources in changed.values())}) == 1 + len(changed)


def test_what_cannot_be_opened_is_named(tmp_path: Path) -> None:
    shard = tmp_path / "t/x.tar"
    write(shard, texts("k", 0, 12))
    with pytest.raises(ValueError, match=r"data.sources.text: .*index does not exist; `nmm index .*/t --tokenizer byt"):
        opened(tmp_path, {"text": "t"})
    index(tmp_path)
    with pytest.raises(
        ValueError, match="text has no val sample: `nmm index` left 0 out, of the rest data.val_fraction=0"
    ):
        IndexedCorpus(opened(tmp_path, {"text": "t"}, val_fraction=0.0), "text", "val", 64, PATCH, None)
    with pytest.raises(ValueError, match="patch_size=5 does not divide"):
        IndexedCorpus(opened(tmp_path, {"text": "t"}), "text", "train", 64, 5, None)
    assert IndexedCorpus(opened(tmp_path, {"text": "t"}), "text", "train", 2, PATCH, None).totals[:, 0].sum() > 10
    shard.write_bytes(shard.read_bytes() + b"\0")
    with pytest.raises(ValueError, match=r"text: shard .*x.tar has \d+ bytes, \d+ when it was indexed"):
        opened(tmp_path, {"text": "t"})
    shard.unlink()
    with pytest.raises(ValueError, match=r"text: .* has no shards"):
        opened(tmp_path, {"text": "t"})


def test_rows_without_room_for_an_image_are_refused(mixed: tuple[Path, Sources]) -> None:
    with pytest.raises(ValueError, match="context_length=4 cannot hold an image of 4 patches and a word: make it at"):
        corpus(mixed, "interleaved", 4)
    assert corpus(mixed, "interleaved", 5).totals[:, TOTALS.index("images")].any()


def test_an_index_made_again_during_a_run_is_noticed(tmp_path: Path) -> None:
    """Of another shard of the same name: records and bytes of the two must never be mixed."""
    write(tmp_path / "x.tar", texts("k", 0, 12))
    index(tmp_path)
    source = IndexedCorpus(opened(tmp_path, {"text": "."}, val_fraction=0.0), "text", "train", 64, PATCH, None)
    write(tmp_path / "x.tar", texts("other", 0, 12))
    index_shards([tmp_path], "bytes", workers=1, progress=False, force=True)
    with pytest.raises(ShardError, match="made again since this run opened it"):
        source.records(np.arange(12))


def test_a_copy_in_another_process_starts_with_nothing_open(mixed: tuple[Path, Sources]) -> None:
    source = corpus(mixed, "caption", 64)
    record = source.records(np.array([3]))[0]
    first = source.read(record)
    data = pickle.dumps(source)
    assert len(data) < 20_000, "neither records nor indexes travel"
    copy = pickle.loads(data)
    assert not copy._records
    assert not copy.opened.reader._open
    again = copy.read(copy.records(np.array([3]))[0])
    assert isinstance(first, Content) and isinstance(again, Content)
    assert np.array_equal(again.tokens, first.tokens)
    assert np.array_equal(again.patches, first.patches)


def test_all_sources_share_what_is_open(mixed: tuple[Path, Sources], monkeypatch: pytest.MonkeyPatch) -> None:
    """Files a process may have open are few, sources and shards may be many."""
    plenty = RowSource(opened(mixed[0], dict.fromkeys("abcdef", "caption")), dict.fromkeys("abcdef", 1), 64, PATCH, 0)
    expected = plenty.rows_at(0, 30)
    monkeypatch.setattr("nmm.data.reading.OPEN_SHARDS", 2)
    before = len(os.listdir("/proc/self/fd"))
    sources = opened(mixed[0], {"c": "caption", "d": "interleaved", "t": "text"} | dict.fromkeys("abef", "caption"))
    rows = RowSource(sources, dict.fromkeys(sources.names, 1), 64, PATCH, 0)
    for at in range(0, 30, 3):
        rows.rows_at(at, 3)
        assert len(os.listdir("/proc/self/fd")) <= before + 4
    few = RowSource(opened(mixed[0], dict.fromkeys("abcdef", "caption")), dict.fromkeys("abcdef", 1), 64, PATCH, 0)
    assert np.array_equal(few.rows_at(0, 30).patches, expected.patches)


# ---------------------------------------------------------------------------------------------------------------------
# shares


@pytest.mark.parametrize("weights", ["tokens", "samples"])
def test_shares_of_a_mixture(mixed: tuple[Path, Sources], weights: str) -> None:
    """Positions that are patches or precede text, over all training documents of every source."""
    mixture, width = {"caption": 2.0, "interleaved": 1.0, "text": 1.0}, 40
    data = Data(context_length=width, patch_size=PATCH, mixture=mixture, weights=weights)
    image, target = mixture_shares(opened(mixed[0], {name: name for name in mixture}), data)
    totals = np.zeros(3)
    for name, weight in mixture.items():
        documents = split_of([known for shard in mixed[1][name] for known in shard], "train")
        held = [(len(k.tokens(width)), len(k.images(width)) * M, k.targets(width)) for k in documents]
        sums = np.array(held).sum(axis=0)
        totals += weight * sums / (sums[0] if weights == "tokens" else len(documents))
    assert image == pytest.approx(totals[1] / totals[0], rel=1e-12)
    assert target == pytest.approx(totals[2] / totals[0], rel=1e-12)


def test_records_of_an_index_alone(mixed: tuple[Path, Sources]) -> None:
    """What ``shard_records`` gives is of its own shard: all but source, shard and ordinal."""
    source = corpus(mixed, "interleaved", 23)
    first = shard_records(read_index(source.shards[0].index), "train", 0.25, 23, (SIDE // PATCH) ** 2)
    assert np.array_equal(first, source.records(np.arange(len(first))))
    sha256 = file_sha256(source.shards[0].path)
    keys = [mixed[1]["interleaved"][0][place].key for place in first["start"].tolist()]
    assert first["id"].tolist() == [text_digest(sha256, key) for key in keys]
