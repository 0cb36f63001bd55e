"""Rows of a study as one sample for a law of all arms: columns N, D, seed and one indicator per arm."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from analysis.interventions.rows import Data, RowsError, value_of
from analysis.laws.arms import arm_labels
from analysis.rows.table import Sample


def sample_of(data: Data, metric: str, arms: Sequence[str], block: Sequence[str]) -> Sample:
    """All rows of ``arms`` with a number for ``metric``; rows that share the columns ``block`` are one cluster.

    Raises ``RowsError`` when n or d is missing, the metric is not positive, or an arm has no row.
    """
    rows = [row for row in data.rows if row["arm"] in arms and math.isfinite(value_of(row, metric))]
    for arm in arms:
        if not any(row["arm"] == arm for row in rows):
            raise RowsError(f"arm {arm} has no row with a number for {metric}")
    for row in rows:
        where = f"arm {row['arm']}, seed {row['seed']}"
        if missing := [name for name in ("n", "d") if row[name] is None]:
            raise RowsError(f"{where}: {missing[0]} is null; a law needs n and d in every row (use curve without them)")
        if value_of(row, metric) <= 0:
            raise RowsError(f"{where}: {metric} is {row[metric]}; a law of losses needs positive ones")
    keys = [tuple(row.get(name) for name in block) for row in rows]
    number = {key: i for i, key in enumerate(dict.fromkeys(keys))}
    names = ["/".join(map(str, (row["arm"], row["n"], row["d"], row["seed"]))) for row in rows]
    columns = {"N": [value_of(row, "n") for row in rows], "D": [value_of(row, "d") for row in rows]}
    columns["seed"] = [float(row["seed"]) for row in rows]
    columns |= {
        f"is_{label}": [float(row["arm"] == arm) for row in rows]
        for label, arm in zip(arm_labels(arms), arms, strict=True)
    }
    return Sample(
        group="arms",
        target=metric,
        run_ids=tuple(names),
        columns={name: np.array(values, dtype=float) for name, values in columns.items()},
        loss=np.array([value_of(row, metric) for row in rows]),
        entropy=None,
        cluster=np.array([number[key] for key in keys], dtype=np.intp),
    )
