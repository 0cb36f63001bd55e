"""`nmm rft` and `nmm exam` from the command line: a tuned run that generates, starts, guides, and is marked."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from lab import child_environment, nmm, run_directory, train
from reasoning_lab import asking_config, write_asking_shards

from nmm.record import checkpoints, read_json, status

SMALL = (
    "prompts=4",
    "samples=4",
    "pool=16",
    "max_new_tokens=14",
    "eval_questions=8",
    "kinds=[sum]",
    "log_every_steps=1",
)


@pytest.fixture(scope="module")
def origin(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("origin")
    config = asking_config(
        write_asking_shards(folder / "shards"),
        out=str(folder / "runs"),
        budget={"steps": 40},
        trainer={"rows_per_step": 8},
    )
    train(config)
    return run_directory(config)


@pytest.fixture(scope="module")
def tuned(origin: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("tuned")
    done = nmm("rft", f"run={origin}", "out=run", "steps=3", *SMALL, cwd=folder)
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("done: 3 steps, held-out answers right") and "record.json" in done.stdout
    return folder / "run"


def test_a_tuned_run_is_used_like_any_other(origin, tuned, tmp_path):
    again = nmm("rft", f"run={origin}", f"out={tuned}", "steps=3", *SMALL, cwd=tmp_path)
    assert again.returncode == 0 and "done: 3 steps" in again.stdout
    assert len(list((tuned / "attempts").iterdir())) == 1  # nothing was done twice
    said = nmm("generate", str(tuned), "--count", "1", "--max-new-tokens", "3", "--json", cwd=tmp_path)
    assert said.returncode == 0 and json.loads(said.stdout)[0]["generated"], said.stderr
    more = nmm(
        "train", "start=run", f"start.path={tuned}", "budget.steps=2", "data.eval_rows=4", "data.context_length=64",
        f"data.path={read_json(origin / 'config.json')['settings']['data']['path']}", "data.mixture.interleaved=0",
        "data.mixture.text=0", "data.mixture.caption=1", "trainer.compile=off", cwd=tmp_path,
    )  # fmt: skip
    assert more.returncode == 0, more.stderr
    trained = nmm("train", "--from", str(tuned), cwd=tmp_path)
    assert trained.returncode == 0 and "3 steps" in trained.stdout  # it is done, so there is nothing to refuse


def test_models_and_guided_models_are_marked(origin, tuned, tmp_path):
    guided = {"base": str(origin), "expert": str(tuned), "amateur": str(origin), "alpha": 1.0}
    plan = {"settings": [{**guided, "questions": 8, "name": "guided"}, {"base": str(tuned), "questions": 8}]}
    (tmp_path / "plan.json").write_text(json.dumps(plan))
    done = nmm("exam", "plan=plan.json", "out=marks.jsonl", cwd=tmp_path)
    assert done.returncode == 0 and "2 settings marked, 2 of them now -> marks.jsonl" in done.stdout, done.stderr
    marks = [json.loads(line)["marks"] for line in (tmp_path / "marks.jsonl").read_text().splitlines()]
    assert marks[0]["right"] == marks[1]["right"]  # base = amateur and alpha 1 is the expert
    again = nmm("exam", "plan=plan.json", "out=marks.jsonl", cwd=tmp_path)
    assert "2 settings marked, 0 of them now" in again.stdout


def test_a_signal_stops_it_in_order_and_the_same_command_goes_on(origin, tmp_path):
    command = ["rft", f"run={origin}", "out=run", "steps=400", *SMALL]
    process = subprocess.Popen(
        [sys.executable, "-m", "nmm.cli", *command],
        cwd=tmp_path,
        env=child_environment(),
        stderr=subprocess.PIPE,
        text=True,
    )
    deadline = time.monotonic() + 120
    while (
        not list(tmp_path.glob("run/attempts/*/metrics.jsonl"))
        or "reward" not in next(tmp_path.glob("run/attempts/*/metrics.jsonl")).read_text()
    ):
        assert process.poll() is None and time.monotonic() < deadline
        time.sleep(0.1)
    os.kill(process.pid, signal.SIGTERM)
    _, said = process.communicate(timeout=60)
    assert process.returncode == 128 + signal.SIGTERM
    assert "nmm rft: stopped by SIGTERM after step" in said
    assert status(tmp_path / "run") == "interrupted" and checkpoints(tmp_path / "run")[0][0] > 0


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("run=nowhere", "out=x"), "run=nowhere holds no config.json"),
        (("run=x", "out=y", "rate=3"), "rate"),
        (("plan=none.json",), "plan=none.json is not a file"),
    ],
)
def test_mistakes_end_in_one_line(tmp_path, arguments, said):
    done = nmm("rft", *arguments, cwd=tmp_path)
    assert done.returncode == 2 and done.stderr.count("\n") == 1
    assert done.stderr.startswith("nmm rft: ") and said in done.stderr
