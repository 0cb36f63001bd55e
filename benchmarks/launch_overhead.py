"""What launching costs per run, here and on SLURM, and what it costs to ask again for runs that are finished.

    python benchmarks/launch_overhead.py [--runs 40] [--repeats 3] [--no-slurm] [--no-doors]

The runs are empty: a runner that writes a record and trains nothing. Every way is compared, in the same session, with
the same runner called in a bare loop, and with what a user would otherwise take: Hydra's `-m` over an empty function,
and an array of submitit over the same runner. "each" leaves out what a launch costs once: (T(n) - T(n/4)) / (n - n/4).
SLURM is a private cluster on loopback (2 nodes x 4 CPUs declared, this machine's cores in truth); without it that part
is left out with a message.
"""

from __future__ import annotations

import argparse
import os
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
LABS = [str(ROOT / "tests"), str(ROOT / "tests" / "integration")]
sys.path[:0] = [*LABS, str(ROOT)]

from fake_sweep import RUNNER, plan_sweep  # noqa: E402
from slurm_lab import Cluster, missing, slurm_cluster  # noqa: E402

ENVIRONMENT = {**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT), *LABS]), "OMP_NUM_THREADS": "1"}
NMM = [sys.executable, "-m", "nmm.cli"]
WAIT_SECONDS = 600.0

BARE = """\
import sys, time
from pathlib import Path
from fake_sweep import execute
from sweeps import manifest
directory = Path(sys.argv[1])
entries = manifest.read(directory)
began, used = time.monotonic(), time.process_time()
for entry in entries:
    execute(entry.config, directory / entry.run_id)
print(time.monotonic() - began, time.process_time() - used)
"""
HYDRA = """\
import hydra
@hydra.main(config_path=None, version_base="1.3")
def main(config):
    pass
main()
"""
SUBMITIT = """\
import sys, submitit
from pathlib import Path
from fake_sweep import execute
from sweeps import manifest
directory = Path(sys.argv[1])
entries = manifest.read(directory)
executor = submitit.AutoExecutor(folder=directory / ".submitit", cluster="slurm")
executor.update_parameters(timeout_min=10, cpus_per_task=1)
executor.map_array(execute, [e.config for e in entries], [directory / e.run_id for e in entries])
"""


@dataclass(frozen=True)
class Cost:
    """Of one command and its children: wall and processor seconds, and what it printed."""

    wall: float
    processor: float
    out: str


def cost(command: list[str], folder: Path, env: dict[str, str] | None = None) -> Cost:
    """Run a command that must succeed."""
    began, before = time.monotonic(), resource.getrusage(resource.RUSAGE_CHILDREN)
    done = subprocess.run(command, cwd=folder, env=env or ENVIRONMENT, capture_output=True, text=True)
    wall, after = time.monotonic() - began, resource.getrusage(resource.RUSAGE_CHILDREN)
    if done.returncode:
        raise SystemExit(f"{' '.join(command)} failed:\n{done.stdout[-3000:]}\n{done.stderr[-3000:]}")
    used = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return Cost(wall, used, done.stdout)


def planned(folder: Path, runs: int) -> Path:
    """A sweep of ``runs`` empty runs: half of them trunks, the other half a branch of each."""
    folder.mkdir(parents=True)
    entries = plan_sweep(folder / "runs", sizes=["d16"], tokens=[51_200], seeds=list(range(runs // 2)))
    assert len(entries) == runs
    return folder / "runs"


Seconds = tuple[float, float]  # wall, processor


def each(few: Seconds, many: Seconds, runs: int) -> Seconds:
    """Seconds a run, without what is paid once."""
    more = runs - runs // 4
    return (many[0] - few[0]) / more, (many[1] - few[1]) / more


# ----------------------------------------------------------------------------------------------------------------------
# this machine


def bare(folder: Path, runs: int) -> Seconds:
    """The runner's calls alone, in one process."""
    said = cost([sys.executable, "-c", BARE, str(planned(folder / f"bare{runs}", runs))], folder).out
    wall, processor = said.splitlines()[-1].split()  # the runner prints as well
    return float(wall), float(processor)


def launched(folder: Path, runs: int) -> Seconds:
    """`nmm sweep launch` with one worker."""
    sweep = planned(folder / f"launch{runs}", runs)
    found = cost([*NMM, "sweep", "launch", str(sweep), "workers=1", "pin=off", f"runner={RUNNER}"], folder)
    return found.wall, found.processor


def hydra_list(folder: Path, runs: int) -> Seconds:
    """Hydra's own sweeper over an empty function with a config of one field."""
    script = folder / "empty.py"
    script.write_text(HYDRA)
    values = ",".join(map(str, range(runs)))
    options = ["hydra.output_subdir=null", f"hydra.sweep.dir={folder / f'hydra{runs}'}"]
    found = cost([sys.executable, str(script), "-m", f"+x={values}", *options], folder)
    return found.wall, found.processor


def show(name: str, few: Seconds, many: Seconds, runs: int, loop: Seconds) -> None:
    """One line: all of it, each run, and that without the runner's own time."""
    a_run = each(few, many, runs)
    beyond = f"beyond the runner {1e3 * (a_run[0] - loop[0]):6.1f} ms ({1e3 * (a_run[1] - loop[1]):6.1f})"
    print(f"{name:34} {many[0]:7.2f} s for {runs}, each {1e3 * a_run[0]:6.1f} ms ({1e3 * a_run[1]:6.1f}), {beyond}",
          flush=True)  # fmt: skip


def here(folder: Path, runs: int) -> Seconds:
    """The local part; returns the bare runner's seconds a run."""
    print("wall time (in brackets: processor time, which a busy machine does not stretch)")
    ways: dict[str, Callable[[Path, int], Seconds]] = {
        "bare loop over the runner": bare,
        "nmm sweep launch, 1 worker": launched,
        "Hydra -m, an empty function": hydra_list,
    }
    found = {name: (way(folder, runs // 4), way(folder, runs)) for name, way in ways.items()}
    loop = each(*found["bare loop over the runner"], runs)
    for name, (few, many) in found.items():
        show(name, few, many, runs, (0.0, 0.0) if "Hydra" in name else loop)
    ours, theirs = (each(*found[name], runs) for name in list(ways)[1:])
    ratios = [theirs[clock] / (ours[clock] - loop[clock]) for clock in (0, 1)]
    print(f"Hydra's overhead a run is {ratios[0]:.1f} x ({ratios[1]:.1f} x) that of nmm sweep launch", flush=True)
    return loop


# ----------------------------------------------------------------------------------------------------------------------
# SLURM


def wait_until(condition: Callable[[], bool], what: str) -> None:
    """Poll often enough not to be seen in the figures. Raises ``SystemExit`` after ten minutes."""
    deadline = time.monotonic() + WAIT_SECONDS
    while not condition():
        if time.monotonic() > deadline:
            raise SystemExit(f"waited {WAIT_SECONDS:.0f} s for {what}")
        time.sleep(0.05)


def on_slurm(cluster: Cluster, folder: Path, runs: int, chunk: str) -> tuple[float, float]:
    """Seconds until `nmm sweep launch launcher=slurm` has returned, and until every run has a record."""
    sweep = planned(folder / f"slurm-{chunk}-{runs}", runs)
    options = ["launcher=slurm", f"slurm.chunk={chunk}", f"runner={RUNNER}"]
    began = time.monotonic()
    submitted = cost([*NMM, "sweep", "launch", str(sweep), *options], folder, cluster.env | _python()).wall
    wait_until(lambda: len(list(sweep.glob("*/record.json"))) == runs, f"{runs} records in {sweep}")
    return submitted, time.monotonic() - began


def by_submitit(cluster: Cluster, folder: Path, runs: int) -> tuple[float, float]:
    """The same of an array of submitit, one job for each run and none waiting for another."""
    sweep = planned(folder / f"submitit{runs}", runs)
    began = time.monotonic()
    submitted = cost([sys.executable, "-c", SUBMITIT, str(sweep)], folder, cluster.env | _python()).wall
    wait_until(lambda: len(list(sweep.glob("*/record.json"))) == runs, f"{runs} records in {sweep}")
    return submitted, time.monotonic() - began


def _python() -> dict[str, str]:
    return {name: ENVIRONMENT[name] for name in ("PYTHONPATH", "OMP_NUM_THREADS")}


def jobs_a_second(cluster: Cluster, runs: int) -> tuple[float, float]:
    """Jobs accepted per second: one array of ``runs`` tasks, and one sbatch for each."""
    began = time.monotonic()
    array = cluster.submit(f"--array=0-{runs - 1}", "--hold", "--output=/dev/null", "--wrap", "true")
    whole = time.monotonic() - began
    began = time.monotonic()
    single = [cluster.submit("--hold", "--output=/dev/null", "--wrap", "true") for _ in range(runs)]
    one_by_one = time.monotonic() - began
    cluster.ask("scancel", array, *single)
    return runs / whole, runs / one_by_one


def over_there(folder: Path, runs: int, loop: float) -> Path | None:
    """The SLURM part, all of it wall time; returns the finished sweep that was packed into tasks."""
    if missing():
        print(f"SLURM part left out: {missing()}")
        return None
    with slurm_cluster(nodes=2, cpus=4) as cluster:
        whole, one_by_one = jobs_a_second(cluster, runs)
        print(f"accepted: {whole:.0f} jobs/s as one array, {one_by_one:.0f} jobs/s by an sbatch for each: "
              f"{whole / one_by_one:.0f} x", flush=True)  # fmt: skip
        ways: dict[str, Callable[[], tuple[float, float]]] = {
            "nmm, packed into tasks": lambda: on_slurm(cluster, folder, runs, "30min"),
            "nmm, a task for each run": lambda: on_slurm(cluster, folder, runs, "1s"),
            "submitit, an array": lambda: by_submitit(cluster, folder, runs),
        }
        found = {name: way() for name, way in ways.items()}
        for name, (submitted, done) in found.items():
            beyond = done / runs - loop
            print(f"{name:34} submitted in {submitted:5.1f} s, all {runs} done after {done:6.1f} s, beyond the runner "
                  f"{1e3 * beyond:6.1f} ms a run", flush=True)  # fmt: skip
        packed, single, theirs = (done for _, done in found.values())
        print(f"submitit takes {theirs / packed:.1f} x as long as packed tasks, {theirs / single:.1f} x as long as a "
              "task for each run", flush=True)  # fmt: skip
    return folder / f"slurm-30min-{runs}" / "runs"


# ----------------------------------------------------------------------------------------------------------------------
# finished runs


def doors(folder: Path, repeats: int, submitted: Path | None) -> None:
    """What it costs to ask again for one finished run, by door (chunk: for a whole finished chunk of ``submitted``)."""
    from lab import write_tiny_shards

    few = ["size=d16", "data.eval_rows=4", "trainer.compile=off", "schedule.warmup_steps=2", "budget.steps=2"]
    run = [*few, "seed=0", f"data.path={write_tiny_shards(folder / 'tiny')}", f"out={folder / 'doors'}"]
    cost([*NMM, "train", "-m", "hydra/launcher=submitit_local", *run], folder)
    (job,) = [path for path in (folder / "doors" / ".submitit").iterdir() if path.name.isdigit()]
    sweep = planned(folder / "finished", 2)
    cost([*NMM, "sweep", "launch", str(sweep), "workers=1", "pin=off", f"runner={RUNNER}"], folder)
    commands = {
        "nmm train": [*NMM, "train", *run],
        "nmm train -m": [*NMM, "train", "-m", *run],
        "nmm train -m, joblib": [*NMM, "train", "-m", "hydra/launcher=joblib", *run],
        "nmm train -m, submitit": [*NMM, "train", "-m", "hydra/launcher=submitit_local", *run],
        "the job of submitit": [sys.executable, "-m", "submitit.core._submit", str(job)],
        "nmm sweep launch": [*NMM, "sweep", "launch", str(sweep)],
        "(python alone)": [sys.executable, "-c", "pass"],
    }
    if submitted is not None:
        commands["nmm sweep chunk"] = [*NMM, "sweep", "chunk", str(submitted), "--submission", "1", "--index", "0"]
    env = ENVIRONMENT | {"SUBMITIT_EXECUTOR": "local", "SUBMITIT_LOCAL_JOB_ID": job.name}
    found = {
        name: min((cost(command, folder, env) for _ in range(repeats)), key=lambda c: c.processor)
        for name, command in commands.items()
    }
    for name, best in found.items():
        print(f"finished run, {name:24} {best.wall:6.2f} s wall, {best.processor:5.2f} s processor", flush=True)


def main() -> None:
    """Print every part."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=40)
    parser.add_argument("--repeats", type=int, default=3, help="of finished runs; the best is shown")
    parser.add_argument("--no-slurm", action="store_true")
    parser.add_argument("--no-doors", action="store_true")
    arguments = parser.parse_args()
    if arguments.runs < 8 or arguments.runs % 8:
        parser.error("--runs must be a multiple of 8: a quarter of them, and trunks and branches of each")
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        loop = here(folder, arguments.runs)
        submitted = None if arguments.no_slurm else over_there(folder, arguments.runs, loop[0])
        if not arguments.no_doors:
            doors(folder, arguments.repeats, submitted)


if __name__ == "__main__":
    main()
