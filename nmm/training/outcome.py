"""From a finished run to its record: counts, FLOPs, losses, lineage, versions."""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import platform
import resource
import time
from pathlib import Path
from typing import Any

import torch

from nmm import __version__
from nmm.config import CODE_NUMERICS, RunConfig
from nmm.config import run_id as make_run_id
from nmm.data.source import RowSource
from nmm.evaluate import PLATEAU_GATE
from nmm.flops import count_params, training_flops
from nmm.model.fusion import NativeMultimodalModel
from nmm.record import RECORD_SCHEMA, attempts
from nmm.training.numerics import Numerics
from nmm.training.skipped import COUNTED, Counts, total_skipped


def make_record(
    config: RunConfig,
    run: Path,
    rows: RowSource,
    numerics: Numerics,
    status: str,
    result: dict[str, Any],
    timing: dict[str, float],
    code_history: list[str],
) -> dict[str, Any]:
    """The record of a run (schema in ``nmm.record``). Only ``result`` must be the same in every attempt."""
    made = result.get("step", config.total_steps)  # a diverged run says where
    tokens = _tokens(config, rows, made, result.get("skipped_samples", {}).get("train", {}))
    flops = training_flops(
        config, tokens["positions"], tokens["image"] / tokens["positions"], tokens["targets"] / tokens["positions"]
    )
    return assemble(config, run, numerics, status, result, timing, code_history, tokens, flops, rows.holdings)


def assemble(
    config: RunConfig,
    run: Path,
    numerics: Numerics,
    status: str,
    result: dict[str, Any],
    timing: dict[str, float],
    code_history: list[str],
    tokens: dict[str, Any],
    flops: dict[str, float],
    holdings: Any,
) -> dict[str, Any]:
    """The record of a run whose tokens and FLOPs were counted elsewhere."""
    params = count_params(config)
    colour = result.get("class_excess", {}).get("colour")
    tokens_per_second = timing["steps"] * config.tokens_per_step / max(timing["seconds"], 1e-9)
    per_token = flops["total"] / tokens["positions"]
    return {
        "schema": RECORD_SCHEMA,
        "run_id": make_run_id(config),
        "sweep": config.sweep,
        "status": status,
        "role": config.role,
        "stage": config.stage.name,
        "intervention": dataclasses.asdict(config.intervention),
        "arch": config.arch.name,
        "size": config.size.name,
        "seed": config.seed,
        "steps": config.total_steps,
        "lineage": {
            "parent": config.parent.run_id or None,
            "step": config.parent.step,
            "trunk_id": config.parent.run_id or make_run_id(config),
        },
        "versions": _versions(config, code_history),
        "numerics": {"precision": numerics.precision, "compiled": numerics.compiled, "threads": config.trainer.threads},
        "params": {
            **{k: v for k, v in vars(params).items()},
            "total": params.total,
            "non_embedding": params.non_embedding,
            "active": params.active,
            "active_non_embedding": params.active_non_embedding,
            "decoder_non_embedding": params.decoder_non_embedding,
        },
        "flops": flops,
        "tokens": tokens,
        "data": holdings,
        "on_plateau": colour is not None and colour > PLATEAU_GATE,
        "wall_seconds": timing["seconds"],
        "tokens_per_second": tokens_per_second,
        "mfu": tokens_per_second * per_token / _peak_of_all(config, numerics),
        "peak_memory_bytes": _peak_memory(config.trainer.accelerator),
        "attempts": len(attempts(run)),
        "result": result,
    }


def _versions(config: RunConfig, code_history: list[str]) -> dict[str, Any]:
    return {
        "nmm": __version__,
        "numerics": CODE_NUMERICS,
        "torch": torch.__version__,
        "python": platform.python_version(),
        "data": config.data.fingerprint,
        "code": code_history[-1],
        "code_history": code_history,
    }


def _tokens(config: RunConfig, rows: RowSource, steps: int, skipped: Counts) -> dict[str, Any]:
    """Tokens delivered from step 0 of the trunk to the end, by modality and by source; positions include padding.

    Documents that could not be read are taken off; ``unique_samples`` and ``unique_tokens`` are those of documents
    that were to be delivered, and no more than were. A diverged run counts to the ``steps`` it made.
    """
    by_source = rows.counts(steps * config.trainer.rows_per_step)
    for source, counts in by_source.items():
        lost = {name: total_skipped(skipped, name, source) for name in ("samples", *COUNTED)}
        for name, number in (lost | {"tokens": lost["text_tokens"] + lost["image_tokens"]}).items():
            counts[name] -= number
        for name in ("samples", "tokens"):
            counts[f"unique_{name}"] = min(counts[f"unique_{name}"], counts[name])
    text = sum(c["text_tokens"] for c in by_source.values())
    image = sum(c["image_tokens"] for c in by_source.values())
    return {
        "total": text + image,
        "text": text,
        "image": image,
        "targets": sum(c["targets"] for c in by_source.values()),
        "unique": sum(c["unique_tokens"] for c in by_source.values()),
        "positions": steps * config.tokens_per_step,
        "by_source": by_source,
    }


def _peak_of_all(config: RunConfig, numerics: Numerics) -> float:
    trainer = config.trainer
    return trainer.world_size * peak_flops(trainer.accelerator, trainer.threads, numerics.precision)


def _peak_memory(accelerator: str) -> int:
    """Bytes: of the GPU if there is one, else of this process; rank 0's."""
    if accelerator == "gpu":
        return torch.cuda.max_memory_allocated()
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def weights_digest(model: NativeMultimodalModel) -> str:
    """sha256 over names and bytes of every parameter and buffer: two runs agree bit for bit or not at all."""
    digest = hashlib.sha256()
    for name, value in sorted([*model.named_parameters(), *model.named_buffers()]):
        digest.update(name.encode())
        digest.update(value.detach().cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()


@functools.cache
def peak_flops(accelerator: str, threads: int, precision: str) -> float:
    """FLOP/s of the best of a few large products on one device: the yardstick of MFU, measured once a process.

    Products are in the run's precision, and of random numbers: a GPU multiplies constants faster than data. A data
    sheet's figure is higher than what any product reaches.
    """
    device = "cuda" if accelerator == "gpu" else "cpu"
    n = 8192 if accelerator == "gpu" else 1024
    dtype = torch.bfloat16 if precision == "bf16" else torch.float32
    a = torch.randn(n, n, generator=torch.Generator(device).manual_seed(0), device=device).to(dtype)
    best = float("inf")
    for _ in range(6 if accelerator == "gpu" else 4):  # the first ones find the clock and the kernel
        start = time.perf_counter()
        (a @ a)[0, 0].item()
        best = min(best, time.perf_counter() - start)
    return 2.0 * n**3 / best
