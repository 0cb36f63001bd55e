"""Hydra's own sweeper for `nmm train -m`, with three differences.

Every run of the list is checked before the first one starts; finished runs are not launched at all; and a run that ends
badly, or takes its process along, ends no other: the list goes on, and its end names what did not finish.
(Hydra takes sweepers from the package ``hydra_plugins`` only.)
"""

from __future__ import annotations

import contextlib
import os
import signal
import sys
from collections.abc import Iterator
from pathlib import Path
from types import FrameType
from typing import Any, NamedTuple, cast

from hydra._internal.core_plugins.basic_sweeper import BasicSweeper
from hydra.core.config_store import ConfigStore
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.utils import JobReturn
from omegaconf import DictConfig

from nmm import doors
from nmm.config import ConfigError, run_id
from nmm.record import read_record, status

# Unless given on the command line: a job goes back into the queue at its time limit as often as array.sbatch does,
# and a process on this machine has no time limit.
DEFAULTS = {"SlurmLauncher": {"max_num_timeout": 20}, "LocalLauncher": {"timeout_min": 7 * 24 * 60}}

ConfigStore.instance().store(
    group="hydra/sweeper",
    name="nmm",
    node={"_target_": "hydra_plugins.nmm_sweeper.Sweeper", "max_batch_size": None, "params": None},
    provider="nmm",
)


class _Run(NamedTuple):  # a dataclass would look for its module, which Hydra has not registered yet while it loads it
    overrides: list[str]
    directory: Path


class Sweeper(BasicSweeper):
    """See the head of this file."""

    def setup(self, *, hydra_context: Any, task_function: Any, config: DictConfig) -> None:
        """Hydra's, with ``DEFAULTS`` for what the command line leaves open."""
        given = {override.partition("=")[0].lstrip("+") for override in config.hydra.overrides.hydra}
        name = str(config.hydra.launcher._target_).rpartition(".")[2]
        for key, value in DEFAULTS.get(name, {}).items():
            if f"hydra.launcher.{key}" not in given:
                config.hydra.launcher[key] = value
        super().setup(hydra_context=hydra_context, task_function=task_function, config=config)
        self.kind = name

    def sweep(self, arguments: list[str]) -> None:
        """Run the list. Leaves the process with the status of ``nmm.doors.end_list``, unless that is 0."""
        runs = self._runs(arguments)
        waiting = [run for run in runs if not _said(run)]
        said: dict[str, doors.Outcome] = {}
        try:
            for start in range(0, len(waiting), self.max_batch_size or len(waiting) or 1):
                self._launch(waiting[start : start + (self.max_batch_size or len(waiting))], start, said)
        finally:  # a signal as well: SystemExit goes on from here with its own status
            if "Basic" not in self.kind and "Joblib" not in self.kind:
                for run in waiting:  # their closing lines are in a log of submitit
                    _said(run)
            status = doors.end_list([said.get(run.directory.name) or doors.outcome(run.directory) for run in runs])
        if status:
            raise SystemExit(status)

    def _runs(self, arguments: list[str]) -> list[_Run]:
        """All runs of the list, each composed and checked. Raises ``ConfigError`` and what reading the data raises."""
        from nmm.train import settle  # it imports this file's package, by way of Hydra

        assert self.hydra_context is not None and self.config is not None
        loader = self.hydra_context.config_loader
        overrides = OverridesParser.create(config_loader=loader).parse_overrides([*self._parse_config(), *arguments])
        runs = []
        for batch in self.split_arguments(overrides, None):
            for one in batch:
                config = settle(loader.load_sweep_config(self.config, list(one)))
                if config.trainer.world_size > 1:
                    raise ConfigError(
                        f"-m with trainer.devices={config.trainer.devices} x trainer.num_nodes="
                        f"{config.trainer.num_nodes}: every rank would start the whole list again; use 1 x 1, or one "
                        "`nmm train` for each run, or `nmm sweep`"
                    )
                runs.append(_Run(list(one), Path(config.out) / run_id(config)))
        return runs

    def _launch(self, batch: list[_Run], first: int, said: dict[str, doors.Outcome]) -> None:
        """Hand runs to Hydra's launcher and keep what they say. One that breaks it costs the others at most a retry."""
        assert self.launcher is not None
        stopped: list[int] = []
        try:
            with _handed_down(stopped) if self.kind == "JoblibLauncher" else contextlib.nullcontext():
                results = self.launcher.launch([run.overrides for run in batch], initial_job_idx=first)
            for run, result in zip(batch, results, strict=True):
                said[run.directory.name] = _outcome(run, result)
        except Exception as error:  # a launcher's own, or what it makes of a process that was killed under it
            print(f"nmm train: {self.kind} ended early: {doors.first_line(error)}", file=sys.stderr)
            alone = self.kind == "JoblibLauncher" and len(batch) > 1 and not stopped
            for number, run in enumerate(batch if alone else []):
                if status(run.directory) not in ("done", "diverged"):
                    self._launch([run], first + number, said)
        if stopped:
            raise SystemExit(128 + stopped[0])


def _said(run: _Run) -> bool:
    """Print the closing line of a run that is over; False for one that is not."""
    from nmm.train import say

    record = read_record(run.directory)
    if record is not None:
        say(record, run.directory)
    return record is not None


def _outcome(run: _Run, result: JobReturn) -> doors.Outcome:
    try:
        return cast(doors.Outcome, result.return_value)
    except doors.MISTAKES as error:
        return doors.outcome(run.directory, str(error))


@contextlib.contextmanager
def _handed_down(stopped: list[int]) -> Iterator[None]:
    """Pass SIGINT and SIGTERM on to the workers, which save and return; ``stopped`` then holds the signal's number."""

    def hand_down(signum: int, frame: FrameType | None) -> None:
        stopped.append(signum)
        for child in Path(f"/proc/self/task/{os.getpid()}/children").read_text().split():
            with contextlib.suppress(ProcessLookupError):
                os.kill(int(child), signal.SIGTERM)

    before = {number: signal.signal(number, hand_down) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
