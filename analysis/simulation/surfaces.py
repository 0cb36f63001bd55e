"""Published loss surfaces as numbers to simulate from: native multimodal models, and Chinchilla beside them.

Early, late and sparse: arXiv 2504.07951, table 2 (E, alpha, beta of the average validation loss, data mixture
45-45-10). A and B are printed there for the sparse surface only (table 12). Those of early and late fusion are DERIVED:
they follow from the published compute-optimal hull, taking 50 tokens per parameter at 1e21 FLOPs from its figure 22,
and are good to some 4 %. They serve simulations; they are no result of that paper.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from analysis.engine.jet import Array
from analysis.simulation.simulator import Design, grid, rows_design


@dataclass(frozen=True)
class Truth:
    """A law with known natural parameters. caveat: what a reader must know about the numbers, or ""."""

    name: str
    law: str
    params: dict[str, float]
    source: str
    caveat: str = ""

    def loss(self, size: Array | float, tokens: Array | float) -> Array:
        """Noise-free loss of L = E + A / N^alpha + B / D^beta, in nats."""
        p = self.params
        return p["E"] + p["A"] * np.power(size, -p["alpha"]) + p["B"] * np.power(tokens, -p["beta"])


_DERIVED = "A and B are derived from the published hull, not printed (good to some 4 %)"


def _surface(name: str, E: float, A: float, B: float, alpha: float, beta: float, source: str, caveat: str) -> Truth:
    return Truth(name, "chinchilla", {"E": E, "A": A, "alpha": alpha, "B": B, "beta": beta}, source, caveat)


EARLY = _surface("early", 1.904, 270.0, 1860.0, 0.301, 0.335, "arXiv 2504.07951, table 2", _DERIVED)
LATE = _surface("late", 1.891, 224.0, 2006.0, 0.2903, 0.3383, "arXiv 2504.07951, table 2", _DERIVED)
SPARSE = _surface(
    "sparse", 2.158, 381773.0, 4659.0, 0.710, 0.372, "arXiv 2504.07951, tables 2 and 12",
    "N is the number of active parameters",
)  # fmt: skip
CHINCHILLA = _surface(
    "chinchilla", 1.8172, 477.83, 2143.4, 0.34731, 0.36717, "log-Huber fit to the points of arXiv 2404.10102",
    "the optimum of that objective; the point printed there is the least-absolute one",
)  # fmt: skip
TRUTHS = {truth.name: truth for truth in (EARLY, LATE, SPARSE, CHINCHILLA)}

# Parameters with embeddings: decoder for early and sparse (active), decoder and encoder for late; their table 6.
EARLY_SIZES = (274.8e6, 464.0e6, 931.7e6, 1626.8e6, 2279.9e6, 3354.2e6)
LATE_SIZES = (289.8e6, 493.4e6, 1004.3e6, 1748.0e6, 2430.5e6, 3707.3e6)
TOKEN_RANGE = (2.5e9, 600e9)


def paper_design(late: bool = False, token_counts: int = 12, seeds: int = 1) -> Design:
    """The design of arXiv 2504.07951: 6 sizes at 12 or 13 token counts, log-spaced from 2.5B to 600B; 6 N D FLOPs."""
    return grid(LATE_SIZES if late else EARLY_SIZES, np.geomspace(*TOKEN_RANGE, token_counts).tolist(), seeds)


def with_more_sizes(count: int, late: bool = False, token_counts: int = 12) -> Design:
    """The same range of sizes covered by ``count`` log-spaced ones."""
    published = LATE_SIZES if late else EARLY_SIZES
    sizes = np.geomspace(published[0], published[-1], count)
    tokens = np.geomspace(*TOKEN_RANGE, token_counts)
    size, many = (axis.ravel() for axis in np.meshgrid(sizes, tokens, indexing="ij"))
    return rows_design(N=size, D=many)
