"""`nmm data stats` and `nmm data view`: what they take, what they leave, what they refuse."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from lab import nmm

from nmm.cli import HELP
from nmm.cli import main as cli_main
from nmm.config import ConfigError
from nmm.data.manifest import open_shards
from nmm.data_command import data_main


def test_stats_of_the_run_that_would_be_trained(
    tiny_shards: Path, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    file = tmp_path / "deep" / "stats.json"
    words = [f"data.path={tiny_shards}", "mixture=20-40-40", "--rows", "300", "budget.tokens=100000"]
    assert data_main(["stats", *words, "--json", str(file)]) == 0
    facts = json.loads(file.read_text())
    assert {name: one["asked"] for name, one in facts["mixture"].items()} == {
        "caption": 0.2,
        "interleaved": 0.4,
        "text": 0.4,
    }
    assert facts["rows"]["rows"] == 300 and facts["data"]["context_length"] == 128
    assert facts["data"]["fingerprint"] == open_shards(tiny_shards).fingerprint
    steps = round(100000 / 512)
    assert sum(one["tokens"] for one in facts["budget"].values()) == pytest.approx(
        steps * 512 * facts["rows"]["efficiency"], abs=3
    )
    printed = capsys.readouterr().out
    assert "packing efficiency" in printed and "20.00%" in printed


def test_stats_need_no_budget(tiny_shards: Path, capsys: pytest.CaptureFixture) -> None:
    assert data_main(["stats", f"data.path={tiny_shards}", "data.context_length=64"]) == 0
    printed = capsys.readouterr().out
    assert "this budget" not in printed and "context of 64 positions" in printed


def test_view_writes_one_file_with_the_rows_asked_for(tiny_shards: Path, tmp_path: Path) -> None:
    first, later = tmp_path / "a" / "rows.html", tmp_path / "b.html"
    assert data_main(["view", f"data.path={tiny_shards}", "--out", str(first), "--rows", "3", "seed=5"]) == 0
    assert (
        data_main(["view", f"data.path={tiny_shards}", "--out", str(later), "--rows", "2", "--first", "1", "seed=5"])
        == 0
    )
    assert [path.name for path in first.parent.iterdir()] == ["rows.html"]
    pages = [path.read_text(encoding="utf-8") for path in (first, later)]
    sections = [page.split('<section class="row">')[1:] for page in pages]
    assert [len(rows) for rows in sections] == [3, 2]
    assert sections[0][1] == sections[1][0]
    for part in (str(tiny_shards), open_shards(tiny_shards).fingerprint[:16], "caption 45.0%", "pretrain, 5"):
        assert part in pages[0]
    assert "caption/train-000000.tar: caption-train-0000000" in pages[0]


def test_view_shows_the_attention_of_the_run(tiny_shards: Path, tmp_path: Path) -> None:
    file = tmp_path / "rows.html"
    words = [f"data.path={tiny_shards}", "arch.image_attention=causal", "arch.document_mask=false"]
    assert data_main(["view", *words, "--rows", "1", "--out", str(file)]) == 0
    assert "causal in images, across documents" in file.read_text(encoding="utf-8")


def test_help_and_the_list_of_commands(capsys: pytest.CaptureFixture) -> None:
    assert cli_main(["data"]) == cli_main(["data", "--help"]) == 0
    assert "stats" in capsys.readouterr().out and "nmm data stats" in HELP
    for command in ("stats", "view"):
        with pytest.raises(SystemExit, match="0"):
            data_main([command, "--help"])
        assert f"nmm data {command} data" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["look"], "unknown command 'look'; there are stats and view"),
        (["stats", "data.pth=x"], "cannot compose data.pth=x"),
        (["stats", "data.path=nosuch"], "nosuch holds no manifest.json"),
        (["view", "data.path=nosuch"], "nosuch holds no manifest.json"),
        (["view", "--rows", "0"], "--rows 0 must be 1 or more"),
        (["view", "--first", "-1"], "--first -1 must be 0 or more"),
    ],
)
def test_mistakes_are_said_in_a_line(arguments: list[str], message: str, capsys: pytest.CaptureFixture) -> None:
    with pytest.raises(ConfigError, match=message):
        data_main(arguments)
    assert cli_main(["data", *arguments]) == 2
    assert message in capsys.readouterr().err


def test_as_a_process(tiny_shards: Path, tmp_path: Path) -> None:
    done = nmm("data", "view", f"data.path={tiny_shards}", "--rows", "1", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("1 row: rows.html (") and (tmp_path / "rows.html").stat().st_size > 10_000
