"""Runs with tiles, pixel shuffle and two encoders: stopped and resumed bit for bit, whatever the number of workers."""

from __future__ import annotations

import dataclasses
import os
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from lab import metrics, run_directory, train

from nmm.config import RunConfig, run_id
from nmm.record import read_record
from nmm.training.module import TrainingModule
from nmm.training.stopping import Interrupted

TILES = {"picture_size": 32, "image_size": 16, "tiles": 4, "patch_size": 4}
CASES: dict[str, tuple[str, dict[str, Any]]] = {
    "early": ("early", {"arch": {"pixel_shuffle": 2}}),
    "late": ("late", {"arch": {"pixel_shuffle": 2, "vision_model2": "sized", "pairing": "none"}}),
}


@pytest.mark.parametrize("case", CASES)
def test_stopped_and_resumed_bit_for_bit(
    tiny_config: Callable[..., RunConfig], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, case: str
) -> None:
    arch, groups = CASES[case]
    whole = tiny_config(arch, "d16", **groups, data=TILES, budget={"steps": 8})
    train(whole)
    trainer = dataclasses.replace(whole.trainer, checkpoint_every_steps=3, num_workers=1)
    stopped = dataclasses.replace(whole, out=str(tmp_path / "stopped"), trainer=trainer)
    assert run_id(stopped) == run_id(whole)
    update = TrainingModule._update

    def updated(module: TrainingModule, *measured: Any) -> None:
        update(module, *measured)
        if module.step == 5:
            monkeypatch.setattr(TrainingModule, "_update", update)
            os.kill(os.getpid(), signal.SIGTERM)

    monkeypatch.setattr(TrainingModule, "_update", updated)
    with pytest.raises(Interrupted):
        train(stopped)
    train(stopped)
    first, second = (read_record(run_directory(config)) for config in (whole, stopped))
    assert first is not None and second is not None
    assert first["result"] == second["result"]
    assert metrics(whole) == metrics(stopped)
    assert second["attempts"] == 2
    image = sum(count["image_tokens"] for count in first["tokens"]["by_source"].values())
    assert first["tokens"]["image"] == image and image % (5 * 4) == 0


def test_a_record_counts_positions_of_tiles(tiny_config: Callable[..., RunConfig]) -> None:
    """FLOPs of the record are those of the positions that were really there."""
    plain = train(tiny_config("early", "d16", data={"patch_size": 8}, budget={"steps": 4}))
    tiled = train(tiny_config("early", "d16", data={**TILES, "patch_size": 8}, budget={"steps": 4}))
    assert plain["tokens"]["positions"] == tiled["tokens"]["positions"]
    shares = [record["tokens"]["image"] / record["tokens"]["total"] for record in (plain, tiled)]
    assert shares[1] > shares[0]
    assert tiled["flops"]["patch"] > plain["flops"]["patch"]
