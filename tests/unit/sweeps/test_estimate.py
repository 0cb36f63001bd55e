from __future__ import annotations

import dataclasses
from typing import Any

import pytest

from nmm.config import Trainer
from nmm.flops import count_params, training_flops
from sweeps.estimate import Speeds, estimate, memory_bytes, modelled_speed, observe, stand_alone_flops, wall_seconds
from sweeps.manifest import Entry, Estimate


def record(entry: Entry, speed: float | None) -> dict:
    return {"arch": entry.config.arch.name, "size": entry.config.size.name, "tokens_per_second": speed}


def test_a_branch_costs_its_cooldown_only(entries: list[Entry]) -> None:
    trunk = next(e for e in entries if e.role == "trunk")
    branch = next(e for e in entries if e.parent_id == trunk.run_id)
    steps = branch.config.total_steps - branch.config.parent.step
    assert steps == branch.config.total_steps // 4
    tokens = steps * branch.config.tokens_per_step
    assert branch.estimate.flops == pytest.approx(training_flops(branch.config, tokens)["total"])


def test_sharing_trunks_is_cheaper_than_training_each_point_alone(entries: list[Entry]) -> None:
    # trunk 150 steps + cooldowns of 25 and 50, against 100 + 200 steps alone
    shared = sum(e.estimate.flops for e in entries)
    assert shared / stand_alone_flops(entries) == pytest.approx(225 / 300)


def test_the_speed_model_lies_within_a_factor_of_two_of_its_measurements(entries: list[Entry]) -> None:
    base = dataclasses.replace(entries[0].config, trainer=Trainer(rows_per_step=4))
    for width, depth, measured in ((32, 2, 80e3), (64, 4, 28e3), (128, 6, 7e3)):
        size = dataclasses.replace(base.size, width=width, depth=depth, num_heads=width // 16)
        speed = modelled_speed(dataclasses.replace(base, size=size))
        assert measured / 2 < speed < measured * 2


def test_observed_speed_replaces_the_model_and_scales_the_other_shapes(entries: list[Entry]) -> None:
    seen = next(e for e in entries if e.config.size.name == "d16")
    unseen = next(e for e in entries if e.config.size.name == "d32")
    half = modelled_speed(seen.config) / 2
    speeds = observe([record(seen, half), record(seen, half), record(seen, None)], [e.config for e in entries])
    assert speeds.tokens_per_second(seen.config) == half
    assert speeds.tokens_per_second(unseen.config) == pytest.approx(modelled_speed(unseen.config) / 2)
    assert estimate(unseen.config, speeds).seconds > estimate(unseen.config, Speeds()).seconds


def test_records_of_other_shapes_teach_nothing(entries: list[Entry]) -> None:
    foreign = {"arch": "early", "size": "d999", "tokens_per_second": 1.0}
    assert observe([foreign], [e.config for e in entries]) == Speeds()


def test_memory_grows_with_parameters_and_shrinks_with_micro_batches(entries: list[Entry]) -> None:
    small, large = (next(e.config for e in entries if e.config.size.name == name) for name in ("d16", "d32"))
    assert memory_bytes(large) - memory_bytes(small) > 16 * (count_params(large).total - count_params(small).total)
    split = dataclasses.replace(large, trainer=dataclasses.replace(large.trainer, micro_batches=2))
    assert memory_bytes(split) < memory_bytes(large)


def test_memory_follows_ranks_strategy_and_recomputation(entries: list[Entry]) -> None:
    def memory(**trainer: Any) -> int:
        return memory_bytes(dataclasses.replace(entries[0].config, trainer=Trainer(rows_per_step=4, **trainer)))

    assert memory(activation_checkpointing=True) < memory()
    assert memory(devices=2, num_nodes=2) < memory(devices=2) < memory()  # fewer rows in flight
    assert memory(devices=2, num_nodes=2, strategy="fsdp2") < memory(devices=2, num_nodes=2)


def test_wall_time_is_shared_work_or_the_longest_chain(entries: list[Entry]) -> None:
    one = [dataclasses.replace(e, estimate=Estimate(1.0, 10.0, 1.0)) for e in entries]
    assert wall_seconds(one, 1) == 60
    assert wall_seconds(one, 2) == 30
    assert wall_seconds(one, 100) == 20
