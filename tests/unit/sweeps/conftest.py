"""A sweep without Hydra and without rendered shards: a plain composer and a shard manifest of three lines."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest
from slurm_tools import FakeSlurm

from nmm.config import Arch, Budget, Data, RunConfig, Schedule, Size, Trainer
from sweeps.manifest import Entry
from sweeps.plan import Plan, make_plan
from sweeps.spec import SweepSpec, spec_from_dict

WIDTHS = {"d16": 16, "d32": 32, "d64": 64}


@pytest.fixture
def slurm(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> FakeSlurm:
    return FakeSlurm(tmp_path, monkeypatch)


@pytest.fixture
def shards(tmp_path: Path) -> Path:
    folder = tmp_path / "shards"
    folder.mkdir()
    (folder / "manifest.json").write_text(json.dumps({"fingerprint": "f" * 64, "vocab_size": 300}))
    return folder


@pytest.fixture
def composer(shards: Path) -> Callable[[Sequence[str]], RunConfig]:
    def compose(overrides: Sequence[str]) -> RunConfig:
        chosen = dict(override.split("=", 1) for override in overrides)
        name, width = chosen["arch"], WIDTHS[chosen["size"]]
        return RunConfig(
            arch=Arch(name=name, fusion="late" if name == "late" else "early", num_experts=8 if name == "moe" else 0),
            size=Size(name=chosen["size"], width=width, num_heads=width // 16),
            data=Data(path=str(shards), context_length=128),
            schedule=Schedule(int(chosen.get("schedule.warmup_steps", 4)), chosen.get("schedule.warmup_rule", "fixed")),
            budget=Budget(),
            trainer=Trainer(rows_per_step=2),
        )

    return compose


def spec_of(**changes: object) -> SweepSpec:
    values = {"name": "toy", "archs": ["early"], "sizes": ["d16", "d32"], "tokens": [25_600, 51_200], "seeds": [0]}
    return spec_from_dict({**values, **changes})


@pytest.fixture
def make_spec() -> Callable[..., SweepSpec]:
    return spec_of


@pytest.fixture
def plan(tmp_path: Path, composer: Callable[[Sequence[str]], RunConfig]) -> Callable[..., Plan]:
    def make(folder: str = "runs", **changes: object) -> Plan:
        return make_plan(spec_of(**changes), tmp_path / folder, composer)

    return make


@pytest.fixture
def entries(plan: Callable[..., Plan]) -> list[Entry]:
    """Two sizes, each a trunk and two branches, in planned order."""
    return plan().entries
