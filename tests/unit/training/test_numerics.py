"""Precision and compilation are chosen by rule, and a process is prepared for the run at hand, not for the first."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import pytest
import torch
from lab import ARCHS, training_batch

from nmm.config import Budget, RunConfig
from nmm.model.build import build
from nmm.model.fusion import NativeMultimodalModel
from nmm.model.loss import loss_sums, objective
from nmm.training import numerics
from nmm.training.numerics import Numerics, blocks, choose, compile_blocks, prepare_process, recompute_blocks

MakeConfig = Callable[..., RunConfig]


@pytest.fixture
def machine(monkeypatch: pytest.MonkeyPatch) -> Callable[[bool, bool], None]:
    def has(amx: bool, compiler: bool) -> None:
        monkeypatch.setattr(numerics, "_has_amx", lambda: amx)
        monkeypatch.setattr(numerics, "_can_compile", lambda: compiler)

    return has


@pytest.mark.parametrize(
    ("trainer", "size", "amx", "precision"),
    [
        ({"precision": "auto"}, "d64", True, "fp32"),
        ({"precision": "auto"}, "d128", True, "bf16"),
        ({"precision": "auto"}, "d128", False, "fp32"),
        ({"precision": "auto", "accelerator": "gpu"}, "d128", False, "bf16"),
        ({"precision": "bf16"}, "d16", False, "bf16"),
        ({"precision": "fp32"}, "d128", True, "fp32"),
    ],
)
def test_precision(make_config: MakeConfig, machine: Any, trainer: dict, size: str, amx: bool, precision: str) -> None:
    machine(amx, True)
    assert choose(make_config("early", size, trainer=trainer)).precision == precision


@pytest.mark.parametrize(
    ("compile", "steps", "compiler", "compiled"),
    [
        ("auto", numerics.COMPILE_FROM_STEPS, True, True),
        ("auto", numerics.COMPILE_FROM_STEPS - 1, True, False),
        ("auto", numerics.COMPILE_FROM_STEPS, False, False),
        ("on", 1, True, True),
        ("on", 1, False, False),
        ("off", 10_000, True, False),
    ],
)
def test_compilation(
    make_config: MakeConfig, machine: Any, compile: str, steps: int, compiler: bool, compiled: bool
) -> None:
    machine(False, compiler)
    config = dataclasses.replace(make_config(trainer={"compile": compile}), budget=Budget(steps=steps))
    assert choose(config).compiled is compiled


def test_without_a_compiler_it_is_said_once(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture) -> None:
    monkeypatch.setattr(numerics.shutil, "which", lambda name: None)
    numerics._can_compile.cache_clear()
    assert [numerics._can_compile(), numerics._can_compile()] == [False, False]
    assert capsys.readouterr().err.count("no C++ compiler") == 1
    numerics._can_compile.cache_clear()


def test_threads_are_those_of_this_run_also_after_another() -> None:
    before = torch.get_num_threads()
    for threads in (2, 1, 2, 1):
        prepare_process(threads)
        assert torch.get_num_threads() == threads
    prepare_process(before)


def test_numerics_survive_a_checkpoint() -> None:
    chosen = Numerics("bf16", True)
    assert Numerics(**dataclasses.asdict(chosen)) == chosen


def test_compiling_blocks_keeps_the_names_of_their_weights(make_config: MakeConfig) -> None:
    config = make_config("moe")
    model = build(config)
    names = list(model.state_dict())
    compile_blocks(model)  # nothing is compiled before the first step
    assert list(model.state_dict()) == names
    with torch.compiler.set_stance("force_eager"):
        assert model(training_batch(config)).logits.isfinite().all()


def gradients(config: RunConfig, model: NativeMultimodalModel, precision: str) -> dict[str, torch.Tensor | None]:
    batch = training_batch(config)
    with torch.no_grad():  # a head of zeros would let no gradient through
        model.head.weight.normal_(std=0.1, generator=torch.Generator().manual_seed(0))
    with torch.autocast("cpu", torch.bfloat16, enabled=precision == "bf16"):
        output = model(batch)
    objective(loss_sums(output, batch, config), batch.weights.sum(), config).backward()
    return {name: p.grad for name, p in model.named_parameters()}


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
@pytest.mark.parametrize("arch", ARCHS)
def test_recomputed_blocks_give_the_same_gradients_bit_for_bit(
    make_config: MakeConfig, arch: str, precision: str
) -> None:
    config = make_config(arch)
    kept, recomputed = build(config), build(config)
    names = list(recomputed.state_dict())
    recompute_blocks(recomputed)
    assert list(recomputed.state_dict()) == names
    expected, found = gradients(config, kept, precision), gradients(config, recomputed, precision)
    for name, gradient in expected.items():
        assert gradient is not None
        assert torch.equal(found[name], gradient), name


@pytest.mark.parametrize("arch", ARCHS)
def test_every_block_is_computed_twice_in_training_and_once_without_gradients(
    make_config: MakeConfig, arch: str
) -> None:
    config = make_config(arch)
    model, calls = build(config), []
    for number, block in enumerate(blocks(model)):
        forward = block.forward
        block.forward = lambda *a, forward=forward, number=number, **k: calls.append(number) or forward(*a, **k)
    recompute_blocks(model)
    with torch.no_grad():
        model(training_batch(config))
    assert sorted(calls) == list(range(len(blocks(model))))
    calls.clear()
    gradients(config, model, "fp32")
    assert sorted(calls) == sorted([*range(len(blocks(model))), *range(len(blocks(model)))])


def test_blocks_are_those_of_trunk_and_encoder(make_config: MakeConfig) -> None:
    late = build(make_config("late"))
    assert len(blocks(late)) == late.config.size.depth + late.config.size.vision_depth
    early = build(make_config("early"))
    assert blocks(early) == list(early.trunk.blocks)
