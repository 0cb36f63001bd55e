"""`nmm index` from the command line."""

from __future__ import annotations

import signal
import subprocess
import sys
from pathlib import Path

import pytest
from lab import child_environment
from tars import captions, image, write_tar

from nmm.cli import main
from nmm.index_command import INTERRUPTED, index_main


def test_what_it_says(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_tar(tmp_path / "a.tar", captions(0, 40) + [("x.jpg", image())])
    write_tar(tmp_path / "b.tar", captions(5, 10))
    assert main(["index", str(tmp_path), "--workers", "1"]) == 0
    out = capsys.readouterr().out
    assert out.startswith("50 samples (50 images, 385 text tokens) in 2 shards: 2 indexed now")
    assert "1 bad samples are left out: no_text 1\n  no_text: sample 'x': image 'jpg' has neither txt nor json" in out
    assert "10 samples (20.00%) have the same bytes as an earlier one" in out
    assert f"{tmp_path / 'a.tar'}: '000000005'  =  {tmp_path / 'b.tar'}: '000000005'" in out
    assert main(["index", str(tmp_path)]) == 0
    assert "0 indexed now" in (again := capsys.readouterr().out) and "no_text 1" in again and "2 kept" in again


def test_refused_shards_are_listed_last(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_tar(tmp_path / "a.tar", captions(0, 4))
    write_tar(tmp_path / "b.tar", [("x.mp4", b"x")])
    (tmp_path / "c.tar").write_bytes(b"x" * 700)
    arguments = ["index", str(tmp_path / "*.tar"), "--into", str(tmp_path / "into"), "--workers", "1"]
    assert main(arguments) == 2
    out, err = capsys.readouterr()
    assert out.startswith("4 samples") and len(list((tmp_path / "into").glob("*.index"))) == 1
    assert f"shard {tmp_path / 'b.tar'}, sample 'x': members ['mp4'] make no sample" in err
    assert f"shard {tmp_path / 'c.tar'} has a damaged header" in err
    assert err.endswith("2 of 3 shards refused; --quarantine lets training go on without them\n")
    assert main([*arguments, "--quarantine"]) == 0
    assert "left out of training" in capsys.readouterr().err and len(list((tmp_path / "into").glob("*.index"))) == 3


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["nowhere"], "nowhere names no shards"),
        ([".", "--tokenizer", "missing.json"], "missing.json"),
        ([".", "--max-bad", "2"], "max_bad=2"),
    ],
)
def test_mistakes(
    arguments: list[str],
    words: str,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    write_tar(tmp_path / "a.tar", captions(0, 1))
    assert main(["index", *arguments]) == 2
    out, err = capsys.readouterr()
    assert words in err and not out


def test_help_shows_a_command_that_works(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stopped:
        index_main(["--help"])
    assert stopped.value.code == 0
    text = capsys.readouterr().out
    assert "nmm index outputs/world --tokenizer bytes" in text and "--caption-field" in text and "Exit code 2" in text


def test_an_index_that_cannot_be_written(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_tar(tmp_path / "a.tar", captions(0, 1))
    (tmp_path / "file").write_text("in the way")
    assert main(["index", str(tmp_path / "a.tar"), "--into", str(tmp_path / "file")]) == 2
    assert "--into" in capsys.readouterr().err


def test_ctrl_c_keeps_what_is_finished(tmp_path: Path) -> None:
    """The last shard takes so long that the command is stopped there."""
    for number in range(3):
        write_tar(tmp_path / f"{number}.tar", captions(10 * number, 10))
    code = f"""
import signal, sys
from nmm.data import indexing
from nmm import index_command
signal.signal(signal.SIGINT, signal.default_int_handler)  # a test run in the background was started to ignore it
scan = indexing.scan_shard
def slow(path, rules):
    if path.name == "2.tar":
        print("waiting", flush=True)
        import time; time.sleep(60)
    return scan(path, rules)
indexing.scan_shard = slow
sys.exit(index_command.index_main([{str(tmp_path)!r}, "--workers", "1"]))
"""
    child = subprocess.Popen(
        [sys.executable, "-c", code], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=child_environment()
    )
    assert child.stdout is not None and child.stdout.readline() == "waiting\n"
    child.send_signal(signal.SIGINT)
    _, err = child.communicate(timeout=30)
    assert child.returncode == INTERRUPTED and err == (
        "nmm index: stopped; what is finished is kept, the same command goes on\n"
    )
    assert sorted(p.name[:5] for p in tmp_path.iterdir() if p.suffix == ".index") == ["0.tar", "1.tar"]
