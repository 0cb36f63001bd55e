"""`nmm guide` on trained runs: what it prints and keeps, guides in other processes, and how it refuses."""

from __future__ import annotations

import json
import shlex
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from lab import ROOT, run_directory, train
from safetensors.torch import load_file
from slurm_lab import Cluster

from nmm.cli import main
from nmm.config import RunConfig
from nmm.data.shards import write_shards
from nmm.data.world import WorldConfig
from nmm.generate import Prompt, generate
from nmm.interventions.guide import guided
from nmm.interventions.guide_command import prepare
from nmm.interventions.guide_options import guide_options
from nmm.start import load_run

Runs = dict[str, Path]


@pytest.fixture(scope="module")
def runs(make_config: Callable[..., RunConfig], tmp_path_factory: pytest.TempPathFactory) -> Runs:
    """A larger base of late fusion, a small amateur, and an expert that was trained for longer."""
    out = str(tmp_path_factory.mktemp("guide") / "runs")
    configs = {
        "base": make_config("late", "d32", out=out),
        "expert": make_config("early", out=out, budget={"steps": 24}),
        "amateur": make_config("early", out=out),
    }
    for config in configs.values():
        train(config)
    return {name: run_directory(config) for name, config in configs.items()}


def arguments(runs: Runs, *more: str) -> list[str]:
    return [*(f"{name}={path}" for name, path in runs.items()), *more]


def told(runs: Runs, file: Path, *more: str) -> dict[str, Any]:
    """What json=FILE holds."""
    assert main(["guide", *arguments(runs, *more, f"json={file}")]) == 0
    content: dict[str, Any] = json.loads(file.read_text())
    return content


def refused(capsys: pytest.CaptureFixture[str], *given: str) -> str:
    """The one line on stderr."""
    assert main(["guide", *given]) == 2
    printed = capsys.readouterr()
    assert printed.out == "" and printed.err.startswith("nmm guide: ") and printed.err.count("\n") == 1
    return printed.err


def test_a_person_reads_guided_and_alone(runs: Runs, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    options = ("alpha=1.5", "count=2", "max_new_tokens=5", "stats=yes", "nll=[0,0.5]", "nll_rows=2")
    logits, file = tmp_path / "logits.safetensors", tmp_path / "new" / "all.json"
    content = told(runs, file, *options, f"logits={logits}")
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in lines[:10]] == ["caption", "prompt", "guided", "base", "truth"] * 2
    assert lines[0] == "caption val 0" and lines[1] == "  prompt     <image>"
    assert lines[10].startswith("alpha=1.5 (expert - amateur); 1.") and "x the FLOPs of the base" in lines[10]
    assert lines[-2:] == [f"logits of {content['statistics']['steps']} steps: {logits}", f"all of it: {file}"]
    table = next(number for number, line in enumerate(lines) if line.startswith("  held-out loss, "))
    assert lines[table + 1].split() == ["alpha", "caption", "interleaved", "text", "avg"]
    assert [line.split()[0] for line in lines[table + 2 : table + 4]] == ["0", "0.5"]
    assert sum("<- least" in line for line in lines) == 1
    assert len(load_file(logits)["token"]) == content["statistics"]["steps"]
    assert content["alpha"] == 1.5 and content["runs"]["expert"] == str(runs["expert"]) and content["schema"] == 1
    record = json.loads((runs["base"] / "record.json").read_text())
    assert content["nll"][0]["alpha"] == 0.0 and 1.0 < content["flops_ratio"] < 3.0
    assert content["nll"][0]["loss"]["text"] == pytest.approx(record["result"]["loss"]["text"], rel=0.2)


def test_it_says_what_the_function_says(runs: Runs, tmp_path: Path) -> None:
    """In words, from the same prompts; and the base alone as `nmm generate` has it."""
    content = told(runs, tmp_path / "a.json", "source=text", "count=3", "max_new_tokens=6", "alpha=2")
    prepared = prepare(guide_options(arguments(runs, "source=text", "count=3")))
    prompts = [Prompt(one.tokens, one.patches) for one in prepared.begun["base"]]
    models = [load_run(path) for path in runs.values()]
    decode = prepared.shards.tokenizer.decode
    said, alone = guided(*models, prompts, 2.0, 6), generate(models[0], prompts, 6)
    assert [row["guided"] for row in content["documents"]] == [decode(tokens) for tokens in said]
    assert [row["base"] for row in content["documents"]] == [decode(tokens) for tokens in alone]
    assert said != alone and content["statistics"] is None and content["nll"] == []


def test_words_of_yours_and_draws(runs: Runs, tmp_path: Path) -> None:
    words = ("prompt=one object : topleft", "max_new_tokens=4")
    (alone,) = told(runs, tmp_path / "a.json", *words)["documents"]
    assert (alone["document"], alone["prompt"]) == ("words", "one object : topleft")
    options = ("source=caption", "prompt=Q colour topleft A", "count=2", "temperature=2", "top_p=0.9")
    first, again, other = (told(runs, tmp_path / "b.json", *options, f"seed={seed}") for seed in (1, 1, 2))
    assert [row["prompt"] for row in first["documents"]] == ["<image> Q colour topleft A"] * 2
    assert first == again and first["documents"] != other["documents"]


def test_identities_and_controls(runs: Runs, tmp_path: Path) -> None:
    """alpha 0 and equal guides leave the base; every control says something else."""
    options = ("count=4", "max_new_tokens=8", "alpha=3", "split=test")
    file = tmp_path / "a.json"
    for same in (told({**runs, "amateur": runs["expert"]}, file, *options), told(runs, file, *options, "alpha=0")):
        assert all(row["guided"] == row["base"] for row in same["documents"])
    said = [told(runs, file, *options)["documents"]]
    for control in ("random", "permuted", "other_pictures"):
        said.append(told(runs, file, *options, f"control={control}")["documents"])
    said.append(told({name: runs[name] for name in ("base", "expert")}, file, *options)["documents"])
    texts = [json.dumps(documents) for documents in said]
    assert len(set(texts)) == len(texts)


def test_threads_and_processes_say_the_same(runs: Runs, tmp_path: Path) -> None:
    """Real processes; started by `nmm guide` itself, at a free port."""
    options = ("count=5", "max_new_tokens=12", "alpha=1", "temperature=1", "stats=yes", "batch_rows=3")
    one = told(runs, tmp_path / "one.json", *options)
    for parallel in ("threads", "processes"):
        assert told(runs, tmp_path / "other.json", *options, f"parallel={parallel}") == one


def test_a_guide_that_cannot_load_ends_all_processes(
    runs: Runs, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """And says why; here one process holds the one guide."""
    broken = tmp_path / "broken"
    shutil.copytree(runs["expert"], broken, ignore=shutil.ignore_patterns("*.pt"))
    line = refused(capsys, f"base={runs['base']}", f"expert={broken}", "parallel=processes", "processes=2")
    assert line.startswith(f"nmm guide: rank 1: {broken}: 1 checkpoints, none matches its checksum")


def test_a_run_that_is_not_finished(runs: Runs, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    half = tmp_path / "half"
    shutil.copytree(runs["expert"], half)
    (half / "record.json").unlink()
    for ended in (half / "attempts").glob("*/ended.json"):
        ended.unlink()
    assert main(["guide", *arguments({**runs, "expert": half}, "count=1", "max_new_tokens=2")]) == 0
    assert capsys.readouterr().err == f"nmm guide: {half} is interrupted; this is its newest checkpoint\n"


def test_what_cannot_be_guided(runs: Runs, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    usual = arguments(runs)
    assert "give base=RUN" in refused(capsys, *usual[1:])
    assert "give expert=RUN, amateur=RUN or both" in refused(capsys, usual[0])
    assert "Key 'alpa' is not in" in refused(capsys, *usual, "alpa=1")
    assert "alpha='much' must be of type float" in refused(capsys, *usual, "alpha=much")
    assert "parallel=both is not one of none, threads, processes" in refused(capsys, *usual, "parallel=both")
    assert "control=x is not one of" in refused(capsys, *usual, "control=x")
    assert "control=random changes what the expert adds" in refused(capsys, usual[0], usual[2], "control=random")
    assert "give processes=2" in refused(capsys, *usual[:2], "parallel=processes")
    assert "nll is measured in one process" in refused(capsys, *usual, "parallel=processes", "nll=[1]")
    assert "count=0 must be at least 1, or 0 with alphas" in refused(capsys, *usual, "count=0")
    assert f"{tmp_path} holds no config.json" in refused(capsys, usual[0], f"expert={tmp_path}")
    assert "source nosuch is none of the run's" in refused(capsys, *usual, "source=nosuch")
    assert "count=99999, but caption has" in refused(capsys, *usual, "source=caption", "count=99999")
    assert "temperature=-1.0 must be 0" in refused(capsys, *usual, "temperature=-1")
    assert "device=nosuch cannot be used here" in refused(capsys, *usual, "device=nosuch")


def test_another_vocabulary_is_refused_and_can_be_mapped(
    runs: Runs, make_config: Callable[..., RunConfig], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """An expert of another world: the first id that differs is named; with ids= it may guide all the same."""
    counts = {source: {"train": 60, "val": 40, "test": 4} for source in ("caption", "interleaved", "text")}
    write_shards(WorldConfig(num_entities=150, name_words=17, seed=3), tmp_path / "w", counts, 64, progress=False)
    data = {"path": str(tmp_path / "w"), "fingerprint": "", "eval_rows": 1}
    config = make_config("early", out=str(tmp_path / "runs"), data=data, budget={"steps": 1})
    train(config)
    other = run_directory(config)
    guides = [f"base={runs['base']}", f"expert={other}"]
    line = refused(capsys, *guides)
    assert "base and expert have other vocabularies: id " in line and "say which ids correspond with ids=FILE" in line
    (tmp_path / "ids.json").write_text(json.dumps({"ids": {str(i): i for i in range(3, 20)}, "others": 3}))
    assert main(["guide", *guides, f"ids={tmp_path / 'ids.json'}", "count=1", "max_new_tokens=3", "alpha=1"]) == 0
    assert "alpha=1 (expert)" in capsys.readouterr().out


def test_help_names_examples(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["guide", "--help"]) == 0
    text = capsys.readouterr().out
    assert "nmm guide base=outputs/big expert=outputs/small_tuned amateur=outputs/small alpha=0.5 stats=yes" in text
    for field in guide_options(["base=a", "expert=b"]).__dataclass_fields__:
        assert f"{field}=" in text, field


@pytest.mark.slurm
@pytest.mark.slow
def test_three_tasks_of_srun_say_what_one_process_says(runs: Runs, tmp_path: Path, slurm: Cluster) -> None:
    """Base, expert and amateur in a task each, on a real SLURM."""
    options = ("alpha=1.5", "count=2", "max_new_tokens=5")
    alone = told(runs, tmp_path / "alone.json", *options)
    given = arguments(runs, *options, "parallel=processes", f"json={tmp_path / 'tasks.json'}")
    command = shlex.join([sys.executable, "-m", "nmm.cli", "guide", *given])
    script = (
        f"cd {tmp_path}; export PYTHONPATH={ROOT} OMP_NUM_THREADS=1; srun --ntasks=3 --kill-on-bad-exit=1 {command}"
    )
    job = slurm.submit("--nodes=1", "--ntasks=3", "--wrap", script)
    states = slurm.wait(job, seconds=300)
    assert set(states.values()) == {"COMPLETED"}, (slurm.folder / f"{job}.out").read_text()
    content = json.loads((tmp_path / "tasks.json").read_text())
    assert content["documents"] == alone["documents"]
