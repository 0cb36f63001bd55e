"""A made-up study on disk, with everything a page may need: two metrics, steps, charged FLOPs, nulls, several roles."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from analysis.interventions.rows import Data
from analysis.simulation.interventions import Setup, study

STUDY: dict[str, Any] = {
    "schema": 1,
    "method": "filter",
    "title": "Is a filter worth its scoring?",
    "acts_on": "data",
    "claim": "The lowest fifth beats the whole pool (some paper, table 2).",
    "control": "control",
    "arms": [
        {"name": "control", "role": "control", "what": "the whole pool"},
        {"name": "lowest", "role": "treatment", "what": "the fifth with the lowest perplexity"},
        {"name": "random", "role": "baseline", "what": "any fifth | as a check"},
        {"name": "dream", "role": "ceiling", "what": "planned, never run"},
    ],
    "metrics": [
        {"name": "loss", "label": "loss (nats / token)", "better": "lower"},
        {"name": "accuracy", "label": "accuracy (share of prompts)", "better": "higher"},
    ],
    "measured_on": "Three sizes, four token counts, four seeds.",
}


def write(folder: Path, data: Data | None = None, **changes: Any) -> Path:
    """study.json and results.jsonl; ``changes`` replace fields of the study."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "study.json").write_text(json.dumps(STUDY | changes))
    rows = (data or worth_two()).rows
    (folder / "results.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return folder


def worth_two(seeds: int = 4, charged: float = 2e11, **options: Any) -> Data:
    """Arm "lowest" is worth twice its data and is charged for its scoring; arm "random" is worth nothing."""
    return study(Setup({"lowest": 2.0, "random": 1.0}, seeds=seeds, charged=charged, **options), seed=3)
