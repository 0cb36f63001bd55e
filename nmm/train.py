"""`nmm train`: one run from Hydra's command line, or several with -m. Also the entry that DDP ranks re-run."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import hydra
from omegaconf import DictConfig, OmegaConf

from nmm.config import ConfigError, from_dict, run_id
from nmm.record import RecordError
from nmm.resolve import finalize


@hydra.main(config_path="pkg://conf", config_name="config", version_base="1.3")
def main(composed: DictConfig) -> None:
    """Compose, finalize, execute, and say what was written where."""
    values: Any = OmegaConf.to_container(composed, resolve=True, throw_on_missing=True)
    try:
        config = finalize(from_dict(values))
        directory = Path(config.out) / run_id(config)
        from nmm.training.run import execute  # torch and lightning only once the config is known to be good

        record = execute(config, directory)
    except (ConfigError, RecordError, ValueError) as error:
        print(f"nmm train: {error}", file=sys.stderr)
        raise SystemExit(2) from error
    report(record, directory)


def report(record: dict[str, Any], directory: Path) -> None:
    """The closing line."""
    if "result" not in record:
        return  # a rank above 0
    loss = record["result"].get("loss", {})
    numbers = "  ".join(f"{name} {value:.4f}" for name, value in loss.items())
    print(f"{record['status']}: {record['steps']} steps, loss {numbers or 'unknown'} -> {directory / 'record.json'}")
    if record["status"] != "done":
        raise SystemExit(3)


if __name__ == "__main__":
    main()
