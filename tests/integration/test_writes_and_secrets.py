"""One training with secrets in its environment: where it wrote, and that none of it is in what it wrote."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from lab import ROOT, nmm

from nmm.record import RecordError, begin_attempt, write_config

SECRET = "marker-7f3a91c2"
SECRETS = {
    "SECRET_TOKEN": SECRET,
    "WANDB_API_KEY": SECRET + "0" * 24,
    "HF_TOKEN": SECRET,
    "AWS_SECRET_ACCESS_KEY": SECRET,
}

# In every Python process of the run: each path that is opened for writing, made, renamed or removed.
WATCH = """
import os, sys
_log = os.open(os.environ["WRITES_LOG"], os.O_WRONLY | os.O_APPEND | os.O_CREAT)
_where = {"os.mkdir": ((0, 2),), "os.rmdir": ((0, 1),), "os.remove": ((0, 1),), "os.truncate": ((0, None),),
          "os.rename": ((0, 2), (1, 3)), "os.link": ((1, 3),), "os.symlink": ((1, 2),)}  # path, its folder
def _note(event, args):
    if event == "open":
        if not isinstance(args[0], (str, bytes)) or not args[2] & (os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC):
            return
        found = ((0, None),)
    else:
        found = _where.get(event, ())
    for path, folder in found:
        path, folder = os.fsdecode(args[path]), -1 if folder is None else args[folder]
        if folder != -1:
            path = os.path.join(os.readlink(f"/proc/self/fd/{folder}"), path)
        if event != "os.mkdir" or not os.path.isdir(path):
            os.write(_log, os.fsencode(os.path.abspath(path)) + b"\\n")
sys.addaudithook(_note)
"""


@dataclass(frozen=True)
class Watched:
    """out: where the runs are. home, temporary, cwd: what a process may think is its own. said: what it printed."""

    out: Path
    home: Path
    temporary: Path
    cwd: Path
    said: str
    written: frozenset[str]


@pytest.fixture(scope="module")
def watched(tiny_shards: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Watched]:
    """A run with the wandb mirror and an evaluation; then, its checkpoints damaged, an attempt that fails."""
    place = tmp_path_factory.mktemp("watched")
    home, temporary, cwd, site = (place / name for name in ("home", "temporary", "cwd", "site"))
    for folder in (home, temporary, cwd, site):
        folder.mkdir()
    (site / "sitecustomize.py").write_text(WATCH)
    log = place / "writes"
    environment = {
        "PYTHONPATH": f"{site}:{ROOT}", "WRITES_LOG": str(log), "HOME": str(home), "TMPDIR": str(temporary),
        "PYTHONDONTWRITEBYTECODE": "1", "XDG_CACHE_HOME": "", "XDG_CONFIG_HOME": "", **SECRETS,
    }  # fmt: skip
    run = ["arch=early", "size=d16", "trainer.compile=off", "data.eval_rows=6", "schedule.warmup_steps=1"]
    run += [f"data.path={tiny_shards}", f"out={place / 'out'}", "logger=wandb_offline", "trainer.log_every_steps=2"]
    done = nmm("train", *run, "budget.steps=4", "trainer.eval_every_steps=2", cwd=cwd, env=environment)
    assert done.returncode == 0, done.stderr
    (run_directory,) = (place / "out").iterdir()
    (run_directory / "record.json").rename(run_directory / "record.old")
    for checkpoint in run_directory.rglob("*.pt"):
        checkpoint.write_bytes(b"")
    failed = nmm("train", "--from", str(run_directory), cwd=cwd, env=environment)
    assert failed.returncode == 2, failed.stderr
    written = frozenset(log.read_text().splitlines())
    yield Watched(
        place / "out", home, temporary, cwd, done.stdout + done.stderr + failed.stdout + failed.stderr, written
    )


def test_it_writes_in_its_output_directory_only(watched: Watched, tiny_shards: Path) -> None:
    """But for what docs/security.md names: temporary files, decoded shards, matplotlib's list of fonts."""
    assert any(path.startswith(f"{watched.out}/") for path in watched.written), "the watch saw nothing"
    decoded = f"{tiny_shards}/.decoded"
    allowed = (f"{watched.out}/", "/dev/", "/proc/", f"{watched.temporary}/", decoded)
    strays = {path for path in watched.written if not path.startswith(allowed)}
    assert {os.path.dirname(path) for path in strays - {str(watched.out)}} <= {
        str(watched.home), f"{watched.home}/.cache", f"{watched.home}/.config",
        f"{watched.home}/.cache/matplotlib", f"{watched.home}/.config/matplotlib",
    }, sorted(strays)  # fmt: skip


def test_what_it_leaves_elsewhere_is_caches_only(watched: Watched) -> None:
    """Seen on disk, so that it holds for processes that are not Python, too."""
    left = [path.relative_to(watched.home) for path in watched.home.rglob("*") if path.is_file()]
    assert all(path.parts[:2] == (".cache", "matplotlib") for path in left), left
    assert [path for path in watched.temporary.rglob("*") if path.is_file()] == []
    assert list(watched.cwd.iterdir()) == []


def test_no_secret_is_in_anything_it_wrote_or_said(watched: Watched) -> None:
    files = [path for path in watched.out.parent.rglob("*") if path.is_file()]
    names = {path.name for path in files}
    assert {"record.json", "config.json", "owner.json", "ended.json", "log.txt", "metrics.jsonl"} <= names
    assert any(name.endswith(".wandb") for name in names)
    assert SECRET not in watched.said
    assert [str(path) for path in files if SECRET.encode() in path.read_bytes()] == []


# ---------------------------------------------------------------------------------------------- ways out of a directory


@pytest.mark.parametrize(
    ("change", "field"),
    [("arch.name=../../x", "arch.name"), ("size.name=a/b", "size.name"), ("arch.name=.hidden", "arch.name")],
)
def test_a_name_that_leads_out_is_refused(tiny_shards: Path, tmp_path: Path, change: str, field: str) -> None:
    (tmp_path / "cwd").mkdir()
    run = ["arch=early", "size=d16", "budget.steps=4", f"data.path={tiny_shards}", f"out={tmp_path / 'cwd' / 'runs'}"]
    done = nmm("train", *run, change, cwd=tmp_path / "cwd")
    assert done.returncode == 2 and f"{field}=" in done.stderr
    assert [path.name for path in tmp_path.rglob("*")] == ["cwd"]


def test_links_that_lead_out_are_refused(tmp_path: Path) -> None:
    """A run directory, its attempts, or one of them: nothing is written or cleared away behind a link."""
    elsewhere = tmp_path / "elsewhere"
    (elsewhere / "checkpoints").mkdir(parents=True)
    (elsewhere / "ended.json").write_text(json.dumps({"status": "failed"}))
    (elsewhere / "checkpoints" / ".step-000000001.pt.1.tmp").write_text("of another")
    before = sorted(elsewhere.rglob("*"))
    runs = [tmp_path / "runs" / name for name in ("a", "b", "c")]
    for run in runs[:2]:
        run.mkdir(parents=True)
    (runs[0] / "attempts").symlink_to(elsewhere, target_is_directory=True)
    (runs[1] / "attempts").mkdir()
    (runs[1] / "attempts" / "0001").symlink_to(elsewhere, target_is_directory=True)
    runs[2].symlink_to(elsewhere, target_is_directory=True)
    for run in runs[:2]:
        with pytest.raises(RecordError, match="is a link"):
            begin_attempt(run)
    with pytest.raises(RecordError, match="is a link"):
        write_config(runs[2], {"run_id": "c", "identity": {}, "settings": {}})
    assert sorted(elsewhere.rglob("*")) == before
