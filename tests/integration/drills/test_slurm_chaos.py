"""Everything at once: processes killed, a task requeued and the controller restarted while a sweep runs."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest
from lab import ROOT, child_environment

pytestmark = pytest.mark.slurm
EVENTS = {"kills": 3, "requeues": 1, "restarts": 1}


def test_every_record_of_a_disturbed_sweep_is_that_of_a_calm_one() -> None:
    """benchmarks/chaos.py on twelve runs; by itself it takes sixty and thirty-one events."""
    amounts = [f"--{name}={count}" for name, count in EVENTS.items()]
    command = [sys.executable, str(ROOT / "benchmarks" / "chaos.py"), "--runs=12", "--json", *amounts]
    done = subprocess.run(command, env=child_environment(), capture_output=True, text=True, timeout=900)
    assert done.returncode == 0, done.stdout + done.stderr
    found = json.loads(done.stdout)
    assert found["runs"] == 12
    assert found["wrong"] == []
    assert found["alarms"] == 0
    assert sum(found["injected"].values()) == sum(EVENTS.values()), done.stderr
    assert found["attempts"] > found["runs"]
