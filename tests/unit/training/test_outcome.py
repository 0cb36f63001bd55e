"""The record against the batches that were really delivered, and the digest of the weights."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable
from typing import Any

import pytest
import torch
from lab import ARCHS, SOURCES, run_directory, train, training_batch

from nmm import __version__
from nmm.batch import IMAGE_ID
from nmm.config import Budget, Parent, RunConfig, run_id
from nmm.flops import count_params, training_flops
from nmm.model.build import build
from nmm.record import flatten
from nmm.training import outcome
from nmm.training.numerics import Numerics
from nmm.training.outcome import make_record, peak_flops, weights_digest
from nmm.training.run import rows_of, shards_of

TinyConfig = Callable[..., RunConfig]


def record_of(config: RunConfig, result: dict[str, Any], status: str = "done") -> dict[str, Any]:
    """A record of a run that took two seconds, without training it."""
    rows = rows_of(shards_of(config), config)
    timing = {"seconds": 2.0, "steps": config.total_steps}
    return make_record(config, run_directory(config), rows, Numerics("fp32", False), status, result, timing, ["c0de"])


@pytest.mark.parametrize("steps", [1, 12, 80])
def test_tokens_are_those_of_the_batches(tiny_config: TinyConfig, steps: int) -> None:
    """80 steps go through several epochs of the tiny shards and end inside a window."""
    config = tiny_config(budget={"steps": steps})
    tokens = record_of(config, {})["tokens"]
    batches = [training_batch(config, step) for step in range(steps)]
    image = sum(int((b.tokens == IMAGE_ID).sum()) for b in batches)
    filled = sum(int((b.document >= 0).sum()) for b in batches)
    assert tokens["image"] == image
    assert tokens["total"] == filled
    assert tokens["text"] == filled - image
    assert tokens["targets"] == sum(int(b.weights.sum()) for b in batches)
    assert tokens["positions"] == steps * 512
    for i, source in enumerate(SOURCES):
        assert tokens["by_source"][source]["tokens"] == sum(int((b.source == i).sum()) for b in batches)


@pytest.mark.parametrize("arch", ARCHS)
def test_parameters_and_flops_are_the_formulas_on_those_tokens(tiny_config: TinyConfig, arch: str) -> None:
    config = tiny_config(arch)
    record = record_of(config, {})
    params = count_params(config)
    for name in (*(f.name for f in dataclasses.fields(params)), "total", "active", "active_non_embedding"):
        assert record["params"][name] == getattr(params, name)
    tokens = record["tokens"]
    positions = tokens["positions"]
    assert record["flops"] == training_flops(
        config, positions, tokens["image"] / positions, tokens["targets"] / positions
    )
    assert record["tokens_per_second"] == 12 * 512 / 2.0
    expected = record["flops"]["total"] / 2.0 / peak_flops("cpu", 1, "fp32")
    assert record["mfu"] == pytest.approx(expected)


@pytest.mark.parametrize(
    ("excess", "on_plateau"),
    [({"colour": 1.4}, True), ({"colour": 0.9}, False), ({"colour": None}, False), ({}, False)],
)
def test_runs_on_the_vision_plateau_are_flagged(tiny_config: TinyConfig, excess: dict, on_plateau: bool) -> None:
    assert record_of(tiny_config(), {"class_excess": excess})["on_plateau"] is on_plateau


def test_lineage_and_versions(tiny_config: TinyConfig) -> None:
    alone = tiny_config(seed=5, sweep="s")
    record = record_of(alone, {})
    assert record["lineage"] == {"parent": None, "step": 0, "trunk_id": run_id(alone)}
    assert (record["run_id"], record["sweep"], record["seed"], record["arch"]) == (run_id(alone), "s", 5, "early")
    assert record["versions"]["nmm"] == __version__
    assert record["versions"]["torch"] == torch.__version__
    assert record["versions"]["data"] == alone.data.fingerprint
    branch = dataclasses.replace(alone, role="branch", budget=Budget(steps=8), parent=Parent("the-trunk", 6))
    assert record_of(branch, {})["lineage"] == {"parent": "the-trunk", "step": 6, "trunk_id": "the-trunk"}


def test_the_record_of_a_run_is_plain_json_and_fills_the_table(tiny_config: TinyConfig) -> None:
    config = tiny_config("moe")
    record = train(config)
    assert record == json.loads((run_directory(config) / "record.json").read_text())
    row = flatten(record)
    assert row["n_active_non_embedding"] < row["n_non_embedding"]
    assert row["loss_mixture"] > row["entropy_mixture"] > 0
    assert (row["steps"], row["status"], row["on_plateau"]) == (12, "done", True)


def test_the_digest_sees_every_bit_and_every_name(tiny_config: TinyConfig) -> None:
    config = tiny_config()
    model = build(config)
    before = weights_digest(model)
    assert weights_digest(build(config)) == before
    with torch.no_grad():
        model.trunk.norm.weight[3] = torch.nextafter(model.trunk.norm.weight[3], torch.tensor(2.0))
    assert weights_digest(model) != before
    other = build(config)
    norms = other.trunk.blocks[0]
    norms.attention_norm, norms.ffn_norm = norms.ffn_norm, norms.attention_norm
    assert weights_digest(other) == before  # both hold the same values
    with torch.no_grad():
        norms.attention_norm.weight[0] = 2.0
    swapped = build(config)
    with torch.no_grad():
        swapped.trunk.blocks[0].ffn_norm.weight[0] = 2.0
    assert weights_digest(other) != weights_digest(swapped)


def test_the_yardstick_is_of_what_the_run_used(monkeypatch: pytest.MonkeyPatch) -> None:
    products = []
    randn, generator = torch.randn, torch.Generator("cpu")

    def small(*shape: int, device: str, **_: Any) -> torch.Tensor:
        products.append((device, shape[0]))
        return randn(8, 8)

    monkeypatch.setattr(outcome.torch, "randn", small)
    monkeypatch.setattr(outcome.torch, "Generator", lambda device: generator)
    assert peak_flops.__wrapped__("cpu", 1, "fp32") > 0
    assert peak_flops.__wrapped__("gpu", 1, "bf16") > 0
    assert products == [("cpu", 1024), ("cuda", 8192)]


def test_mfu_is_a_share_of_all_ranks(tiny_config: TinyConfig) -> None:
    one = tiny_config()
    two = dataclasses.replace(one, trainer=dataclasses.replace(one.trainer, devices=2))
    assert record_of(two, {})["mfu"] == pytest.approx(record_of(one, {})["mfu"] / 2)
