from __future__ import annotations

import numpy as np

from analysis.simulation.synthetic import SIZES, SURFACES, TOKENS, simulate


def test_a_table_is_its_surface_without_noise() -> None:
    rows = simulate(trunk_noise=0.0, row_noise=0.0)
    assert len(rows) == 3 * len(SIZES) * len(TOKENS)
    for row in rows[::7]:
        losses = {
            k: float(s.loss(row["n_active_non_embedding"], row["tokens"])) for k, s in SURFACES[row["arch"]].items()
        }
        assert all(abs(row[f"loss_{k}"] - v) < 1e-12 for k, v in losses.items())
        assert abs(row["loss_avg"] - np.mean(list(losses.values()))) < 1e-12


def test_noise_is_shared_inside_a_trunk_and_repeats_with_the_seed() -> None:
    noisy, clean = (
        simulate(seeds=20, trunk_noise=0.02, row_noise=0.002),
        simulate(seeds=20, trunk_noise=0.0, row_noise=0.0),
    )
    assert noisy == simulate(seeds=20, trunk_noise=0.02, row_noise=0.002) and noisy != simulate(seeds=20, seed=1)
    error = np.array([np.log(a["loss_text"] / b["loss_text"]) for a, b in zip(noisy, clean, strict=True)]).reshape(
        -1, 4
    )
    assert 0.015 < error.mean(axis=1).std() < 0.025 and 0.0015 < error.std(axis=1, ddof=1).mean() < 0.0025
    assert len({row["run_id"] for row in noisy}) == len(noisy) and len({row["trunk_id"] for row in noisy}) == 300
