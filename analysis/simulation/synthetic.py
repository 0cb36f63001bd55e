"""Tables drawn from known surfaces: for tests, coverage checks and trying the report without training anything."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from analysis.engine.jet import Array

SOURCES = ("caption", "interleaved", "text")
MIXTURE = (0.45, 0.45, 0.10)


@dataclass(frozen=True)
class Surface:
    """L = E + A / N^alpha + B / D^beta, plus G / (N^delta D^epsilon) when the form shall be misspecified."""

    E: float
    A: float
    B: float
    alpha: float
    beta: float
    G: float = 0.0
    delta: float = 0.0
    epsilon: float = 0.0

    def loss(self, size: Array | float, tokens: Array | float) -> Array:
        """Noise-free loss in nats."""
        cross = self.G * np.power(size, -self.delta) * np.power(tokens, -self.epsilon)
        return self.E + self.A * np.power(size, -self.alpha) + self.B * np.power(tokens, -self.beta) + cross


# Sizes of the CPU ladder's order, and a surface with the excess losses measured there (0.3 to 1 nat).
SIZES = (19e3, 31e3, 93e3, 211e3, 574e3)
TOKENS = (1e6, 2e6, 4e6, 8e6)
SURFACES: Mapping[str, Mapping[str, Surface]] = {
    "early": {
        "caption": Surface(0.320, 150.0, 210.0, 0.64, 0.45),
        "interleaved": Surface(0.226, 120.0, 190.0, 0.63, 0.45),
        "text": Surface(1.022, 60.0, 240.0, 0.55, 0.44),
    },
    "late": {
        "caption": Surface(0.320, 185.0, 225.0, 0.64, 0.45),
        "interleaved": Surface(0.226, 145.0, 200.0, 0.63, 0.45),
        "text": Surface(1.022, 60.0, 240.0, 0.55, 0.44),
    },
    "moe": {
        "caption": Surface(0.320, 90.0, 210.0, 0.64, 0.45),
        "interleaved": Surface(0.226, 75.0, 190.0, 0.63, 0.45),
        "text": Surface(1.022, 35.0, 240.0, 0.55, 0.44),
    },
}


def simulate(
    surfaces: Mapping[str, Mapping[str, Surface]] = SURFACES,
    sizes: Sequence[float] = SIZES,
    tokens: Sequence[float] = TOKENS,
    seeds: int = 1,
    trunk_noise: float = 0.01,
    row_noise: float = 0.003,
    seed: int = 0,
) -> list[dict[str, Any]]:
    """Rows with the columns of ``nmm sweep table``: one trunk per (group, size, seed), one branch per token count.

    trunk_noise, row_noise: standard deviations of ln L, the first shared by every branch of a trunk and every source.
    The same arguments give the same rows.
    """
    rng = np.random.default_rng(seed)
    rows = []
    for group, by_source in surfaces.items():
        for size_index, size in enumerate(sizes):
            for repeat in range(seeds):
                shift = trunk_noise * rng.standard_normal()
                for count in tokens:
                    noise = np.exp(shift + row_noise * rng.standard_normal(len(by_source)))
                    row = _identity(group, size_index, size, repeat, count)
                    rows.append(row | _losses(by_source, size, count, noise))
    return rows


def _identity(group: str, size_index: int, size: float, repeat: int, count: float) -> dict[str, Any]:
    trunk = f"{group}-s{size_index}-r{repeat}"
    vision = 0.4 * size if group == "late" else 0.0
    per_token = 6.0 * (size + 269 * np.sqrt(size) / 4.0) + 2.4 * vision
    return {
        "run_id": f"{trunk}-d{count:.3g}",
        "sweep": "synthetic",
        "arch": group,
        "size": f"s{size_index}",
        "seed": repeat,
        "status": "done",
        "trunk_id": trunk,
        "n_active_non_embedding": size,
        "n_vision": vision,
        "tokens": count,
        "flops_6nd": 6.0 * size * count,
        "flops_exact": per_token * count,
        "colour_excess": 3.0 * (1.0 + 0.1 * repeat) * (count / 2e5) ** -0.8 * (size / 2e4) ** -0.1,
        "on_plateau": False,
    }


def _losses(by_source: Mapping[str, Surface], size: float, count: float, noise: Array) -> dict[str, float]:
    """Losses and entropies by source, and where all three sources exist, their mean and the 45-45-10 mixture."""
    loss = {name: float(s.loss(size, count) * e) for (name, s), e in zip(by_source.items(), noise, strict=True)}
    entropy = {name: surface.E for name, surface in by_source.items()}
    if set(by_source) == set(SOURCES):
        for values in (loss, entropy):
            parts = [values[name] for name in SOURCES]
            values["avg"] = float(np.mean(parts))
            values["mixture"] = float(np.dot(MIXTURE, parts))
    return {f"loss_{k}": v for k, v in loss.items()} | {f"entropy_{k}": v for k, v in entropy.items()}
