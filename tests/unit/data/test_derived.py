"""Derived shard folders: chosen samples byte for byte, the rest carried over, resumable, the same bytes twice."""

from __future__ import annotations

import json
import os
from pathlib import Path

import numpy as np
import pytest

from nmm.data.decoded import open_decoded
from nmm.data.derived import Sample, derive, retold, samples_of
from nmm.data.manifest import Shards, open_shards
from nmm.data.shards import write_shards
from nmm.data.source import RowSource
from nmm.data.world import WorldConfig

SAMPLES = {"caption": {"train": 70, "val": 12}, "text": {"train": 40, "val": 8, "test": 5}}


@pytest.fixture(scope="module")
def parent(tmp_path_factory: pytest.TempPathFactory) -> Shards:
    out = tmp_path_factory.mktemp("parent") / "shards"
    write_shards(WorldConfig(num_entities=60, name_words=12), out, SAMPLES, 32, progress=False)
    return open_shards(out)


def third(tar: int, place: int, sample: Sample) -> Sample | None:
    return sample if (32 * tar + place) % 3 == 0 else None


def read_all(shards: Shards, source: str, split: str) -> list[Sample]:
    return [sample for info in shards.split(source, split).shards for sample in samples_of(shards, info)]


def test_chosen_samples_are_kept_as_they_are(parent: Shards, tmp_path: Path) -> None:
    manifest = derive(parent, tmp_path / "out", "caption", third, {"rule": "third"}, progress=False)
    shards = open_shards(tmp_path / "out", verify=True)
    kept, whole = read_all(shards, "caption", "train"), read_all(parent, "caption", "train")
    assert [(s.key, s.members) for s in kept] == [(s.key, s.members) for s in whole[::3]]
    info = shards.split("caption", "train")
    assert (info.samples, info.images) == (24, 24)
    assert info.text_tokens == sum(len(s.text.split()) - 1 for s in kept)
    assert info.entropy is None  # of chosen samples nobody knows it
    assert manifest["derived"] == {"parent": parent.fingerprint, "source": "caption", "rule": "third"}
    assert shards.tokenizer.fingerprint == parent.tokenizer.fingerprint


def test_other_splits_and_sources_are_carried_over(parent: Shards, tmp_path: Path) -> None:
    derive(parent, tmp_path / "out", "caption", third, {"rule": "third"}, progress=False)
    shards = open_shards(tmp_path / "out", verify=True)
    for source, split in (("caption", "val"), ("text", "train"), ("text", "val"), ("text", "test")):
        assert shards.split(source, split) == parent.split(source, split)
        for info in shards.split(source, split).shards:
            assert os.path.samefile(shards.root / info.path, parent.root / info.path)
    assert len(RowSource(shards, {"caption": 1.0}, 128, 8, seed=0).rows_at(0, 4).tokens) == 4


def test_equal_work_has_an_equal_fingerprint_and_paths_are_no_part_of_it(parent: Shards, tmp_path: Path) -> None:
    one, two = (
        derive(parent, tmp_path / name, "caption", third, {"rule": "third"}, ["made", "by", name], progress=False)
        for name in ("one", "two")
    )
    other = derive(parent, tmp_path / "three", "caption", third, {"rule": "else"}, progress=False)
    assert one == two
    assert one["fingerprint"] != other["fingerprint"]
    origin = json.loads((tmp_path / "two" / "provenance.json").read_text())
    assert origin == {"parent": str(parent.root), "command": ["made", "by", "two"]}


def test_a_stopped_call_goes_on_with_what_is_missing(parent: Shards, tmp_path: Path) -> None:
    calls: list[int] = []

    def counting(tar: int, place: int, sample: Sample) -> Sample | None:
        if tar == 2 and "stop" in made:
            raise KeyboardInterrupt
        calls.append(tar)
        return third(tar, place, sample)

    made = {"stop": True}
    with pytest.raises(KeyboardInterrupt):
        derive(parent, tmp_path / "out", "caption", counting, {"rule": "third"}, progress=False)
    assert set(calls) == {0, 1}
    assert not (tmp_path / "out" / "manifest.json").exists()
    made.clear()
    calls.clear()
    again = derive(parent, tmp_path / "out", "caption", counting, {"rule": "third"}, progress=False)
    assert set(calls) == {2}
    assert again == derive(parent, tmp_path / "whole", "caption", third, {"rule": "third"}, progress=False)


def test_words_can_be_changed(parent: Shards, tmp_path: Path) -> None:
    def shorter(tar: int, place: int, sample: Sample) -> Sample:
        return retold(sample, "<image> topleft red . <end>", "lcgg", teller="me")

    derive(parent, tmp_path / "out", "caption", shorter, {"rule": "shorter"}, progress=False)
    shards = open_shards(tmp_path / "out", verify=True)
    first, old = read_all(shards, "caption", "train")[0], read_all(parent, "caption", "train")[0]
    assert first.members["png"] == old.members["png"]
    assert first.facts["segments"] == [{"image": "png"}, {"text": "topleft red . <end>"}]
    assert (first.facts["teller"], first.facts["questions"], "logprobs" in first.facts) == ("me", [], False)
    decoded = open_decoded(shards, "caption", "train", 8)[0]
    assert np.isnan(decoded.positions["logprob"][16:20]).all()
    assert bytes(decoded.positions["letter"][16:20]) == b"lcgg"


def test_what_cannot_be_is_refused(parent: Shards, tmp_path: Path) -> None:
    sample = read_all(parent, "caption", "train")[0]
    with pytest.raises(ValueError, match="1 images, but <image> stands 0 times"):
        retold(sample, "no picture <end>")
    with pytest.raises(ValueError, match=r"caption-train-000000000.*xylophone"):
        derive(parent, tmp_path / "a", "caption", lambda t, p, s: retold(s, "<image> xylophone"), {}, progress=False)
    with pytest.raises(ValueError, match="nothing of caption train is left"):
        derive(parent, tmp_path / "b", "caption", lambda t, p, s: None, {}, progress=False)
    with pytest.raises(ValueError, match="is the folder to read from"):
        derive(parent, parent.root, "caption", third, {}, progress=False)
    (tmp_path / "c").mkdir()
    (tmp_path / "c" / "mine.txt").write_text("mine")
    with pytest.raises(ValueError, match="was not made by this command"):
        derive(parent, tmp_path / "c", "caption", third, {}, progress=False)
    derive(parent, tmp_path / "d", "caption", third, {"rule": "third"}, progress=False)
    with pytest.raises(ValueError, match="holds shards of other parameters.*rule is third, asked for other"):
        derive(parent, tmp_path / "d", "caption", third, {"rule": "other"}, progress=False)
