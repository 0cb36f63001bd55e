"""The memory formula: activations against what autograd saves, and how ranks, precision and recomputation change it."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import pytest
import torch
from lab import composed, training_batch
from torch import Tensor

from nmm.config import RunConfig, from_dict
from nmm.flops import count_params
from nmm.memory import activation_bytes, micro_batch_rows, training_memory, uses_bf16
from nmm.model.build import build
from nmm.training.numerics import choose

MakeConfig = Callable[..., RunConfig]


def saved_bytes(config: RunConfig) -> int:
    """Every storage that autograd keeps in a forward pass up to the features, but the parameters."""
    batch, model = training_batch(config), build(config)
    kept = {p.untyped_storage().data_ptr(): 0 for p in model.parameters()}

    def keep(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        kept.setdefault(storage.data_ptr(), storage.nbytes())
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        model.features(batch)
    return sum(kept.values())


@pytest.mark.parametrize(
    ("arch", "size", "groups"),
    [
        ("early", "d16", {}),
        ("early", "d64", {}),
        ("early", "d64", {"block": {"ffn": "swiglu"}}),
        ("early", "d64", {"size": {"num_kv_heads": 1}}),
        ("early", "d64", {"block": {"qk_norm": "none"}}),
        ("late", "d128", {}),
        ("late", "d64", {"block": {"vision": "swiglu"}}),
        ("early", "d64", {"arch": {"pixel_shuffle": 2}, "data": {"patch_size": 4}}),
        ("late", "d64", {"arch": {"pixel_shuffle": 2}, "data": {"patch_size": 4}}),
        ("late", "d64", {"arch": {"vision_model2": "sized"}}),
        ("late", "d128", {"arch": {"vision_model2": "sized", "vision_patch2": 4, "pairing": "none"}}),
        ("moe", "d64", {}),
        ("moe", "d64", {"arch": {"top_k": 2, "moe_every": 2}}),
    ],
)
def test_activations_are_what_autograd_saves(
    make_config: MakeConfig, arch: str, size: str, groups: dict[str, Any]
) -> None:
    config = make_config(arch, size, **groups)
    positions = config.trainer.rows_per_step * config.data.context_length
    assert activation_bytes(config, positions, checkpointing=False) == pytest.approx(saved_bytes(config), rel=0.15)


def changed(config: RunConfig, group: str, **fields: Any) -> RunConfig:
    return dataclasses.replace(config, **{group: dataclasses.replace(getattr(config, group), **fields)})


def test_weights_gradients_and_moments_take_16_bytes_a_parameter(make_config: MakeConfig) -> None:
    config = make_config("early", "d64")
    memory, total = training_memory(config, 1, "ddp", False), count_params(config).total
    assert (memory.weights, memory.gradients, memory.optimizer) == (4 * total, 4 * total, 8 * total)
    assert memory.copies == 0
    assert memory.total == pytest.approx(16 * total + memory.activations + memory.logits)
    assert memory.logits == 12 * 512 * 0.58 * config.data.vocab_size


def test_a_frozen_encoder_takes_weights_alone(make_config: MakeConfig) -> None:
    config = make_config("late", "d64")
    free = training_memory(config, 1, "ddp", False)
    frozen = training_memory(changed(config, "arch", vision_frozen=True), 1, "ddp", False)
    vision = count_params(config).vision
    assert free.weights == frozen.weights
    assert (free.gradients - frozen.gradients, free.optimizer - frozen.optimizer) == (4 * vision, 8 * vision)
    assert frozen.activations < free.activations


def test_recomputation_keeps_block_inputs_and_one_block(make_config: MakeConfig) -> None:
    config = make_config("early", "d64")
    one, deep = (changed(config, "size", depth=depth) for depth in (1, 40))
    assert activation_bytes(deep, 1.0, True) == pytest.approx(activation_bytes(one, 1.0, False) + 40 * 4 * 64)
    late, shallow = make_config("late", "d128"), make_config("late", "d128", size={"vision_depth": 1})
    inputs = 0.40 * 4 * 64 * 3  # patches, bytes, width and depth of the encoder
    once = activation_bytes(shallow, 1.0, True) - 0.40 * 4 * 64
    assert activation_bytes(late, 1.0, True) == pytest.approx(once + inputs, rel=0.02)  # decoders differ a little


def test_fsdp2_shares_what_ddp_repeats() -> None:
    config = from_dict(composed(arch="early", size="932m", trainer="gpu") | {"budget": {"steps": 1}})
    ddp, fsdp = (training_memory(config, 16, strategy, False) for strategy in ("ddp", "fsdp2"))
    assert fsdp.gradients == ddp.gradients / 16 and fsdp.optimizer == ddp.optimizer / 16
    assert ddp.weights / 16 < fsdp.weights < ddp.weights / 2
    assert (fsdp.activations, fsdp.logits, fsdp.copies) == (ddp.activations, ddp.logits, ddp.copies)
    assert training_memory(config, 1, "fsdp2", False) == training_memory(config, 1, "ddp", False)


@pytest.mark.parametrize("size", ["d64", "d128"])
@pytest.mark.parametrize("precision", ["auto", "bf16", "fp32"])
def test_precision_on_a_gpu_is_the_one_that_is_chosen(make_config: MakeConfig, size: str, precision: str) -> None:
    config = make_config("early", size, trainer={"accelerator": "gpu", "precision": precision})
    assert uses_bf16(config) == (choose(config).precision == "bf16")
    memory = training_memory(config, 1, "ddp", False)
    assert memory.copies == (2 * count_params(config).total if uses_bf16(config) else 0)


def test_on_a_cpu_auto_counts_as_fp32_and_the_mask_is_dense(make_config: MakeConfig) -> None:
    cpu = make_config("early", "d128")
    gpu = changed(cpu, "trainer", accelerator="gpu", precision="fp32")
    assert not uses_bf16(cpu)
    assert activation_bytes(cpu, 1.0, False) - activation_bytes(gpu, 1.0, False) == 4 * cpu.data.context_length
    half = changed(gpu, "trainer", precision="bf16")
    assert 0.5 < activation_bytes(half, 1.0, False) / activation_bytes(gpu, 1.0, False) < 0.6


def test_rows_in_flight(make_config: MakeConfig) -> None:
    config = make_config(trainer={"rows_per_step": 12, "micro_batches": 2})
    assert [micro_batch_rows(config, ranks) for ranks in (1, 2, 6)] == [6, 3, 1]
