"""What `nmm sweep next` chooses and refuses, on one finished sweep that no test changes."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest
from law_sweep import next_runs, plan_law_sweep, run_all

from nmm.config import run_id
from sweeps import manifest
from sweeps.adaptive import engine
from sweeps.adaptive.engine import AnalysisError, Fits
from sweeps.adaptive.goal import Ask, Goal
from sweeps.adaptive.planning import NextRuns, NothingHelpsError, choose, ready

ALPHA = Goal("alpha", "early")


@pytest.fixture(scope="module")
def directory(tmp_path_factory: pytest.TempPathFactory) -> Path:
    found = tmp_path_factory.mktemp("next") / "runs"
    run_all(found, plan_law_sweep(found))
    return found


@pytest.fixture(scope="module")
def fits(directory: Path, tmp_path_factory: pytest.TempPathFactory) -> Fits:
    return engine.fit(directory, tmp_path_factory.mktemp("fits") / "fits.json", ("--bootstrap", "60"))


def chosen(directory: Path, fits: Fits, folder: Path, ask: Ask) -> NextRuns:
    return choose(directory, ask, *ready(directory), fits, folder)


@pytest.mark.parametrize("budget", [1.2e11, 3e12])
def test_the_lines_cost_at_most_the_budget_and_exactly_what_is_said(
    directory: Path, fits: Fits, tmp_path: Path, budget: float
) -> None:
    found = chosen(directory, fits, tmp_path, Ask(ALPHA, budget))
    assert 0.4 * budget < found.cost <= budget * (1 + 1e-9)
    assert found.cost == pytest.approx(sum(offer.flops for offer, _ in found.groups), rel=1e-12)
    assert len({e.run_id for e in found.entries} | {e.run_id for e in manifest.read(directory)}) == 16 + len(
        found.entries
    )
    assert 0 < found.advice.ratio < 1 and found.advice.expected.width < found.advice.now.width
    seeds = [(e.shape, e.config.seed) for e in found.entries if e.role == "trunk"]
    assert len(set(seeds)) == len(seeds) and not {(("early", "d24"), 0), (("early", "d48"), 0)} & set(seeds)


def test_limits_on_runs_sizes_and_tokens_hold(directory: Path, fits: Fits, tmp_path: Path) -> None:
    few = chosen(directory, fits, tmp_path, Ask(ALPHA, 3e12, max_runs=5))
    assert len(few.entries) <= 5
    some = chosen(directory, fits, tmp_path, Ask(ALPHA, 2e12, sizes=("d24", "d40")))
    assert {e.shape[1] for e in some.entries} <= {"d24", "d40"}
    near = chosen(directory, fits, tmp_path, Ask(ALPHA, 2e12, beyond=1.0))
    assert {e.shape[1] for e in near.entries} <= {"d24", "d32", "d40", "d48"}
    far = chosen(directory, fits, tmp_path, Ask(Goal("beta", "early"), 6e12, sizes=("d24",), tokens=(256_000,)))
    assert {run_id(e.config) for e in far.entries} == {e.run_id for e in far.entries}
    with pytest.raises(ValueError, match="--sizes d17: neither a size of the sweep.*there are d16, d24"):
        chosen(directory, fits, tmp_path, Ask(ALPHA, 3e12, sizes=("d17",)))


def test_a_budget_too_small_says_what_the_cheapest_costs(directory: Path, fits: Fits, tmp_path: Path) -> None:
    with pytest.raises(NothingHelpsError, match=r"1e\+09 FLOPs and 64 lines buy none .* the cheapest is early d16"):
        chosen(directory, fits, tmp_path, Ask(ALPHA, 1e9))


def test_the_words_of_the_analysis_come_through(directory: Path, fits: Fits, tmp_path: Path) -> None:
    with pytest.raises(AnalysisError, match="no quantity 'gamma'; there are .*alpha"):
        chosen(directory, fits, tmp_path, Ask(Goal("gamma", "early"), 1e12))
    with pytest.raises(AnalysisError, match="was not written by `nmm fit`"):
        engine.read_fits(directory / "manifest.jsonl")
    with pytest.raises(AnalysisError, match="does not exist"):
        engine.read_fits(tmp_path / "no.json")


def test_what_is_not_identified_is_said(directory: Path, fits: Fits, tmp_path: Path) -> None:
    free = dataclasses.replace(Ask(Goal("E", "early"), 1e12), design_options=("--law", "chinchilla"))
    found = chosen(directory, fits, tmp_path, free)
    assert not found.advice.now.known and found.advice.now.why
    assert found.advice.now.width == float("inf") and any("not identified" in note for note in found.notes)


def test_a_dry_run_writes_nothing(directory: Path, fits: Fits) -> None:
    before = {path: path.stat().st_mtime_ns for path in directory.rglob("*")}
    status, text = next_runs(directory, "--budget", "5e11", "--fits", str(fits.path), "--dry-run")
    assert status == 0 and "dry run: nothing is written" in text and "early d" in text, text
    assert {path for path in directory.rglob("*")} == set(before)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--budget", "-1"], "--budget is -1"),
        (["--budget", "1e12", "--until", "0.1"], "--until without --rounds"),
        (["--budget", "1e12", "workers=2"], "launch options without --rounds"),
        (["--budget", "1e12", "--rounds", "0"], "--rounds must be at least 1"),
        (["--budget", "1e12", "--rounds", "2", "launcher=slurm"], "runs on this machine"),
        (["--budget", "1e12", "--rounds", "2", "--fits", "x.json"], "every round fits anew"),
        (["--budget", "1e12", "--tokens", "many"], "--tokens is 'many'"),
        (["--budget", "1e12", "--max-runs", "0"], "--max-runs is 0"),
        (["--budget", "1e12", "--beyond", "0.5"], "--beyond is 0.5"),
    ],
)
def test_mistakes_are_one_line(directory: Path, options: list[str], words: str) -> None:
    status, text = next_runs(directory, *options)
    assert status == 2 and text.startswith("error: ") and words in text and len(text.splitlines()) == 1


def test_fits_of_other_runs_are_refused(directory: Path, fits: Fits, tmp_path: Path) -> None:
    more = tmp_path / "runs"
    run_all(more, plan_law_sweep(more, seeds=[0, 1]))
    status, text = next_runs(more, "--budget", "1e12", "--fits", str(fits.path))
    assert status == 2 and "knows 12 points, but 24" in text
    status, text = next_runs(tmp_path, "--budget", "1e12")
    assert status == 2 and "holds no manifest.jsonl" in text
    status, text = next_runs(directory, "--budget", "1e12", goal="interval of alpha for late")
    assert status == 2 and "only early" in text
