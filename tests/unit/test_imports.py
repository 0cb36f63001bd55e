"""The import rule: who may import whom, and which library belongs to which room. Read from the ASTs, nothing is run."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from lab import ROOT, child_environment

L0 = ("nmm.config", "nmm.groups", "nmm.validation", "nmm.batch", "nmm.record")
L1 = ("nmm.params", "nmm.flops", "nmm.memory")

# room -> what of ours it may import (itself, and `nmm` for the version, are always allowed); the longest match counts
ROOMS: dict[str, tuple[str, ...]] = {
    "nmm": (),
    "nmm.config": ("nmm.groups", "nmm.validation"),  # one page in three files
    "nmm.groups": (),
    "nmm.validation": (),
    "nmm.batch": (),
    "nmm.record": (),
    "nmm.params": L0,
    "nmm.flops": (*L0, "nmm.params"),
    "nmm.memory": (*L0, "nmm.params", "nmm.flops"),
    "nmm.origin": ("nmm.config", "nmm.record"),
    "nmm.resolve": (*L0, "nmm.flops", "nmm.params", "nmm.origin", "nmm.data", "nmm.model.encoder_facts"),
    "nmm.safety": ("nmm.config",),
    "nmm.compose": ("nmm.config", "nmm.safety"),
    "nmm.data": L0,
    "nmm.model": (*L0, "nmm.flops", "nmm.params"),
    "nmm.evaluate": (*L0, "nmm.flops", "nmm.data", "nmm.model"),
    "nmm.generate": (*L0, "nmm.flops", "nmm.data", "nmm.model"),
    "nmm.sft": (*L0, "nmm.data", "nmm.model", "nmm.generate"),
    "nmm.start": (*L0, "nmm.origin", "nmm.model", "nmm.transform"),
    "nmm.transform": ("nmm.data.counter_rng",),
    "nmm.bridge": (*L0, "nmm.data", "nmm.model", "nmm.start"),
    "nmm.training": (*L0, *L1, "nmm.data", "nmm.model", "nmm.evaluate", "nmm.start", "nmm.sft", "nmm.bridge"),
    "nmm.interventions": ("nmm",),
    "nmm.frozen": ("nmm.config", "nmm.record"),
    "nmm.doors": ("nmm.config", "nmm.record"),
    "nmm.train": (*L0, "nmm.doors", "nmm.training", "nmm.resolve", "nmm.compose", "nmm.safety", "nmm.frozen"),
    "nmm.commands": ("nmm.compose", "nmm.config", "nmm.data"),
    "nmm.data_command": ("nmm.config", "nmm.record", "nmm.compose", "nmm.resolve", "nmm.data", "nmm.data_tables"),
    "nmm.data_tables": ("nmm.describe_tables",),
    "nmm.index_command": ("nmm.data",),
    "nmm.describe": (*L0, *L1, "nmm.compose", "nmm.origin", "nmm.resolve", "nmm.data", "nmm.describe_tables"),
    "nmm.export": ("nmm.start",),
    "nmm.generate_command": (*L0, "nmm.origin", "nmm.data", "nmm.generate", "nmm.start"),
    "nmm.cli": (
        "nmm.config",
        "nmm.record",
        "nmm.commands",
        "nmm.data_command",
        "nmm.describe",
        "nmm.export",
        "nmm.generate_command",
        "nmm.index_command",
        "nmm.interventions",
        "sweeps.commands",
        "sweeps.interventions.command",
        "analysis.commands",
    ),
    "sweeps": (
        "nmm.config",
        "nmm.flops",
        "nmm.memory",
        "nmm.record",
        "nmm.resolve",
        "nmm.compose",
        "nmm.safety",
        "nmm.frozen",
        "nmm.interventions.passk",  # counts answers; no torch
    ),
    "analysis": ("nmm.record",),
}

# library -> the only places that may import it
OWNERS: dict[str, tuple[str, ...]] = {
    "lightning": ("nmm.data.module", "nmm.training"),
    "webdataset": ("nmm.data",),
    "wandb": ("nmm.training.callbacks",),
    "timm": ("nmm.model.vision", "nmm.model.timm_nets"),
    "pycocoevalcap": ("nmm.sft",),
    "matplotlib": ("analysis.plots",),
    "hydra": ("nmm.train", "nmm.compose"),
    "torch": (
        "nmm.data.handover",
        "nmm.data.loader",
        "nmm.data.module",
        "nmm.model",
        "nmm.training",
        "nmm.evaluate",
        "nmm.generate",
        "nmm.start",
        "nmm.interventions",
        "nmm.transform",
        "nmm.bridge",
    ),
}

STDLIB_ONLY = ("nmm.record",)
OURS = ("nmm", "sweeps", "analysis")


def inside(module: str, room: str) -> bool:
    return module == room or module.startswith(room + ".")


def imported(node: ast.AST, module: str, root: Path) -> Iterator[str]:
    """Full names of all imported modules, also those imported inside functions, but not for type checking alone."""
    if isinstance(node, ast.Import):
        yield from (alias.name for alias in node.names)
    elif isinstance(node, ast.ImportFrom):
        base = node.module or ""
        if node.level:
            package = module.split(".")[: -node.level]
            base = ".".join([*package, *([node.module] if node.module else [])])
        yield from (_module(base, alias.name, root) for alias in node.names)
    type_checking = isinstance(node, ast.If) and ast.unparse(node.test).endswith("TYPE_CHECKING")
    for child in node.orelse if type_checking else ast.iter_child_nodes(node):
        yield from imported(child, module, root)


def _module(base: str, name: str, root: Path) -> str:
    """``from base import name``: the submodule if there is one, else ``base``."""
    path = root.joinpath(*base.split("."), name)
    return f"{base}.{name}" if path.is_dir() or path.with_suffix(".py").is_file() else base


def violations(root: Path) -> list[str]:
    """Every import under ``root`` that breaks the rule, as readable lines."""
    found = []
    for path in sorted(p for top in OURS for p in (root / top).rglob("*.py")):
        module = ".".join(path.relative_to(root).with_suffix("").parts).removesuffix(".__init__")
        for target in imported(ast.parse(path.read_text()), module, root):
            reason = _refusal(module, target)
            if reason:
                found.append(f"{module} imports {target}: {reason}")
    return found


def _refusal(module: str, target: str) -> str:
    library = target.split(".")[0]
    room = max((r for r in ROOMS if inside(module, r)), key=len)
    if library in OURS:
        allowed = (room, *ROOMS[room]) if room != "nmm" else ()
        if target != "nmm" and not any(inside(target, other) for other in allowed):
            return f"{room} may import only {', '.join(ROOMS[room]) or 'nothing of ours'}"
    elif library in OWNERS and not any(inside(module, owner) for owner in OWNERS[library]):
        return f"{library} belongs to {', '.join(OWNERS[library])}"
    elif room in STDLIB_ONLY and library not in sys.stdlib_module_names:
        return f"{room} uses the standard library only"
    return ""


def test_every_file_keeps_the_import_rule() -> None:
    assert violations(ROOT) == []


@pytest.mark.parametrize(
    ("file", "code", "expected"),
    [
        ("nmm/config.py", "from nmm.flops import count_params", "nmm.config imports nmm.flops"),
        ("nmm/record.py", "import numpy", "nmm.record imports numpy"),
        ("nmm/flops.py", "import torch", "nmm.flops imports torch"),
        ("nmm/resolve.py", "def f():\n    import torch.nn", "nmm.resolve imports torch.nn"),
        ("nmm/data/world.py", "import torch", "nmm.data.world imports torch"),
        ("nmm/data/source.py", "from nmm.model import masks", "nmm.data.source imports nmm.model"),
        ("nmm/data/source.py", "from nmm import model", "nmm.data.source imports nmm.model"),
        ("nmm/data/deep/file.py", "from ...model import masks", "nmm.data.deep.file imports nmm.model"),
        ("nmm/model/trunk.py", "from nmm.data.source import RowSource", "nmm.model.trunk imports nmm.data.source"),
        ("nmm/model/fusion.py", "import timm", "nmm.model.fusion imports timm"),
        ("nmm/training/run.py", "from nmm.train import main", "nmm.training.run imports nmm.train"),
        ("nmm/training/run.py", "import wandb", "nmm.training.run imports wandb"),
        ("nmm/evaluate.py", "from nmm.training.run import execute", "nmm.evaluate imports nmm.training.run"),
        ("nmm/model/layers.py", "import lightning.pytorch as pl", "nmm.model.layers imports lightning.pytorch"),
        ("nmm/cli.py", "import hydra", "nmm.cli imports hydra"),
        ("nmm/__init__.py", "from nmm.config import RunConfig", "nmm imports nmm.config"),
        ("sweeps/plan.py", "import torch", "sweeps.plan imports torch"),
        ("sweeps/plan.py", "from nmm.training.run import execute", "sweeps.plan imports nmm.training.run"),
        ("sweeps/plan.py", "import analysis.fit", "sweeps.plan imports analysis.fit"),
        ("analysis/fit.py", "from nmm.config import RunConfig", "analysis.fit imports nmm.config"),
        ("analysis/fit.py", "import matplotlib.pyplot", "analysis.fit imports matplotlib.pyplot"),
        ("analysis/plots.py", "from sweeps import plan", "analysis.plots imports sweeps"),
        ("nmm/data/x.py", "if TYPE_CHECKING:\n    pass\nelse:\n    import torch", "nmm.data.x imports torch"),
    ],
)
def test_a_planted_violation_is_found(tmp_path: Path, file: str, code: str, expected: str) -> None:
    planted(tmp_path, "nmm/model/masks.py", "")
    planted(tmp_path, file, code)
    assert [line for line in violations(tmp_path) if line.startswith(expected)], violations(tmp_path)


@pytest.mark.parametrize(
    ("file", "code"),
    [
        (
            "nmm/training/run.py",
            "from nmm import __version__\nimport lightning\nfrom nmm.data.loader import TrainLoader",
        ),
        ("nmm/training/callbacks.py", "def mirror():\n    import wandb"),
        ("nmm/data/module.py", "import lightning, torch\nfrom .source import RowSource"),
        ("nmm/data/world.py", "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    import torch"),
        ("analysis/plots.py", "import matplotlib\nfrom nmm.record import load_table\nfrom analysis.fit import fit"),
        ("sweeps/plan.py", "from nmm import config, flops\nimport rich"),
    ],
)
def test_what_is_allowed_passes(tmp_path: Path, file: str, code: str) -> None:
    for name in ("config", "flops"):
        planted(tmp_path, f"nmm/{name}.py", "")
    planted(tmp_path, file, code)
    assert violations(tmp_path) == []


def planted(root: Path, file: str, code: str) -> None:
    path = root / file
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(code)


def test_torch_is_not_loaded_on_the_way_either() -> None:
    light = "nmm.resolve, nmm.compose, nmm.commands, nmm.describe, nmm.cli, sweeps.commands, nmm.data.shards"
    light += ", nmm.data_command, nmm.data_tables, nmm.data.stats, nmm.data.view_rows"
    light += ", sweeps.interventions.filter, sweeps.interventions.bridge, sweeps.interventions.guide"
    light += ", sweeps.interventions.pieces, sweeps.interventions.soup, sweeps.interventions.command"
    code = f"import sys, {light}; print([m for m in ('torch', 'lightning', 'matplotlib', 'wandb') if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], env=child_environment(), capture_output=True, text=True)
    assert done.stdout.strip() == "[]", done.stderr
