"""What a config of indexed sources becomes before and in a run: fingerprints, refusals, weights, counts."""

from __future__ import annotations

import dataclasses
import json
import shutil
from collections.abc import Sequence
from pathlib import Path

import pytest
from lab import run_directory, train
from shards_lab import caption_members, index_all, indexed_config, small_sources
from tars import write_tar

from nmm.batch import Batch
from nmm.config import ConfigError, RunConfig, run_id
from nmm.data.indexed import IndexedSources
from nmm.data.indexing import index_shards
from nmm.data.opening import open_data
from nmm.data.shares import held_out_tokens, token_weights
from nmm.record import read_json
from nmm.resolve import check_held_out
from nmm.training.exchange import has_images
from nmm.training.run import rows_of, shards_of, validation


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    made = small_sources(tmp_path_factory.mktemp("sources"))
    index_all(made)
    return made


def opened(config: RunConfig) -> IndexedSources:
    found = open_data(config.data)
    assert isinstance(found, IndexedSources)
    return found


def test_weights_of_samples_become_weights_of_tokens(folder: Path) -> None:
    """The mean over the mixture weighs a source by the tokens that rows hold of it."""
    config = indexed_config(folder, data={"weights": "samples"})
    weights = token_weights(opened(config), config.data)
    counts = rows_of(shards_of(config), config).counts(6000)
    total, delivered = sum(weights.values()), sum(count["tokens"] for count in counts.values())
    for name, count in counts.items():
        assert weights[name] / total == pytest.approx(count["tokens"] / delivered, rel=0.02)
    assert max(abs(weights[name] / total - share) for name, share in config.data.mixture.items()) > 0.05
    by_tokens = indexed_config(folder)
    assert token_weights(opened(by_tokens), by_tokens.data) == by_tokens.data.mixture


def test_the_loss_of_the_mixture_weighs_sources_by_tokens(folder: Path, tmp_path: Path) -> None:
    """Also where the shares are of samples: the record says what training's own rows would have cost."""
    config = indexed_config(folder, data={"weights": "samples"}, out=str(tmp_path / "runs"))
    loss, means = train(config)["result"]["loss"], []
    for weights in (token_weights(opened(config), config.data), config.data.mixture):
        share = {name: weights[name] * _scored(parts) for name, parts in validation(config).items()}
        means.append(sum(share[name] * loss[name] for name in share) / sum(share.values()))
    assert loss["mixture"] == pytest.approx(means[0], rel=1e-9)
    assert abs(means[0] - means[1]) > 1e-6 * means[0]


def _scored(batches: Sequence[Batch]) -> float:
    """Share of the positions that are scored."""
    return sum(float(b.weights.sum()) for b in batches) / sum(int((b.document >= 0).sum()) for b in batches)


def test_the_caption_field_is_part_of_the_data(tmp_path: Path) -> None:
    """Two fields of captions of one length: the same indexes but for the header, and other documents."""
    members = []
    for name, data in caption_members(0, 40):
        if name.endswith(".jpg"):
            members.append((name, data))
        elif name.endswith(".json"):
            members.append((name, json.dumps({"a": "one word", "b": "two word"}).encode()))
    configs = []
    for field in ("a", "b"):
        write_tar(tmp_path / field / "caption" / "0.tar", members)
        index_shards([tmp_path / field], "bytes", caption_field=field, progress=False)
        data = {"sources": {"caption": "caption"}, "mixture": {"caption": 1.0}}
        configs.append(indexed_config(tmp_path / field, data=data))
    assert run_id(configs[0]) != run_id(configs[1])


def test_a_copy_of_a_shard_is_refused(folder: Path, tmp_path: Path) -> None:
    there = tmp_path / "there"
    shutil.copytree(folder, there)
    shard = next((there / "caption").glob("*.tar"))
    shutil.copy(shard, shard.with_name("zzz.tar"))
    index_all(there)
    with pytest.raises(ConfigError, match=r"data.sources.caption: .*zzz.tar is a copy of .*; leave one of them out"):
        indexed_config(there)


def test_other_files_of_a_folder_are_no_shards(folder: Path) -> None:
    """A glob that takes everything means the shards, as it does for `nmm index`."""
    whole = indexed_config(folder)
    starred = indexed_config(folder, data={"sources": {name: f"{name}/*" for name in whole.data.sources}})
    assert starred.data.fingerprint == whole.data.fingerprint


@pytest.mark.parametrize("name", ["avg", "mixture", "all"])
def test_names_of_means_are_refused(folder: Path, name: str) -> None:
    with pytest.raises(ConfigError, match=f"data.sources.{name}: records call means by that name"):
        indexed_config(folder, data={"sources": {name: "caption"}, "mixture": {name: 1.0}})


def test_far_too_few_held_out_rows_are_found_before_the_run(folder: Path) -> None:
    config = indexed_config(folder)
    check_held_out(config)
    held = held_out_tokens(opened(config), config.data)
    rows = 1 + 2 * max(held.values()) // config.data.context_length
    wanting = dataclasses.replace(config, data=dataclasses.replace(config.data, eval_rows=rows))
    with pytest.raises(ConfigError, match=rf"holds out [\d,]+ tokens, data.eval_rows={rows} rows of"):
        check_held_out(wanting)


def test_whether_ranks_need_images_is_measured(folder: Path) -> None:
    """A source may be called text and hold images, or be called otherwise and hold none."""
    images = {"sources": {"text": "interleaved"}, "mixture": {"text": 1.0}}
    none = {"sources": {"books": "text"}, "mixture": {"books": 1.0}}
    assert has_images(indexed_config(folder, data=images))
    assert not has_images(indexed_config(folder, data=none))


def test_a_run_that_only_lacks_its_record_counts_from_its_last_window(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = indexed_config(folder, out=str(tmp_path / "runs"))
    first = train(config)
    (run_directory(config) / "record.json").unlink()
    asked: list[int] = []
    monkeypatch.setattr("nmm.data.packing.RowTable.anchor", _noting(asked))
    second = train(config)
    assert second["tokens"] == first["tokens"] and second["result"] == first["result"]
    state = read_json(run_directory(config) / "record.json")["tokens"]
    assert state == first["tokens"]
    assert len(asked) >= 2, "made at window 0, then put where the checkpoint says"


def _noting(asked: list[int]):  # type: ignore[no-untyped-def]
    from nmm.data.packing import RowTable

    anchor = RowTable.anchor

    def noted(self: RowTable, window: int, first_row: int) -> None:
        asked.append(window)
        anchor(self, window, first_row)

    return noted
