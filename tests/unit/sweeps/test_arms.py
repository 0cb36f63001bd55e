"""A sweep with arms: the grid once for each, labels that change no run, two arms that are one run refused."""

from __future__ import annotations

import io
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import pytest
from rich.console import Console

from nmm.config import ConfigError, RunConfig, run_id
from sweeps import manifest
from sweeps.adaptive.planning import ready
from sweeps.grid import expand
from sweeps.manifest import ManifestError, SweepError
from sweeps.plan import describe, show
from sweeps.spec import SweepSpec, load_spec, spec_from_dict
from sweeps.status.planned import read_planned
from sweeps.status.report import Reader
from sweeps.status.text import lines

ARMS = {"control": [], "gentle": ["schedule.warmup_steps=8"]}
Compose = Callable[[Sequence[str]], RunConfig]


def test_every_arm_is_the_whole_grid_with_its_overrides(make_spec, composer: Compose, tmp_path: Path) -> None:
    plain = expand(make_spec(seeds=[0, 1]), tmp_path, composer)
    runs = expand(make_spec(seeds=[0, 1], arms=ARMS), tmp_path, composer)
    assert [c.intervention.arm for c in runs] == ["control"] * len(plain) + ["gentle"] * len(plain)
    assert [run_id(c) for c in runs[: len(plain)]] == [run_id(c) for c in plain]  # a label changes no run
    assert {c.schedule.warmup_steps for c in runs[len(plain) :]} == {8}
    assert len({run_id(c) for c in runs}) == 2 * len(plain)


def test_an_arm_wins_over_the_overrides_of_all(make_spec, composer: Compose, tmp_path: Path) -> None:
    spec = make_spec(overrides=["schedule.warmup_steps=6"], arms=ARMS)
    assert {(c.intervention.arm, c.schedule.warmup_steps) for c in expand(spec, tmp_path, composer)} == {
        ("control", 6),
        ("gentle", 8),
    }


@pytest.mark.parametrize("same", [[], ["intervention.charged_flops=1e9"], ["schedule.warmup_steps=4"]])
def test_two_arms_that_are_one_run_are_refused(make_spec, composer: Compose, tmp_path: Path, same: list[str]) -> None:
    with pytest.raises(ConfigError, match="arms control and copy are one run .early-d16-trunk"):
        expand(make_spec(arms={"control": [], "copy": same}), tmp_path, composer)


def test_placeholders_are_the_runs_own(make_spec, composer: Compose, tmp_path: Path) -> None:
    asked: list[str] = []

    def listening(overrides: Sequence[str]) -> RunConfig:
        asked.extend(override for override in overrides if override.startswith("start.path"))
        return composer(overrides)

    expand(make_spec(seeds=[0, 3], overrides=["start.path=lm/{arch}-{size}-{seed}"]), tmp_path, listening)
    assert asked == [f"start.path=lm/early-{size}-{seed}" for size in ("d16", "d32") for seed in (0, 3)]


def test_without_trunks_every_count_is_a_run(make_spec, composer: Compose, tmp_path: Path) -> None:
    by_tokens = expand(make_spec(sizes=["d16"], trunks=False, tokens=[51_200, 25_600]), tmp_path, composer)
    assert [(c.role, c.total_steps, c.parent.run_id) for c in by_tokens] == [("run", 100, ""), ("run", 200, "")]
    by_steps = expand(make_spec(sizes=["d16"], trunks="off", tokens=[], steps=[200, 100]), tmp_path, composer)
    assert [run_id(c) for c in by_steps] == [run_id(c) for c in by_tokens]


def test_without_trunks_every_run_has_its_own_warmup(make_spec, composer: Compose, tmp_path: Path) -> None:
    overrides = ["schedule.warmup_rule=paper", "schedule.warmup_steps=5000"]
    runs = expand(make_spec(sizes=["d16"], trunks=False, overrides=overrides), tmp_path, composer)
    assert [(c.total_steps, c.schedule.warmup_steps) for c in runs] == [(100, 25), (200, 50)]


def test_a_run_that_is_planned_twice_is_refused(make_spec, composer: Compose, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="is planned twice"):
        expand(make_spec(sizes=["d16"], trunks=False, tokens=[25_600, 25_650]), tmp_path, composer)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"arms": ["control"]}, "must map the name of an arm to its overrides"),
        ({"arms": {"control": "data.path=A"}}, "arms.control='data.path=A' must be a list"),
        ({"arms": {"a b": []}}, "'a b' is no name of an arm"),
        ({"arms": {0.2: []}}, "0.2 is no name of an arm"),
        ({"arms": {"control": ["seed=1"]}}, "seed=1: seed is set by the sweep itself; use seeds"),
        ({"arms": {"control": ["arch=late"]}}, "arch=late: arch is set by the sweep itself"),
        ({"arms": {"control": ["budget.steps=5"]}}, "budget.steps is set by the sweep itself"),
        ({"overrides": ["intervention.arm=x"]}, "intervention.arm is set by the sweep itself; use arms"),
        ({"steps": [5], "trunks": False}, "counts in steps or in tokens, not in both"),
        ({"steps": [5], "tokens": []}, "steps=... needs trunks=off"),
        ({"trunks": "maybe"}, "trunks='maybe' is not one of on, off"),
        ({"tokens": []}, "the sweep lacks tokens"),
        ({"cooldown_fraction": 0}, "must lie between 0 and 1"),
    ],
)
def test_what_cannot_be_asked(make_spec: Callable[..., SweepSpec], changes: dict[str, object], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        make_spec(**changes)


def test_no_cooldown_is_fine_without_trunks(make_spec, composer: Compose, tmp_path: Path) -> None:
    runs = expand(make_spec(trunks=False, cooldown_fraction=0), tmp_path, composer)
    assert {c.schedule.cooldown_fraction for c in runs} == {0.0}


def test_arms_in_a_file_and_on_the_command_line(tmp_path: Path) -> None:
    file = tmp_path / "two.yaml"
    file.write_text(
        "name: two\narchs: [from_start]\nsizes: [from_start]\ntrunks: off\nsteps: [10]\n"
        "arms:\n  control: []\n  hot: [optim.lr=0.1]\n"
    )
    spec = load_spec(str(file), ["arms.cold=[optim.lr=0.001]", "steps=[20,30]"])
    assert spec.arms == {"control": (), "hot": ("optim.lr=0.1",), "cold": ("optim.lr=0.001",)}
    assert (spec.trunks, spec.steps, spec.tokens) == (False, (20, 30), ())


def test_more_seeds_and_new_arms_add_lines(plan) -> None:
    first = plan(arms=ARMS)
    before = first.path.read_text()
    assert plan(arms=ARMS, seeds=[0, 1]).added == len(first.entries)
    more = plan(arms={**ARMS, "long": ["schedule.warmup_steps=12"]}, seeds=[0, 1])
    assert more.added == len(first.entries)
    assert more.path.read_text().startswith(before)
    with pytest.raises(ManifestError, match="A plan may only grow"):
        plan(arms={"control": []}, seeds=[0, 1])


def test_another_arm_of_a_planned_run_is_refused(plan) -> None:
    plan(arms={"control": []})
    with pytest.raises(ManifestError, match=r"would change intervention.arm \('control' -> 'plain'\)"):
        plan(arms={"plain": []})


def test_arms_are_shown_where_archs_are(plan) -> None:
    planned = plan(arms=ARMS)
    console = Console(width=80, file=io.StringIO())
    show(planned, console)
    rows = [line.split() for line in console.file.getvalue().splitlines()]
    assert next(row[:3] for row in rows if "arch" in row) == ["arm", "arch", "size"]
    assert [row[:3] for row in rows if row[1:2] == ["early"]] == [
        [arm, "early", size] for arm in ("control", "gentle") for size in ("d16", "d32")
    ]
    gentle = next(e.config for e in planned.entries if e.arm == "gentle")
    assert describe(gentle).startswith("gentle: early d")
    assert describe(replace(gentle, intervention=replace(gentle.intervention, arm=""))).startswith("early d")


def test_status_counts_runs_by_arm(plan) -> None:
    planned = plan(arms=ARMS)
    directory = planned.path.parent
    assert {run.arm for run in read_planned(directory)} == {"control", "gentle"}
    report = Reader(directory).read()
    assert report.arms == {"control": (0, 6), "gentle": (0, 6)}
    assert [line for line in lines(report) if line.startswith("arms: ")] == ["arms: control 0/6 done, gentle 0/6 done"]
    assert {row["arm"] for row in report.as_json()["runs"]} == {"control", "gentle"}


def test_a_manifest_from_before_arms_reads_as_one_without(plan) -> None:
    planned = plan()
    text = planned.path.read_text()
    planned.path.write_text(text.replace('"intervention": {"arm": "", "charged_flops": 0.0, "method": ""}, ', ""))
    assert planned.path.read_text() != text
    assert {entry.arm for entry in manifest.read(planned.path.parent)} == {""}
    assert Reader(planned.path.parent).read().arms == {}
    assert plan().added == 0


def test_next_does_not_mix_arms(plan) -> None:
    with pytest.raises(SweepError, match="compares arms"):
        ready(plan(arms=ARMS).path.parent)


def test_a_spec_without_arms_has_none(make_spec: Callable[..., SweepSpec]) -> None:
    assert make_spec().arms == {}
    assert make_spec().trunks
    assert spec_from_dict({"name": "n", "archs": ["a"], "sizes": ["s"], "tokens": [1], "arms": None}).arms == {}
