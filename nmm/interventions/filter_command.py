"""`nmm filter`: score training samples with a run of ours, keep a band of them, show what was kept."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from nmm.config import ConfigError
from nmm.data.derived import SPLIT, Sample, derive
from nmm.data.manifest import Shards, open_shards
from nmm.data.words import IMAGE
from nmm.interventions.filter import SCORELESS, Filter, chosen, score_values
from nmm.interventions.filter_cache import Reference, Scores, open_reference, scored
from nmm.interventions.filter_page import write_page
from nmm.interventions.filter_truth import Facts, coverage, first_of_tail, quality, read_facts
from nmm.interventions.options import read_options
from nmm.record import write_atomic, write_json

FILTER_HELP = """usage: nmm filter data=SHARDS reference=RUN out=DIR [KEY=VALUE ...]

Keep the training samples that a run of ours finds least surprising (arXiv 2409.04828), or another band as a control.
DIR is a shard folder like any other (nmm train data.path=DIR) with filter.html, filter.json and scores.parquet beside.

  keep=0.2                share of the samples
  band=lowest             lowest | middle | highest; without a reference: random | clean (labels say so: a ceiling)
  score=image_conditional mean NLL of the text given its picture | summed | length_normalised (rank among samples of
                          equal length) | blind (picture blanked) | text_only (no picture: a reference trained on text)
  source=caption          whose training split is filtered; everything else is carried over
  scores_only=true        no shards, only the scores and the page; the shards themselves then need another out=
  pictures=drop           write the kept samples' text alone, e.g. to train a text-only reference on it

Scores are kept beside the shards, tar by tar: a stopped pass goes on, another band or share scores nothing again.

examples: nmm filter data=outputs/shards/pool reference=outputs/runs/RUN_ID keep=0.2 out=outputs/shards/lowest
          nmm filter data=outputs/shards/pool band=random keep=0.2 out=outputs/shards/random
"""


def filter_main(argv: list[str]) -> int:
    """Filter as composed from conf/filter.yaml."""
    if any(a in ("-h", "--help") for a in argv):
        print(FILTER_HELP, end="")
        return 0
    options = read_options(Filter, "filter", argv, {"data": "shards"})
    shards = _open(options)
    reference = open_reference(options, shards) if options.needs_scores else None
    found = scored(options, shards, reference) if reference is not None else None
    scores = None if found is None else score_values(options.score, found.nll, found.tokens)
    facts = read_facts(shards, options.source, options.progress)
    labelled = all(one.labels is not None for one in facts)
    clean = np.array([not one.labels for one in facts]) if labelled else None
    kept = chosen(options.band, options.keep, scores, len(facts), options.seed, clean)
    out = Path(options.out)
    if not options.scores_only:
        _write_shards(options, shards, reference, kept, argv)
    out.mkdir(parents=True, exist_ok=True)
    report = _report(options, shards, reference, found, facts, kept)
    write_json(out / "filter.json", report)
    if found is not None and scores is not None:
        _write_table(options, facts, found, scores, kept)
    write_page(out / "filter.html", shards, report, facts, scores, kept)
    print(_last_line(options, report, found))
    return 0


def _open(options: Filter) -> Shards:
    path = Path(options.shards)
    if not (path / "manifest.json").is_file():
        raise ConfigError(
            f"data={path} holds no manifest.json: `nmm filter` reads folders that `nmm shards data=world` rendered, "
            "not indexed tars of your own"
        )
    shards = open_shards(path)
    shards.split(options.source, SPLIT)
    return shards


def _write_shards(
    options: Filter, shards: Shards, reference: Reference | None, kept: np.ndarray, argv: Sequence[str]
) -> None:
    used = {name: getattr(options, name) for name in ("band", "keep", "pictures")}
    if options.band in SCORELESS:
        used["seed"] = options.seed
    elif reference is not None:
        used |= {"score": options.score, "reference": reference.digest}
    starts = np.cumsum([0, *(info.samples for info in shards.split(options.source, SPLIT).shards)])

    def transform(tar: int, place: int, sample: Sample) -> Sample | None:
        if not kept[starts[tar] + place]:
            return None
        return without_pictures(sample) if options.pictures == "drop" else sample

    command = ["filter", *argv]
    derive(shards, options.out, options.source, transform, {"made_by": "filter", **used}, command, options.progress)


def without_pictures(sample: Sample) -> Sample:
    """The text of a sample alone; what its json says of pictures goes too."""
    said = sample.facts
    segments = [segment for segment in said["segments"] if "text" in segment]
    facts = {name: value for name, value in said.items() if name != "logprobs"} | {"segments": segments}
    text = " ".join(word for word in sample.text.split() if word != IMAGE)
    return Sample(sample.key, {"txt": text.encode(), "json": json.dumps(facts, separators=(",", ":")).encode()})


def _report(
    options: Filter, shards: Shards, reference: Reference | None, found: Scores | None, facts: Sequence[Facts],
    kept: np.ndarray,
) -> dict[str, Any]:  # fmt: skip
    """What filter.json holds: for studies and for the page."""
    tail = first_of_tail(shards) if shards.manifest.get("kind") == "world" else 0
    words = np.array([len(one.text.split()) - one.text.split().count(IMAGE) for one in facts])
    return {
        "asked": {name: getattr(options, name) for name in ("source", "score", "band", "keep", "seed", "pictures")},
        "reference": reference.name if reference else "",
        "samples": len(facts),
        "kept": int(kept.sum()),
        "text_tokens": {"pool": int(words.sum()), "kept": int(words[kept].sum())},
        "truncated": int(found.truncated.sum()) if found else 0,
        "cost": {
            "scoring_flops": found.flops if found else 0.0,
            "reference_flops": reference.flops if reference else 0.0,
            "reference_flops_are": reference.flops_of if reference else "",
        },
        "truth": quality(facts, kept),
        "first_of_tail": tail,
        "coverage": coverage(facts, kept, tail),
    }


def _write_table(options: Filter, facts: Sequence[Facts], found: Scores, scores: np.ndarray, kept: np.ndarray) -> None:
    """scores.parquet or scores.jsonl: one row a training sample."""
    columns: dict[str, list[Any]] = {
        "key": [one.key for one in facts],
        "nll": found.nll.tolist(),
        "tokens": found.tokens.tolist(),
        "score": [value if np.isfinite(value) else None for value in scores.tolist()],
        "kept": kept.tolist(),
        "noise": [None if one.labels is None else list(one.labels) for one in facts],
    }
    out = Path(options.out) / f"scores.{options.table}"
    if options.table == "parquet":
        import pyarrow
        import pyarrow.parquet

        table = pyarrow.table(columns)
        write_atomic(out, lambda file: pyarrow.parquet.write_table(table, file))
        return
    rows = (dict(zip(columns, values, strict=True)) for values in zip(*columns.values(), strict=True))
    text = "".join(json.dumps(row) + "\n" for row in rows)
    write_atomic(out, lambda file: file.write(text.encode()))


def _last_line(options: Filter, report: dict[str, Any], found: Scores | None) -> str:
    what = "scored" if options.scores_only else "kept"
    number = f"{report['samples']:,}" if options.scores_only else f"{report['kept']:,} of {report['samples']:,}"
    now = ""
    if found is not None and found.scored_now:
        now = f" ({found.scored_now:,} scored now, {found.scored_now / max(found.seconds, 1e-9):,.0f} a second)"
    elif found is not None:
        now = " (scores were there)"
    return f"{what} {number} {options.source} samples{now}: {options.out}, look at {Path(options.out) / 'filter.html'}"
