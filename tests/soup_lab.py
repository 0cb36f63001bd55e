"""Members of soups for tests: exports that look like fine-tunes of one checkpoint, made without any training."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor

from nmm.config import RunConfig, to_dict
from nmm.groups import Start
from nmm.model.build import build
from nmm.record import write_json

DIGEST = "d" * 64


def fine_tuned(config: RunConfig, digest: str = DIGEST) -> RunConfig:
    """The same config, said to have begun with a checkpoint."""
    return dataclasses.replace(config, start=Start(kind="run", path="/gone", digest=digest))


def moved(config: RunConfig, seed: int, far: float = 0.02) -> dict[str, Tensor]:
    """The initial weights of ``config``, each parameter moved by noise of ``seed``; what a checkpoint would hold."""
    weights = {name: value.clone() for name, value in build(config).state_dict().items()}
    generator = torch.Generator().manual_seed(seed)
    for name, value in weights.items():
        weights[name] = value + far * torch.randn(value.shape, generator=generator)
    if config.block.tied_head:
        weights["head.weight"] = weights["embedding.weight"]
    return weights


def write_member(
    folder: Path,
    config: RunConfig,
    weights: dict[str, Tensor],
    dtype: torch.dtype = torch.float32,
    result: Any = "whole",
    change: Callable[[dict[str, Any]], None] = lambda content: None,
) -> str:
    """An export of ``weights``; ``change`` edits config.json. Returns the folder's name as a command would give it."""
    folder.mkdir(parents=True)
    tied = config.block.tied_head
    kept = {
        name: value.to(dtype).contiguous() for name, value in weights.items() if not (tied and name == "head.weight")
    }
    save_file(kept, str(folder / "model.safetensors"), metadata={"format": "pt"})
    facts = {"run_id": folder.name, "dtype": "fp32", "result": {"loss": {}} if result == "whole" else result}
    content = {"settings": to_dict(config), "export": facts}
    change(content)
    write_json(folder / "config.json", content)
    return str(folder)
