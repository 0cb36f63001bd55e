from __future__ import annotations

import dataclasses
from collections.abc import Callable

import pytest

from sweeps.manifest import Entry, Estimate
from sweeps.schedule import Schedule


@pytest.fixture
def fresh() -> Callable[..., Schedule]:
    def make(entries: list[Entry], retries: int = 1, **statuses: str) -> Schedule:
        known = {e.run_id: statuses.get(e.run_id, "pending") for e in entries}
        return Schedule(entries, known | {k: v for k, v in statuses.items() if k not in known}, retries)

    return make


def trunk_of(entries: list[Entry], size: str) -> Entry:
    return next(e for e in entries if e.role == "trunk" and e.config.size.name == size)


def branches_of(entries: list[Entry], trunk: Entry) -> list[Entry]:
    return [e for e in entries if e.parent_id == trunk.run_id]


def test_a_branch_waits_for_its_trunk(entries: list[Entry], fresh) -> None:
    schedule = fresh(entries)
    first, second = schedule.take(0), schedule.take(1)
    assert {first.role, second.role} == {"trunk"}
    assert first.shape != second.shape
    assert schedule.take(2) is None
    schedule.finish(first.run_id, "done")
    assert schedule.take(2).parent_id == first.run_id


def test_a_worker_stays_with_its_shape_while_it_can(entries: list[Entry], fresh) -> None:
    schedule = fresh(entries)
    taken = []
    for _ in entries:
        entry = schedule.take(0)
        taken.append(entry)
        schedule.finish(entry.run_id, "done")
    assert [e.role for e in taken] == ["trunk", "branch", "branch"] * 2
    assert len({e.shape for e in taken[:3]}) == 1
    assert taken[1].estimate.seconds >= taken[2].estimate.seconds
    assert schedule.over and schedule.all_done


def test_the_shape_with_the_most_work_goes_first(entries: list[Entry], fresh) -> None:
    heavy = [
        dataclasses.replace(e, estimate=Estimate(1, 100.0 if e.config.size.name == "d16" else 1.0, 1)) for e in entries
    ]
    assert fresh(heavy).take(0).config.size.name == "d16"
    assert fresh(entries).take(0).config.size.name == "d32"


def test_an_idle_worker_helps_another_with_its_shape(plan, fresh) -> None:
    entries = plan(sizes=["d16"], seeds=[0, 1]).entries
    schedule = fresh(entries)
    first, second = schedule.take(0), schedule.take(1)
    assert first.role == second.role == "trunk"
    assert first.shape == second.shape


def test_whatever_the_order_of_events_every_run_is_taken_once_and_none_starves(plan, fresh) -> None:
    entries = plan(archs=["early", "moe", "late"], seeds=[0, 1]).entries
    schedule, busy, taken = fresh(entries), {}, []
    for tick in range(1000):
        for worker in range(3):
            if worker not in busy and (entry := schedule.take(worker)):
                busy[worker] = entry
                taken.append(entry.run_id)
        if schedule.over:
            break
        slot = sorted(busy)[tick % len(busy)]
        schedule.finish(busy.pop(slot).run_id, "done")
    assert sorted(taken) == sorted(e.run_id for e in entries)
    assert schedule.all_done


def test_a_crash_is_retried_then_failed_and_blocks_the_branches(entries: list[Entry], fresh) -> None:
    schedule = fresh(entries)
    trunk = schedule.take(0)
    assert schedule.fail(trunk.run_id, "boom") is True
    assert schedule.take(0) is trunk
    assert schedule.fail(trunk.run_id, "boom again") is False
    assert schedule.failed == {trunk.run_id: "boom again"}
    assert set(schedule.blocked) == {e.run_id for e in branches_of(entries, trunk)}
    assert schedule.counts() == {
        "done": 0, "running": 0, "waiting": 3, "failed": 1, "blocked": 2, "diverged": 0, "total": 6
    }  # fmt: skip
    assert not schedule.over
    for _ in range(3):
        schedule.finish(schedule.take(1).run_id, "done")
    assert schedule.over and not schedule.all_done


def test_a_hold_stops_what_waits_and_lets_what_runs_end(entries: list[Entry], fresh) -> None:
    schedule = fresh(entries)
    running = schedule.take(0)
    schedule.hold("the disk is full")
    assert schedule.take(1) is None and not schedule.over
    schedule.finish(running.run_id, "done")
    assert schedule.over and not schedule.all_done
    assert schedule.take(0) is None
    assert set(schedule.blocked.values()) == {"the disk is full"} and len(schedule.blocked) == len(entries) - 1


def test_a_diverged_trunk_is_finished_but_blocks_its_branches(entries: list[Entry], fresh) -> None:
    schedule = fresh(entries)
    trunk = schedule.take(0)
    schedule.finish(trunk.run_id, "diverged")
    assert schedule.counts()["diverged"] == 1
    assert "diverged" in next(iter(schedule.blocked.values()))


def test_finished_runs_are_not_taken_again(entries: list[Entry], fresh) -> None:
    trunk = trunk_of(entries, "d32")
    schedule = fresh(entries, **{trunk.run_id: "done"})
    assert schedule.counts()["done"] == 1
    ready = [schedule.take(worker) for worker in range(3)]
    assert {e.run_id for e in ready} == {
        trunk_of(entries, "d16").run_id,
        *(e.run_id for e in branches_of(entries, trunk)),
    }
    assert fresh(entries, **{e.run_id: "done" for e in entries}).over


def test_a_level_whose_trunks_are_elsewhere_and_unfinished_is_blocked_with_the_reason(
    entries: list[Entry], fresh
) -> None:
    branches = [e for e in entries if e.role == "branch"]
    trunks = {e.run_id: "pending" for e in entries if e.role == "trunk"}
    schedule = fresh(branches, **trunks)
    assert schedule.over
    assert "run the trunks first" in schedule.blocked[branches[0].run_id]


def test_a_run_of_another_process_is_waited_for_and_taken_over(entries: list[Entry], fresh) -> None:
    trunk = trunk_of(entries, "d32")
    schedule = fresh(entries, **{trunk.run_id: "running"})
    assert schedule.counts()["running"] == 1
    assert schedule.take(0).shape != trunk.shape
    schedule.release(trunk.run_id)
    assert schedule.take(1) is trunk


def test_interrupted_and_failed_runs_are_run_again(entries: list[Entry], fresh) -> None:
    states = ["interrupted", "failed", "unreadable"]
    schedule = fresh(entries, **dict(zip((e.run_id for e in entries), states, strict=False)))
    assert len(schedule.waiting) == len(entries)
