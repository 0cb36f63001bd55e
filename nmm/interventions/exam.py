"""`nmm exam`: which answers are right, of models alone, of guided ones, and of many drawn answers. No torch.

A plan is a JSON file {"settings": [{...}, ...]}, each with the fields of ``Setting``. Marks are written line by line,
so a stopped exam goes on, and what was marked before (same fields, same weights) is not answered again.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from nmm.config import ConfigError, canonical_json, group_from_dict
from nmm.interventions.options import read_options
from nmm.origin import only_one, run_digest
from nmm.record import read_json

USAGE = """\
usage: nmm exam plan=PLAN.json out=MARKS.jsonl [batch_rows=512 threads=1 device=cpu]

Asks many models, or many ways of combining models, the same held-out questions, and marks the answers. Stopped, the
same command goes on. PLAN.json holds {"settings": [...]}; of a setting only base is needed:

  {"name": "guided", "base": BIG, "expert": TUNED, "amateur": SMALL, "alpha": 0.5, "split": "test", "questions": 1000}

  labels      anything that is to stand beside the marks
  control     none | random | permuted | other_pictures   (as in nmm guide)
  style       free | slow | fast: the answer's first word is given
  samples     answers to each question, drawn at temperature; 0: the likeliest. counts: pass@k and votes among k of them
  stats       what guidance does at every step;   nll: loss of the answers that documents tell step by step
  kinds       of questions; empty: all
  questions_of  a run whose shards' questions are asked; empty: those of base. Both must have the same words
"""
MARKING = 1  # which answers are right, and what is asked; raised with every change, so that old marks are not taken
STYLES = ("free", "slow", "fast")
CONTROLS = ("none", "random", "permuted", "other_pictures")
RUNS = ("base", "expert", "amateur")


@dataclass(frozen=True)
class Options:
    """One `nmm exam` command; the fields are those of conf/exam.yaml."""

    plan: str
    out: str
    batch_rows: int
    threads: int
    device: str
    progress: bool


@dataclass(frozen=True)
class Setting:
    """One way of answering: base + alpha (expert - amateur), or the base alone. ``USAGE`` says what the fields are."""

    base: str
    questions_of: str = ""
    name: str = ""
    expert: str = ""
    amateur: str = ""
    alpha: float = 0.0
    control: str = "none"
    split: str = "test"
    questions: int = 1000
    kinds: tuple[str, ...] = ()
    style: str = "free"
    max_new_tokens: int = 32
    samples: int = 0
    counts: tuple[int, ...] = ()
    temperature: float = 1.0
    seed: int = 0
    stats: bool = False
    nll: bool = False
    labels: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for name, allowed in (("style", STYLES), ("control", CONTROLS)):
            if getattr(self, name) not in allowed:
                raise ConfigError(f"{name}={getattr(self, name)!r} is not one of {', '.join(allowed)}")
        if self.questions < 1 or self.max_new_tokens < 1 or self.samples < 0:
            raise ConfigError(
                f"questions={self.questions}, max_new_tokens={self.max_new_tokens} and samples={self.samples} must be "
                "at least 1, 1 and 0"
            )
        if any(not 1 <= count <= self.samples for count in self.counts):
            raise ConfigError(f"counts={self.counts} must lie in 1..samples={self.samples}")
        if self.samples and (self.stats or self.nll):
            raise ConfigError(
                "samples with stats or nll: what guidance does is told of the likeliest answers; ask twice"
            )
        if self.amateur and not self.expert:
            raise ConfigError("an amateur without an expert guides nobody; give expert too")

    @property
    def runs(self) -> dict[str, Path]:
        """Run directories by role, of those that are asked for."""
        return {role: only_one(Path(getattr(self, role))) for role in RUNS if getattr(self, role)}

    @property
    def asked(self) -> Path:
        """The run whose shards ask."""
        return only_one(Path(self.questions_of or self.base))


def exam_main(argv: Sequence[str]) -> int:
    """Mark what is not marked yet; returns the exit status."""
    if not argv or any(a in ("-h", "--help") for a in argv):
        print(USAGE, end="")
        return 0 if argv else 2
    options = read_options(Options, "exam", argv)
    settings = read_plan(Path(options.plan))
    keys = [key_of(setting) for setting in settings]
    out = Path(options.out)
    known = read_marks(out)
    missing = [(key, setting) for key, setting in zip(keys, settings, strict=True) if key not in known]
    if missing:
        from nmm.interventions.exam_run import mark  # torch only once there is something to do

        mark(missing, options, out)
    print(f"{len(settings)} settings marked, {len(missing)} of them now -> {out}")
    return 0


def read_plan(path: Path) -> list[Setting]:
    """The settings of a plan. Raises ``ConfigError`` naming the setting that is wrong."""
    if not path.is_file():
        raise ConfigError(f"plan={path} is not a file")
    content = read_json(path)
    if not isinstance(content, Mapping) or not content.get("settings"):
        raise ConfigError(f'plan={path} must hold {{"settings": [...]}} with at least one setting')
    settings = []
    for number, values in enumerate(content["settings"]):
        try:
            settings.append(group_from_dict(Setting, values))
        except (ConfigError, TypeError) as error:
            raise ConfigError(f"plan={path}, setting {number}: {error}") from error
    return settings


def key_of(setting: Setting) -> str:
    """Names a setting with the weights of its runs; labels and name do not count, nor do paths."""
    values = dataclasses.asdict(setting)
    for name in ("name", "labels", "questions_of", *RUNS):
        values.pop(name)
    weights = {role: run_digest(path) for role, path in (setting.runs | {"asked": setting.asked}).items()}
    return hashlib.sha256(canonical_json([MARKING, values, weights]).encode()).hexdigest()[:16]


def read_marks(path: Path) -> dict[str, dict[str, Any]]:
    """Marks by key; a last line that was cut off by a kill does not count."""
    if not path.exists():
        return {}
    marks: dict[str, dict[str, Any]] = {}
    lines = path.read_text(encoding="utf-8").splitlines()
    for number, line in enumerate(lines, start=1):
        try:
            entry = json.loads(line)
        except json.JSONDecodeError as error:
            if number == len(lines):
                print(f"nmm exam: {path}, line {number} was cut off, its setting is marked again", file=sys.stderr)
                continue
            raise ConfigError(f"{path}, line {number} is damaged ({error}); delete the line and run again") from error
        marks[entry["key"]] = entry["marks"]
    return marks
