"""What the studies share: their grids from recipes, a sweep as three steps, and the records of finished runs."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import yaml

from nmm.config import ConfigError
from sweeps import manifest
from sweeps.adaptive.finished import finished
from sweeps.interventions.protocol import WORKERS, Step, StudyError
from sweeps.spec import recipe_text

Spec = Mapping[str, Any]


def recipe(name: str) -> dict[str, Any]:
    """The keys of sweeps/recipes/NAME.yaml, to be completed by a study. Raises ``ConfigError`` for an unknown name."""
    loaded = yaml.safe_load(recipe_text(name))
    if not isinstance(loaded, dict):
        raise ConfigError(f"sweeps/recipes/{name}.yaml holds no keys")
    return loaded


def sweep_steps(out: Path, name: str, spec: Spec | Callable[[], Spec], table: bool = False) -> tuple[Step, ...]:
    """Plan and launch a sweep: its file is OUT/NAME.yaml, its runs are in OUT/NAME; with ``table`` its points in
    OUT/NAME.csv (points of pretraining only: of tuned runs see ``records``).

    spec: keys of a sweep file; a function where they depend on what earlier steps made (charged FLOPs, a best run).
    """
    file, runs = out / f"{name}.yaml", out / name

    def files() -> Mapping[Path, str]:
        found = spec() if callable(spec) else spec
        return {file: yaml.safe_dump(dict(found), sort_keys=False, width=1000)}

    def only_diverged() -> bool:
        return not finished(runs, manifest.read(runs)).open

    planned = runs / manifest.FILE_NAME
    launch = ("sweep", "launch", str(runs), f"workers={WORKERS}")
    steps = [
        Step(f"{name}-plan", ("sweep", "plan", f"sweep={file}", f"out={runs}"), planned, files),
        Step(f"{name}-launch", launch, planned, files, only_diverged),
    ]
    if table:
        csv = out / f"{name}.csv"
        steps.append(Step(f"{name}-table", ("sweep", "table", str(runs), "--out", str(csv)), csv, files))
    return tuple(steps)


def records(runs: Path, skip_diverged: bool = False) -> list[dict[str, Any]]:
    """Records of all runs of a launched sweep but its trunks, in the order of its manifest.

    Raises ``StudyError`` for runs without one, and for diverged ones, unless they are to be left out: a page with fewer
    seeds in one arm must be meant.
    """
    entries = manifest.read(runs)
    ended = finished(runs, entries)
    if ended.open:
        raise StudyError(f"{len(ended.open)} runs of {runs} have no end (first: {ended.open[0]}); launch it again")
    if ended.diverged and not skip_diverged:
        raise StudyError(
            f"{len(ended.diverged)} runs of {runs} diverged (first: {ended.diverged[0]}), so arms lack seeds"
        )
    return [ended.records[e.run_id] for e in entries if e.role != "trunk" and e.run_id in ended.records]


def row_of(record: Mapping[str, Any], **more: Any) -> dict[str, Any]:
    """The columns that every row of results has, of one run's record: N active, D tokens, its own and charged FLOPs.

    ``more``: its metrics, and whatever else the row has.
    """
    return {
        "arm": record["intervention"]["arm"],
        "seed": record["seed"],
        "n": record["params"]["active_non_embedding"],
        "d": record["tokens"]["total"],
        "flops": record["flops"]["total"],
        "charged": record["intervention"]["charged_flops"],
        **more,
    }
