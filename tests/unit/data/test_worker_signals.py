"""What a scheduler sends to every process of a run must not cost it its data workers."""

from __future__ import annotations

import os
import signal
import subprocess
import sys

import pytest
from lab import child_environment

CODE = """
import os, signal, sys, time
from nmm.data.worker_signals import leave_signals_to_parent
child = os.fork()
if child == 0:
    leave_signals_to_parent()
    print("ready", flush=True)
    time.sleep(60)
    os._exit(9)
sys.stdin.readline()
os.kill(child, signal.SIGTERM)
print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), flush=True)
"""


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGUSR1, signal.SIGUSR2, signal.SIGINT])
def test_a_worker_outlives_a_signal_to_all_and_obeys_its_parent(number: signal.Signals) -> None:
    pipe = subprocess.PIPE
    with subprocess.Popen(
        [sys.executable, "-c", CODE], stdin=pipe, stdout=pipe, text=True, env=child_environment()
    ) as parent:
        assert parent.stdin is not None and parent.stdout is not None
        assert parent.stdout.readline() == "ready\n"
        with open(f"/proc/{parent.pid}/task/{parent.pid}/children") as file:
            (worker,) = map(int, file.read().split())
        os.kill(worker, number)
        parent.stdin.write("end it\n")
        parent.stdin.flush()
        assert parent.stdout.readline() == "0\n", "it was killed by the signal, or did not hear its parent"
