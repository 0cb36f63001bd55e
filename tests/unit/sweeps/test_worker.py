from __future__ import annotations

import errno
import io
import json
import subprocess
import sys
from pathlib import Path

import pytest

from nmm.config import ConfigError, to_dict
from sweeps.pool import split_cores
from sweeps.worker import load_runner, run_job, summarize


def job(entries) -> dict:
    return {"run_id": entries[0].run_id, "config": to_dict(entries[0].config), "directory": "/somewhere"}


def test_a_job_becomes_one_event(entries) -> None:
    seen = []

    def runner(config, directory):
        seen.append((config, directory))
        return {"status": "done"}

    event = run_job(runner, job(entries))
    assert seen == [(entries[0].config, Path("/somewhere"))]
    assert event.pop("seconds") >= 0
    assert event == {"event": "done", "run_id": entries[0].run_id, "status": "done"}


def test_a_crash_is_reported_in_one_line_with_its_place(entries, capsys) -> None:
    def runner(config, directory):
        raise ValueError("first line\nsecond line")

    event = run_job(runner, job(entries))
    assert event["event"] == "failed"
    assert event["error"].startswith("ValueError: first line (test_worker.py:")
    assert "second line" in capsys.readouterr().err


@pytest.mark.parametrize("stop", [SystemExit, KeyboardInterrupt])
def test_a_stop_is_not_a_crash(entries, stop) -> None:
    def runner(config, directory):
        raise stop

    assert run_job(runner, job(entries))["event"] == "interrupted"


class FullDisk(io.StringIO):
    def write(self, text: str) -> int:
        raise OSError(errno.ENOSPC, "No space left on device")


def test_a_log_on_a_full_disk_is_not_the_run_s_error(entries, monkeypatch) -> None:
    def runner(config, directory):
        raise ValueError("the run's own error")

    monkeypatch.setattr(sys, "stderr", FullDisk())
    event = run_job(runner, job(entries))
    assert event["event"] == "failed" and "the run's own error" in event["error"]


def test_summaries_of_odd_exceptions() -> None:
    assert summarize(KeyError("k")) == "KeyError: 'k'"
    assert summarize(RuntimeError()) == "RuntimeError"


def test_a_runner_is_named_by_module_and_function() -> None:
    assert load_runner("json:loads") is json.loads
    with pytest.raises(ValueError, match="package.module:function"):
        load_runner("json.loads")
    with pytest.raises(ModuleNotFoundError):
        load_runner("no_such_module:f")


def test_cores_are_split_without_overlap() -> None:
    assert split_cores(None, 1, [3, 5]) == [[3], [5]]
    assert split_cores(2, 2, [0, 1, 2, 3]) == [[0, 1], [2, 3]]
    assert split_cores(None, 4, [0, 1]) == [[0, 1]]
    assert split_cores(1, 4, [0, 1]) == [[0, 1]]


def test_more_workers_than_cores_are_refused_with_the_way_out() -> None:
    with pytest.raises(ConfigError, match="workers=3 of 1 threads each need 3 cores.*workers=2, or pin=off"):
        split_cores(3, 1, [0, 1])
    with pytest.raises(ConfigError, match="at least 1"):
        split_cores(0, 1, [0, 1])


def test_a_launch_loads_neither_hydra_nor_torch() -> None:
    """Nothing that reads conf/ runs after planning, and workers start before torch is needed."""
    code = "import sys, sweeps.launch, sweeps.worker, sweeps.chunk, sweeps.status\nprint([m for m in sys.modules])"
    loaded = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert "'sweeps.worker'" in loaded
    for heavy in ("'torch'", "'lightning'", "'hydra'", "'pandas'"):
        assert heavy not in loaded
