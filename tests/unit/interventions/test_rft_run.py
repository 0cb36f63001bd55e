"""Runs of `nmm rft`: what they leave behind, where they begin, and that stopping them changes nothing, bit for bit."""

from __future__ import annotations

import dataclasses
import json
import os
import shutil
import signal
from pathlib import Path
from typing import Any

import pytest
import torch
from lab import run_directory, train
from reasoning_lab import asking_config, write_asking_shards

from nmm.config import ConfigError
from nmm.interventions import rft_run
from nmm.interventions.rft import Options, read_plan, tune, tuned_config
from nmm.interventions.rft_step import asked_at, rewards
from nmm.record import checkpoints, read_json, status
from nmm.start import load_run, run_weights
from nmm.training.run import execute
from nmm.training.stopping import Interrupted


@pytest.fixture(scope="module")
def origin(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small run on a world of sums, long enough to answer in one of the styles."""
    folder = tmp_path_factory.mktemp("origin")
    config = asking_config(
        write_asking_shards(folder / "shards"),
        out=str(folder / "runs"),
        budget={"steps": 60},
        trainer={"rows_per_step": 8},
    )
    train(config)
    return run_directory(config)


def options(origin: Path | str, out: Path | str, **changes: Any) -> Options:
    values: dict[str, Any] = {
        "plan": "", "run": str(origin), "out": str(out), "steps": 4, "seed": 0, "shards": "", "kinds": ("sum",),
        "pool": 24, "prompts": 4, "samples": 4, "max_new_tokens": 14, "temperature": 1.0, "kl_coef": 0.1,
        "reward": "answer", "lr_scale": 0.3, "lr": None, "warmup_steps": 1, "eval_questions": 8, "micro_batches": 1,
        "accelerator": "cpu", "precision": "fp32", "threads": 1, "checkpoint_every_seconds": 0.0,
        "checkpoint_every_steps": 1, "log_every_steps": 1, "progress": False, "changed_code": "refuse",
    }  # fmt: skip
    return Options(**{**values, **changes})


def rows_of(run: Path) -> dict[tuple[int, bool], dict[str, Any]]:
    """Every row that any attempt logged; rows logged twice must agree."""
    rows: dict[tuple[int, bool], dict[str, Any]] = {}
    for file in sorted((run / "attempts").glob("*/metrics.jsonl")):
        for line in file.read_text().splitlines():
            row = json.loads(line)
            assert rows.setdefault((row["step"], "reward" in row), row) == row
    return rows


@pytest.fixture(scope="module")
def undisturbed(origin: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Any]]:
    run = tmp_path_factory.mktemp("tuned") / "run"
    return run, tune(options(origin, run))


def test_a_run_is_a_run_like_any_other(origin, undisturbed):
    run, record = undisturbed
    assert record == read_json(run / "record.json") and status(run) == "done"
    assert (record["stage"], record["steps"], record["size"]) == ("rft", 4, "d16")
    flops = record["flops"]
    assert flops["total"] == flops["rollouts"] + flops["updates"] + flops["reference"]
    assert flops["updates"] > 2.5 * flops["reference"] > 0 and flops["rollouts"] > 0
    curve, marks = record["result"]["rft"]["curve"], record["result"]["rft"]
    assert [row["step"] for row in curve] == [1, 2, 3, 4]
    assert record["tokens"]["targets"] == sum(row["tokens"] for row in curve)
    assert set(marks["before"]["accuracy"]) == {"sum", "avg"} and marks["after"]["questions"] == {"sum": 8}
    assert checkpoints(run)[0][0] == 4
    assert not all(
        torch.equal(a, b) for a, b in zip(run_weights(run).values(), run_weights(origin).values(), strict=True)
    )
    load_run(run)
    again = tune(dataclasses.replace(options(origin, run / "twice"), run=str(run)))  # a start for another one
    assert again["status"] == "done"


def test_the_divergence_is_zero_at_the_start_and_grows(undisturbed):
    curve = undisturbed[1]["result"]["rft"]["curve"]
    assert curve[0]["kl"] == pytest.approx(0.0, abs=1e-6)  # of the policy that the first answers were drawn from
    assert curve[-1]["kl"] > 1e-5


@pytest.mark.parametrize("after", [1, 3])
def test_a_stopped_run_goes_on_bit_for_bit(origin, undisturbed, tmp_path, monkeypatch, after):
    whole, record = undisturbed
    step = rft_run.step

    def interrupted(*arguments: Any) -> Any:
        made = step(*arguments)
        if arguments[2].step == after:
            os.kill(os.getpid(), signal.SIGINT)
        return made

    with monkeypatch.context() as patched:
        patched.setattr(rft_run, "step", interrupted)
        with pytest.raises(Interrupted):
            tune(options(origin, tmp_path / "run", checkpoint_every_steps=0))
    assert status(tmp_path / "run") == "interrupted"
    again = tune(options(origin, tmp_path / "run", checkpoint_every_steps=0))
    assert again["result"] == record["result"] and again["flops"] == record["flops"]
    assert rows_of(tmp_path / "run") == rows_of(whole)


def test_a_killed_run_goes_on_bit_for_bit(origin, undisturbed, tmp_path, monkeypatch):
    """Nothing is told: the process dies between two checkpoints."""
    step = rft_run.step

    def killed(*arguments: Any) -> Any:
        if arguments[2].step == 3:
            raise KeyboardInterrupt
        return step(*arguments)

    with monkeypatch.context() as patched:
        patched.setattr(rft_run, "step", killed)
        with pytest.raises(KeyboardInterrupt):
            tune(options(origin, tmp_path / "run", checkpoint_every_steps=2))
    assert checkpoints(tmp_path / "run")[0][0] == 2
    assert tune(options(origin, tmp_path / "run", checkpoint_every_steps=2))["result"] == undisturbed[1]["result"]


def test_micro_batches_change_no_more_than_rounding(origin, undisturbed, tmp_path):
    parts = tune(options(origin, tmp_path / "run", micro_batches=3))["result"]["rft"]["curve"]
    for one, two in zip(parts, undisturbed[1]["result"]["rft"]["curve"], strict=True):
        assert one["reward"] == two["reward"]
        assert one["grad_norm"] == pytest.approx(two["grad_norm"], rel=1e-3, abs=1e-5)


def test_other_runs_and_other_code_are_refused(origin, undisturbed, tmp_path, monkeypatch):
    with pytest.raises(ConfigError, match="holds another run"):
        tune(options(origin, undisturbed[0], seed=5))
    with pytest.raises(ConfigError, match="stage rft: go on with it by the `nmm rft` command"):
        execute(tuned_config(options(origin, tmp_path / "x")), tmp_path / "x")
    step = rft_run.step
    with monkeypatch.context() as patched:
        patched.setattr(rft_run, "step", lambda *a: os.kill(os.getpid(), signal.SIGINT) or step(*a))
        with pytest.raises(Interrupted):
            tune(options(origin, tmp_path / "run"))
    with monkeypatch.context() as patched:
        patched.setattr(rft_run, "file_digests", lambda *a: {"nmm.interventions.rft_loss": "other"})
        with pytest.raises(rft_run.ChangedCode, match="begun by other code"):
            tune(options(origin, tmp_path / "run"))
        assert tune(options(origin, tmp_path / "run", changed_code="accept"))["status"] == "done"


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"samples": 1}, "rft.samples=1.*at least 2"),
        ({"temperature": 0.0}, "rft.temperature=0.0 must be greater than 0"),
        ({"reward": "praise"}, "rft.reward='praise' is not one of answer, opposite, coin"),
        ({"kl_coef": -1.0}, "rft.kl_coef=-1.0 must be 0 or more"),
        ({"lr_scale": 0.0}, "lr_scale=0.0 must be greater than 0"),
        ({"run": ""}, "run= is missing"),
        ({"run": "nowhere"}, "nowhere holds no config.json"),
        ({"shards": "nowhere"}, "the shards of run=.* are not at nowhere; say where they are with shards=DIR"),
    ],
)
def test_impossible_options_are_refused(origin, tmp_path, changes, said):
    with pytest.raises(ConfigError, match=said):
        tuned_config(options(origin, tmp_path / "run", **changes))


def test_a_run_that_is_not_finished_is_called_what_the_user_called_it(origin, tmp_path):
    half = tmp_path / "half"
    shutil.copytree(origin, half)
    (half / "record.json").unlink()
    with pytest.raises(ConfigError, match="^run=.*half is a run that is not finished"):
        tuned_config(options(half, tmp_path / "run"))


def test_a_question_that_nobody_asks_is_refused(origin, tmp_path):
    with pytest.raises(ValueError, match="asks no question of kind colour"):
        tune(options(origin, tmp_path / "run", kinds=("colour",)))
    assert not checkpoints(tmp_path / "run")


def test_a_plan_names_several_runs(origin, tmp_path):
    plan = tmp_path / "plan.json"
    plan.write_text(
        json.dumps({"runs": [{"run": str(origin), "out": "a", "steps": 7}, {"run": str(origin), "out": "b"}]})
    )
    one, two = read_plan(options("", "", plan=str(plan)))
    assert (one.out, one.steps, one.prompts) == ("a", 7, 4) and (two.out, two.steps) == ("b", 4)
    plan.write_text(json.dumps({"runs": [{"runs": "x"}]}))
    with pytest.raises(ConfigError, match="unknown key runs"):
        read_plan(options("", "", plan=str(plan)))


def test_the_whole_pool_is_asked_before_anything_twice():
    asked = [place for step in range(6) for place in asked_at(3, step, 4, 12)]
    assert sorted(asked[:12]) == sorted(asked[12:]) == list(range(12))
    assert asked[:12] != asked[12:]
    assert asked_at(3, 2, 4, 12) == asked[8:12]


def test_rewards_are_for_right_answers_wrong_ones_or_nothing():
    class Check:
        def is_right(self, task: int, said: list[int]) -> bool:
            return task == said[0]

    asked, said = list(range(400)), [[n if n % 4 else -1] for n in range(400)]
    right, wrong, coin = (rewards(kind, asked, said, Check(), 0, 1) for kind in ("answer", "opposite", "coin"))  # type: ignore[arg-type]
    assert sum(right) == 300 and sum(wrong) == 100
    assert all(a + b == 1 for a, b in zip(right, wrong, strict=True))
    assert set(coin) == {0.0, 1.0} and 150 < sum(coin) < 250
    assert coin == rewards("coin", asked, [[0]] * 400, Check(), 0, 1)  # type: ignore[arg-type]
