from __future__ import annotations

import sys
from pathlib import Path

import pytest
import yaml
from law_sweep import plan_law_sweep, run_all

import sweeps
from nmm.config import ConfigError, run_id
from sweeps.interventions.building import recipe, records, row_of, sweep_steps
from sweeps.interventions.process import PROGRAM, run_command
from sweeps.interventions.protocol import StudyError
from sweeps.spec import load_spec

ARMS = {"control": [], "late": []}


def test_a_recipe_is_a_mapping_to_be_completed() -> None:
    assert recipe("tiny")["sizes"] == ["d16"]
    with pytest.raises(ConfigError, match="'nothing' does not exist; there are demo"):
        recipe("nothing")


def test_a_sweep_is_three_steps_on_one_file(tmp_path: Path) -> None:
    charged = {"flops": 1e9}

    def spec() -> dict[str, object]:
        arms = {"control": [], "treated": [f"intervention.charged_flops={charged['flops']}", "data.path=x: y"]}
        return {**recipe("tiny"), "arms": arms}

    plan, launch, table = sweep_steps(tmp_path, "ladder", spec, table=True)
    assert plan.command == ("sweep", "plan", f"sweep={tmp_path / 'ladder.yaml'}", f"out={tmp_path / 'ladder'}")
    assert launch.command == ("sweep", "launch", str(tmp_path / "ladder"), "workers={workers}")
    assert table.command[-1] == str(tmp_path / "ladder.csv") == str(table.done)
    assert plan.files is not None
    ((path, text),) = plan.files().items()
    path.write_text(text)
    assert load_spec(str(path)).arms["treated"] == ("intervention.charged_flops=1000000000.0", "data.path=x: y")
    charged["flops"] = 2e9
    assert yaml.safe_load(plan.files()[path])["arms"]["treated"][0].endswith("2000000000.0")  # asked again every time


@pytest.fixture
def runs(tmp_path: Path) -> Path:
    """A planned law sweep: one trunk and two branches."""
    plan_law_sweep(tmp_path / "runs", sizes=["d24"], tokens=[512_000, 1_024_000])
    return tmp_path / "runs"


def test_records_are_those_of_the_points(runs: Path) -> None:
    entries = plan_law_sweep(runs, sizes=["d24"], tokens=[512_000, 1_024_000])
    with pytest.raises(StudyError, match="3 runs of .* have no end"):
        records(runs)
    run_all(runs, entries)
    assert [r["run_id"] for r in records(runs)] == [run_id(e.config) for e in entries if e.role == "branch"]


def test_diverged_runs_are_left_out_on_purpose_only(runs: Path) -> None:
    entries = plan_law_sweep(runs, sizes=["d24"], tokens=[512_000, 1_024_000])
    lost = next(e.run_id for e in entries if e.role == "branch")
    (runs / "diverges.json").write_text(f'["{lost}"]')
    run_all(runs, entries)
    with pytest.raises(StudyError, match=f"1 runs of .* diverged .first: {lost}"):
        records(runs)
    assert len(records(runs, skip_diverged=True)) == 1
    assert sweep_steps(runs.parent, "runs", {})[1].enough()  # nothing is open, so the study goes on


def test_a_row_of_a_record() -> None:
    record = {
        "intervention": {"method": "soup", "arm": "mean", "charged_flops": 5.0},
        "seed": 3,
        "params": {"active_non_embedding": 7, "total": 9},
        "tokens": {"total": 11},
        "flops": {"total": 13.0, "6nd": 1.0},
    }
    assert row_of(record, loss=0.5) == {
        "arm": "mean", "seed": 3, "n": 7, "d": 11, "flops": 13.0, "charged": 5.0, "loss": 0.5
    }  # fmt: skip


def test_commands_are_of_this_very_code(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Another checkout in the working directory, and another one on the path, are not taken for it."""
    from rich.console import Console

    for place in ("here", "path"):
        (tmp_path / place / "nmm").mkdir(parents=True)
        (tmp_path / place / "nmm" / "cli.py").write_text("print('another')")
    monkeypatch.chdir(tmp_path / "here")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path / "path"))
    end = run_command(["intervention", "--help"], tmp_path / "help.log", "help", Console(quiet=True))
    assert (end.code, end.stopped_by) == (0, 0)
    assert "usage: nmm intervention METHOD" in (tmp_path / "help.log").read_text()
    assert PROGRAM[0] == sys.executable
    assert Path(sweeps.__file__).is_relative_to(Path(__file__).parents[4])
