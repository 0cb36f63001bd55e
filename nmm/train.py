"""`nmm train`: one run from Hydra's command line, or several with -m, or a frozen one with --from.

Every rank of a run on several devices is a process with this command line.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Any, NoReturn

import hydra
from hydra.core.hydra_config import HydraConfig
from hydra.errors import HydraException
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from nmm import doors
from nmm.compose import check_command, check_composed, explain, plain
from nmm.config import ConfigError, RunConfig, from_dict, run_id
from nmm.frozen import read_frozen
from nmm.record import read_record
from nmm.resolve import check_held_out, finalize
from nmm.safety import harmless_environment
from nmm.training.ranks import Place, check_ranks, is_main, place

os.environ.setdefault("TORCH_CPP_LOG_LEVEL", "ERROR")  # before torch: it warns of what is on purpose here


def settle(composed: DictConfig) -> RunConfig:
    """What Hydra composed as a finalized config. Raises ``ConfigError`` and what reading the data raises."""
    if "hydra" in composed:  # the sweeper's view of a run, before any of the list is launched
        check_composed(composed)
    ours = OmegaConf.masked_copy(composed, [str(key) for key in composed if key != "hydra"])
    try:
        values = plain(ours)
    except OmegaConfBaseException as error:
        raise ConfigError(explain(error)) from error
    config = finalize(from_dict(values))
    check_held_out(config)
    return config


def task(composed: DictConfig) -> doors.Outcome | None:
    """Compose, finalize, execute, and say what was written where. One run of a list returns how it ended instead."""
    listed = HydraConfig.get().mode == RunMode.MULTIRUN
    try:
        config = settle(composed)
        directory = Path(config.out) / run_id(config)
        if listed:
            return doors.one_of_many(directory, lambda: _execute(config, directory), alone=_is_alone())
        _execute(config, directory)
    except doors.MISTAKES as error:
        if listed:
            raise  # the sweeper hears of it from Hydra; an exit would end the process that the other runs need
        _fail(str(error))
    return None


def _is_alone() -> bool:
    """Does Hydra's launcher give each run of the list a process that the list can do without?"""
    launcher = HydraConfig.get().launcher
    return not (launcher._target_.endswith("BasicLauncher") or launcher.get("n_jobs") == 1)


main = hydra.main(config_path="pkg://conf", config_name="config", version_base="1.3")(task)


def frozen_main(arguments: list[str]) -> None:
    """`nmm train --from RUN [KEY=VALUE ...]`: go on with a run directory as it is, nothing composed again."""
    if not arguments or "=" in arguments[0]:
        _fail("--from needs a run directory, e.g. nmm train --from outputs/runs/RUN_ID trainer.devices=2")
    try:
        _execute(read_frozen(Path(arguments[0]), arguments[1:]), Path(arguments[0]).absolute())
    except doors.MISTAKES as error:
        _fail(str(error))


def _execute(config: RunConfig, directory: Path) -> None:
    check_ranks(config)
    record = read_record(directory) if place() == Place() else None  # ranks that are there already must agree on it
    if record is None:
        record = _train(config, directory)
    if is_main():
        report(record, directory)


def _train(config: RunConfig, directory: Path) -> dict[str, Any]:
    from nmm.training.run import execute  # torch and lightning only once there is something to train
    from nmm.training.stopping import Interrupted

    try:
        return execute(config, directory)
    except Interrupted as stopped:
        if not is_main():
            raise SystemExit(0) from stopped  # Lightning kills rank 0, which is saving, when another rank ends in error
        print(f"nmm train: {stopped}", file=sys.stderr)
        raise


def report(record: dict[str, Any], directory: Path) -> None:
    """The closing line; exit status 3 if the run diverged."""
    say(record, directory)
    if record["status"] != "done":
        raise SystemExit(3)


def say(record: dict[str, Any], directory: Path) -> None:
    """The closing line."""
    result, steps = record["result"], f"{record['result'].get('step', record['steps'])} steps"
    loss, skipped = result.get("loss", {}), sum(result.get("skipped_steps", {}).values())
    names = [*sorted(loss.keys() - {"avg", "mixture"}), *(name for name in ("avg", "mixture") if name in loss)]
    numbers = "  ".join(f"{name} {loss[name]:.4f}" for name in names)
    what = f"loss {numbers}" if numbers else result.get("error", "loss unknown")
    left_out = f" ({skipped} updates left out)" if skipped else ""
    print(f"{record['status']}: {steps}{left_out}, {what} -> {directory / 'record.json'}")
    if "sft" in result:
        print(_marks(result["sft"]))
    if "accuracy" in result.get("bridge", {}):
        bridge = result["bridge"]
        right = f"{bridge['accuracy']:.3f} +- {bridge['stderr']:.3f} (chance {bridge['chance']:.3f})"
        print(f"held-out classes right {right}; labels of training fitted {bridge['train_accuracy']:.3f}")


def _marks(marks: dict[str, Any]) -> str:
    kinds = [kind for kind in marks["accuracy"] if kind != "avg"]
    rights = "  ".join(f"{kind} {marks['accuracy'][kind]:.2f} ({marks['chance'][kind]:.2f})" for kind in kinds)
    mean = f"{marks['accuracy']['avg']:.3f} +- {marks['stderr']['avg']:.3f}"
    captions = f"; captions: CIDEr {marks['cider']:.2f}" if "cider" in marks else ""
    return f"answers right {mean}, by kind (chance): {rights}{captions}"


def run() -> None:
    """``main``, with what Hydra itself refuses (unknown key, unknown option) as one line and exit code 2 as well."""
    if sys.argv[1:2] == ["--from"]:
        return frozen_main(sys.argv[2:])
    os.environ["HYDRA_FULL_ERROR"] = "1"  # else Hydra prints several lines and ends with exit code 1
    try:
        doors.check_launcher(sys.argv[1:])
        with harmless_environment():
            check_command(sys.argv[1:])
            main()
    except (HydraException, OmegaConfBaseException) as error:
        _fail(explain(error))
    except doors.MISTAKES as error:
        _fail(str(error))


def _fail(message: str) -> NoReturn:
    print(f"nmm train: {message}", file=sys.stderr)
    raise SystemExit(2)


if __name__ == "__main__":
    from nmm import train  # joblib and submitit hand ``task`` to other processes by its name, which __main__ has not

    train.run()
