"""How far the largest weights stand out: the published count, and measures that do not depend on the scale.

``above_1``, the share of |w| > 1, is what arXiv 2604.01833 counts, over all parameters at once. It mixes gains (which
begin at 1) and embeddings with matrices, and is 0 in a small net, so the kinds are given apart. Free of scale:
``above_6sd`` (share beyond six standard deviations of its tensor), ``kurtosis`` (fourth moment over squared variance, 3
for a normal distribution) and ``max_over_rms``, means over tensors weighted by their numbers of values.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from torch import Tensor

from nmm.model.build import is_encoder, is_patch

LIMIT, DEVIATIONS = 1.0, 6.0
KINDS = ("matrices", "norms", "embeddings", "patch")


def outliers(weights: Mapping[str, Tensor]) -> dict[str, Any]:
    """Statistics of named parameters: ``all`` and every kind of ``KINDS`` that occurs, and ``blocks``, the matrices of
    each of the trunk's blocks in order. Scale-free numbers are None where every tensor is constant.
    """
    by_kind: dict[str, list[Tensor]] = {}
    by_block: dict[int, list[Tensor]] = {}
    for name, value in weights.items():
        kind = kind_of(name, value)
        by_kind.setdefault(kind, []).append(value)
        if kind == "matrices" and name.startswith("trunk.blocks."):
            by_block.setdefault(int(name.split(".")[2]), []).append(value)
    found = {kind: _describe(by_kind[kind]) for kind in KINDS if kind in by_kind}
    everything = [value for values in by_kind.values() for value in values]
    return {"all": _describe(everything), **found, "blocks": [_describe(by_block[n]) for n in sorted(by_block)]}


def kind_of(name: str, value: Tensor) -> str:
    """One of KINDS."""
    if is_encoder(name) or is_patch(name):
        return "patch"
    if name in ("embedding.weight", "head.weight", "bridge_head.weight"):
        return "embeddings"
    return "matrices" if value.ndim >= 2 else "norms"


def _describe(tensors: Iterable[Tensor]) -> dict[str, float | None]:
    values = [tensor.detach().double().reshape(-1).cpu() for tensor in tensors]
    count = sum(len(value) for value in values)
    spread = [(value, value.std(correction=0).item()) for value in values]
    free = [_scale_free(value, deviation) for value, deviation in spread if deviation > 0]
    weight = sum(number for number, *_ in free)

    def mean(column: int) -> float | None:
        return sum(row[0] * row[column] for row in free) / weight if weight else None

    return {
        "values": count,
        "above_1": sum(int((value.abs() > LIMIT).sum()) for value in values) / count,
        "rms": (sum(value.square().sum().item() for value in values) / count) ** 0.5,
        "above_6sd": mean(1),
        "kurtosis": mean(2),
        "max_over_rms": mean(3),
    }


def _scale_free(value: Tensor, deviation: float) -> tuple[int, float, float, float]:
    """(values, share beyond six deviations, kurtosis, max / rms) of one tensor."""
    centred = (value - value.mean()) / deviation
    beyond = (centred.abs() > DEVIATIONS).double().mean().item()
    rms = value.square().mean().sqrt().item()
    return len(value), beyond, centred.pow(4).mean().item(), value.abs().max().item() / rms
