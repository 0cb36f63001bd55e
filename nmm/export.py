"""`nmm export`: the weights of a run as safetensors with its config beside them."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

EXAMPLE = "example: nmm export outputs/runs/early-d32-run-s0-1953-0123456789 --out outputs/early_d32"


def export_main(argv: list[str]) -> int:
    """Parse the command line and export; one closing line."""
    parser = argparse.ArgumentParser(prog="nmm export", description=__doc__, epilog=EXAMPLE)
    parser.add_argument("run", type=Path, metavar="RUN", help="a run directory; its newest valid checkpoint is taken")
    parser.add_argument("--out", type=Path, metavar="DIR", help="folder to write (default: RUN/export)")
    parser.add_argument("--dtype", default="fp32", help="fp32 or bf16 (default fp32)")
    arguments = parser.parse_args(argv)
    from nmm.start import export  # torch only once there is something to export

    out = export(arguments.run, arguments.out or arguments.run / "export", arguments.dtype)
    size = sum(file.stat().st_size for file in out.iterdir()) / 1e6
    print(f"exported {arguments.run.name} -> {out}/model.safetensors, config.json ({size:.1f} MB)")
    if alarms := sorted(arguments.run.glob("alarm-*.json")):
        print(
            f"warning: {arguments.run.name} finished again with another result than its record has ({alarms[0]}); the "
            "weights are those of the newest checkpoint, the result in config.json is the record's",
            file=sys.stderr,
        )
    print(f"start from it with: nmm train start=run start.path={out} ...")
    return 0
