"""From the runs of the study of bridges to its rows.

Four kinds of rows, by ``part``: main (one of every arm and seed), curve (accuracy along a classification, by
``steps``), labels (by d, the labelled pictures), joint (image-text training). FLOPs: of a classification up to its
step; a bridge is charged; ``with_lm`` also counts the language run, where an arm begins with its weights.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from nmm.config import RunConfig
from nmm.record import read_record
from sweeps import manifest
from sweeps.interventions.bridge_chain import OTHER_START
from sweeps.interventions.bridge_scale import Scale
from sweeps.interventions.protocol import StudyError

METRICS = (
    "accuracy", "accuracy_early", "accuracy_half", "probe", "steps_to_target", "fit", "forgetting", "caption_loss",
    "grounded",
)  # fmt: skip
CURVES = ("lm_none", "rand_none", "lm_random", "lm_first", "shuffle_none", "rescaled_none")
LADDERS = ("lm_none", "rand_none", "lm_first")
JOINT = ("lm_none", "rand_none", "lm_first", "lm_next_patch")
WEIGHTS = ("above_6sd", "kurtosis", "max_over_rms", "rms")
LONGER = {"lm_more": "lm_none", "rand_more": "rand_none"}
Run = tuple[dict[str, Any], dict[int, dict[str, Any]]]


def collect(out: Path, plan: Scale, arms: Sequence[str]) -> list[dict[str, Any]]:
    """All rows. Raises ``StudyError`` for a run that is missing or has diverged."""
    runs = Runs(out / "runs", plan)
    rows = [row for arm in arms for row in main_rows(runs, plan, arm)]
    rows += [row for arm in CURVES for row in curve_rows(runs, plan, arm)]
    rows += [row for arm in LADDERS for row in label_rows(runs, plan, arm)]
    return rows + [row for arm in JOINT for row in joint_rows(runs, arm)]


class Runs:
    """The finished runs of the three sweeps, by kind: lm, bridge, down, probe, labels/NUMBER, joint."""

    def __init__(self, root: Path, plan: Scale) -> None:
        self._found: dict[tuple[str, str], dict[int, Run]] = {}
        for name in ("lm", "bridge", "after"):
            for entry in manifest.read(root / name):
                kind = name if name != "after" else _kind(entry.config, plan)
                self._found.setdefault((kind, entry.arm), {})[entry.config.seed] = _run(root / name / entry.run_id)

    def of(self, kind: str, arm: str) -> dict[int, Run]:
        """Seed -> (record, measured rows by step)."""
        return self._found.get((kind, arm), {})

    def flops(self, kind: str, arm: str, seed: int) -> float:
        """FLOPs of one of them; 0 where there is none."""
        found = self.of(kind, arm).get(seed)
        return float(found[0]["flops"]["total"]) if found else 0.0


def _kind(config: RunConfig, plan: Scale) -> str:
    if config.bridge is None:
        return "joint"
    if config.stage.train == "none":
        return "probe"
    return "down" if config.stage.labelled == plan.labelled else f"labels/{config.stage.labelled}"


def _run(run: Path) -> Run:
    record = read_record(run)
    if record is None or record["status"] != "done":
        raise StudyError(f"{run} is {'not finished' if record is None else record['status']}; run the study again")
    measured: dict[int, dict[str, Any]] = {}
    for file in sorted(run.glob("attempts/*/metrics.jsonl")):
        for line in file.read_text(encoding="utf-8").splitlines():
            row = json.loads(line)
            if "bridge_loss" in row:
                measured[row["step"]] = row
    return record, measured


def main_rows(runs: Runs, plan: Scale, arm: str) -> list[dict[str, Any]]:
    """One row a seed."""
    source = LONGER.get(arm, arm)
    rows = []
    for seed, (record, measured) in runs.of("down", source).items():
        step = record["steps"] if arm in LONGER else plan.steps
        row = _row(runs, arm, seed, record, step) | {"part": "main", "d": plan.labelled}
        row |= {"accuracy": measured[step]["bridge_accuracy"], "steps_to_target": None}
        if arm not in LONGER:  # the same run as the arm without more steps
            chance = record["result"]["bridge"]["chance"]
            row["steps_to_target"] = steps_to(plan.target, measured, plan.steps, chance)
        for name, share in (("accuracy_early", 4), ("accuracy_half", 2)):
            row[name] = measured[step // share // plan.every * plan.every]["bridge_accuracy"]
        row |= _after_bridge(runs, arm, seed) | _weights(record)
        probe = runs.of("probe", source).get(seed) if arm not in LONGER else None
        row["probe"] = probe[0]["result"]["bridge"]["accuracy"] if probe else None
        rows.append(row)
    return rows


def curve_rows(runs: Runs, plan: Scale, arm: str) -> list[dict[str, Any]]:
    """One row a seed and measured step."""
    return [
        _row(runs, arm, seed, record, step)
        | {"part": "curve", "d": plan.labelled, "accuracy": measured[step]["bridge_accuracy"]}
        for seed, (record, measured) in runs.of("down", arm).items()
        for step in sorted(measured)
    ]


def label_rows(runs: Runs, plan: Scale, arm: str) -> list[dict[str, Any]]:
    """One row a seed and number of labels, all at the same step."""
    rows = []
    for labelled in sorted((*plan.ladder, plan.labelled)):
        kind = "down" if labelled == plan.labelled else f"labels/{labelled}"
        for seed, (record, measured) in runs.of(kind, arm).items():
            if seed in plan.seeds:
                row = _row(runs, arm, seed, record, plan.steps)
                rows.append(
                    row | {"part": "labels", "d": labelled, "accuracy": measured[plan.steps]["bridge_accuracy"]}
                )
    return rows


def joint_rows(runs: Runs, arm: str) -> list[dict[str, Any]]:
    """One row a seed."""
    rows = []
    for seed, (record, _) in runs.of("joint", arm).items():
        excess = record["result"]["class_excess"]
        row = _row(runs, arm, seed, record, record["steps"]) | {"part": "joint", "d": record["tokens"]["total"]}
        row |= {"caption_loss": record["result"]["loss"]["caption"], "joint_text": record["result"]["loss"]["text"]}
        rows.append(row | {"grounded": (excess["colour"] + excess["shape"]) / 2})
    return rows


def _row(runs: Runs, arm: str, seed: int, record: dict[str, Any], step: int) -> dict[str, Any]:
    """What every row has; metrics that it does not measure are null."""
    flops = record["flops"]["total"] * step / record["steps"]
    charged = runs.flops("bridge", OTHER_START.get(arm, arm), seed)
    lm_flops = 0.0 if arm.startswith("rand") else runs.flops("lm", "lm", seed)
    return {
        "arm": arm,
        "seed": seed,
        "n": record["params"]["active_non_embedding"],
        "d": None,
        "flops": flops,
        "charged": charged,
        "with_lm": flops + charged + lm_flops,
        "steps": step,
        **dict.fromkeys(METRICS),
    }


def _after_bridge(runs: Runs, arm: str, seed: int) -> dict[str, Any]:
    """What the bridge's own record says, where there was one."""
    found = runs.of("bridge", arm).get(seed)
    if found is None:
        return {"fit": None, "forgetting": None}
    result = found[0]["result"]
    before = runs.of("lm", "lm")[seed][0]["result"]["loss"]["text"]
    return {
        "fit": result["bridge"].get("train_accuracy"),
        "forgetting": result["loss"]["text"] - before if arm.startswith("lm") else None,
        "text_before": before,
    }


def _weights(record: dict[str, Any]) -> dict[str, Any]:
    """Outliers of the weights that the classification began with: the share above 1 of all, matrices without scale."""
    before = record["result"]["outliers"]["before"]
    return {
        "above_1": before["all"]["above_1"],
        "above_1_matrices": before["matrices"]["above_1"],
        **{name: before["matrices"][name] for name in WEIGHTS},
    }


def steps_to(target: float, measured: dict[int, dict[str, Any]], last: int, chance: float) -> float | None:
    """The step at which accuracy first reaches ``target``, on straight lines from ``chance`` at step 0 through what was
    measured; None when it is not there by step ``last``, which is the same for all arms, however long their runs."""
    if chance >= target:
        return 0.0
    before, low = 0, chance
    for step in sorted(step for step in measured if step <= last):
        value = measured[step]["bridge_accuracy"]
        if value >= target:
            return before + (step - before) * (target - low) / (value - low)
        before, low = step, value
    return None
