"""A study of guided decoding whose runs and marks are made up, on disk as the real one leaves them."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import pytest

from nmm.config import group_from_dict
from nmm.interventions.exam import Setting
from nmm.record import write_json
from sweeps.interventions import guide, guide_plans
from sweeps.interventions.guide_plans import CPU, Scale

PARAMS = {"d16": 5_000, "d24": 9_616, "d32": 19_000, "d48": 31_000, "d64": 93_000}
TUNED = {"d16": 0.8, "d24": 0.8, "d32": 0.9, "d48": 0.95, "d64": 0.98}
BASE, GUIDED = 0.25, {"d24": 0.9, "d32": 0.92, "d48": 0.94, "d64": 0.97}


def record(size: str, seed: int) -> dict[str, Any]:
    n = PARAMS[size]
    return {"size": size, "seed": seed, "run_id": f"{size}-{seed}", "params": {"active_non_embedding": n},
            "flops": {"total": 6e6 * n}}  # fmt: skip


def accuracy(labels: dict[str, Any]) -> float:
    """What each way of answering gets right; alpha 2 and 3 are too much."""
    arm, big, noise = labels["arm"], labels["big"], 0.004 * (labels["seed"] - 1)
    alpha = labels["alpha"]
    if arm in ("forced", "tuned", "drawn_tuned"):
        return TUNED[big] + noise
    if arm in ("guided", "guided_half", "no_amateur", "no_amateur_half", "wrong_picture", "drawn_guided"):
        return GUIDED[big] + noise - (0.5 if alpha > 1.5 else 0.0)
    return BASE + noise


def marks_of(setting: dict[str, Any]) -> dict[str, Any]:
    labels, share = setting["labels"], accuracy(setting["labels"])
    marks: dict[str, Any] = {
        "setting": setting,
        "asked": setting["questions"],
        "right": round(share * setting["questions"]),
        "accuracy": share,
        "length": 16.0,
        "slow": 1.0,
        "ended": 1.0,
        "shards": "uniform",
        "flops_a_question": 40.0 * (PARAMS[labels["big"]] + 2 * PARAMS["d24"] * bool(setting.get("expert"))),
    }
    marks["prompt_flops_a_question"] = marks["flops_a_question"] / 2
    if setting.get("nll"):
        marks["nll"] = {"nats_a_token": 0.1, "nats_an_answer": 1.1 - share, "answers": 100}
    if setting.get("stats"):
        step = {"step": 0, "rows": 4, "flip": 1.0}
        flips = [{"from": "is", "to": "since", "count": 4}]
        marks["stats"] = {"mean": {"flip": 0.06, "js": 0.01, "delta_norm": 6.0}, "by_step": [step], "flips": flips}
    if setting.get("samples"):
        marks["flops_a_question"] = marks["prompt_flops_a_question"] * (1 + setting["samples"])
        marks["pass"] = {str(k): 1 - (1 - share) ** k for k in setting["counts"]}
        marks["vote"] = {str(k): share for k in setting["counts"]}
    return marks


def answer(plan: dict[str, Any], out: Path) -> None:
    """The file that `nmm exam` would leave."""
    settings = [dataclasses.asdict(group_from_dict(Setting, each)) for each in plan["settings"]]
    lines = [json.dumps({"key": str(n), "marks": marks_of(each)}) for n, each in enumerate(settings)]
    out.write_text("\n".join(lines) + "\n")


def made_up(out: Path, patch: pytest.MonkeyPatch, scale: Scale = CPU) -> list[dict[str, Any]]:
    """The rows of a study whose every step has been made up."""

    def records(runs: Path) -> list[dict[str, Any]]:
        sizes = scale.sizes if runs.name == "base" else scale.main[:1]
        return [record(size, seed) for size in sizes for seed in scale.seeds]

    for module in (guide, guide_plans):
        patch.setattr(module, "records", records)
    out.mkdir(exist_ok=True)
    for run in guide_plans.tune_plan(out, scale)["runs"]:
        size = "d24" if Path(run["run"]).parent.name == "prior" else Path(run["run"]).name.split("-")[0]
        write_json(Path(run["out"]) / "record.json", {"flops": {"total": 1e3 * PARAMS[size] * run["steps"]}})
    val = guide_plans.val_plan(out, scale)
    answer(val, out / "val.jsonl")
    answer(guide_plans.test_plan(out, scale, guide_plans.marks_of(out / "val.jsonl", val)), out / "test.jsonl")
    return guide.collect(out, scale)
