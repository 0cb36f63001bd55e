"""Soups as a user makes them: fine-tunes of one run, averaged by `nmm soup`, and what other commands do with them."""

from __future__ import annotations

import functools
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from lab import nmm, run_directory, train

from nmm.config import RunConfig
from nmm.record import read_json
from nmm.start import load_run, run_weights

STAGE = {"name": "sft", "eval_questions": 2, "eval_captions": 2}
ADOPT = {"block": {"name": "from_start"}, "size": {"name": "from_start"}, "arch": {"name": "from_start"}}
GROUPS: dict[str, dict[str, Any]] = {"late": {}, "moe": {"arch": {"balancing": "bias"}}}


@pytest.fixture(scope="module")
def tuned(make_config: Callable[..., RunConfig], tmp_path_factory: pytest.TempPathFactory) -> Callable[..., list[Path]]:
    """``tuned(arch)``: two fine-tunes, with other learning rates, of one run of a few steps."""

    @functools.cache
    def finished(arch: str) -> list[Path]:
        out = str(tmp_path_factory.mktemp(arch))
        first = make_config(arch, out=out, **GROUPS[arch])
        train(first)
        runs = []
        for lr in (0.001, 0.003):
            start = {"kind": "run", "path": str(run_directory(first))}
            data = {"mixture": {"caption": 1.0, "interleaved": 0.0, "text": 0.0}}
            config = make_config(**ADOPT, start=start, stage=STAGE, data=data, optim={"lr": lr}, out=out)
            train(config)
            runs.append(run_directory(config))
        return runs

    return finished


def soup(runs: list[Path], cwd: Path, *more: str) -> Any:
    data = read_json(runs[0] / "config.json")["settings"]["data"]["path"]
    return nmm("soup", *map(str, runs), f"data={data}", "rows=6", "report=train", "metric=loss", *more, cwd=cwd)


def test_a_late_soup_generates_is_tuned_further_and_goes_on_for_free(
    tuned: Callable[..., list[Path]], tmp_path: Path
) -> None:
    runs = tuned("late")
    done = soup(runs, tmp_path, "method=uniform", "out=mean")
    assert done.returncode == 0, done.stderr
    assert "uniform of 2 of 2 members" in done.stdout and done.stdout.strip().endswith(": mean")
    one, two = (run_weights(run) for run in runs)
    found = load_run(tmp_path / "mean").state_dict()
    assert all(torch.equal(found[name], (one[name] + two[name]) / 2) for name in one)
    assert any(name.startswith("vision.") for name in found)
    made = (tmp_path / "mean" / "soup.json").read_bytes()
    again = soup(runs, tmp_path, "method=uniform", "out=mean")
    assert again.stdout == done.stdout and (tmp_path / "mean" / "soup.json").read_bytes() == made

    said = nmm("generate", "mean", "--count", "1", "--max-new-tokens", "3", "--json", cwd=tmp_path)
    assert said.returncode == 0 and json.loads(said.stdout)[0]["generated"], said.stderr

    stage = ("stage=sft", "stage.eval_questions=2", "stage.eval_captions=2", "data.eval_rows=6", "trainer.compile=off")
    data = read_json(runs[0] / "config.json")["settings"]["data"]["path"]
    start = ("start=run", "start.path=mean", f"data.path={data}")
    further = nmm("train", *stage, *start, "budget.steps=2", "out=runs", cwd=tmp_path)
    assert further.returncode == 0, further.stderr
    (config,) = tmp_path.glob("runs/*/config.json")
    assert read_json(config)["settings"]["start"]["path"] == str(tmp_path / "mean")


def test_experts_are_averaged_with_their_offsets_and_a_soup_can_be_exported(
    tuned: Callable[..., list[Path]], tmp_path: Path
) -> None:
    runs = tuned("moe")
    done = soup(runs, tmp_path, "method=greedy", "out=greedy")
    assert done.returncode == 0, done.stderr
    made = read_json(tmp_path / "greedy" / "soup.json")
    members = [run_weights(runs[i]) for i in made["chosen"]]
    found = run_weights(tmp_path / "greedy")
    offsets = [name for name in found if name.endswith(".bias")]
    assert offsets
    for name in offsets:
        assert torch.allclose(found[name], torch.stack([m[name] for m in members]).mean(dim=0), atol=1e-7)
    assert made["flops"]["fine_tunes"] == sum(read_json(run / "record.json")["flops"]["total"] for run in runs)
    out = nmm("export", "greedy", "--out", "copy", "--dtype", "bf16", cwd=tmp_path)
    assert out.returncode == 0, out.stderr
    assert read_json(tmp_path / "copy" / "config.json")["soup"]["method"] == "greedy"


def test_a_list_of_soups_and_what_is_refused(tuned: Callable[..., list[Path]], tmp_path: Path) -> None:
    runs = tuned("late")
    names = [str(run) for run in runs]
    lines = [{"runs": names, "method": method, "out": method} for method in ("model_stock", "maximum")]
    (tmp_path / "soups.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    data = read_json(runs[0] / "config.json")["settings"]["data"]["path"]
    common = (f"data={data}", "rows=6", "report=train", "metric=loss", "scores=scores.jsonl")
    done = nmm("soup", "list=soups.jsonl", *common, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip().endswith("2 soups of soups.jsonl are made")
    ratios = read_json(tmp_path / "model_stock" / "soup.json")["ratios"]
    assert set(ratios) == set(run_weights(runs[0])) and all(0 <= ratio <= 1 for ratio in ratios.values())
    start = Path(read_json(runs[0] / "config.json")["settings"]["start"]["path"])
    refused = nmm("soup", names[0], str(start), *common, "out=bad", cwd=tmp_path)
    assert refused.returncode == 2 and "did not begin with the same weights" in refused.stderr
    assert not (tmp_path / "bad").exists() and "Traceback" not in refused.stderr
