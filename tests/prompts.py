"""Prompts of every kind, models that answer them, and every kind of model there is: for the tests of generation."""

from __future__ import annotations

from typing import Any

import torch
from lab import conf
from torch import Tensor

from nmm.batch import IMAGE_ID
from nmm.config import RunConfig
from nmm.generate import Prompt
from nmm.model.build import build
from nmm.model.fusion import NativeMultimodalModel

VARIANTS: dict[str, tuple[str, dict[str, Any]]] = {
    "early": ("early", {}),
    "late": ("late", {}),
    "moe": ("moe", {}),
    "moe_aware": ("moe_aware", {}),
    "moe_fine": ("moe_fine", {}),
    "moe, biases": ("moe", {"arch": {"balancing": "bias", "shared_experts": 1, "moe_every": 2, "top_k": 2}}),
    "early, paper": ("early", {"block": conf("block", "paper")}),
    "late, paper": ("late", {"block": conf("block", "paper")}),
    "moe, paper": ("moe", {"block": conf("block", "paper")}),
    "2-D positions": ("early", {"block": {"rope": "2d"}}),
    "grouped heads": ("late", {"size": {"num_heads": 4, "num_kv_heads": 2}}),
    "tied head, no positions": ("early", {"block": {"tied_head": True, "patch_position": False}}),
    "other norms": ("early", {"block": {"norm": "layer", "qk_norm": "width"}}),
    "causal images": ("early", {"arch": {"image_attention": "causal"}}),
    "early, shuffled": ("early", {"arch": {"pixel_shuffle": 2}, "data": {"patch_size": 4}}),
    "late, shuffled": (
        "late",
        {"arch": {"pixel_shuffle": 2, "pairing": "none"}, "data": {"patch_size": 4}, "block": {"rope": "2d"}},
    ),
    "two encoders": ("late", {"arch": {"vision_model2": "sized", "vision_patch2": 4, "pairing": "none"}}),
    "no document mask": ("early", {"arch": {"document_mask": False}, "block": {"rope": "2d"}}),
}


def loud(config: RunConfig) -> NativeMultimodalModel:
    """The built model with head and expert biases that are not zero, so that everything is heard in the logits."""
    model = build(config).eval()
    generator = torch.Generator().manual_seed(5)
    for name, value in model.state_dict().items():
        if name == "head.weight" or name.endswith("ffn.bias"):
            value.normal_(std=0.5, generator=generator)
    return model


def pictures(count: int, seed: int = 0) -> Tensor:
    """(count, 16, 192) random patches."""
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(0, 256, (count, 16, 192), dtype=torch.uint8, generator=generator)


PROMPTS = (
    Prompt([IMAGE_ID] * 16 + [5, 6, 7], pictures(1)),
    Prompt([9]),
    Prompt([8, *[IMAGE_ID] * 32, 9, *[IMAGE_ID] * 16], pictures(3, seed=1)),
    Prompt([20, 21, 22, 23]),
)
