"""Twenty steps of every architecture as they were when last looked at. To write them anew (say why in the commit):

PYTHONPATH=.:tests python tests/golden/golden.py
"""

from __future__ import annotations

import json
import tempfile
from pathlib import Path
from typing import Any

from lab import conf, metrics, tiny_config_on, train, write_tiny_shards

FILE = Path(__file__).with_name("losses.json")
STEPS = 20
CASES = {name: (name, "small") for name in ("early", "late", "moe", "moe_aware", "moe_aware_matched", "moe_fine")}
CASES |= {f"{name}, paper block": (name, "paper") for name in ("early", "late", "moe")}


def twenty_steps(shards: Path, case: str, out: Path) -> dict[str, Any]:
    """Loss of every step, held-out losses, and which rows were delivered."""
    trainer = {"log_every_steps": 1, "precision": "fp32"}
    arch, block = CASES[case]
    groups = {"block": conf("block", block), "trainer": trainer, "budget": {"steps": STEPS}}
    config = tiny_config_on(shards, arch, out=str(out), **groups)
    result = train(config)["result"]
    rows = metrics(config)
    return {
        "shards": config.data.fingerprint,
        "order_hash": result["order_hash"],
        "train": [rows[step, "train"]["train_loss"] for step in range(1, STEPS + 1)],
        "held_out": result["loss"],
        "entropy": result["entropy"],
    }


def main() -> None:
    """Write losses.json."""
    with tempfile.TemporaryDirectory() as folder:
        shards = write_tiny_shards(Path(folder) / "shards")
        found = {case: twenty_steps(shards, case, Path(folder) / "runs") for case in CASES}
    FILE.write_text(json.dumps(found, indent=1) + "\n")
    print(f"wrote {STEPS} steps of {'; '.join(CASES)}: {FILE}")


if __name__ == "__main__":
    main()
