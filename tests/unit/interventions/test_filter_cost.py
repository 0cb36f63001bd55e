"""What training a reference has cost: its past belongs to it, as far as somebody can still tell."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path

import pytest

from nmm.config import RunConfig, to_dict
from nmm.groups import Start
from nmm.interventions.filter_cache import training_cost
from nmm.origin import WEIGHTS, run_digest
from nmm.record import write_json

MakeRun = Callable[..., Path]


@pytest.fixture
def made(make_config: Callable[..., RunConfig], tmp_path: Path) -> MakeRun:
    """A run of known cost that starts from another, or from scratch."""

    def make(name: str, flops: float, start: Path | None = None, charged: float = 0.0) -> Path:
        run, config = tmp_path / name, make_config("early")
        if start is not None:
            config = dataclasses.replace(config, start=Start("run", str(start), run_digest(start)))
        run.mkdir()
        (run / WEIGHTS).write_bytes(name.encode())
        write_json(run / "config.json", {"run_id": name, "settings": to_dict(config)})
        labels = {"method": "", "arm": "", "charged_flops": charged}
        record = {"schema": 5, "run_id": name, "status": "done", "flops": {"total": flops}, "intervention": labels}
        write_json(run / "record.json", record)
        return run

    return make


def test_from_scratch_it_is_its_own_and_what_was_charged(made: MakeRun) -> None:
    assert training_cost(made("plain", 100.0)) == (100.0, "of all its training")
    assert training_cost(made("charged", 100.0, charged=7.0)) == (107.0, "of all its training")


def test_the_runs_that_it_began_with_count(made: MakeRun) -> None:
    first = made("first", 100.0, charged=7.0)
    third = made("third", 1.0, made("second", 10.0, first))
    assert training_cost(third) == (118.0, "of all its training")


def test_weights_that_are_gone_are_named(made: MakeRun) -> None:
    first = made("first", 100.0)
    second = made("second", 10.0, first)
    third = made("third", 1.0, second)
    (first / WEIGHTS).write_bytes(b"other weights now")
    assert training_cost(second) == (10.0, "of its last stage only")
    assert training_cost(third) == (11.0, "of its last 2 stages only")
    (first / WEIGHTS).unlink()
    (first / "record.json").unlink()
    assert training_cost(third) == (11.0, "of its last 2 stages only")


def test_a_start_that_may_be_charged_already_is_not_counted_twice(made: MakeRun) -> None:
    bridged = made("bridged", 10.0, made("first", 100.0), charged=100.0)
    assert training_cost(bridged) == (110.0, "of its last stage only")


def test_an_export_has_no_cost(made: MakeRun) -> None:
    export = made("export", 100.0)
    (export / "record.json").unlink()
    assert training_cost(export) == (None, "unknown: it has no record")
    assert training_cost(made("tuned", 3.0, export)) == (3.0, "of its last stage only")
