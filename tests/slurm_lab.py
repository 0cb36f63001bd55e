"""A private SLURM cluster on loopback: one controller and several "nodes" on this host, up in about a second.

    with slurm_cluster(nodes=2, cpus=4) as slurm:
        job = slurm.submit("--array=0-7%2", "--wrap", "true")
        slurm.wait(job, {"COMPLETED"}, 60)

Nothing outside a temporary folder is read or written: no /etc/slurm, no munge, no systemd, and no root needed. All is
stopped by PID, by a guard when this process dies: slurmstepd would outlive it for ever. Standard library only.
"""

from __future__ import annotations

import contextlib
import getpass
import os
import random
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeVar

ENDED = frozenset({"COMPLETED", "FAILED", "CANCELLED", "TIMEOUT", "NODE_FAIL", "OUT_OF_MEMORY"})
PACKAGES = "slurmctld slurmd slurm-client"
SYSTEM = "/usr/sbin:/usr/local/sbin:/usr/bin"  # where Debian puts the daemons, which is not on every user's PATH
NODE = "SLURM_LAB_NODE"
T = TypeVar("T")
PORTS = range(10_000, 32_000)  # below the ports that the kernel hands to clients
CONF = """\
ClusterName=lab
SlurmctldHost={host}(127.0.0.1)
SlurmUser={user}
SlurmdUser={user}
AuthType=auth/none
AuthInfo=cred_expire={requeue_seconds}
CredType=cred/none
SlurmctldPort={port}
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool-%n
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd-%n.pid
SlurmctldLogFile={folder}/slurmctld.log
SlurmdLogFile={folder}/slurmd-%n.log
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
MpiDefault=none
SwitchType=switch/none
SlurmdParameters=config_overrides
SelectType=select/cons_tres
SelectTypeParameters=CR_CPU_Memory
DefMemPerCPU=100
SchedulerParameters=sched_interval=1,bf_interval=1,sched_min_interval=0,batch_sched_delay=0
SlurmdTimeout=5
MessageTimeout=5
KillWait=20
MinJobAge=3600
ReturnToService=2
JobRequeue=1
"""
GRACE_SECONDS = 30  # what jobs of "low" get to save when one of "high" pushes them out
PREEMPTION = (f"low Default=YES PriorityTier=1 GraceTime={GRACE_SECONDS}", "high PriorityTier=2")
PREEMPTION_CONF = ("PreemptType=preempt/partition_prio", "PreemptMode=REQUEUE")


def missing() -> str:
    """Why there can be no cluster here; "" when there can."""
    absent = [name for name in ("slurmctld", "slurmd", "sbatch", "srun", "squeue", "scontrol") if not _tool(name)]
    return f"{', '.join(absent)} not installed: apt-get install {PACKAGES}" if absent else ""


def _tool(name: str) -> str | None:
    return shutil.which(name, path=f"{os.environ.get('PATH', '')}:{SYSTEM}")


@dataclass
class Cluster:
    """A running cluster. ``env`` is the environment in which sbatch, squeue and scontrol talk to it."""

    folder: Path
    env: dict[str, str]
    nodes: tuple[str, ...] = ()
    daemons: dict[str, subprocess.Popen[bytes]] = field(default_factory=dict)

    def run(self, *command: str, seconds: float = 60.0) -> subprocess.CompletedProcess[str]:
        """Run a command in the cluster's environment; its status is left to the caller."""
        return subprocess.run(command, env=self.env, cwd=self.folder, capture_output=True, text=True, timeout=seconds)

    def ask(self, *command: str) -> str:
        """Standard output of a command that must succeed. Raises ``AssertionError`` with what it said."""
        done = self.run(*command)
        assert done.returncode == 0, f"{' '.join(command)}: {done.stderr}{done.stdout}"
        return done.stdout.strip()

    def submit(self, *arguments: str) -> str:
        """``sbatch`` with these arguments; returns the job's id. Standard output goes to FOLDER/<job>.out."""
        output = () if any(a.startswith(("--output", "-o")) for a in arguments) else (f"--output={self.folder}/%j.out",)
        return self.ask("sbatch", "--parsable", *output, *arguments)

    def states(self, job: str) -> dict[str, str]:
        """Task -> long state (``"RUNNING"``), of a job, an array (each of its tasks) or one task ``"4_3"``."""
        lines = self.ask("squeue", "-h", "-r", "-t", "all", "-j", job, "-o", "%i %T").splitlines()
        return dict(line.split() for line in lines)

    def state(self, task: str) -> str:
        """Long state of one job or task."""
        return self.states(task)[task]

    def wait(self, job: str, states: Collection[str] = ENDED, seconds: float = 60.0) -> dict[str, str]:
        """Wait until every task of the job is in one of ``states``; returns them."""

        def reached() -> dict[str, str]:
            found = self.states(job)
            return found if found and set(found.values()) <= set(states) else {}

        return until(reached, f"job {job} to be {'/'.join(sorted(states))}", seconds, lambda: str(self.states(job)))

    def start_now(self, task: str) -> None:
        """Wait until a requeued task is back in the queue, and shorten its hold (``requeue_seconds``) to 2 s.

        One that starts in the second in which it ended is refused by slurmd: its credential was revoked then.
        """
        until(lambda: self.state(task) == "PENDING", f"{task} to be back in the queue", 60, lambda: self.state(task))
        self.ask("scontrol", "update", f"JobId={task}", "StartTime=now+2")

    def start_controller(self) -> None:
        """Start slurmctld on the state that is there, and wait until it answers."""
        self._start("slurmctld", "slurmctld")
        until(lambda: "UP" in self.run("scontrol", "ping").stdout, "slurmctld", 15, lambda: self._log("slurmctld"))

    def kill_controller(self) -> None:
        """SIGKILL slurmctld."""
        self._stop("slurmctld", signal.SIGKILL)

    def start_node(self, *names: str) -> None:
        """Start the slurmd of these nodes, and wait until the controller counts on them."""
        for name in names:
            self._start(name, "slurmd", "-N", name)

        def up() -> bool:
            shown = self.run("sinfo", "-h", "-N", "-n", ",".join(names), "-o", "%N %T").stdout.split()
            return set(names) <= set(shown[::2]) and set(shown[1::2]) <= {"idle", "mixed", "allocated"}

        until(up, f"nodes {', '.join(names)} to come up", 30, lambda: "".join(self._log(name) for name in names))

    def repair(self) -> None:
        """What an administrator does when a controller has come back without the last seconds of its state.

        It may have sent a task to a node that still runs it: the node is drained for that, and the task held.
        """
        for line in self.ask("sinfo", "-h", "-N", "-o", "%N %T").splitlines():
            node, state = line.split()
            if state.startswith("drain"):
                self.ask("scontrol", "update", f"NodeName={node}", "State=RESUME")
        for line in self.ask("squeue", "-h", "-r", "-t", "PD", "-o", "%i %r").splitlines():
            task, _, reason = line.partition(" ")
            if "held" in reason.lower():
                self.ask("scontrol", "release", task)

    def kill_slurmd(self, node: str) -> None:
        """SIGKILL only the slurmd of a node: its jobs live on, unseen by the controller."""
        self._stop(node, signal.SIGKILL)

    def kill_node(self, node: str) -> None:
        """SIGKILL slurmd, slurmstepd and every process of every job there, as a power cut does."""
        self.kill_slurmd(node)
        until(lambda: not kill(self.processes(node)), f"everything on {node} to be dead", 10)

    def processes(self, node: str = "") -> list[int]:
        """PIDs on the nodes (on one node) without slurmd itself: each slurmstepd and what runs below it."""
        conf = f"SLURM_CONF={self.folder}/slurm.conf".encode()
        on = [
            f"{key}={name}".encode() for name in ([node] if node else self.nodes) for key in (NODE, "SLURMD_NODENAME")
        ]
        daemons = {daemon.pid for daemon in self.daemons.values()}
        ours = ((pid, environ) for pid, environ in _environments() if pid not in daemons and conf in environ)
        return sorted(pid for pid, environ in ours if not environ.isdisjoint(on))

    def stop(self) -> None:
        """Cancel what is left, then stop the daemons by PID. Leaves no process behind."""
        if "slurmctld" in self.daemons:
            with contextlib.suppress(subprocess.TimeoutExpired):
                self.run("scancel", "--user", getpass.getuser(), seconds=10)
            deadline = time.monotonic() + 6
            while self.run("squeue", "-h", "-t", "R,CG").stdout and time.monotonic() < deadline:
                time.sleep(0.02)
        self._stop("slurmctld", signal.SIGKILL)  # its state is thrown away, and SIGTERM takes it 3 s
        for name in self.nodes:
            self._stop(name, signal.SIGTERM)
        until(lambda: not kill(self.processes()), "the jobs of the cluster to be dead", 10)

    def _start(self, name: str, program: str, *arguments: str) -> None:
        command = [_tool(program) or program, "-D", "-f", str(self.folder / "slurm.conf"), *arguments]
        with open(self.folder / f"{name}.stderr", "ab") as errors:
            self.daemons[name] = subprocess.Popen(
                command, env=self.env | {NODE: name}, cwd=self.folder, start_new_session=True,
                stdin=subprocess.DEVNULL, stdout=errors, stderr=errors,
            )  # fmt: skip

    def _stop(self, name: str, signum: signal.Signals) -> None:
        daemon = self.daemons.pop(name, None)
        if daemon is None:
            return
        daemon.send_signal(signum)
        try:
            daemon.wait(timeout=3)
        except subprocess.TimeoutExpired:  # slurmd goes on telling a dead controller about its jobs
            daemon.kill()
            daemon.wait(timeout=10)

    def _log(self, name: str) -> str:
        files = [self.folder / f"{name}.stderr", *self.folder.glob(f"*{name}.log")]
        return "\n".join(file.read_text(errors="replace")[-2000:] for file in files if file.exists())


@contextlib.contextmanager
def slurm_cluster(
    nodes: int = 2,
    cpus: int = 4,
    partitions: Sequence[str] = ("main Default=YES",),
    conf: Sequence[str] = (),
    requeue_seconds: int = 10,
) -> Iterator[Cluster]:
    """A cluster of ``nodes`` nodes with ``cpus`` CPUs each, whatever this machine has; stopped at the end.

    ``partitions``: a name and its options each (see ``PREEMPTION``). ``conf``: more lines for slurm.conf.
    ``requeue_seconds``: how long SLURM holds back a requeued job (120 on a real cluster).
    """
    folder = Path(tempfile.mkdtemp(prefix="nmm-slurm-"))
    slurm = Cluster(folder, _environment(folder))
    command = [sys.executable, __file__, str(folder)]
    guard = subprocess.Popen(command, stdin=subprocess.PIPE, start_new_session=True)
    try:
        for tries_left in reversed(range(3)):
            slurm.nodes = _write_conf(folder, nodes, cpus, partitions, conf, requeue_seconds)
            try:
                slurm.start_controller()
                slurm.start_node(*slurm.nodes)
                break
            except AssertionError as error:  # another process took one of the ports in between
                slurm.stop()
                if not tries_left or "Address already in use" not in str(error):
                    raise
        yield slurm
    finally:
        slurm.stop()
        guard.communicate(timeout=20)


def _environment(folder: Path) -> dict[str, str]:
    """This process's own, without what an outer SLURM job has put there."""
    kept = {key: value for key, value in os.environ.items() if not key.startswith(("SLURM", "SBATCH", "SQUEUE"))}
    return kept | {"SLURM_CONF": str(folder / "slurm.conf"), "PATH": f"{os.environ.get('PATH', '')}:{SYSTEM}"}


def _write_conf(
    folder: Path, nodes: int, cpus: int, partitions: Sequence[str], conf: Sequence[str], requeue_seconds: int
) -> tuple[str, ...]:
    names = tuple(f"n{number}" for number in range(1, nodes + 1))
    for name in ("state", *(f"spool-{node}" for node in names)):
        (folder / name).mkdir(exist_ok=True)
    host = socket.gethostname().partition(".")[0]
    controller, *ports = free_ports(nodes + 1)
    values = {"host": host, "user": getpass.getuser(), "folder": folder, "requeue_seconds": requeue_seconds}
    lines = [CONF.format(port=controller, **values), *conf]
    for name, port in zip(names, ports, strict=True):
        address = f"NodeHostname={host} NodeAddr=127.0.0.1 Port={port}"
        lines.append(f"NodeName={name} {address} CPUs={cpus} RealMemory={cpus * 4000} State=UNKNOWN")
    lines += [f"PartitionName={partition} Nodes=ALL MaxTime=INFINITE State=UP" for partition in partitions]
    (folder / "slurm.conf").write_text("\n".join(lines) + "\n")
    return names


def free_ports(count: int) -> list[int]:
    """Different loopback ports on which nobody listens."""
    found: list[int] = []
    while len(found) < count:
        port = random.SystemRandom().choice(PORTS)
        with socket.socket() as tried, contextlib.suppress(OSError):
            tried.bind(("127.0.0.1", port))
            found += [port] if port not in found else []
    return found


def until(condition: Callable[[], T], what: str, seconds: float, more: Callable[[], str] = lambda: "") -> T:
    """Poll until the condition holds, and return its value. Raises ``AssertionError`` with ``more()`` at the limit."""
    deadline = time.monotonic() + seconds
    while True:
        value = condition()
        if value:
            return value
        if time.monotonic() > deadline:
            raise AssertionError(f"waited {seconds:.0f} s for {what}; {more()}")
        time.sleep(0.05)


def kill(pids: Collection[int]) -> Collection[int]:
    """SIGKILL these processes; returns them."""
    for pid in pids:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
    return pids


def _environments() -> Iterator[tuple[int, set[bytes]]]:
    """PID and environment of every process of this user that still runs."""
    for entry in Path("/proc").iterdir():
        with contextlib.suppress(OSError):
            if entry.name.isdigit():
                yield int(entry.name), set((entry / "environ").read_bytes().split(b"\0"))


def _guard(folder: str) -> None:
    """Wait until the process that made the cluster is done or dead, end what is left of it, and remove its folder."""
    for signum in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(signum, signal.SIG_IGN)
    sys.stdin.read()
    conf = f"SLURM_CONF={folder}/slurm.conf".encode()
    until(lambda: not kill([pid for pid, environ in _environments() if conf in environ]), "the cluster to be dead", 10)
    shutil.rmtree(folder, ignore_errors=True)


if __name__ == "__main__":
    _guard(sys.argv[1])
