"""Steps run in order, once; a failure says what and what to do; the two files are checked and whole."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from studies import Lab, made_up, row

from sweeps.interventions.process import last_lines
from sweeps.interventions.protocol import StudyError
from sweeps.interventions.steps import as_json, check_rows, run_study, workplace


def test_steps_run_in_order_then_the_page(lab: Lab) -> None:
    study = made_up((lab.step("one"), lab.step("two")))
    assert run_study(study, lab.out, 1, lab.console) == 0
    assert lab.calls == ["write OUT/one.txt", "write OUT/two.txt", "intervention page OUT"]
    written = json.loads((lab.out / "study.json").read_text())
    assert written == {"schema": 1, **as_json(study)}
    assert written["arms"][1] == {"name": "mean", "role": "treatment", "what": "averaged"}
    assert {"steps", "collect"}.isdisjoint(written)
    rows = [json.loads(line) for line in (lab.out / "results.jsonl").read_text().splitlines()]
    assert [r["arm"] for r in rows] == ["plain", "mean"]
    assert (lab.out / "logs" / "one.log").read_text() == "working on write\n"
    assert "1/3 one: 0 s" in lab.said
    assert str(lab.out / "page" / "index.html") in lab.said


def test_what_is_done_is_not_done_again(lab: Lab) -> None:
    study = made_up((lab.step("one"), lab.step("two")))
    run_study(study, lab.out, 1, lab.console)
    before = lab.calls
    assert run_study(study, lab.out, 3, lab.console) == 0
    assert lab.calls == before
    assert "2/3 two: done before" in lab.said


def test_a_step_whose_work_is_gone_runs_again_with_all_after_it(lab: Lab) -> None:
    study = made_up((lab.step("one"), lab.step("two"), lab.step("three")))
    run_study(study, lab.out, 1, lab.console)
    (lab.out / "two.txt").unlink()
    before = len(lab.calls)
    run_study(study, lab.out, 1, lab.console)
    assert lab.calls[before:] == ["write OUT/two.txt", "write OUT/three.txt", "intervention page OUT"]


def test_another_command_or_other_files_run_again(lab: Lab) -> None:
    text = {"value": "a"}
    spec = lab.out / "spec.yaml"
    first = lab.step("one", files=lambda: {spec: text["value"]})
    run_study(made_up((first,)), lab.out, 1, lab.console)
    assert spec.read_text() == "a"
    text["value"] = "b"
    run_study(made_up((first,)), lab.out, 1, lab.console)
    assert spec.read_text() == "b"
    run_study(made_up((replace(first, command=(*first.command, "more")),)), lab.out, 1, lab.console)
    assert [call for call in lab.calls if call.startswith("write")] == [
        "write OUT/one.txt",
        "write OUT/one.txt",
        "write OUT/one.txt more",
    ]


def test_other_results_draw_the_page_again(lab: Lab) -> None:
    loss = {"value": 1.5}
    study = made_up((lab.step("one"),), lambda out: [row("plain"), row("mean", loss=loss["value"])])
    run_study(study, lab.out, 1, lab.console)
    loss["value"] = 1.25
    run_study(study, lab.out, 1, lab.console)
    assert lab.calls.count("intervention page OUT") == 2
    assert lab.calls.count("write OUT/one.txt") == 1


def test_workers_reach_the_command(lab: Lab) -> None:
    step = lab.step("one")
    run_study(made_up((replace(step, command=(*step.command, "workers={workers}")),)), lab.out, 2, lab.console)
    assert lab.calls[0] == "write OUT/one.txt workers=2"


def test_a_failing_step_says_what_it_printed_and_what_to_do(lab: Lab) -> None:
    study = made_up((lab.step("one"), lab.step("two", "fail"), lab.step("three")))
    with pytest.raises(StudyError) as caught:
        run_study(study, lab.out, 1, lab.console)
    message = str(caught.value)
    for part in ("step two ended with status 3", "it is broken", "logs/two.log", "nmm fail ", "run the same command"):
        assert part in message
    assert not (lab.out / "three.txt").exists()
    (lab.out.parent / "mended").touch()
    assert run_study(study, lab.out, 1, lab.console) == 0
    assert lab.calls.count("write OUT/one.txt") == 1  # it goes on with the step that failed


def test_a_status_may_be_good_enough(lab: Lab) -> None:
    (lab.out / "two.txt").touch()
    study = made_up((lab.step("two", "fail", enough=lambda: True),))
    assert run_study(study, lab.out, 1, lab.console) == 0
    with pytest.raises(StudyError, match="ended with status 3"):
        run_study(made_up((lab.step("other", "fail", enough=lambda: False),)), lab.out, 1, lab.console)


def test_a_step_that_makes_nothing_has_failed(lab: Lab) -> None:
    with pytest.raises(StudyError, match="step one ended well, but .*one.txt is not there"):
        run_study(made_up((lab.step("one", "idle"),)), lab.out, 1, lab.console)


def test_a_killed_step_is_called_killed(lab: Lab) -> None:
    with pytest.raises(StudyError, match="step one was ended by SIGKILL; out of memory"):
        run_study(made_up((lab.step("one", "die"),)), lab.out, 1, lab.console)


def test_a_signal_goes_on_to_the_command_and_the_study_stops(lab: Lab) -> None:
    """The fake `nmm` says when it is ready and who its parent is; the watcher then stops that parent: this process."""
    mark = lab.out.parent / "waiting"
    watcher = (
        "import os, pathlib, signal, sys, time\n"
        "mark = pathlib.Path(sys.argv[1])\n"
        "while not mark.exists() or not mark.read_text(): time.sleep(0.02)\n"
        "os.kill(int(mark.read_text()), signal.SIGTERM)\n"
    )
    kept = signal.getsignal(signal.SIGTERM)
    with subprocess.Popen([sys.executable, "-c", watcher, str(mark)]):
        status = run_study(made_up((lab.step("one", "wait"), lab.step("two"))), lab.out, 1, lab.console)
    assert status == 128 + signal.SIGTERM
    assert mark.read_text() == str(os.getpid())
    assert signal.getsignal(signal.SIGTERM) == kept
    assert lab.calls == ["wait OUT/one.txt"]
    assert "stopped at step one; the same command goes on" in lab.said


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ([row("plain"), {"arm": "mean", "loss": 1.0}], "row 2 of its results lacks seed, n, d, flops, charged"),
        ([row("plain"), row("cruel")], "row 2 of its results: arm 'cruel' is not one of plain, mean"),
        ([row("plain"), row("mean", loss=float("nan"))], "row 2 of its results: loss is nan; leave out"),
        ([row("plain"), row("mean", loss=None)], "row 2 of its results has none of the metrics loss"),
        ([row("plain"), row("mean", charged=-1.0)], "flops=1000000.0 and charged=-1.0 must be numbers >= 0"),
        ([row("plain")], "no results of mean"),
    ],
)
def test_rows_that_are_none(lab: Lab, rows: list[dict[str, Any]], message: str) -> None:
    with pytest.raises(StudyError, match=message):
        check_rows(made_up((lab.step("one"),)), rows)


def test_nothing_is_written_of_bad_rows(lab: Lab) -> None:
    with pytest.raises(StudyError, match="no results of mean"):
        run_study(made_up((lab.step("one"),), lambda out: [row("plain")]), lab.out, 1, lab.console)
    assert not (lab.out / "study.json").exists()
    assert not (lab.out / "results.jsonl").exists()


def test_a_run_that_was_deleted_is_named_and_the_page_is_not_lost(lab: Lab) -> None:
    def collect(out: Path) -> list[dict[str, Any]]:
        return [json.loads((out / "record.json").read_text())]

    with pytest.raises(StudyError, match=r"record.json is not there any more.*nmm intervention page .*out") as caught:
        run_study(made_up((lab.step("one"),), collect), lab.out, 1, lab.console)
    assert f"{lab.out / 'record.json'} is not" in str(caught.value) and str(lab.out / "steps") in str(caught.value)


def test_a_directory_holds_one_study(tmp_path: Path) -> None:
    out = tmp_path / "study"
    busy = pytest.raises(StudyError, match="another `nmm intervention` is at work")
    with workplace(out, "soup", "tiny"), busy, workplace(out, "soup", "tiny"):
        pass
    with workplace(out, "soup", "tiny"):
        pass
    for method, scale in (("filter", "tiny"), ("soup", "cpu")):
        other = pytest.raises(StudyError, match=f"holds the study soup scale=tiny, not {method} scale={scale}")
        with other, workplace(out, method, scale):
            pass


def test_foreign_files_are_left_alone(tmp_path: Path) -> None:
    (tmp_path / "thesis.tex").touch()
    with pytest.raises(StudyError, match="holds other files and no study"), workplace(tmp_path, "soup", "tiny"):
        pass
    with pytest.raises(StudyError, match="is a file"), workplace(tmp_path / "thesis.tex", "soup", "tiny"):
        pass
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.tex"]


def test_the_newest_line_of_a_bar_counts(tmp_path: Path) -> None:
    log = tmp_path / "a.log"
    log.write_bytes(b"first\n\n10 %\r50 %\r100 %\n  \nlast \xff\n")
    assert last_lines(log, 2) == ["100 %", "last \ufffd"]
    assert last_lines(log, 9) == ["first", "100 %", "last \ufffd"]
