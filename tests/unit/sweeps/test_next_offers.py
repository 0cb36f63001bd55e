"""What `nmm sweep next` may choose from: recipes out of the manifest, exact costs, seeds of their own."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Sequence
from pathlib import Path

import pytest
from law_sweep import execute, plan_law_sweep, run_all

from nmm.config import ConfigError, Parent, RunConfig, run_id
from nmm.flops import training_flops
from nmm.record import write_json
from sweeps.adaptive import shapes as shapes_module
from sweeps.adaptive.finished import check_all_ended, finished, tokens_per_position, useful_points
from sweeps.adaptive.goal import Goal, parse_goal
from sweeps.adaptive.offers import Offer, free_seeds, lines_of, more_branches, new_trunks
from sweeps.adaptive.shapes import Shape, conf_sizes, neighbours, shapes_of
from sweeps.estimate import Speeds, estimate
from sweeps.grid import trunk_with_branches
from sweeps.manifest import Entry, ManifestError, SweepError

COLUMN = "n_active_non_embedding"
SMALL = {"sizes": ["d24", "d32"], "tokens": [51_200, 102_400, 204_800]}


@pytest.fixture
def entries(tmp_path: Path) -> list[Entry]:
    return plan_law_sweep(tmp_path / "runs", **SMALL)


@pytest.fixture
def shapes(entries: list[Entry]) -> dict[str, Shape]:
    return shapes_of(entries, "early", COLUMN)


def as_entries(configs: Sequence[RunConfig]) -> list[Entry]:
    return [Entry(config, estimate(config, Speeds())) for config in configs]


@pytest.mark.parametrize(
    ("text", "quantity"),
    [
        ("interval of alpha for early", "alpha"),
        ("  interval of  N*(1e14)  for early ", "N*(1e14)"),
        ("interval of loss(N=1e6, D=2e6) for early", "loss(N=1e6, D=2e6)"),
    ],
)
def test_a_goal_is_a_quantity_and_a_group(text: str, quantity: str) -> None:
    assert parse_goal(text, {"early", "moe"}) == Goal(quantity, "early")
    assert str(Goal("alpha", "early")) == "interval of alpha for early"


@pytest.mark.parametrize("text", ["alpha", "interval of for early", "interval of alpha", "width of alpha for early"])
def test_another_goal_is_refused_with_what_is_allowed(text: str) -> None:
    with pytest.raises(ConfigError, match=r"must read 'interval of QUANTITY for GROUP'.*N\*\(C\).*early, moe"):
        parse_goal(text, {"early", "moe"})
    with pytest.raises(ConfigError, match="has no 'late', only early, moe"):
        parse_goal("interval of alpha for late", {"early", "moe"})


def test_the_recipe_of_a_size_makes_the_runs_of_the_sweep_again(entries: list[Entry], shapes: dict[str, Shape]) -> None:
    made = [c for shape in shapes.values() for c in trunk_with_branches(shape.base, shape.grid)]
    assert sorted(made, key=run_id) == sorted((e.config for e in entries), key=run_id)
    assert list(shapes) == ["d24", "d32"] and shapes["d24"].count < shapes["d32"].count
    assert shapes["d24"].grid == (51_200, 102_400, 204_800)


def test_two_recipes_of_one_size_and_another_count_of_parameters_are_refused(entries: list[Entry]) -> None:
    branch = next(e.config for e in entries if e.role == "branch")
    other = dataclasses.replace(branch, optim=dataclasses.replace(branch.optim, lr_width=0.9))
    with pytest.raises(ManifestError, match="early d24 with two recipes|early d32 with two recipes"):
        shapes_of([*entries, *as_entries([other])], "early", COLUMN)
    with pytest.raises(ConfigError, match="count N as 'params', which a planned run cannot.*n_total"):
        shapes_of(entries, "early", "params")


def test_neighbours_are_of_the_family_and_within_reach(shapes: dict[str, Shape]) -> None:
    found, note = neighbours(shapes, COLUMN, 4.0)
    assert [s.name for s in found] == ["d16", "d40", "d48"] and not note
    assert [s.name for s in neighbours(shapes, COLUMN, 1.0)[0]] == []
    everything, _ = neighbours(shapes, COLUMN, 1e6)
    assert [s.name for s in everything] == ["d16", "d40", "d48", "d64", "d96", "d128"]  # none of the paper's sizes
    d48 = next(s for s in found if s.name == "d48")
    assert d48.base == dataclasses.replace(shapes["d32"].base, size=conf_sizes()["d48"].size)
    assert d48.grid == shapes["d32"].grid


def test_sizes_that_conf_has_changed_get_no_neighbours(
    shapes: dict[str, Shape], monkeypatch: pytest.MonkeyPatch
) -> None:
    changed = conf_sizes()
    size = dataclasses.replace(changed["d24"].size, depth=7)
    changed["d24"] = dataclasses.replace(changed["d24"], size=size)
    monkeypatch.setattr(shapes_module, "conf_sizes", lambda: changed)
    found, note = neighbours(shapes, COLUMN, 4.0)
    assert found == [] and "not those of conf/size now" in note


def test_a_new_trunk_costs_its_lines_and_keeps_every_step_of_the_grid(shapes: dict[str, Shape]) -> None:
    shape = shapes["d24"]
    offers = list(new_trunks(shape, shape.grid, 64))
    assert len(offers) == len({o.points for o in offers}) == 1 + 2 + 4
    for offer in offers:
        trunk, *branches = lines_of(offer, seed=5)
        assert offer.runs == 1 + len(branches) and len(branches) == len(offer.points)
        assert offer.flops == pytest.approx(sum(e.estimate.flops for e in as_entries([trunk, *branches])), rel=1e-12)
        kept = [c for c in shape.grid if c <= offer.points[-1]]
        assert len(trunk.keep_steps) == len(kept) and trunk.seed == 5
        assert {b.parent for b in branches} <= {Parent(run_id(trunk), step) for step in trunk.keep_steps}
    whole = next(o for o in offers if o.points == (204_800,))
    assert whole.flops == pytest.approx(training_flops(shape.base, 204_800)["total"], rel=0.01)
    assert {o.points for o in new_trunks(shape, {102_400}, 64)} == {(102_400,)}
    assert all(o.runs <= 2 for o in new_trunks(shape, shape.grid, 2))


def test_new_lines_differ_from_the_sweep_in_seed_and_length_alone(
    entries: list[Entry], shapes: dict[str, Shape]
) -> None:
    trunk, branch = lines_of(Offer(shapes["d24"], (204_800,), 1.0), seed=3)
    old = {e.role: e.config for e in entries if e.shape == ("early", "d24") and e.config.total_steps in (800, 600)}
    assert trunk == dataclasses.replace(old["trunk"], seed=3)
    assert branch == dataclasses.replace(old["branch"], seed=3, parent=branch.parent)


def test_a_finished_trunk_offers_its_open_branches_for_their_cooldowns(
    tmp_path: Path, entries: list[Entry], shapes: dict[str, Shape]
) -> None:
    shape = shapes["d24"]
    trunk, last = as_entries(lines_of(Offer(shape, (204_800,), 1.0), seed=3))
    everything = [*entries, trunk, last]
    planned, beside = {e.run_id for e in everything}, {trunk.run_id: last.run_id}
    found = list(more_branches(shape, {trunk.run_id: trunk}, beside, planned, shape.grid))
    assert {o.points for o in found} == {(51_200,), (102_400,), (51_200, 102_400)}
    one = next(o for o in found if o.points == (102_400,))
    [branch] = lines_of(one, seed=99)
    assert branch in trunk_with_branches(dataclasses.replace(shape.base, seed=3), shape.grid)
    assert one.flops == pytest.approx(0.25 * training_flops(shape.base, 102_400)["total"], rel=1e-12)
    assert one.runs == 1 and one.beside == last.run_id
    of_sweep = next(e for e in entries if e.shape == ("early", "d24") and e.role == "trunk")
    known = {of_sweep.run_id: "a point"}
    assert not list(more_branches(shape, {of_sweep.run_id: of_sweep}, known, planned, shape.grid))
    assert not list(more_branches(shape, {trunk.run_id: trunk}, {}, planned, shape.grid))


def test_seeds_are_those_that_the_size_does_not_have(tmp_path: Path) -> None:
    entries = plan_law_sweep(tmp_path / "runs", **SMALL, seeds=[0, 2])
    shapes = shapes_of(entries, "early", COLUMN)
    seeds = free_seeds(entries, shapes["d24"])
    assert [next(seeds) for _ in range(3)] == [1, 3, 4]
    other, _ = neighbours(shapes, COLUMN, 4.0)
    assert next(free_seeds(entries, other[0])) == 0


def test_open_runs_stop_a_plan_and_diverged_ones_do_not(tmp_path: Path, entries: list[Entry]) -> None:
    directory = tmp_path / "runs"
    with pytest.raises(SweepError, match=r"8 planned runs are not finished \(first: .*pending\).*nmm sweep launch"):
        check_all_ended(directory, finished(directory, entries))
    trunk = next(e for e in entries if e.role == "trunk")
    (directory / "diverges.json").write_text(json.dumps([trunk.run_id]))
    execute(trunk.config, directory / trunk.run_id)
    run_all(directory, [e for e in entries if trunk.run_id not in (e.run_id, e.parent_id)])
    found = finished(directory, entries)
    assert len(found.diverged) == 4 and not found.open and found.points == 3
    check_all_ended(directory, found)
    assert tokens_per_position(found, entries, "early") == pytest.approx(0.9, rel=1e-3)
    points = [e.run_id for e in entries if e.role == "branch" and e.run_id in found.records]
    assert list(useful_points(found, entries, frozenset(points[:2])).values()) == points[2:]
    assert not useful_points(found, entries, frozenset(points))
    with pytest.raises(SweepError, match="no point of moe is finished"):
        tokens_per_position(found, entries, "moe")


def test_a_damaged_record_is_an_error(tmp_path: Path, entries: list[Entry]) -> None:
    directory = tmp_path / "runs"
    run_all(directory, entries)
    write_json(directory / entries[0].run_id / "record.json", {})
    (directory / entries[0].run_id / "record.json").write_text("{half")
    with pytest.raises(Exception, match="record.json"):
        finished(directory, entries)
