"""The simulated table that the tests of this room share."""

from __future__ import annotations

import numpy as np

from analysis.rows.table import Sample


def grid(noise: float = 0.005, sizes: int = 8, tokens: int = 6, seed: int = 0) -> Sample:
    """A Chinchilla surface on a grid, each row a run of its own."""
    size = np.repeat(np.geomspace(1e7, 3e9, sizes), tokens)
    count = np.tile(np.geomspace(2e8, 2e11, tokens), sizes)
    clean = 1.7 + 400.0 * size**-0.34 + 2000.0 * count**-0.37
    loss = clean * np.exp(noise * np.random.default_rng(seed).standard_normal(len(clean)))
    rows = np.arange(len(loss))
    columns = {"N": size, "D": count, "C": 6 * size * count}
    return Sample("all", "loss", tuple(f"run-{i}" for i in rows), columns, loss, None, rows)
