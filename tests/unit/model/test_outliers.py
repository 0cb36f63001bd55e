"""Outlier statistics against hand-made tensors."""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest
import torch

from nmm.config import RunConfig
from nmm.model.build import build
from nmm.model.outliers import KINDS, kind_of, outliers


def test_counts_by_hand() -> None:
    spiky = torch.zeros(100, 10)
    spiky[0, 0], spiky[1, 1] = 9.0, -9.0
    weights = {
        "trunk.blocks.1.ffn.up.weight": spiky,
        "trunk.blocks.0.ffn.up.weight": torch.full((5, 5), 0.5),
        "trunk.norm.weight": torch.tensor([0.5, 1.5, 2.0, 1.0]),
        "embedding.weight": torch.tensor([[3.0, -3.0]]),
    }
    found = outliers(weights)
    assert found["all"]["above_1"] == pytest.approx((2 + 2 + 2) / (1000 + 25 + 4 + 2))
    assert found["norms"]["above_1"] == 0.5 and found["embeddings"]["above_1"] == 1.0
    assert found["matrices"]["above_1"] == pytest.approx(2 / 1025)
    first, second = found["blocks"]
    assert first["above_6sd"] is None and first["rms"] == 0.5, "a constant tensor has no deviations"
    assert second["above_6sd"] == pytest.approx(2 / 1000)
    assert second["kurtosis"] == pytest.approx(500)  # both values at the same place of 1000
    assert second["max_over_rms"] == pytest.approx(math.sqrt(500))
    assert found["matrices"]["kurtosis"] == second["kurtosis"], "constant tensors are left out"


def test_scale_free_numbers_do_not_change_with_the_scale() -> None:
    values = torch.randn(400, 50, generator=torch.Generator().manual_seed(0))
    small, large = (outliers({"trunk.blocks.0.ffn.up.weight": values * scale})["matrices"] for scale in (0.01, 100.0))
    for name in ("above_6sd", "kurtosis", "max_over_rms"):
        assert small[name] == pytest.approx(large[name], rel=1e-4)
    assert small["kurtosis"] == pytest.approx(3.0, abs=0.1)
    assert small["above_1"] == 0.0 and large["above_1"] > 0.9


@pytest.mark.parametrize("arch", ["early", "late", "moe"])
def test_every_parameter_is_of_one_kind(make_config: Callable[..., RunConfig], arch: str) -> None:
    weights = dict(build(make_config(arch)).named_parameters())
    found = outliers(weights)
    assert {kind_of(name, value) for name, value in weights.items()} == set(KINDS) == found.keys() - {"all", "blocks"}
    assert sum(found[kind]["values"] for kind in KINDS) == found["all"]["values"]
    assert len(found["blocks"]) == 2
