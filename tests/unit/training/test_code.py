"""A checkpoint goes on under the code that made it, or under other code that a person accepted; both are named."""

from __future__ import annotations

import dataclasses
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from lab import ROOT, child_environment, run_directory, train

from nmm.config import Budget, Parent, RunConfig, Schedule, run_id
from nmm.record import attempts, read_record
from nmm.training import checkpoint, code
from nmm.training.code import ChangedCode, Code, code_fingerprint, differences, file_digests, this_code
from nmm.training.module import TrainingModule
from nmm.training.stopping import Interrupted

TinyConfig = Callable[..., RunConfig]


def planted(root: Path, **files: str) -> Path:
    """A small copy of the tree: nmm.training.run and what it imports."""
    for name, text in files.items():
        path = root.joinpath(*name.split("__")).with_suffix(".py")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return root


RUN = "from nmm.model.net import f\nfrom nmm.record import publish\nimport os\n"
NET = '"""Doc."""\n\n\ndef f(x: int) -> int:\n    """Double it."""\n    # twice\n    return 2 * x\n'


def digests(folder: Path, **changes: str) -> dict[str, str]:
    files = {"nmm__training__run": RUN, "nmm__model__net": NET, "nmm__record": "X = 1\n", "nmm__unused": "Y = 1\n"}
    return file_digests(planted(folder, **{**files, **changes}))


def test_the_modules_are_those_that_training_imports_and_that_decide_numbers(tmp_path: Path) -> None:
    assert sorted(digests(tmp_path)) == ["nmm.model.net", "nmm.training.run"]
    names = set(this_code().files)
    assert {"nmm.model.trunk", "nmm.training.module", "nmm.data.loader", "nmm.data.packing", "nmm.evaluate"} <= names
    assert {"nmm.flops", "nmm.config", "nmm.batch", "nmm.sft", "nmm.training.optim", "nmm.model.masks"} <= names
    assert not any(name.startswith(("nmm.record", "sweeps", "analysis", "nmm.training.progress")) for name in names)


@pytest.mark.parametrize(
    ("text", "same"),
    [
        (NET.replace("# twice", "# a comment"), True),
        (NET.replace("Double it.", "Another word."), True),
        (NET.replace('    """Double it."""\n', ""), True),
        (NET.replace('"""Doc."""', "").replace("2 * x", "2*x"), True),
        (NET.replace("2 * x", "3 * x"), False),
        (NET.replace("2 * x", "x * 2"), False),
        (NET.replace("2 * x", "'text' and 2 * x"), False),
        (NET + "\nEPS = 1e-5\n", False),
    ],
)
def test_what_changes_the_digest(tmp_path: Path, text: str, same: bool) -> None:
    before, after = digests(tmp_path / "a"), digests(tmp_path / "b", nmm__model__net=text)
    assert (before == after) is same
    assert before["nmm.training.run"] == after["nmm.training.run"]


def test_differences_are_named() -> None:
    old, new = Code("2.1", {"a": "1", "b": "1", "c": "1"}), Code("2.2", {"a": "1", "b": "2", "d": "1"})
    assert differences(old, new) == ["torch 2.1 -> 2.2", "b", "c (gone)", "d (new)"]
    assert differences(old, old) == []
    assert old.digest != new.digest != Code("2.3", new.files).digest


def test_every_process_finds_the_same(tmp_path: Path) -> None:
    """Whatever it has imported, and wherever it stands."""
    found = {code_fingerprint()}
    for imports in ("nmm.training.code", "nmm.training.run"):
        line = f"import {imports}\nfrom nmm.training.code import code_fingerprint\nprint(code_fingerprint())"
        done = subprocess.run(
            [sys.executable, "-c", line], env=child_environment(), cwd=tmp_path, capture_output=True, text=True
        )
        assert done.returncode == 0, done.stderr
        found.add(done.stdout.strip())
    assert len(found) == 1
    assert Path(code.__file__).is_relative_to(ROOT)


# ------------------------------------------------------------------------------------------------ in checkpoint, record


def stopped(config: RunConfig, monkeypatch: pytest.MonkeyPatch, step: int) -> None:
    """Train until ``step``."""
    update = TrainingModule._update

    def updated(module: TrainingModule, *measured: object) -> None:
        update(module, *measured)  # type: ignore[arg-type]
        if module.step == step:
            os.kill(os.getpid(), signal.SIGTERM)

    with monkeypatch.context() as patched:
        patched.setattr(TrainingModule, "_update", updated)
        with pytest.raises(Interrupted):
            train(config)


def other_code(monkeypatch: pytest.MonkeyPatch, torch: str = "", **files: str) -> Code:
    """From now on this process runs other code, as far as it knows."""
    now = code.this_code()
    other = Code(torch or now.torch, {**now.files, **{f"nmm.{name}": "0" for name in files}})
    for module in (code, checkpoint):
        monkeypatch.setattr(module, "this_code", lambda: other)
    return other


def test_the_record_names_the_code(tiny_config: TinyConfig) -> None:
    versions = train(tiny_config())["versions"]
    assert (versions["code"], versions["code_history"]) == (code_fingerprint(), [code_fingerprint()])


def test_other_code_is_refused_until_it_is_accepted(tiny_config: TinyConfig, monkeypatch: pytest.MonkeyPatch) -> None:
    config, first = tiny_config(), code_fingerprint()
    stopped(config, monkeypatch, 5)
    other = other_code(monkeypatch, flops="changed", batch="changed")
    refused = "made by other code .*: nmm.batch, nmm.flops.*trainer.changed_code=accept"
    with pytest.raises(ChangedCode, match=refused):
        train(config)
    accepting = dataclasses.replace(config, trainer=dataclasses.replace(config.trainer, changed_code="accept"))
    assert run_id(accepting) == run_id(config)
    stopped(accepting, monkeypatch, 8)
    record = train(config)  # nothing is left to accept: this very code made the newest checkpoint
    assert record["versions"]["code_history"] == [first, other.digest]
    assert record["versions"]["code"] == other.digest != first
    log = (attempts(run_directory(config))[2] / "log.txt").read_text()
    assert f"which other code made, as trainer.changed_code=accept says (code {first} -> {other.digest}: " in log


def test_another_torch_is_other_code(tiny_config: TinyConfig, monkeypatch: pytest.MonkeyPatch) -> None:
    config = tiny_config()
    stopped(config, monkeypatch, 5)
    other_code(monkeypatch, torch="1.13.0")
    with pytest.raises(ChangedCode, match=r"torch .* -> 1.13.0\)"):
        train(config)


def test_a_branch_of_a_trunk_that_other_code_made_is_refused_too(
    tiny_config: TinyConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    alone, first = tiny_config(), code_fingerprint()
    trunk = dataclasses.replace(
        alone, role="trunk", keep_steps=(6,), budget=Budget(steps=6), schedule=Schedule(4, cooldown_fraction=0.0)
    )
    train(trunk)
    branch = dataclasses.replace(alone, role="branch", parent=Parent(run_id(trunk), 6))
    other = other_code(monkeypatch, batch="changed")
    with pytest.raises(ChangedCode, match=run_id(trunk)):
        train(branch)
    accepting = dataclasses.replace(branch, trainer=dataclasses.replace(branch.trainer, changed_code="accept"))
    assert train(accepting)["versions"]["code_history"] == [first, other.digest]
    assert read_record(run_directory(trunk))["versions"]["code_history"] == [first]  # type: ignore[index]


def test_a_run_that_is_done_asks_no_question(tiny_config: TinyConfig, monkeypatch: pytest.MonkeyPatch) -> None:
    config = tiny_config()
    record = train(config)
    other_code(monkeypatch, batch="changed")
    assert train(config) == record
