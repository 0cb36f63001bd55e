from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from nmm.config import ConfigError
from sweeps.commands import main
from sweeps.launch import _accepting
from sweeps.launch_command import local_options, pairs
from sweeps.plan import Plan


def test_help_of_every_command_shows_an_example(capsys) -> None:
    assert main(["--help"]) == 0
    assert "nmm sweep plan sweep=tiny" in capsys.readouterr().out
    assert main(["plan", "--help"]) == 0
    text = capsys.readouterr().out
    assert "example:" in text and "demo" in text and "max_tokens" in text
    assert main(["launch", "--help"]) == 0
    assert "examples:" in capsys.readouterr().out
    for command in ("status", "table", "chunk", "cancel"):
        with pytest.raises(SystemExit, match="0"):
            main([command, "--help"])
    text = capsys.readouterr().out
    assert "usage: nmm sweep chunk" in text and "nmm sweep cancel outputs/demo/runs" in text


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (["paln"], "there are plan, launch"),
        (["plan", "sweep=tiny"], "out= is missing"),
        (["plan", "out=x"], "sweep= is missing"),
        (["plan", "sweep=tiny", "out=x", "verbose"], "'verbose' is not key=value"),
        (["plan", "sweep=tinny", "out=x"], "there are demo"),
        (["launch", "workers=2"], "the sweep's directory comes first"),
        (["launch", "x", "worker=2"], "unknown option worker for launcher=local; allowed: launcher, workers"),
        (["launch", "x", "launcher=cloud"], "launcher=cloud is not one of local, slurm"),
        (
            ["launch", "x", "launcher=slurm", "workers=2"],
            "unknown option workers for launcher=slurm; allowed: launcher",
        ),
        (["launch", "x", "launcher=slurm", "slurm.tim=2"], "unknown option slurm.tim; allowed: slurm.partition"),
        (["launch", "x", "launcher=slurm", "retry=some"], "retry=some is not all"),
        (["launch", "nowhere", "launcher=slurm"], "nmm sweep plan"),
        (["cancel", "nowhere"], "is not the directory of a sweep"),
        (["launch", "nowhere"], "nmm sweep plan"),
        (["status", "nowhere"], "nmm sweep plan"),
        (["table", "nowhere", "--out", "a.csv"], "is not a directory"),
        (["chunk", "nowhere", "--submission", "1", "--index", "0"], "nmm sweep plan"),
    ],
)
def test_a_mistake_is_one_line_and_status_2(argv: list[str], message: str, tmp_path: Path, monkeypatch, capsys) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(argv) == 2
    error = capsys.readouterr().err
    assert error.startswith("error: ") and error.count("\n") == 1
    assert message in error


@pytest.mark.parametrize(
    ("argument", "message"),
    [
        ("workers=0", "workers=0 must be a whole number of at least 1"),
        ("workers=two", "whole number"),
        ("retries=-1", "whole number of at least 0"),
        ("pin=maybe", "is not one of on, off"),
    ],
)
def test_launch_options_are_checked(argument: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        local_options(pairs([argument]))


def test_launch_options_are_read() -> None:
    options = local_options(pairs(["launcher=local", "workers=3", "retries=0", "pin=off", "runner=a.b:c"]))
    assert (options.workers, options.retries, options.pin, options.runner) == (3, 0, False, "a.b:c")


def test_changed_code_reaches_the_runs_and_makes_no_others_of_them(plan: Callable[..., Plan]) -> None:
    assert local_options(pairs(["changed_code=accept"])).changed_code == "accept"
    before = plan().entries[0]
    after = _accepting(before)
    assert (before.config.trainer.changed_code, after.config.trainer.changed_code) == ("refuse", "accept")
    assert after.run_id == before.run_id


def test_plan_and_status_through_the_front_door(shards: Path, tmp_path: Path, capsys) -> None:
    out = str(tmp_path / "sweep")
    assert main(["plan", "sweep=tiny", f"out={out}", f"data.path={shards}"]) == 0
    assert "1 trunks + 2 points" in capsys.readouterr().out
    assert main(["status", out]) == 1
    assert "3 pending of 3 runs" in capsys.readouterr().out
