"""What a residual would be had its group not been fitted, without fitting again.

Shapes: n rows, P parameters, G groups.

Residuals of a fit are smaller than the errors, most where a group of rows has much leverage. Leaving out group g raises
its residual to r_g + J_g (J'J - J_g'J_g)^-1 J_g' r_g: HC3 for single rows (MacKinnon and White, J. Econometrics 29,
1985), CR3 for whole runs (Bell and McCaffrey, Survey Methodology 28, 2002); half the correction is HC2 and CR2. All of
it is done with P x P matrices, so thousands of checkpoints in a run are no burden.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from analysis.engine.jet import Array

# A group that alone determines a direction has leverage 1 there; beyond this its residual says nothing about the noise.
MOST_LEVERAGE = 0.9


def left_out(jacobian: Array, values: Array, codes: NDArray[np.intp], power: float = 1.0) -> Array:
    """``values`` (n,), residuals or slopes of a penalty, corrected for the leverage of their group.

    jacobian (n, P) of the fitted values; codes (n,) of the groups. power: 1 for HC3 and CR3, 0.5 for HC2 and CR2.
    """
    basis, size, _ = np.linalg.svd(jacobian, full_matrices=False)
    basis = basis[:, size > 1e-10 * size.max(initial=0.0)]
    out = np.array(values, dtype=float)
    if len(out) == int(codes.max()) + 1:
        share = np.minimum(np.sum(basis**2, axis=1), MOST_LEVERAGE)
        return out * (1.0 - share) ** -power
    order = np.argsort(codes, kind="stable")
    for rows in np.split(order, np.nonzero(np.diff(codes[order]))[0] + 1):
        block = basis[rows]
        share, vectors = np.linalg.eigh(block.T @ block)
        share = np.clip(share, 1e-12, MOST_LEVERAGE)
        factor = ((1.0 - share) ** -power - 1.0) / share
        out[rows] += block @ (vectors @ (factor * (vectors.T @ (block.T @ values[rows]))))
    return out


def scores_of(jacobian: Array, slope: Array, codes: NDArray[np.intp], power: float = 1.0) -> Array:
    """Gradient contributions summed over groups, (G, P), after the leverage correction of ``slope`` (n,)."""
    rows = jacobian * left_out(jacobian, slope, codes, power)[:, None]
    summed = np.zeros((int(codes.max()) + 1, rows.shape[1]))
    np.add.at(summed, codes, rows)
    return summed


def covariance_of(inverse: Array, scores: Array) -> Array:
    """(G - 1) / G H^-1 S'S H^-1 for summed scores (G, P): the jackknife's factor, as the scores are leave-one-out."""
    groups = len(scores)
    return np.asarray((groups - 1) / groups * inverse @ (scores.T @ scores) @ inverse)
