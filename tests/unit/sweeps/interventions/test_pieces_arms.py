"""The study of POINTS' pieces: its arms are what they say, and every run is charged for its own positions."""

from __future__ import annotations

from pathlib import Path

import pytest

from nmm.compose import compose
from nmm.config import RunConfig
from nmm.data.tiling import tile
from nmm.flops import count_params
from sweeps.interventions.building import recipe
from sweeps.interventions.pieces import OF_ARCH, PIECES, POSITIONS, TINY, row_of_run, study, sweep

ARMS = [(arch, piece) for arch, pieces in OF_ARCH.items() for piece in pieces]


def config_of(arch: str, piece: str) -> RunConfig:
    overrides = ["data.patch_size=4", "arch.pairing=none", "data.vocab_size=100", "budget.steps=1"]
    return compose([f"arch={arch}", *overrides, *PIECES[piece]])


@pytest.mark.parametrize(("arch", "piece"), ARMS)
def test_a_picture_has_the_positions_that_rows_of_validation_are_made_for(arch: str, piece: str) -> None:
    config = config_of(arch, piece)
    side = config.data.picture_size or config.data.image_size
    images = tile(side, side, config.data.image_size, config.data.tiles).images
    assert side == 16
    assert images * config.tokens_per_image == POSITIONS[piece]


def test_arms_differ_in_their_piece_alone() -> None:
    """The trunk is the same in all of them, so late and early share it and differences are the piece's."""
    params = [count_params(config_of(arch, piece)) for arch, piece in ARMS]
    assert len({(p.attention, p.ffn, p.norm, p.embedding) for p in params}) == 1
    dual, native = (count_params(config_of("late", piece)) for piece in ("dual", "native"))
    assert dual.vision == 2 * native.vision and dual.connector == native.connector


def test_validation_holds_about_as_many_captions_in_every_arm() -> None:
    arms = sweep(Path("out"), "late", recipe("intervention_pieces"), OF_ARCH["late"], 1_200)["arms"]
    rows = {name: int(overrides[-1].removeprefix("data.eval_rows=")) for name, overrides in arms.items()}
    held = {name: rows[name] * (128 // (POSITIONS[name.partition("-")[2]] + 15)) for name in rows}
    assert all(1_200 <= count < 1_210 for count in held.values())


@pytest.mark.parametrize("scale", ["tiny", "cpu"])
def test_the_study_describes_itself(tmp_path: Path, scale: str) -> None:
    found = study(tmp_path, scale)
    sweeps = ("early", "late") if scale == "tiny" else ("early", "late", "long")
    assert [step.name for step in found.steps] == ["shards", *(f"{s}-{a}" for s in sweeps for a in ("plan", "launch"))]
    pieces = TINY if scale == "tiny" else OF_ARCH
    assert [arm.name for arm in found.arms] == [f"{arch}-{piece}" for arch in pieces for piece in pieces[arch]]
    assert found.control == "early-native" and found.metrics[0].name == "grounded"


def test_a_row_is_excess_over_what_is_known() -> None:
    excess = {"colour": 0.1, "shape": 0.2, "size": 0.0, "location": 0.1, "name": 0.6, "fact": None}
    record = {
        "intervention": {"arm": "early-tiles", "charged_flops": 0.0},
        "seed": 1,
        "steps": 9,
        "params": {"active_non_embedding": 7},
        "tokens": {"total": 90, "positions": 100, "by_source": {"caption": {"samples": 3}}},
        "flops": {"total": 1e9},
        "result": {"loss": {"caption": 0.5}, "entropy": {"caption": 0.2}, "class_excess": excess},
    }
    row = row_of_run(record)
    assert row["grounded"] == pytest.approx(0.2) and row["caption"] == pytest.approx(0.3)
    assert (row["arm"], row["flops"], row["steps"], row["documents"]) == ("early-tiles", 1e9, 9, 3)
