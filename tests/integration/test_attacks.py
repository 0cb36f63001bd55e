"""Configurations that try to run code or to read a secret: refused in one line, nothing is run, nothing written."""

from __future__ import annotations

import pickle
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from lab import ROOT, child_environment, nmm

CANARY = """
import os, pathlib
def fire(*args, **options):
    pathlib.Path(os.environ["CANARY"]).write_text("fired")
class Fire:
    def __init__(self, *args, **options):
        fire()
"""
SECRET = "marker-7f3a91"
RUN = ("arch=early", "size=d16", "budget.steps=4")
LAUNCH = "hydra_plugins.hydra_joblib_launcher.joblib_launcher.JoblibLauncher"
LOGGING = "+hydra.job_logging.handlers={x: {"
ABORT = "+hydra.hydra_logging.handlers.x={class: logging.handlers.QueueHandler, queue: canary.fire}"


@pytest.fixture
def place(tmp_path: Path) -> Path:
    """A working directory with a module that leaves a trace when anything in it is called."""
    (tmp_path / "modules").mkdir()
    (tmp_path / "modules" / "canary.py").write_text(CANARY)
    (tmp_path / "cwd").mkdir()
    return tmp_path


def environment(place: Path) -> dict[str, str]:
    paths = f"{place / 'modules'}:{ROOT}"
    return {"PYTHONPATH": paths, "CANARY": str(place / "fired"), "SECRET_TOKEN": SECRET, "HOME": str(place / "cwd")}


def attack(place: Path, *arguments: str, command: str = "train") -> str:
    """What the command said; it must have refused without running or writing anything."""
    before = sorted(place.rglob("*"))
    done = nmm(command, *arguments, cwd=place / "cwd", env={**environment(place), "PYTHONDONTWRITEBYTECODE": "1"})
    said = done.stdout + done.stderr
    assert done.returncode == 2, said
    assert not (place / "fired").exists(), "the code was run"
    assert sorted(place.rglob("*")) == before, "something was written"
    assert SECRET not in said
    assert done.stderr.splitlines()[-1].startswith(("nmm train: ", "error: ")) and "Traceback" not in said, said
    return said


@pytest.mark.parametrize(
    ("arguments", "refusal"),
    [
        (("-m", "seed=0,1", "hydra.launcher._target_=os.system"), "hydra.launcher._target_"),
        (("-m", "seed=0,1", "+hydra.launcher.x._target_=canary.fire"), "hydra.launcher.x._target_"),
        (("-m", "seed=0,1", "+hydra.launcher={_target_:" + LAUNCH + ",x:{_target_:canary.fire}}"), "_target_"),
        (("-m", "seed=0,1", "hydra.sweeper._target_=canary.Fire"), "hydra.sweeper._target_"),
        (("+hydra.callbacks.x._target_=canary.Fire",), "hydra.callbacks.x._target_"),
        (("+data.world.x._target_=canary.fire",), "data.world.x._target_"),
        (("+data.world.x={_target_:canary.fire}",), "_target_"),
        (("-m", "seed=0,1", "+data.world.x={_target_: canary.fire}"), "_target_"),
        ((LOGGING + "class: canary.Fire}}",), "hydra.job_logging.handlers.x.class='canary.Fire'"),
        ((LOGGING + "\\(\\): canary.Fire}}",), "hydra.job_logging.handlers.x.()='canary.Fire'"),
        (("+data.world={class: canary.Fire}", "+hydra.launcher.x=${data.world}"), "a whole group"),
        (("+hydra.job.env_set.CXX=/tmp/evil.sh",), "hydra.job.env_set.CXX"),
        (("-m", "seed=0,1", "+hydra.job.env_set={LD_PRELOAD: /tmp/evil.so}"), "hydra.job.env_set.LD_PRELOAD"),
        (("hydra/hydra_logging=default", ABORT), "hydra.hydra_logging.handlers.x.class"),
        (("--help", "hydra/hydra_logging=default", ABORT), "hydra.hydra_logging.handlers.x.class"),
        (("+hydra.job_logging.handlers.x=${data.world}",), "hydra.job_logging.handlers.x='${data.world}'"),
        (("hydra/job_logging=default", "+hydra.job_logging.formatters.x={class: logging.os.execl}"), "os.execl"),
        (("hydra/job_logging=default", "hydra.job_logging.handlers.file.filename=x.log"), "handlers.file.filename"),
        (("hydra.launcher=${oc.create:{a: 1}}",), "oc.create"),
        (("-m", "seed=0,1", "hydra.launcher=\"${oc.decode:'{a: 1}'}\""), "is a group"),
    ],
)
def test_code_named_on_the_command_line_is_refused(place: Path, arguments: tuple[str, ...], refusal: str) -> None:
    assert refusal in attack(place, *arguments, *RUN)


FILES = {
    "launcher": ("hydra/launcher/evil.yaml", "_target_: canary.Fire\n", ("-m", "seed=0,1", "hydra/launcher=evil")),
    "nested": (
        "hydra/launcher/evil.yaml",
        f"_target_: {LAUNCH}\nx: {{_target_: canary.fire}}\n",
        ("-m", "seed=0,1", "hydra/launcher=evil"),
    ),
    "shadow": ("hydra/launcher/basic.yaml", "_target_: canary.Fire\n", ("-m", "seed=0,1")),
    "callback": (
        "experiment/evil.yaml",
        "# @package _global_\nhydra: {callbacks: {x: {_target_: canary.Fire}}}\n",
        ("experiment=evil",),
    ),
    "of a list": (
        "experiment/evil.yaml",
        "# @package _global_\nhydra: {job_logging: {version: 1, root: {handlers: [x]}, "
        "handlers: {x: {class: canary.Fire}}}}\n",
        ("-m", "experiment=good,evil"),
    ),
    "a compiler": (
        "experiment/evil.yaml",
        "# @package _global_\nhydra: {job: {env_set: {CXX: canary.sh}}}\n",
        ("experiment=evil",),
    ),
    "an emptied file": (
        "experiment/evil.yaml",
        "# @package _global_\nhydra: {job_logging: {root: {handlers: [x]}, "
        "handlers: {x: {class: logging.FileHandler, filename: canary.txt, mode: w}}}}\n",
        ("experiment=evil",),
    ),
    "own config": ("experiment/evil.yaml", "# @package data.world\n_target_: canary.Fire\n", ("experiment=evil",)),
    "spelt with codes": (
        "experiment/evil.yaml",
        '# @package data.world\n"_tar\\x67et_": canary.Fire\n',
        ("experiment=evil",),
    ),
}


@pytest.mark.parametrize("name", FILES)
def test_code_named_in_a_users_file_is_refused(place: Path, name: str, tiny_shards: Path) -> None:
    path, text, arguments = FILES[name]
    file = place / "mine" / path
    file.parent.mkdir(parents=True)
    file.write_text(text)
    file.with_name("good.yaml").write_text("# @package _global_\nseed: 3\n")
    said = attack(place, "--config-dir", str(place / "mine"), *arguments, *RUN, f"data.path={tiny_shards}")
    assert "canary" in said or "hydra.job.env_set.CXX" in said


@pytest.mark.parametrize("ask", ["--help", "--hydra-help"])
def test_logging_in_a_users_file_is_refused_for_help_as_well(place: Path, ask: str) -> None:
    file = place / "mine" / "hydra" / "hydra_logging" / "evil.yaml"
    file.parent.mkdir(parents=True)
    file.write_text(
        "version: 1\nroot: {handlers: [x]}\n"
        "handlers: {x: {class: logging.FileHandler, filename: ../precious, mode: w}}\n"
    )
    (place / "precious").write_text("kept")
    said = attack(place, "--config-dir", str(place / "mine"), ask, "hydra/hydra_logging=evil")
    assert "hydra.hydra_logging.handlers.x.filename='../precious'" in said
    assert (place / "precious").read_text() == "kept"


def test_a_pickle_is_not_opened(place: Path) -> None:
    class Evil:
        def __reduce__(self) -> tuple[Any, ...]:
            return (exec, ("import canary; canary.fire()",))

    (place / "job.pickle").write_bytes(pickle.dumps(Evil()))
    assert "executes a pickle" in attack(place, f"--experimental-rerun={place / 'job.pickle'}")


@pytest.mark.parametrize(
    "arguments",
    [
        ("sweep=${oc.env:SECRET_TOKEN}",),
        ("out=${oc.env:SECRET_TOKEN}",),
        ("out=${oc.env:HOME}/${oc.env:SECRET_TOKEN}",),
        ("out=${oc.env:NOT_THERE,${oc.env:SECRET_TOKEN}}",),
        ("arch.name=SECRET_TOKEN", "sweep=${oc.env:${arch.name}}"),
        ("sweep=${oc.decode:'${oc.env:SECRET_TOKEN}'}",),
        ("-m", "out='${oc.env:SECRET_TOKEN}','${oc.env:HOME}'"),
        ("hydra.job.env_copy=[SECRET_TOKEN]",),
        ("-m", "hydra.sweep.dir=${oc.env:SECRET_TOKEN}", "seed=0,1"),
    ],
)
def test_a_secret_of_the_environment_cannot_be_read(place: Path, arguments: tuple[str, ...]) -> None:
    assert "${oc.env:" in (said := attack(place, *arguments, *RUN)) and "is not allowed" in said


def test_a_sweep_reads_no_secret_and_names_no_code_either(place: Path) -> None:
    good = "name: x\narchs: [early]\nsizes: [d16]\ntokens: [100000]\n"
    for text, refusal in (
        ("name: ${oc.env:SECRET_TOKEN}\n" + good[8:], "${oc.env:SECRET_TOKEN} is not allowed"),
        (good + "overrides: ['sweep_=${oc.env:SECRET_TOKEN}']\n", "${oc.env:SECRET_TOKEN} is not allowed"),
        (good + "overrides: ['+data.world._target_=canary.fire']\n", "data.world._target_"),
        (good + "max_tokens: {_target_: canary.fire}\n", "max_tokens._target_"),
        (good + "x: !!python/object/apply:canary.fire []\n", "could not determine a constructor"),
    ):
        (place / "sweep.yaml").write_text(text)
        said = attack(place, "plan", f"sweep={place / 'sweep.yaml'}", f"out={place / 'runs'}", command="sweep")
        assert refusal in said


def test_what_is_harmless_may_be_read(place: Path) -> None:
    arguments = ["--cfg", "job", "--resolve", *RUN, "out=${oc.env:HOME}/runs", "seed='${oc.decode:${oc.env:NMM_SEED}}'"]
    done = nmm("train", *arguments, cwd=place / "cwd", env={**environment(place), "NMM_SEED": "7"})
    assert done.returncode == 0, done.stderr
    assert f"out: {place / 'cwd' / 'runs'}" in done.stdout and "seed: 7" in done.stdout


def test_logging_that_hydra_ships_may_be_chosen(place: Path) -> None:
    chosen = ["hydra/job_logging=stdout", "hydra/hydra_logging=default", "hydra.job.env_copy=[HOME]"]
    done = nmm("train", "--help", *chosen, *RUN, cwd=place / "cwd", env=environment(place))
    assert done.returncode == 0 and "nmm train KEY=VALUE" in done.stdout, done.stderr


def test_the_same_attack_on_plain_hydra_succeeds(place: Path) -> None:
    """What is refused above is not harmless by itself."""
    app = place / "app.py"
    app.write_text(
        "import hydra\n@hydra.main(config_path='pkg://conf', config_name='config', version_base='1.3')\n"
        "def main(config): pass\nmain()\n"
    )
    command = [sys.executable, str(app), "+hydra.callbacks.x._target_=canary.Fire"]
    subprocess.run(command, cwd=place / "cwd", env=child_environment() | environment(place), capture_output=True)
    assert (place / "fired").read_text() == "fired"
