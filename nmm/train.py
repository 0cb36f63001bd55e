"""`nmm train`: one run from Hydra's command line, or several with -m. Also the entry that DDP ranks re-run."""

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

from nmm.batch import SOURCES
from nmm.compose import explain
from nmm.config import ConfigError, RunConfig, from_dict, run_id
from nmm.record import RecordError, read_record
from nmm.resolve import finalize

os.environ.setdefault("TORCH_CPP_LOG_LEVEL", "ERROR")  # before torch: it warns of what is on purpose here


@hydra.main(config_path="pkg://conf", config_name="config", version_base="1.3")
def main(composed: DictConfig) -> None:
    """Compose, finalize, execute, and say what was written where."""
    values: Any = OmegaConf.to_container(composed, resolve=True, throw_on_missing=True)
    try:
        config = finalize(from_dict(values))
        if config.trainer.devices > 1 and HydraConfig.get().mode == RunMode.MULTIRUN:
            raise ConfigError(
                f"-m with trainer.devices={config.trainer.devices}: every rank would start the whole list again; "
                "use trainer.devices=1, or one `nmm train` for each run"
            )
        _execute(config)
    except (ConfigError, RecordError, ValueError, FileNotFoundError) as error:
        _fail(str(error))


def _execute(config: RunConfig) -> None:
    directory = Path(config.out) / run_id(config)
    record = read_record(directory)
    if record is None:
        record = _train(config, directory)
    report(record, directory)


def _train(config: RunConfig, directory: Path) -> dict[str, Any]:
    from nmm.training.callbacks import Interrupted  # torch and lightning only once there is something to train
    from nmm.training.parallel import is_main
    from nmm.training.run import execute

    try:
        return execute(config, directory)
    except Interrupted as stopped:
        if not is_main():
            raise SystemExit(0) from stopped  # Lightning kills rank 0, which is saving, when another rank ends in error
        print(f"nmm train: {stopped}", file=sys.stderr)
        raise


def report(record: dict[str, Any], directory: Path) -> None:
    """The closing line."""
    if "result" not in record:
        return  # a rank above 0
    loss = record["result"].get("loss", {})
    numbers = "  ".join(f"{name} {loss[name]:.4f}" for name in (*SOURCES, "avg", "mixture") if name in loss)
    print(f"{record['status']}: {record['steps']} steps, loss {numbers or 'unknown'} -> {directory / 'record.json'}")
    if record["status"] != "done":
        raise SystemExit(3)


def run() -> None:
    """``main``, with what Hydra itself refuses (unknown key, unknown option) as one line and exit code 2 as well."""
    os.environ["HYDRA_FULL_ERROR"] = "1"  # else Hydra prints several lines and ends with exit code 1
    try:
        main()
    except (HydraException, OmegaConfBaseException) as error:
        _fail(explain(error))


def _fail(message: str) -> NoReturn:
    print(f"nmm train: {message}", file=sys.stderr)
    raise SystemExit(2)


if __name__ == "__main__":
    run()
