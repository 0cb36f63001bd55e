"""`nmm generate` on a trained run: what it prints, which documents it takes, and how it refuses."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from lab import nmm, run_directory, train

from nmm.cli import main
from nmm.config import RunConfig
from nmm.data.manifest import open_shards
from nmm.generate import Prompt, generate
from nmm.start import load_run


@pytest.fixture(scope="module")
def run(make_config: Callable[..., RunConfig], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run of 12 steps."""
    config = make_config("early", out=str(tmp_path_factory.mktemp("generate") / "runs"))
    train(config)
    return run_directory(config)


def said(capsys: pytest.CaptureFixture[str], *arguments: Any) -> list[dict[str, str]]:
    """What --json prints."""
    assert main(["generate", *map(str, arguments), "--json"]) == 0
    rows: list[dict[str, str]] = json.loads(capsys.readouterr().out)
    return rows


def refused(capsys: pytest.CaptureFixture[str], *arguments: Any) -> str:
    """The one line on stderr."""
    assert main(["generate", *map(str, arguments)]) == 2
    printed = capsys.readouterr()
    assert printed.out == "" and printed.err.startswith("nmm generate: ") and printed.err.count("\n") == 1
    return printed.err


def test_a_person_reads_prompt_generated_and_truth(run: Path, tmp_path: Path) -> None:
    done = nmm("generate", str(run), "--count", "2", "--max-new-tokens", "5", cwd=tmp_path)
    assert (done.returncode, done.stderr) == (0, "")
    lines = done.stdout.splitlines()
    assert [line.split()[0] for line in lines] == ["caption", "prompt", "generated", "truth"] * 2
    assert lines[0] == "caption val 0" and lines[1] == "  prompt     <image>"
    assert 1 <= len(lines[2].split()) - 1 <= 5 and lines[3].endswith(" <end>")


@pytest.mark.parametrize("source", ["caption", "interleaved", "text"])
def test_documents_of_every_source(
    run: Path, tiny_shards: Path, capsys: pytest.CaptureFixture[str], source: str
) -> None:
    """Prompt and truth are the document; what is generated is what `generate` gives for the model of the run."""
    rows = said(capsys, run, "--source", source, "--count", 3, "--split", "test", "--max-new-tokens", 6)
    assert [row["document"] for row in rows] == [f"{source} test {i}" for i in range(3)]
    ids = open_shards(tiny_shards).tokenizer
    for row in rows:
        images = row["prompt"].split().count("<image>")
        assert images == (0 if source == "text" else 1 if source == "caption" else images)
        assert "<image>" not in row["truth"] and row["truth"].endswith("<end>")
        assert row["prompt"].endswith("<image>") or len(row["prompt"].split()) == 3
    if source == "text":
        prompts = [Prompt(ids.encode(row["prompt"])) for row in rows]
        assert [row["generated"] for row in rows] == [ids.decode(t) for t in generate(load_run(run), prompts, 6)]


def test_words_of_yours(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Alone, or after the pictures of documents."""
    (alone,) = said(capsys, run, "--prompt", "one object : topleft", "--max-new-tokens", 4)
    assert (alone["document"], alone["prompt"], alone["truth"]) == ("words", "one object : topleft", "")
    after = said(capsys, run, "--source", "caption", "--prompt", "Q colour topleft A", "--count", 2)
    assert [row["prompt"] for row in after] == ["<image> Q colour topleft A"] * 2


def test_draws_follow_the_seed(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    options = (run, "--temperature", 2, "--top-p", 0.9, "--seed")
    first, again, other = (said(capsys, *options, seed) for seed in (1, 1, 2))
    assert first == again != other


def test_a_run_that_is_not_finished(run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    half = tmp_path / "half"
    shutil.copytree(run, half)
    (half / "record.json").unlink()
    (half / "attempts" / "0001" / "ended.json").unlink()
    assert main(["generate", str(half), "--count", "1"]) == 0
    assert capsys.readouterr().err == f"nmm generate: {half} is interrupted; this is its newest checkpoint\n"


def test_what_cannot_be_generated_from(run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert f"{tmp_path} holds no config.json; give a run directory" in refused(capsys, tmp_path)
    begun = tmp_path / "begun"
    begun.mkdir()
    shutil.copy(run / "config.json", begun)
    assert f"{begun} has no checkpoint" in refused(capsys, begun)
    assert "has no manifest.json" in refused(capsys, run, "--shards", tmp_path)
    assert "word 'nosuch' of 'nosuch' is not in the vocabulary" in refused(capsys, run, "--prompt", "nosuch")
    assert "--count 0 must be at least 1" in refused(capsys, run, "--count", 0)
    assert "no split 'nosuch' of 'caption'" in refused(capsys, run, "--split", "nosuch")
    assert "temperature=-1.0 must be 0" in refused(capsys, run, "--temperature", -1)
    assert "max_new_tokens=0 must be at least 1" in refused(capsys, run, "--max-new-tokens", 0)


def test_shards_that_are_gone_moved_or_others(run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    settings = json.loads((run / "config.json").read_text())
    shards, moved = Path(settings["settings"]["data"]["path"]), tmp_path / "run"
    shutil.copytree(run, moved)
    settings["settings"]["data"]["path"] = str(tmp_path / "gone")
    (moved / "config.json").write_text(json.dumps(settings))
    message = refused(capsys, moved)
    assert f"the run's shards are not at {tmp_path / 'gone'} any more; say where those are with --shards DIR" in message
    assert said(capsys, moved, "--shards", shards) == said(capsys, run)
    settings["settings"]["data"]["fingerprint"] = "0" * 64
    (moved / "config.json").write_text(json.dumps(settings))
    assert "the run was trained on 000000000000, whose words may have" in refused(capsys, moved, "--shards", shards)


def test_help_names_an_example(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main(["generate", "--help"])
    assert ended.value.code == 0
    assert "nmm generate RUN --source interleaved --count 2" in capsys.readouterr().out
