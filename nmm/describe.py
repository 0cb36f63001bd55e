"""`nmm describe`: what a config is worth, from formulas: nothing is allocated or trained."""

from __future__ import annotations

import argparse
import dataclasses
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from nmm.compose import compose_dict
from nmm.config import Budget, ConfigError, RunConfig, from_dict, validate
from nmm.flops import (
    count_params,
    expected_shares,
    expert_hidden,
    ffn_hidden,
    forward_flops,
    resolve_budget,
    training_flops,
)
from nmm.memory import micro_batch_rows, training_memory, uses_bf16
from nmm.origin import adopt
from nmm.record import read_json
from nmm.resolve import count_encoder, rendered_shares, with_classes, with_indexes

MFU = 0.5
PEAK = 989e12  # FLOP/s of one H100 SXM, bf16 without sparsity (NVIDIA's data sheet)
TOKENS_PER_PARAMETER = 20  # of a budget nobody gave
DERIVED = "total active non_embedding active_non_embedding decoder_non_embedding paper paper_non_embedding paper_stored"

EXAMPLES = """any KEY=VALUE of `nmm train` may be given, e.g. arch, size, block, budget.tokens, trainer.micro_batches

examples:
  nmm describe arch=late size=d64 budget.tokens=2000000
  nmm describe arch=early size=932m budget.tokens=300e9 --devices 16 --mfu 0.45
  nmm describe arch=moe size=275m trainer=gpu trainer.micro_batches=64 --json
"""


def describe_main(argv: Sequence[str]) -> int:
    """Print parameters, FLOPs, memory and the cost of a budget; ``--json`` prints them with stable keys."""
    options = _parser().parse_intermixed_args(list(argv))
    facts = describe(compose_dict("config", options.overrides), options.mfu, options.peak, options.devices)
    if options.json:
        print(json.dumps(facts, indent=1))
        return 0
    from nmm.describe_tables import show

    show(facts)
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="nmm describe",
        description="Parameters by group, FLOPs by component, memory, and what a budget costs. Nothing is allocated.",
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("overrides", nargs="*", metavar="KEY=VALUE", help="what differs from conf/config.yaml")
    parser.add_argument("--json", action="store_true", help="machine-readable")
    parser.add_argument("--mfu", type=float, default=MFU, help=f"share of the peak that is reached (default {MFU})")
    parser.add_argument("--peak", type=float, default=PEAK, metavar="FLOP/S",
                        help=f"of one device (default {PEAK:.3g}: one H100, bf16)")  # fmt: skip
    parser.add_argument("--devices", type=int, default=0, metavar="N",
                        help="ranks (default: trainer.devices x trainer.num_nodes)")  # fmt: skip
    return parser


def describe(values: dict[str, Any], mfu: float = MFU, peak: float = PEAK, devices: int = 0) -> dict[str, Any]:
    """Facts of a composed config, by topic; keys are stable.

    Without shards a vocabulary of 0 is the world's default, without a budget there are 20 tokens a parameter; ``notes``
    says so. Raises ``ConfigError`` for an impossible config, and for mfu, peak or devices out of range.
    """
    if not 0 < mfu <= 1:
        raise ConfigError(f"--mfu {mfu} must lie in (0, 1], the share of the peak that is reached")
    if not peak > 0:
        raise ConfigError(f"--peak {peak:g} must be above 0, in FLOP/s of one device")
    if devices < 0:
        raise ConfigError(f"--devices {devices} must be 1 or more")
    config, notes = _complete(from_dict(values))
    devices = devices or config.trainer.world_size
    return {
        "run": _run(config),
        "parameters": _parameters(config),
        "flops_per_token": _flops(config),
        "memory": _memory(config, devices),
        "budget": _budget(config, mfu, peak, devices),
        "notes": notes,
    }


def _complete(config: RunConfig) -> tuple[RunConfig, list[str]]:
    """Start, vocabulary, encoder and budget filled in, as far as that goes without shards; and what was assumed."""
    notes = []
    config = adopt(config)
    if config.data.sources:
        config = dataclasses.replace(config, data=with_indexes(config))
        notes.append("vocabulary and shares of images and targets: measured from the indexes of data.sources")
    elif not config.data.vocab_size:
        size, note = _vocabulary(config.data.path)
        config = dataclasses.replace(config, data=dataclasses.replace(config.data, vocab_size=size))
        notes.append(note)
    manifest = Path(config.data.path) / "manifest.json"
    if config.bridge is not None and manifest.exists():
        config = dataclasses.replace(config, stage=with_classes(config.bridge, read_json(manifest)))
    if not config.data.sources and (config.arch.pixel_shuffle > 1 or config.data.picture_size):
        config, note = _measured(config)
        notes.append(note)
    has_budget = any(value is not None for value in dataclasses.asdict(config.budget).values())
    config = count_encoder(validate(config if has_budget else _with_budget(config, Budget(steps=1))))
    if not has_budget:
        config = _with_budget(config, Budget(tokens=TOKENS_PER_PARAMETER * count_params(config).paper))
        notes.append(f"budget: {TOKENS_PER_PARAMETER} tokens a parameter, as none was given (budget.tokens=...)")
    return resolve_budget(config), notes


def _with_budget(config: RunConfig, budget: Budget) -> RunConfig:
    return dataclasses.replace(config, budget=budget)


def _vocabulary(path: str) -> tuple[int, str]:
    manifest = Path(path) / "manifest.json"
    if path and manifest.exists():
        return int(read_json(manifest)["vocab_size"]), f"vocabulary: that of the shards in {path}"
    from nmm.data.world import World, WorldConfig

    size = len(World(WorldConfig()).vocabulary())
    return size, f"vocabulary: the world's default, as there are no shards (data.path={path or 'empty'})"


def _measured(config: RunConfig) -> tuple[RunConfig, str]:
    """The shares that a run on these shards would have; a picture has other positions once it is cut or shuffled."""
    data, manifest = config.data, Path(config.data.path) / "manifest.json"
    if not data.path or not manifest.exists():
        given = f"{data.image_share:g} and {data.target_share:g}"
        return config, f"shares of images and targets: {given} as given; a run measures them from its shards"
    image, target = rendered_shares(config, read_json(manifest))
    shares = dataclasses.replace(data, image_share=image, target_share=target)
    return dataclasses.replace(config, data=shares), f"shares of images and targets: measured from {manifest}"


def _run(config: RunConfig) -> dict[str, Any]:
    size, data = config.size, config.data
    return {
        "arch": config.arch.name,
        "size": size.name,
        "block": config.block.name,
        "width": size.width,
        "depth": size.depth,
        "num_heads": size.num_heads,
        "num_kv_heads": config.num_kv_heads,
        "head_dim": config.head_dim,
        "ffn_hidden": ffn_hidden(config),
        "expert_hidden": expert_hidden(config) if config.arch.num_experts else 0,
        "vocab_size": data.vocab_size,
        "context_length": data.context_length,
        "tokens_per_image": config.tokens_per_image,
        "tokens_per_step": config.tokens_per_step,
        "learning_rate": config.learning_rate,
    }


def _parameters(config: RunConfig) -> dict[str, int]:
    params = count_params(config)
    return {**dataclasses.asdict(params), **{name: getattr(params, name) for name in DERIVED.split()}}


def _flops(config: RunConfig) -> dict[str, dict[str, float]]:
    forward = forward_flops(config)
    return {
        "forward": {**dataclasses.asdict(forward), "total": forward.total},
        "training": training_flops(config, 1.0),
        "shares": dict(zip(("image", "target"), expected_shares(config), strict=True)),
    }


def _memory(config: RunConfig, devices: int) -> dict[str, Any]:
    facts: dict[str, Any] = {
        "ranks": devices,
        "rows_in_flight": micro_batch_rows(config, devices),
        "accelerator": config.trainer.accelerator,
        "precision": "bf16" if uses_bf16(config) else "fp32",
    }
    for strategy in ("ddp", "fsdp2"):
        for label, checkpointing in (("kept", False), ("checkpointed", True)):
            memory = training_memory(config, devices, strategy, checkpointing)
            facts[f"{strategy}_{label}"] = {**dataclasses.asdict(memory), "total": memory.total}
    return facts


def _budget(config: RunConfig, mfu: float, peak: float, devices: int) -> dict[str, float]:
    tokens = config.total_steps * config.tokens_per_step
    flops = training_flops(config, tokens)
    return {
        "steps": config.total_steps,
        "tokens": tokens,
        "image_tokens": tokens * expected_shares(config)[0],
        "tokens_per_parameter": tokens / count_params(config).paper,
        "flops": flops["total"],
        "flops_6nd": flops["6nd"],
        "mfu": mfu,
        "peak_flops": peak,
        "devices": devices,
        "hours": flops["total"] / (mfu * peak * devices) / 3600,
    }
