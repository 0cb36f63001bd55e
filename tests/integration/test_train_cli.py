"""`nmm train` and `nmm describe` as a person meets them: what they print, which exit code, which files."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from lab import nmm

from nmm.record import read_json
from nmm.train import report

SHORT = ("size=d16", "data.eval_rows=4", "trainer.compile=off", "trainer.log_every_steps=2", "schedule.warmup_steps=2")

MISTAKES = {
    "unknown key": (["nosuch=1"], r"Could not override 'nosuch'. Key 'nosuch' is not in struct"),
    "unknown appended key": (["+trainer.nosuch=1", "budget.steps=4"], "unknown key trainer.nosuch; allowed here: rows"),
    "unknown option": (
        ["arch=nosuch"],
        "Could not find 'arch/nosuch' Available options in 'arch': early from_start late moe",
    ),
    "two budgets": (["budget.steps=4", "budget.tokens=10"], "budget needs exactly one of tokens, flops, steps; got"),
    "no budget": ([], "budget needs exactly one of tokens, flops, steps; got none"),
    "impossible combination": (
        ["arch=moe", "arch.fusion=late", "budget.steps=4"],
        "arch.num_experts > 0 with arch.fus",
    ),
}


@pytest.mark.parametrize("mistake", MISTAKES)
def test_a_mistake_is_one_clear_line(tiny_shards: Path, tmp_path: Path, mistake: str) -> None:
    arguments, message = MISTAKES[mistake]
    done = nmm("train", *arguments, f"data.path={tiny_shards}", cwd=tmp_path)
    assert done.returncode == 2
    assert done.stdout == ""
    assert done.stderr.startswith("nmm train: ") and message in done.stderr
    assert done.stderr.count("\n") == 1
    assert list(tmp_path.iterdir()) == []


def test_a_list_of_runs_on_several_ranks_is_refused(tiny_shards: Path, tmp_path: Path) -> None:
    """Every rank would start the whole list again."""
    devices = ("trainer.devices=2", "budget.steps=4", "out=runs")
    done = nmm("train", "-m", "seed=0,1", *devices, f"data.path={tiny_shards}", cwd=tmp_path)
    assert done.returncode == 2
    assert done.stderr.startswith("nmm train: -m with trainer.devices=2 x trainer.num_nodes=1: ")
    assert done.stderr.count("\n") == 1
    assert list((tmp_path / "runs").glob("*/")) == []


def test_missing_shards_say_how_to_make_them(tmp_path: Path) -> None:
    done = nmm("train", "budget.steps=4", "data.path=nowhere", cwd=tmp_path)
    assert done.returncode == 2
    assert done.stderr.count("\n") == 1
    assert "data.path=nowhere holds no manifest.json" in done.stderr
    assert "nmm shards data=world out=nowhere" in done.stderr


def test_a_branch_without_its_trunk(tiny_shards: Path, tmp_path: Path) -> None:
    branch = ("role=branch", "parent.run_id=some-trunk", "parent.step=3", "budget.steps=4")
    done = nmm("train", *SHORT, *branch, f"data.path={tiny_shards}", cwd=tmp_path)
    assert done.returncode == 2
    assert done.stderr.count("\n") == 1
    assert "trunk some-trunk is not beside early-d16-branch-s0-4-" in done.stderr
    assert done.stderr.rstrip().endswith("run it first")


def test_a_list_of_runs_and_again_nothing(tiny_shards: Path, tmp_path: Path) -> None:
    command = ["train", "-m", "seed=0,1", *SHORT, "budget.steps=4", f"data.path={tiny_shards}", "out=runs"]
    done = nmm(*command, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    records = sorted((tmp_path / "runs").glob("*/record.json"))
    assert [read_json(path)["seed"] for path in records] == [0, 1]
    lines = done.stdout.splitlines()
    assert [line.split(" -> ")[1] for line in lines] == [str(path) for path in records]
    assert all(line.startswith("done: 4 steps, loss caption ") for line in lines)
    made = [path.stat().st_mtime_ns for path in records]
    again = nmm(*command, cwd=tmp_path)
    assert (again.returncode, again.stdout) == (0, done.stdout)
    assert [path.stat().st_mtime_ns for path in records] == made
    assert [len(list(path.parent.glob("attempts/*"))) for path in records] == [1, 1]
    assert [path.name for path in tmp_path.iterdir()] == ["runs"]


def test_the_closing_line_and_the_exit_code(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    record = {"status": "done", "steps": 7, "result": {"loss": {"avg": 2.0, "text": 1.5, "mixture": 3.0}}}
    report(record, tmp_path)
    assert (
        capsys.readouterr().out
        == f"done: 7 steps, loss text 1.5000  avg 2.0000  mixture 3.0000 -> {tmp_path}/record.json\n"
    )
    record["result"]["skipped_steps"] = {"nan_loss": 2, "spike": 1}
    report(record, tmp_path)
    assert capsys.readouterr().out.startswith("done: 7 steps (3 updates left out), loss text 1.5000  avg ")
    with pytest.raises(SystemExit) as ended:
        report({"status": "diverged", "steps": 7, "result": {"error": "nan_loss: loss nan"}}, tmp_path)
    assert ended.value.code == 3
    assert capsys.readouterr().out.startswith("diverged: 7 steps, nan_loss: loss nan -> ")


def test_help(tmp_path: Path) -> None:
    top = nmm("--help", cwd=tmp_path)
    assert top.returncode == 0
    for command in ("shards", "train", "describe", "sweep", "fit", "report"):
        assert f"  {command} " in top.stdout
    train = nmm("train", "--help", cwd=tmp_path)
    assert train.returncode == 0
    assert train.stdout.startswith("nmm train KEY=VALUE")
    for expected in ("arch: early, from_start, late, moe", "rows_per_step: 4", "Exit code:", "nmm train -m seed=0,1"):
        assert expected in train.stdout
    unknown = nmm("nosuch", cwd=tmp_path)
    assert unknown.returncode == 2
    assert unknown.stderr.startswith("nmm nosuch: unknown command")


def test_cfg_job_prints_the_config_and_trains_nothing(tmp_path: Path) -> None:
    done = nmm("train", "--cfg", "job", "arch=moe", "budget.tokens=1000", cwd=tmp_path)
    assert done.returncode == 0
    assert "  num_experts: 8\n" in done.stdout and "  tokens: 1000\n" in done.stdout
    assert list(tmp_path.iterdir()) == []


def test_describe_reads_the_shards_and_names_mistakes(tiny_shards: Path, tmp_path: Path) -> None:
    done = nmm("describe", "size=d32", f"data.path={tiny_shards}", "--json", cwd=tmp_path)
    facts = json.loads(done.stdout)
    assert facts["run"]["vocab_size"] == json.loads((tiny_shards / "manifest.json").read_text())["vocab_size"]
    wrong = nmm("describe", "size=nosuch", cwd=tmp_path)
    assert wrong.returncode == 2
    assert wrong.stderr.startswith("nmm describe: cannot compose size=nosuch: ") and wrong.stderr.count("\n") == 1
    assert list(tmp_path.iterdir()) == []
