"""A sweep on a private SLURM cluster while its processes are killed, its tasks requeued and its controller restarted.

    python benchmarks/chaos.py [--runs 60] [--kills 20] [--requeues 10] [--restarts 1] [--seed 0] [--keep DIR] [--json]

The same sweep first runs calmly on this machine. `nmm sweep launch DIR launcher=slurm`, again and again, is all that
brings the disturbed one to its end. Then every record must be there and its result, final weights included, must equal
the calm run's bit for bit. --seed decides the targets and the order; what a process is doing when it is hit is up to
the machine. Needs Debian's slurmctld, slurmd and slurm-client. Ends with exit code 1 if anything is not as it must be.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT / "tests"), str(ROOT)]

from _chaos_outcome import CHECKPOINT_EVERY, Outcome, outcome, rows, show  # noqa: E402
from slurm_lab import Cluster, missing, slurm_cluster  # noqa: E402

from nmm.data.shards import write_shards  # noqa: E402
from nmm.data.world import WorldConfig  # noqa: E402
from nmm.record import attempts, is_alive, owner  # noqa: E402
from sweeps import manifest  # noqa: E402

SOURCES = ("caption", "interleaved", "text")
POINTS = 3  # of a trunk
TOKENS = [61_440, 81_920, 102_400]  # a trunk of 150 steps, branches of 30 to 50: about a second each
LAUNCH_EVERY_SECONDS = 10.0
LIMIT_SECONDS = 3600.0
WORKERS = (b"sweeps.worker", b"sweeps.commands")


@dataclass
class Chaos:
    """The disturbed sweep, and what was done to it."""

    slurm: Cluster
    directory: Path
    runs: list[str]
    rng: random.Random
    began: float = field(default_factory=time.monotonic)
    injected: Counter[str] = field(default_factory=Counter)
    launches: Counter[int] = field(default_factory=Counter)

    def say(self, text: str) -> None:
        """One line of the story, on stderr."""
        print(
            f"{time.monotonic() - self.began:6.1f} s  {len(self.done()):3d} done  {text}", file=sys.stderr, flush=True
        )

    def done(self) -> list[str]:
        """Runs with a record."""
        return [run for run in self.runs if (self.directory / run / "record.json").exists()]

    # ------------------------------------------------------------------------------------------------------------------
    # what is done to it

    def inject(self, event: str) -> bool:
        """Do it now if there is anything to do it to."""
        match event:
            case "kill of a training":
                happened = self._kill(self._training())
            case "kill of any process":
                happened = self._kill([pid for pid in self.slurm.processes() if _is_ours(pid)])
            case "requeue":
                happened = self._requeue()
            case _:
                happened = self._restart_controller()
        self.injected[event] += happened
        return happened

    def _kill(self, pids: list[int]) -> bool:
        if not pids:
            return False
        pid = self.rng.choice(sorted(pids))
        what = _command(pid).replace(b"\0", b" ").decode(errors="replace")
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
            self.say(f"killed {pid}: {what[:100]}")
            return True
        return False

    def _training(self) -> list[int]:
        """Processes in the midst of a run of this sweep."""
        newest = [made[-1] for run in self.runs if (made := attempts(self.directory / run))]
        busy = [path for path in newest if is_alive(path) and rows(path)]
        owners = [whose["pid"] for path in busy if (whose := owner(path)) is not None]
        return sorted(set(owners) & set(self.slurm.processes()))

    def _requeue(self) -> bool:
        shown = self.slurm.run("squeue", "-h", "-r", "-t", "R", "-o", "%i").stdout.split()
        if not shown:
            return False
        task = self.rng.choice(sorted(shown))
        happened = self.slurm.run("scontrol", "requeue", task).returncode == 0
        self.say(f"requeued {task}" if happened else f"{task} was over before it could be requeued")
        return happened

    def _restart_controller(self) -> bool:
        self.slurm.kill_controller()
        self.say("killed the controller")
        self.launch()  # must fail, and harm nothing
        self.slurm.start_controller()
        self.say("started the controller")
        return True

    # ------------------------------------------------------------------------------------------------------------------
    # what brings it to its end

    def launch(self) -> None:
        """The reconciler, once."""
        options = ["launcher=slurm", "slurm.chunk=8s", "slurm.time=1:00:00", "slurm.attempts=10"]
        done = self.slurm.run(*NMM, "sweep", "launch", str(self.directory), *options, seconds=300)
        self.launches[done.returncode] += 1
        said = (done.stdout + done.stderr).strip().splitlines()
        self.say(f"launch ended with {done.returncode}: {said[-1] if said else ''}")

    def run(self, events: list[str]) -> None:
        """Launch until all is done; the events come as the sweep advances, the last when half of it is done."""
        due = [0.5 * len(self.runs) * number / len(events) for number in range(len(events))]
        next_launch = 0.0
        while len(done := self.done()) < len(self.runs):
            if time.monotonic() >= next_launch:
                self.slurm.repair()
                self.launch()
                next_launch = time.monotonic() + LAUNCH_EVERY_SECONDS
            if events and len(done) >= due[-len(events)] and self.inject(events[0]):
                events.pop(0)
            if time.monotonic() - self.began > LIMIT_SECONDS:
                raise SystemExit(f"not done after {LIMIT_SECONDS:.0f} s: {sorted(set(self.runs) - set(done))}")
            time.sleep(self.rng.uniform(0.1, 0.8))
        if events:
            self.say(f"over before {len(events)} events: {events}")


OURS = {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}  # this checkout, one thread
NMM = [sys.executable, "-m", "nmm.cli"]


def _command(pid: int) -> bytes:
    with contextlib.suppress(OSError):
        return Path(f"/proc/{pid}/cmdline").read_bytes()
    return b""


def _is_ours(pid: int) -> bool:
    command = _command(pid)
    return any(name in command for name in WORKERS) and b"python" in command.split(b"\0")[0]


# ---------------------------------------------------------------------------------------------------------------------
# the sweep


def nmm(*arguments: str) -> None:
    """An `nmm` command that must succeed."""
    done = subprocess.run([*NMM, *arguments], env=os.environ | OURS, capture_output=True, text=True)
    if done.returncode:
        raise SystemExit(f"nmm {' '.join(arguments)} ended with {done.returncode}:\n{done.stdout}{done.stderr}")


def plan(out: Path, shards: Path, trunks: int) -> list[str]:
    """Plan the sweep in ``out``; returns its run ids."""
    seeds = ",".join(map(str, range(trunks)))
    trainer = {"compile": "off", "checkpoint_every_steps": CHECKPOINT_EVERY, "log_every_steps": 1}
    grid = [f"tokens={TOKENS}".replace(" ", ""), f"seeds=[{seeds}]"]
    options = [f"trainer.{key}={value}" for key, value in trainer.items()]
    nmm("sweep", "plan", "sweep=tiny", f"out={out}", f"data.path={shards}", *grid, *options)
    return [entry.run_id for entry in manifest.read(out)]


def calm_sweep(folder: Path, trunks: int) -> float:
    """Make shards and run the sweep undisturbed; returns the seconds it took."""
    counts = {source: {"train": 300, "val": 60} for source in SOURCES}
    write_shards(WorldConfig(num_entities=150, name_words=16), folder / "shards", counts, 128, progress=False)
    plan(folder / "calm", folder / "shards", trunks)
    began = time.monotonic()
    nmm("sweep", "launch", str(folder / "calm"), "workers=2", "pin=off")
    return time.monotonic() - began


@contextlib.contextmanager
def kept_or_not(keep: Path | None) -> Iterator[Path]:
    """``keep``, or a folder that is gone afterwards."""
    if keep is not None:
        keep.mkdir(parents=True)
        yield keep.absolute()
        return
    with tempfile.TemporaryDirectory(prefix="nmm-chaos-") as name:
        yield Path(name)


def measure(arguments: argparse.Namespace, folder: Path) -> Outcome:
    """The calm sweep, the disturbed one, and the comparison."""
    trunks = max(1, arguments.runs // (POINTS + 1))
    calm_seconds = calm_sweep(folder, trunks)
    print(f"the calm sweep took {calm_seconds:.0f} s", file=sys.stderr, flush=True)
    runs = plan(folder / "chaos", folder / "shards", trunks)
    rng = random.Random(arguments.seed)
    kills = ["kill of a training" if number % 2 else "kill of any process" for number in range(arguments.kills)]
    events = [*kills, *["requeue"] * arguments.requeues]
    rng.shuffle(events)
    for _ in range(arguments.restarts):  # in the first half: a launch while there is no controller takes its seconds
        events.insert(rng.randrange(len(events) // 2 + 1), "restart of the controller")
    with slurm_cluster(nodes=arguments.nodes, cpus=arguments.cpus, requeue_seconds=5) as slurm:
        slurm.env |= OURS
        chaos = Chaos(slurm, folder / "chaos", runs, rng)
        chaos.run(events)
        seconds = time.monotonic() - chaos.began
    done = dict(chaos.injected), dict(chaos.launches)
    return outcome(runs, folder / "calm", folder / "chaos", *done, calm_seconds, seconds)


def main() -> int:
    """Run it; 0 if all is as it must be."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=60, help=f"a trunk and its {POINTS} branches count {POINTS + 1}")
    parser.add_argument("--kills", type=int, default=20, help="SIGKILLs, every second one in the midst of training")
    parser.add_argument("--requeues", type=int, default=10)
    parser.add_argument("--restarts", type=int, default=1, help="of the controller, after kill -9")
    parser.add_argument("--nodes", type=int, default=2)
    parser.add_argument("--cpus", type=int, default=1, help="of a node: tasks at a time")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--keep", type=Path, help="leave the run directories here (must not exist)")
    parser.add_argument("--json", action="store_true", help="print one JSON line instead of the table")
    arguments = parser.parse_args()
    if missing():
        parser.error(missing())
    with kept_or_not(arguments.keep) as folder:
        found = measure(arguments, folder)
    print(json.dumps(asdict(found))) if arguments.json else show(found)
    return 0 if found.good else 1


if __name__ == "__main__":
    sys.exit(main())
