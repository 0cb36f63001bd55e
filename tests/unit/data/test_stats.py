"""Statistics of data against counting by hand: a tiny rendered folder, and indexes with everything planted in them."""

from __future__ import annotations

import io
import json
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from rich.console import Console

from nmm.data.counter_rng import TO_UNIT
from nmm.data.formats import RULES
from nmm.data.index_file import IMAGE_SEGMENT, MEMBER, SAMPLE_ROW, index_path, read_index, text_digest, write_index
from nmm.data.index_records import in_split
from nmm.data.indexed import IndexedSources
from nmm.data.manifest import Shards
from nmm.data.opening import open_data, row_source
from nmm.data.reasons import REASONS
from nmm.data.stats import data_stats
from nmm.data.tokenizer import ByteTokenizer
from nmm.data_tables import show
from nmm.groups import Data

MIXTURE = {"caption": 45.0, "interleaved": 45.0, "text": 10.0}
TINY = Data(image_size=8, patch_size=4, context_length=40, mixture=MIXTURE)
M = 4


def facts_of(data: Data, rows: int = 300, budget: int | None = None) -> dict[str, Any]:
    opened = open_data(data)
    found = data_stats(opened, row_source(opened, data, 0), data, rows, budget)
    assert json.loads(json.dumps(found)) == found
    return found


def text_of(facts: dict[str, Any], width: int = 100) -> str:
    console = Console(width=width, file=io.StringIO())
    show(facts, console)
    assert isinstance(console.file, io.StringIO)
    return console.file.getvalue()


# ---------------------------------------------------------------------------------------------------------------------
# a rendered folder


def test_one_epoch_is_what_the_documents_are(tiny_root: Path, tiny_document: Any) -> None:
    facts = facts_of(replace(TINY, path=str(tiny_root)))
    for source, samples in (("caption", 90), ("interleaved", 50), ("text", 70)):
        documents = [tiny_document(source, "train", i) for i in range(samples)]
        whole = [len(d["words"]) + 3 * len(d["images"]) for d in documents]
        found = facts["sources"][source]
        assert found["samples"] == samples and found["shards"] == -(-samples // 32)
        assert found["held_out"] == {"caption": 30, "interleaved": 12, "text": 40}[source]
        assert found["truncated"] == sum(length > 40 for length in whole)
        assert sum(one["documents"] for one in found["length"]["histogram"]) == samples
        assert found["text_tokens"] + found["image_tokens"] == found["positions"] <= sum(whole)
        if not found["truncated"]:
            assert found["positions"] == sum(whole)
            assert found["images"] == [
                Counter(len(d["images"]) for d in documents)[n] for n in range(len(found["images"]))
            ]
            words = sorted(length - M * len(d["images"]) for length, d in zip(whole, documents, strict=True))
            assert found["text"]["max"] == words[-1] and found["text"]["mean"] == pytest.approx(np.mean(words))
            assert found["text"]["median"] in words[samples // 2 - 1 : samples // 2 + 1]
        assert (found["refused"], found["bad"]) == ({}, {})
    assert facts["sources"]["interleaved"]["truncated"] > 0
    assert facts["duplicates"] is None and facts["budget"] is None


def test_the_rows_are_those_of_training(tiny_root: Path) -> None:
    data = replace(TINY, path=str(tiny_root))
    opened = open_data(data)
    rows = row_source(opened, data, 0)
    facts = data_stats(opened, rows, data, 70)
    batch, packed = rows.rows_at(0, 70), facts["rows"]
    is_image = batch.image >= 0
    filled = batch.document >= 0
    assert packed["positions"] == 70 * 40
    assert packed["filled"] == filled.sum() and packed["efficiency"] == pytest.approx(rows.efficiency(70))
    assert (packed["image_tokens"], packed["text_tokens"]) == (is_image.sum(), (filled & ~is_image).sum())
    assert packed["targets"] == batch.weights.sum()
    assert packed["target_share"] == pytest.approx(batch.weights.mean())
    assert packed["documents"] == ((batch.position == 0) & filled).sum()
    for number, name in enumerate(rows.names):
        one = facts["mixture"][name]
        assert one["found"] == pytest.approx((batch.source == number).sum() / filled.sum())
        assert one["asked"] == pytest.approx(MIXTURE[name] / 100)
        assert one["epochs_done"] == one["samples"] / facts["sources"][name]["samples"]


def test_a_budget_in_epochs_and_unique_tokens(tiny_root: Path) -> None:
    data = replace(TINY, path=str(tiny_root))
    facts = facts_of(data, 256, budget=10**6)
    for name, one in facts["budget"].items():
        positions = facts["sources"][name]["positions"]
        assert one["tokens"] == pytest.approx(10**6 * facts["mixture"][name]["tokens"] / (256 * 40), abs=1)
        assert one["epochs"] == pytest.approx(one["tokens"] / positions, rel=1e-4)
        assert one["unique_tokens"] == positions
    small = facts_of(data, 256, budget=400)["budget"]
    assert all(one["unique_tokens"] == one["tokens"] < 200 and one["epochs"] < 1 for one in small.values())
    true = row_source(open_data(data), data, 0).counts(10**6 // 40)
    for name, one in facts["budget"].items():
        assert one["tokens"] == pytest.approx(true[name]["tokens"], rel=0.02)


def test_bins_double_in_two_steps_and_hold_everything(tiny_root: Path) -> None:
    for width in (40, 64, 100):
        bins = facts_of(replace(TINY, path=str(tiny_root), context_length=width))["sources"]["text"]["length"][
            "histogram"
        ]
        assert [one["from"] for one in bins][:9] == [1, 2, 3, 4, 6, 8, 12, 16, 24]
        assert [a["to"] + 1 for a in bins[:-1]] == [b["from"] for b in bins[1:]]
        assert bins[-1]["to"] == width


def test_less_than_one_row_is_refused(tiny_root: Path) -> None:
    with pytest.raises(ValueError, match="--rows 0 must be at least 1"):
        facts_of(replace(TINY, path=str(tiny_root)), 0)


# ---------------------------------------------------------------------------------------------------------------------
# indexed sources


@dataclass(frozen=True)
class Planted:
    """A sample of an index: its segments (-1 an image, else text tokens), digest, place in [0, 1) for the split."""

    segments: tuple[int, ...]
    digest: int
    place: float = 0.9
    reason: str = ""


def plant(shard: Path, samples: Sequence[Planted], refused: str = "") -> None:
    """A shard of zeros with an index that says ``samples``."""
    shard.parent.mkdir(parents=True, exist_ok=True)
    shard.write_bytes(bytes(100))
    rows = np.zeros(len(samples), SAMPLE_ROW)
    first = 0
    for number, (row, sample) in enumerate(zip(rows, samples, strict=True)):
        row["id"] = text_digest(str(shard), str(number))
        row["key_hash"] = int(sample.place / TO_UNIT) << 11
        row["digest"], row["reason"] = sample.digest, 1 + REASONS.index(sample.reason) if sample.reason else 0
        row["images"] = sample.segments.count(IMAGE_SEGMENT)
        row["text_tokens"] = sum(count for count in sample.segments if count != IMAGE_SEGMENT)
        row["first_segment"], row["segments"] = first, len(sample.segments)
        first += len(sample.segments)
    header = {
        "shard": shard.name,
        "bytes": 100,
        "sha256": str(shard),
        "tokenizer": ByteTokenizer().fingerprint,
        "samples": len(samples),
        "units": [sum(not sample.reason for sample in samples)],
        "names": ["jpg", "txt"],
        "caption_field": "caption",
        "rules": RULES,
        "refused": refused,
    }
    segments = np.array([count for sample in samples for count in sample.segments], "<i4")
    arrays = {"samples": rows, "segments": segments, "members": np.zeros(0, MEMBER)}
    file = index_path(shard, ByteTokenizer().fingerprint)
    write_index(file, header, arrays, [f"{number:09d}" for number in range(len(samples))])


def indexed(root: Path, **changed: Any) -> Data:
    values = {"sources": {"a": "a", "b": "b"}, "mixture": {"a": 1.0, "b": 3.0}, "val_fraction": 0.5}
    return replace(TINY, path=str(root), tokenizer="bytes", **(values | changed))


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """Source a: captions in two shards, one refused. Source b: interleaved and text. Places below 0.5 are held out."""
    caption = (IMAGE_SEGMENT, 5)
    train = [Planted(caption, digest) for digest in (1, 2, 2, 2, 3)]
    held = [Planted(caption, 1, 0.1), Planted(caption, 4, 0.2), Planted(caption, 10, 0.3)]
    bad = [
        Planted((), 0, reason="empty_text"),
        Planted((), 0, 0.1, reason="bad_text"),
        Planted((), 0, reason="bad_text"),
    ]
    plant(tmp_path / "a" / "0.tar", [*train, *held, *bad])
    plant(tmp_path / "a" / "1.tar", [Planted((IMAGE_SEGMENT, 9), 5)])
    plant(tmp_path / "a" / "2.tar", [], refused="not a tar: <b>")
    long = Planted((3, IMAGE_SEGMENT, IMAGE_SEGMENT, 30), 11)
    plant(
        tmp_path / "b" / "0.tar",
        [Planted((7,), 10), Planted((8,), 2), long, Planted((60,), 12), Planted((9,), 12, 0.0)],
    )
    return tmp_path


def test_an_index_is_counted_without_reading_shards(root: Path) -> None:
    sources = facts_of(indexed(root))["sources"]
    assert sources["a"] == {
        "shards": 3,
        "refused": {str(root / "a" / "2.tar"): "not a tar: <b>"},
        "held_out": 3,
        "bad": {"empty_text": 1, "bad_text": 2},
        "samples": 6,
        "positions": 5 * (4 + 5 + 1) + (4 + 9 + 1),
        "text_tokens": 5 * 6 + 10,
        "image_tokens": 6 * 4,
        "targets": 5 * 6 + 10,
        "truncated": 0,
        "length": sources["a"]["length"],
        "text": {"mean": pytest.approx(40 / 6), "p5": 6, "median": 6, "p95": 10, "max": 10},
        "images": [0, 6],
    }
    filled = {one["from"]: one["documents"] for one in sources["a"]["length"]["histogram"] if one["documents"]}
    assert filled == {8: 5, 12: 1}
    b = sources["b"]
    assert (b["samples"], b["held_out"], b["truncated"], b["images"]) == (4, 1, 2, [3, 0, 1])
    assert b["positions"] == 8 + 9 + 40 + 40


def by_hand(data: Data) -> Iterator[tuple[str, int, bool]]:
    """(source, digest, held out) of every usable sample."""
    opened = open_data(data)
    assert isinstance(opened, IndexedSources)
    for name, shards in opened.sources.items():
        for shard in shards:
            samples = read_index(shard.index).samples
            held = in_split(samples["key_hash"], "val", data.val_fraction)
            for row, is_held in zip(samples, held.tolist(), strict=True):
                if row["reason"] == 0:
                    yield name, int(row["digest"]), is_held


def expected(data: Data) -> dict[str, Any]:
    """Duplicates by plain counting."""
    everything = list(by_hand(data))
    trained = {digest for _, digest, held in everything if not held}
    sources = {}
    for name in ("a", "b"):
        own = [digest for source, digest, _ in everything if source == name]
        others = {digest for source, digest, _ in everything if source != name}
        repeats = len(own) - len(set(own))
        sources[name] = {"samples": len(own), "repeats": repeats, "elsewhere": sum(d in others for d in own)}
    held_out = [digest for _, digest, held in everything if held]
    return {"sources": sources, "held_out": len(held_out), "leaked": sum(d in trained for d in held_out)}


def test_duplicates_of_a_source_of_others_and_of_the_held_out_split(root: Path) -> None:
    found = facts_of(indexed(root))["duplicates"]
    assert found == {
        "sources": {
            "a": {"samples": 9, "repeats": 3, "elsewhere": 4},  # 1 once and 2 twice more; 2, 2, 2 and 10
            "b": {"samples": 5, "repeats": 1, "elsewhere": 2},
        },
        "held_out": 4,
        "leaked": 3,  # 1, 10 and 12
    }
    assert found == expected(indexed(root))


@pytest.mark.parametrize("seed", range(4))
def test_duplicates_against_plain_counting(tmp_path: Path, seed: int) -> None:
    rng = np.random.default_rng(seed)
    for name in ("a", "b"):
        for shard in range(2):
            digests, places = rng.integers(0, (30, 90, 10**9, 3)[seed], 40).tolist(), rng.random(40).tolist()
            samples = [Planted((4,), digest, place) for digest, place in zip(digests, places, strict=True)]
            plant(tmp_path / name / f"{shard}.tar", samples)
    data = indexed(tmp_path, val_fraction=0.2)
    assert facts_of(data)["duplicates"] == expected(data)


def test_a_source_outside_the_mixture_is_not_counted(root: Path) -> None:
    facts = facts_of(indexed(root, mixture={"a": 1.0, "b": 0.0}))
    assert list(facts["sources"]) == list(facts["mixture"]) == list(facts["duplicates"]["sources"]) == ["a"]
    assert facts["duplicates"]["sources"]["a"] == {"samples": 9, "repeats": 3, "elsewhere": 0}


def test_shares_of_samples(root: Path) -> None:
    mixture = facts_of(indexed(root, weights="samples"), 512)["mixture"]
    assert mixture["b"]["asked"] == 0.75
    assert mixture["b"]["found"] == pytest.approx(0.75, abs=0.01)
    assert mixture["b"]["samples"] == pytest.approx(3 * mixture["a"]["samples"], rel=0.02)


# ---------------------------------------------------------------------------------------------------------------------
# for a person


def test_tables_say_it_in_80_columns(root: Path) -> None:
    data = indexed(root)
    text = text_of(facts_of(data, budget=10**5), 80)
    assert max(len(line.rstrip()) for line in text.splitlines()) <= 80
    for part in ("bad_text", "empty_text", "not a tar: <b>", "packing efficiency", "shares of tokens", "unique tokens"):
        assert part in " ".join(text.split())
    assert "3 of 4 held-out samples (75.00%) are trained on under another key" in text
    assert "2 indexed sources" in text


def test_bars_are_as_long_as_their_share(tiny_root: Path) -> None:
    facts = facts_of(replace(TINY, path=str(tiny_root)))
    text = text_of(facts)
    histogram = facts["sources"]["caption"]["length"]["histogram"]
    largest = max(histogram, key=lambda one: one["documents"])
    line = next(
        line for line in text.splitlines() if line.strip().startswith(f"{largest['from']}\u2013{largest['to']} ")
    )
    assert "\u2588" * 14 + f" {largest['documents'] / 90:.1%}" in line
    assert isinstance(open_data(replace(TINY, path=str(tiny_root))), Shards)
    assert "rendered shards keep no checksum" in text


def test_many_sources_are_shown_some_at_a_time(tmp_path: Path) -> None:
    names = [f"source_number_{i}" for i in range(6)]
    for name in names:
        plant(tmp_path / name / "0.tar", [Planted((IMAGE_SEGMENT, 5), 1), Planted((5,), 2)])
    data = indexed(
        tmp_path, sources={name: name for name in names}, mixture=dict.fromkeys(names, 1.0), val_fraction=0.0
    )
    text = text_of(facts_of(data))
    assert "nothing is held out" in text
    assert all(text.count(name) >= 5 for name in names)
    assert max(len(line.rstrip()) for line in text.splitlines()) <= 100
