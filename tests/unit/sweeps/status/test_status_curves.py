from __future__ import annotations

from status_lab import Lab

from sweeps.status import curves as curves_module
from sweeps.status.curves import Curves, choose, join
from sweeps.status.planned import Planned
from sweeps.status.states import RunState


def segment(*steps: float) -> list[list[float]]:
    return [list(steps), [10.0 - step for step in steps]]


def test_attempts_become_one_curve_and_what_was_made_again_is_kept_apart() -> None:
    curve = join([segment(1, 2, 3, 4), segment(3, 4, 5), segment(6, 7)])
    assert curve.kept[0] == [1, 2, 3, 4, 5, 6, 7]
    assert curve.lost == [segment(2, 3, 4)], "with the point it leaves the curve at"
    assert curve.resumed_at == [3, 6]


def test_a_run_that_began_again_from_nothing_loses_all_before() -> None:
    curve = join([segment(1, 2, 3), segment(1, 2)])
    assert curve.kept == segment(1, 2)
    assert curve.lost == [segment(1, 2, 3)]


def test_a_later_attempt_cuts_all_earlier_ones() -> None:
    curve = join([segment(1, 2, 3, 4, 5), segment(4, 5, 6), segment(2, 3)])
    assert curve.kept[0] == [1, 2, 3]
    assert [part[0] for part in curve.lost] == [[1, 2, 3, 4, 5], [4, 5, 6]]
    assert join([]) is None


def test_curves_are_read_from_the_files_of_all_attempts(sweep: Lab) -> None:
    sweep.killed(0, range(1, 6))
    sweep.attempt(0, range(4, 9))
    sweep.attempt(1, range(1, 3), train_loss=None)
    sweep.attempt(2)
    found = Curves(sweep.directory).read(sweep.report().states)
    assert list(found) == [sweep.entries[0].run_id]
    curve = found[sweep.entries[0].run_id]
    assert curve.kept[0] == [1, 2, 3, 4, 5, 6, 7, 8] and curve.resumed_at == [4]
    assert curve.kept[1][0] == 2.999


def test_a_grown_file_is_read_again_and_others_are_not(sweep: Lab, monkeypatch) -> None:
    read: list[str] = []
    original = curves_module.some_rows
    monkeypatch.setattr(
        curves_module, "some_rows", lambda path, most: read.append(path.parts[-4]) or original(path, most)
    )
    one, two = sweep.attempt(0, range(1, 3)), sweep.attempt(1, range(1, 3))
    curves = Curves(sweep.directory)
    curves.read(sweep.report().states)
    one.log_metrics({"step": 3, "train_loss": 2.0})
    found = curves.read(sweep.report().states)
    assert read.count(one.path.parts[-3]) == 2 and read.count(two.path.parts[-3]) == 1
    assert found[one.path.parts[-3]].kept[0] == [1, 2, 3]


def test_of_too_many_runs_those_in_trouble_come_first_and_the_others_are_spread() -> None:
    planned = [Planned(f"r{n}", "run", "", 0, "s", "early", "d16", 0, 10, 1, 1, 1.0, 1.0) for n in range(100)]
    states = [RunState(run, "failed" if n % 50 == 0 else "done") for n, run in enumerate(planned)]
    chosen = choose(states, 10)
    assert len(chosen) == len({state.run.run_id for state in chosen}) == 10
    assert [state.run.run_id for state in chosen[:2]] == ["r0", "r50"]
    numbers = [int(state.run.run_id[1:]) for state in chosen[2:]]
    assert numbers == sorted(numbers) and numbers[-1] - numbers[0] > 80
    assert choose(states, 100) == states
