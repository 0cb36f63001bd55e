"""The study of perplexity filtering: arms are what they say, their charges are measured, rows hold what was kept."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from nmm.config import ConfigError
from nmm.record import write_json
from sweeps.interventions.filter import APART, ARMS, charged, collect, kept_facts, kept_in, scale_of, study, with_arms
from sweeps.spec import spec_from_dict

SEEDS = {"tiny": (0, 1, 2), "cpu": (0, 1, 2, 3, 4, 5)}
SWEEPS = {"tiny": ("ladder", "controls"), "cpu": ("ladder", "long", "controls", "rare", "dull")}


def report(pool: int, kept: int) -> dict[str, Any]:
    labels = {
        "clean": {"pool": pool // 4, "kept": kept // 2},
        "serial": {"pool": pool // 2, "kept": 0},
        "wrong": {"pool": pool // 4, "kept": kept // 2},
    }
    covered = {"entities": 9, "entity_entropy": 2.0, "tail_share": 0.2}
    return {
        "samples": pool,
        "kept": kept,
        "cost": {"scoring_flops": 3e9, "reference_flops": 4e9},
        "truth": {"labels": labels, "precision": 0.5, "recall": 0.4},
        "coverage": {"pool": covered, "kept": {**covered, "tail_share": 0.1}},
    }


@pytest.fixture
def filtered(tmp_path: Path) -> Path:
    for kept in ARMS:
        if kept.options:
            for seed in range(4):
                write_json(kept_in(tmp_path, kept, seed) / "filter.json", report(1000, 200))
    return tmp_path


@pytest.mark.parametrize("scale", ["tiny", "cpu"])
def test_the_study_describes_itself(tmp_path: Path, scale: str) -> None:
    found = study(tmp_path, scale)
    steps = {step.name: " ".join(step.command) for step in found.steps}
    assert found.control == "full"
    arms = scale_of(scale).arms
    pools = {"tiny": {"even"}, "cpu": {"even", "rare", "dull"}}[scale]
    assert {kept.pool for kept in arms} == pools
    scored = {f"filter-{kept.arm.name}" for kept in arms if kept.options and not kept.drawn}
    drawn = {f"filter-{kept.arm.name}-s{seed}" for kept in arms if kept.drawn for seed in SEEDS[scale]}
    assert {name for name in steps if name.startswith("filter-")} == {"filter-even-text", *scored, *drawn}
    for pool in pools:
        assert f"first_sample={APART}" in steps[f"shards-{pool}-apart"]  # the reference learns from other captions
        assert f"data.path={tmp_path}/shards/{pool}-apart" in steps[f"train-{pool}-reference"]
        own = [steps[f"filter-{kept.arm.name}"] for kept in arms if kept.pool == pool and kept.reference == "reference"]
        assert own
        assert all(one.endswith(f"reference={tmp_path}/{pool}-reference") for one in own)
    assert "reference" not in steps["filter-random-s1"] + steps["filter-clean-s1"]
    assert steps["filter-random-s1"].endswith(" seed=1")
    assert steps["filter-text_only"].endswith(f"reference={tmp_path}/even-text-reference")
    assert [name for name in steps if name.endswith("-launch")] == [f"runs-{n}-launch" for n in SWEEPS[scale]]


def test_what_scores_is_charged_and_what_draws_is_not(filtered: Path) -> None:
    costs = {kept.arm.name: charged(filtered, kept) for kept in ARMS}
    free = {"full", "random", "clean", "rare_full", "rare_random", "dull_full", "dull_random"}
    assert {name for name, cost in costs.items() if not cost} == free
    assert {cost for name, cost in costs.items() if name not in free} == {7e9}


def test_a_reference_of_unknown_cost_is_refused(filtered: Path) -> None:
    (blind,) = [kept for kept in ARMS if kept.arm.name == "blind"]
    path = kept_in(filtered, blind, None) / "filter.json"
    write_json(path, report(1000, 200) | {"cost": {"scoring_flops": 3e9, "reference_flops": None}})
    with pytest.raises(ConfigError, match="does not know what training its reference cost, so arm blind cannot be"):
        charged(filtered, blind)


@pytest.mark.parametrize("scale", ["tiny", "cpu"])
def test_sweeps_have_every_arm_once(filtered: Path, scale: str) -> None:
    grids = {name: with_arms(filtered, name, grid) for name, grid in scale_of(scale).sweeps.items()}
    specs = {name: spec_from_dict(grid) for name, grid in grids.items()}
    found = {(arm, name) for name, spec in specs.items() for arm in spec.arms}
    assert found == {(kept.arm.name, name) for kept in ARMS for name in kept.sweeps if name in SWEEPS[scale]}
    assert specs["ladder"].arms["full"][0] == f"data.path={filtered}/shards/even"
    assert specs["ladder"].arms["random"][0] == f"data.path={filtered}/kept/random/s{{seed}}"
    assert specs["ladder"].arms["lowest"][0] == f"data.path={filtered}/kept/lowest"
    assert specs["ladder"].arms["lowest"][1] == "intervention.charged_flops=7000000000.0"
    common = set(specs["controls"].tokens_for("early", specs["controls"].sizes[0]))
    assert common <= set(specs["ladder"].tokens_for("early", specs["controls"].sizes[0]))
    assert {spec.seeds for spec in specs.values()} == {SEEDS[scale]}


def test_rows_say_what_was_kept(filtered: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    by_name = {kept.arm.name: kept for kept in ARMS}
    lowest, full = (kept_facts(filtered, by_name[name], 1) for name in ("lowest", "full"))
    assert (lowest["samples"], lowest["share_clean"], lowest["recall"], lowest["tail_share"]) == (200, 0.5, 0.4, 0.1)
    assert (full["samples"], full["share_clean"], full["recall"], full["tail_share"]) == (1000, 0.25, 1.0, 0.2)

    def record(arm: str) -> dict[str, Any]:
        return {
            "intervention": {"arm": arm, "charged_flops": 7e9},
            "seed": 1,
            "size": "d24",
            "params": {"active_non_embedding": 7},
            "tokens": {"total": 90, "positions": 100, "unique": 45},
            "flops": {"total": 1e9},
            "result": {"loss": {"caption": 0.5}, "grounded": {"loss": 0.3, "entropy": 0.0, "targets": 8}},
        }

    arms = {
        "runs-ladder": ["full", "lowest"],
        "runs-long": [],
        "runs-controls": ["blind"],
        "runs-rare": ["rare_full"],
        "runs-dull": [],
    }
    monkeypatch.setattr("sweeps.interventions.filter.records", lambda runs: [record(arm) for arm in arms[runs.name]])
    rows = {row["arm"]: row for row in collect(SWEEPS["cpu"], filtered)}
    assert list(rows) == ["full", "lowest", "blind", "rare_full"]
    assert (rows["lowest"]["loss_grounded"], rows["lowest"]["loss_tail"], rows["lowest"]["epochs"]) == (0.3, None, 2.0)
    assert (rows["lowest"]["charged"], rows["lowest"]["pool"], rows["rare_full"]["pool"]) == (7e9, "even", "rare")
