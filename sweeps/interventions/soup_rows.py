"""Rows of the study of weight soups, from the soup.json of every soup and of every model that was scored."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from nmm.record import read_json
from sweeps.interventions.protocol import StudyError
from sweeps.interventions.soup_table import Scale, Soup, first_soups, later_soups

TEST, VAL = "test", "val"
BESTS = {
    "uniform": "best_single",
    "plateau_uniform": "plateau_best_single",
    "lr_greedy": "lr_best_single",
}  # soup -> arm


def collect(out: Path, plan: Scale) -> list[dict[str, Any]]:
    """One row a soup or model, and one for the best member of every set of members. Raises ``StudyError`` for a soup
    that is not there.

    charged: the fine-tunes of all members (a soup, and the choice of a best member, needs them all), for what goes on
    from joint training also that; flops: of one model its own fine-tune, of a choice the passes over the val split that
    it needs. Pretraining is in no row: the model before fine-tuning costs nothing.
    """
    first, later = first_soups(out, plan), later_soups(out, plan)
    sunk = {soup.seed: _made(soup)["flops"]["fine_tunes"] for soup in later if soup.arm == "plateau_start"}
    size = {seed: _parameters(out, seed) for seed in plan.seeds}
    rows = []
    for soup in (*first, *later):
        made = _made(soup)
        before = sunk[soup.seed] if soup.arm in ("plateau_joint", "plateau_uniform", "plateau_greedy") else 0.0
        common = {"seed": soup.seed, "n": size[soup.seed], "d": None, "steps": soup.steps, "k": len(soup.runs)}
        common["spent"] = soup.steps * len(soup.runs)  # steps of training in all: equal costs have equal ones
        long = soup.arm == "plateau_joint" and soup.steps > plan.after
        arm = f"{soup.arm}_long" if long else soup.arm
        cost = _cost(made, before, made["evaluations"][VAL]) | ({"flops": 0.0} if soup.arm == "pretrained" else {})
        rows.append({"arm": arm, **common, **cost, **_marks(made["marks"]), **_shape(made)})
        if soup.arm in BESTS:
            single = {"kept": 1, "evaluations": len(soup.runs)}
            best = _marks(made["best_single"]["marks"])
            cost = _cost(made, before, single["evaluations"])
            rows.append({"arm": BESTS[soup.arm], **common, **cost, **best, **single})
    return rows


def _made(soup: Soup) -> dict[str, Any]:
    file = Path(soup.out) / "soup.json"
    if not file.is_file():
        raise StudyError(f"{file} is not there; run the study again, it goes on")
    made: dict[str, Any] = read_json(file)
    return made


def _cost(made: Mapping[str, Any], before: float, passes: int) -> dict[str, float]:
    """flops and charged of a choice that takes ``passes`` over the val split; one model is no choice."""
    flops = made["flops"]
    if len(made["members"]) == 1:
        return {"flops": flops["fine_tunes"], "charged": before}
    return {"flops": flops["pass"][VAL] * passes, "charged": flops["fine_tunes"] + before}


def _marks(marks: Mapping[str, Any]) -> dict[str, float]:
    """accuracy, loss and both by kind, of the test split; accuracy_val is what was selected by."""
    test = marks[TEST]
    by_kind = {f"{m}_{kind}": v for m in ("accuracy", "loss") for kind, v in test[m].items() if kind != "avg"}
    means = {m: test[m]["avg"] for m in ("accuracy", "loss")}
    return {**means, "accuracy_val": marks[VAL]["accuracy"]["avg"], **by_kind}


def _shape(made: Mapping[str, Any]) -> dict[str, int]:
    return {"kept": len(made["chosen"]), "evaluations": made["evaluations"][VAL]}


def _parameters(out: Path, seed: int) -> int:
    """Non-embedding parameters of the pretrained model."""
    (record,) = (out / "base" / f"s{seed}").glob("*/record.json")
    return int(read_json(record)["params"]["active_non_embedding"])
