"""Controls of a start: what of its weights is kept when their structure is destroyed.

Shape legend: D width (rows of the patch projection), P values of a patch.

| transform | keeps | destroys |
|---|---|---|
| shuffle | of every tensor its values: norm, outliers, histogram | where they stand |
| rescaled_random | of every tensor its norm | its values |
| covariance | mean and covariance of the rows of the patch projection | these rows; all else is as from scratch |

``shuffle`` decides between the scale of weights and their structure; ``covariance`` is the control of arXiv 2006.10455,
which finds the effect of random labels in the covariance of the first layer.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import torch
from torch import Tensor

from nmm.data.counter_rng import CounterStream

FIRST_LAYER = "connector.weight"


def transformed(
    weights: Mapping[str, Tensor], initial: Mapping[str, Tensor], transform: str, seed: int
) -> dict[str, Tensor]:
    """``weights`` of a start (name -> tensor) after ``transform``; a function of the arguments only.

    ``initial`` has the values of a model from scratch. Names that are missing in the result stay as they are there.
    """
    match transform:
        case "shuffle":
            return {name: _shuffled(value, seed, name) for name, value in weights.items()}
        case "rescaled_random":
            return {name: _rescaled(value, initial, seed, name) for name, value in weights.items()}
        case "covariance":
            return {FIRST_LAYER: _covariance_matched(weights[FIRST_LAYER], seed)}
    return dict(weights)


def _shuffled(value: Tensor, seed: int, name: str) -> Tensor:
    order = torch.from_numpy(CounterStream(seed, "start", "shuffle", name).permutation(value.numel()))
    return value.reshape(-1)[order].view(value.shape)


def _rescaled(value: Tensor, initial: Mapping[str, Tensor], seed: int, name: str) -> Tensor:
    """Initial values at the norm of ``value``; where they are all zero, normal draws."""
    drawn = initial.get(name)
    if drawn is None or not drawn.any():
        drawn = _normal(value.numel(), seed, "rescaled", name).view(value.shape)
    return (drawn.double() * (value.double().norm() / drawn.double().norm())).to(value.dtype)


def _covariance_matched(value_DP: Tensor, seed: int) -> Tensor:
    """(D, P) rows drawn from the normal distribution with the mean and covariance of the rows of ``value_DP``."""
    rows_DP = value_DP.double()
    mean_P, D = rows_DP.mean(dim=0), len(rows_DP)
    draw_DD = _normal(D * D, seed, "covariance", FIRST_LAYER).view(D, D).double()
    return (mean_P + draw_DD @ (rows_DP - mean_P) / (D - 1) ** 0.5).to(value_DP.dtype)


def _normal(count: int, seed: int, purpose: str, name: str) -> Tensor:
    unit = CounterStream(seed, "start", purpose, name).uniform(np.arange(count), 0, 1)[:, 0]
    return torch.special.ndtri(torch.from_numpy(unit).clamp(1e-16, 1 - 1e-16)).float()
