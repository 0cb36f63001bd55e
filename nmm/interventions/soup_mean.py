"""Arithmetic of soups: means of weights, one member at a time, and the interpolation of Model Stock.

Shape legend: N members, C values of one chunk of a tensor.

Whatever dtype the members are stored in, every number is computed in fp64 and kept in fp32, so equal members give
themselves bit for bit and two members their correctly rounded mean; every further member costs one rounding.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

import torch
from torch import Tensor, nn

from nmm.config import ConfigError
from nmm.model.moe import MoE

PIECE = 1 << 17  # values of a tensor that are averaged at once: 1 MB in fp64
CHUNK = 1 << 20  # values of a tensor of which Model Stock looks at all members at once

Weights = Mapping[str, Tensor]


def averaged(model: nn.Module) -> frozenset[str]:
    """Names of what a soup averages: every parameter, and the offsets by which experts are kept balanced.

    These offsets (arXiv 2408.15664) are added to the router's probabilities where experts are chosen; each member's
    belong to its own router, so the mean router gets their mean. Of any other buffer no mean is meant: see ``blend``.
    """
    names = {name for name, _ in model.named_parameters(remove_duplicate=False)}
    offsets = {f"{name}.bias" for name, module in model.named_modules() if isinstance(module, MoE)}
    return frozenset(names | (offsets & {name for name, _ in model.named_buffers()}))


def blend(into: Weights, mean: Weights, count: int, one: Weights, means: frozenset[str]) -> None:
    """Write into ``into``: the mean of ``count`` models, which is ``mean``, and one more. ``into`` may be ``mean``.

    Names in ``means`` are averaged. Any other buffer (a counter, running statistics) must be the same in both: raises
    ``ConfigError`` where it is not. Of ``one`` a tensor is asked for once, and not kept.
    """
    for name, target in into.items():
        if name in means:
            _blend(target.view(-1), mean[name].view(-1), count, one[name].reshape(-1))
        else:
            _same(name, target, mean[name], one[name])


def _blend(target: Tensor, mean: Tensor, count: int, one: Tensor) -> None:
    """One tensor, flat, in pieces that stay in the processor's cache."""
    total = torch.empty(min(PIECE, len(target)), dtype=torch.float64)
    for at in range(0, len(target), PIECE):
        piece = slice(at, at + PIECE)
        part = total[: len(target[piece])]
        part.copy_(mean[piece]).mul_(count).add_(one[piece]).div_(count + 1)
        target[piece].copy_(part)


def _same(name: str, target: Tensor, mean: Tensor, one: Tensor) -> None:
    if not torch.equal(mean, one.to(mean.dtype)):
        raise ConfigError(
            f"buffer {name} ({str(one.dtype).removeprefix('torch.')}) differs between members: it counts or measures "
            "what one model has seen, and a mean of it means nothing; leave one of them out"
        )
    if target is not mean:
        target.copy_(mean)


def fp32(weights: Weights, names: Iterable[str]) -> dict[str, Tensor]:
    """Copies of the named tensors, floating-point ones as fp32."""
    found = {}
    for name in names:
        value = weights[name]
        found[name] = value.to(torch.float32 if value.is_floating_point() else value.dtype, copy=True)
    return found


def stock(into: Weights, anchor: Weights, members: Sequence[Weights], means: frozenset[str]) -> dict[str, float]:
    """Write Model Stock's weights into ``into`` and return the ratio t of every tensor (arXiv 2403.19522).

    Tensor by tensor, with w0 the anchor and N members w_i: w = t mean(w_i) + (1 - t) w0, t = N cos / (1 + (N - 1) cos).
    The paper has one angle; for N > 2 cos is the mean of the cosines between all pairs of moves w_i - w0, as mergekit
    reads it. ``into`` holds the members' mean when this begins.
    """
    ratios = {}
    for name in sorted(means & into.keys()):
        t = ratios[name] = ratio(_inner_products(anchor[name], [one[name] for one in members]))
        mean = into[name].double().mul_(t)
        into[name].copy_(mean.add_(anchor[name].to(mean.device).double(), alpha=1 - t))
    return ratios


def ratio(gram_NN: Tensor) -> float:
    """t of one tensor from the (N, N) inner products of the members' moves.

    Moves that disagree (mean cosine below 0) give 0, the anchor itself: the formula would walk away from the mean. A
    member that has not moved agrees with nobody.
    """
    n = len(gram_NN)
    if n == 1:
        return 1.0
    length_N = gram_NN.diagonal().sqrt()
    cos_NN = gram_NN / (length_N[:, None] * length_N).clamp(min=torch.finfo(torch.float64).tiny)
    cos = (cos_NN.sum() - cos_NN.trace()).item() / (n * (n - 1))
    cos = min(max(cos, 0.0), 1.0)
    return n * cos / (1 + (n - 1) * cos)


def _inner_products(start: Tensor, ends: Sequence[Tensor]) -> Tensor:
    """(N, N) fp64 inner products of the moves from ``start``, chunk by chunk."""
    flat, ends = start.reshape(-1), [end.reshape(-1) for end in ends]
    gram_NN = torch.zeros(len(ends), len(ends), dtype=torch.float64)
    for at in range(0, len(flat), CHUNK):
        move_NC = torch.stack([end[at : at + CHUNK].double() - flat[at : at + CHUNK].double() for end in ends])
        gram_NN += move_NC @ move_NC.T
    return gram_NN
