"""The runs a design may choose from: made up around the tests, or read from a file of runs that can really be made."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from analysis.decisions.information import Blocks
from analysis.decisions.optimum import Landscape
from analysis.engine.jet import Array
from analysis.rows.table import Sample

BEYOND = 4.0
_GRID = 9
_LESS = 1.0 - 1e-9
FIELDS = ("name", "N", "D", "flops", "runs", "beside")


@dataclass(frozen=True)
class Candidate:
    """A run that could be trained: N, the token counts of its checkpoints in rising order, and its FLOPs.

    name: for the reader. runs: how many it counts as under a limit on runs. beside: the id of a row of the sample whose
    run it continues; it then shares that run's noise, and of all candidates beside one run only one can be chosen.
    """

    size: float
    tokens: tuple[float, ...]
    flops: float
    name: str = ""
    runs: int = 1
    beside: str = ""


def default_candidates(land: Landscape, sample: Sample, beyond: float = BEYOND) -> list[Candidate]:
    """Log-spaced N and D over the tested ranges and up to ``beyond`` times their ends, at a D / N that was tested.

    Outside the tested D / N a law is least to be trusted, and that is where a design would otherwise go first. Where
    the runs of the sample have several rows, so do these: as many as their median, at the largest D and the grid values
    below it.
    """
    size, tokens = (
        np.geomspace(land.ranges[name][0], land.ranges[name][1] * max(beyond, 1.0), _GRID) for name in ("N", "D")
    )
    ratio = sample.tokens / sample.size
    rows = int(np.median(np.bincount(np.unique(sample.cluster, return_inverse=True)[1])))
    found = []
    for n in size:
        for last in np.nonzero((tokens >= ratio.min() * n * _LESS) & (tokens * _LESS <= ratio.max() * n))[0]:
            points = tuple(map(float, tokens[max(0, last + 1 - rows) : last + 1]))
            found.append(Candidate(float(n), points, float(land.compute(n, tokens[last]))))
    return found


def read_candidates(path: Path) -> list[Candidate]:
    """Candidates of a JSON list of {"N": parameters, "D": [tokens, ...], "flops": of the whole run, and where wanted
    "name", "runs", "beside"}, or of a CSV with these columns (D: numbers with spaces between).

    Raises ``ValueError`` naming the file and the entry.
    """
    if path.suffix == ".csv":
        import pandas

        listed = pandas.read_csv(path, dtype=str, keep_default_na=False).to_dict("records")
    else:
        listed = json.loads(path.read_text(encoding="utf-8"))
    if not isinstance(listed, list) or not listed:
        raise ValueError(f"{path} lists no candidates; it must be a list of entries with N, D and flops")
    return [_candidate(values, f"{path}, entry {number}") for number, values in enumerate(listed, start=1)]


def _candidate(values: Any, where: str) -> Candidate:
    if not isinstance(values, dict) or set(values) - set(FIELDS) or not {"N", "D", "flops"} <= set(values):
        raise ValueError(f"{where}: {values!r} must have N, D and flops, and may have name, runs and beside")
    listed = values["D"].split() if isinstance(values["D"], str) else values["D"]
    try:
        tokens = tuple(float(d) for d in (listed if isinstance(listed, list) else [listed]))
        size, flops, runs = float(values["N"]), float(values["flops"]), int(values.get("runs") or 1)
    except (TypeError, ValueError) as error:
        raise ValueError(f"{where}: {error}; N, D, flops and runs must be numbers") from error
    rising = all(low < high for low, high in zip((0.0, *tokens[:-1]), tokens, strict=True))
    if not (tokens and rising and size > 0 and 0 < flops < np.inf and runs > 0):
        raise ValueError(
            f"{where}: N={size:g}, D={list(tokens)}, flops={flops:g}, runs={runs} must be positive, D rising"
        )
    return Candidate(size, tokens, flops, str(values.get("name", "")), runs, str(values.get("beside", "")))


def affordable(offered: Sequence[Candidate], budget: float, max_runs: int) -> list[Candidate]:
    """Those within the budget and the number of runs. Raises ``ValueError`` when there are none."""
    found = [c for c in offered if c.flops <= budget and c.runs <= max_runs]
    if not found:
        cheapest = min((c.flops for c in offered), default=float("nan"))
        limit = f" with at most {max_runs} runs" if any(c.flops <= budget for c in offered) else ""
        raise ValueError(
            f"{budget:.3g} FLOPs buy none of the {len(offered)} candidates{limit}; the cheapest costs {cheapest:.3g}"
        )
    return found


def rows_of(offered: Sequence[Candidate]) -> tuple[dict[str, Array], NDArray[np.intp]]:
    """N and D of every checkpoint (n,), and which candidate each belongs to (n,)."""
    lengths = [len(c.tokens) for c in offered]
    columns = {
        "N": np.repeat([c.size for c in offered], lengths),
        "D": np.concatenate([np.array(c.tokens, dtype=float) for c in offered]),
    }
    return columns, np.repeat(np.arange(len(offered)), lengths).astype(np.intp)


def continued(offered: Sequence[Candidate], sample: Sample, codes: NDArray[np.intp]) -> NDArray[np.intp]:
    """For every candidate the code of the run it continues, -1 where it is a run of its own. codes: of the rows of the
    sample. Raises ``ValueError`` for a row that is not in the sample."""
    of_row = dict(zip(sample.run_ids, codes, strict=True))
    unknown = sorted({c.beside for c in offered if c.beside and c.beside not in of_row})
    if unknown:
        raise ValueError(
            f"{len(unknown)} candidates continue runs that the fit of {sample.group}/{sample.target} did not use "
            f"(first: beside={unknown[0]!r}); leave them out"
        )
    return np.array([of_row[c.beside] if c.beside else -1 for c in offered], dtype=np.intp)


def beside_known(new: Blocks, old: Blocks, code: NDArray[np.intp], run: float) -> Blocks:
    """The blocks ``new`` (M runs), where those that continue run ``code`` of ``old`` tell only what its rows do not.

    With noise of standard deviation ``run`` shared by all rows of a run: jacobian and noise of the new rows given the
    old ones, so that information adds up to that of old and new rows together, exactly.
    """
    jacobian, noise = new.jacobian.copy(), new.noise.copy()
    for m in np.nonzero(code >= 0)[0]:
        before, covariance = old.jacobian[code[m]], old.noise[code[m]]
        # rows that only pad a block share nothing; they are those without covariance to any other
        mine, theirs = (np.any(j != 0, axis=1) for j in (jacobian[m], before))
        shared = run**2 * np.outer(mine, theirs)
        known = np.linalg.solve(covariance, shared.T).T
        jacobian[m] -= known @ before
        noise[m] -= known @ shared.T
    return Blocks(jacobian, noise)


def scatter_beside(new: Blocks, old: Blocks, code: NDArray[np.intp], run: float) -> Array:
    """``new.scatter`` with what the candidates that continue run ``code`` of ``old`` share with its rows, (M, P, P)."""
    found = new.scatter
    for m in np.nonzero(code >= 0)[0]:
        cross = run**2 * np.outer(new.weighted[m].sum(axis=0), old.weighted[code[m]].sum(axis=0))
        found[m] += cross + cross.T
    return found
