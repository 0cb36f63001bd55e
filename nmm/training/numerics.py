"""How a step is computed on this machine: precision, compilation, threads. Decided by rule, so two runs never differ
by the noise of a timing; ``benchmarks/step_speed.py`` prints the measurements the rules come from.
"""

from __future__ import annotations

import functools
import os
import shutil
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.utils.checkpoint import checkpoint

from nmm.config import RunConfig
from nmm.memory import BF16_FROM_WIDTH
from nmm.model.fusion import NativeMultimodalModel

COMPILE_FROM_STEPS = 2_000  # compiling a shape costs what about this many steps of the small sizes save


@dataclass(frozen=True)
class Numerics:
    """What was chosen; kept in every checkpoint, so that a resumed run goes on as it began."""

    precision: str
    compiled: bool


def choose(config: RunConfig) -> Numerics:
    """Resolve ``auto`` for this machine."""
    trainer = config.trainer
    precision = trainer.precision
    if precision == "auto":
        fast = trainer.accelerator == "gpu" or _has_amx()
        precision = "bf16" if fast and config.size.width >= BF16_FROM_WIDTH else "fp32"
    wanted = trainer.compile == "on" or (trainer.compile == "auto" and config.total_steps >= COMPILE_FROM_STEPS)
    return Numerics(precision, wanted and _can_compile())


@functools.cache
def _has_amx() -> bool:
    info = Path("/proc/cpuinfo")
    return info.exists() and "amx_bf16" in info.read_text()


@functools.cache
def _can_compile() -> bool:
    compiler = os.environ.get("CXX", "g++")
    if shutil.which(compiler) or shutil.which("clang++"):
        return True
    print(f"nmm: no C++ compiler ({compiler}) found, steps run eagerly, up to 1.5x slower", file=sys.stderr)
    return False


def prepare_process(threads: int) -> None:
    """Before every run: threads, deterministic algorithms, room for one compiled graph per size."""
    torch.set_num_threads(threads)
    os.environ["OMP_NUM_THREADS"] = str(threads)  # else Lightning sets the threads of several ranks by the core count
    torch.set_float32_matmul_precision("highest")  # fp32 means fp32 on a GPU too; bf16 is for who wants it fast
    torch.use_deterministic_algorithms(True, warn_only=True)
    # a debugging aid that comes with it and costs a tenth of a MoE step
    torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]
    torch._dynamo.config.recompile_limit = 64
    torch._dynamo.config.accumulated_recompile_limit = 512


def blocks(model: NativeMultimodalModel) -> list[nn.Module]:
    """The trunk's blocks, then those of vision encoders that have any: what is recomputed and sharded one by one."""
    encoders = (model.vision, getattr(model.vision, "first", None), getattr(model.vision, "second", None))
    vision = (getattr(getattr(encoder, "vit", None), "blocks", ()) for encoder in encoders)
    return [*model.trunk.blocks, *(block for blocks_of_one in vision for block in blocks_of_one)]


def compile_blocks(model: NativeMultimodalModel) -> None:
    """Compile every trunk block in place (no ``_orig_mod`` prefix); blocks of one shape share one compiled graph.

    The forward method is compiled, not the call: hooks of FSDP2, and recomputation, stay outside.
    """
    for block in model.trunk.blocks:
        block.forward = torch.compile(block.forward, dynamic=False)


def recompute_blocks(model: NativeMultimodalModel) -> None:
    """Keep only the inputs of every block and compute it again in the backward pass (arXiv 1604.06174), in place.

    After ``compile_blocks`` if both are wanted. Gradients are the same bit for bit.
    """
    for block in blocks(model):
        block.forward = functools.partial(_recomputed, block.forward)


def _recomputed(forward: Callable[..., Any], *inputs: Any, **named: Any) -> Any:
    if not torch.is_grad_enabled():
        return forward(*inputs, **named)
    return checkpoint(forward, *inputs, use_reentrant=False, preserve_rng_state=False, **named)
