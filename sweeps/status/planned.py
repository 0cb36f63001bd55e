"""What status needs of each line of the manifest, without building and hashing its config: 10,000 lines in a second."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sweeps.manifest import FILE_NAME, ManifestError

Shape = tuple[str, str]


@dataclass(frozen=True)
class Planned:
    """One line: steps are optimizer steps, ``flops`` and ``seconds`` (of one worker) what was estimated at planning."""

    run_id: str
    role: str
    parent_id: str
    parent_step: int
    sweep: str
    arch: str
    size: str
    seed: int
    total_steps: int
    tokens_per_step: int
    log_every: int
    flops: float
    seconds: float
    arm: str = ""  # of a comparison of recipes

    @property
    def shape(self) -> Shape:
        """(arch, size)."""
        return self.arch, self.size

    @property
    def own_steps(self) -> int:
        """Steps this line makes: a branch does not repeat its trunk's."""
        return self.total_steps - self.parent_step

    @property
    def flops_per_step(self) -> float:
        """Estimated FLOPs of one optimizer step."""
        return self.flops / max(1, self.own_steps)

    @property
    def seconds_per_step(self) -> float:
        """Estimated seconds of one optimizer step, everything around it shared out."""
        return self.seconds / max(1, self.own_steps)


def read_planned(directory: Path) -> list[Planned]:
    """Every line of the manifest, in order. Raises ``ManifestError`` for a missing or damaged one.

    That lines were not edited by hand is checked where runs are started (``sweeps.manifest.read``); here only that a
    run id leads to no other place.
    """
    path = directory / FILE_NAME
    if not path.exists():
        raise ManifestError(f"{directory} holds no {FILE_NAME}; run `nmm sweep plan sweep=demo out={directory}` first")
    lines = path.read_text(encoding="utf-8").splitlines()
    if not lines:
        raise ManifestError(f"{path} is empty; delete it and plan again")
    return [_parse(line, f"{path}:{number}") for number, line in enumerate(lines, start=1)]


def _parse(line: str, where: str) -> Planned:
    try:
        values: dict[str, Any] = json.loads(line)
        config, cost = values["config"], values["estimate"]
        parent = values["parent"] or {"run_id": "", "step": 0}
        if Path(values["run_id"]).name != values["run_id"] or values["run_id"] == "..":
            raise ValueError(f"run_id {values['run_id']!r} names a directory")
        return Planned(
            run_id=values["run_id"],
            role=values["role"],
            parent_id=parent["run_id"],
            parent_step=int(parent["step"]),
            sweep=config["sweep"],
            arch=config["arch"]["name"],
            size=config["size"]["name"],
            seed=int(config["seed"]),
            total_steps=int(config["budget"]["steps"]),
            tokens_per_step=int(config["trainer"]["rows_per_step"]) * int(config["data"]["context_length"]),
            log_every=max(1, int(config["trainer"]["log_every_steps"])),
            flops=float(cost["flops"]),
            seconds=float(cost["seconds"]),
            arm=str(config.get("intervention", {}).get("arm", "")),
        )
    except (json.JSONDecodeError, KeyError, TypeError, ValueError) as error:
        raise ManifestError(
            f"{where} is not a line of a manifest ({error!r}); plan again into a new directory"
        ) from error
