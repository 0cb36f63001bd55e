"""Perplexity filtering (arXiv 2409.04828, section 3.3): what can be asked, how samples are scored, which are kept.

    image_conditional   mean NLL of the sample's text tokens, the closing one too, given its picture: the released
                        script's rule (perplexity is exp of it, which ranks alike)
    summed              the same, summed over the tokens instead of averaged: long samples score higher
    length_normalised   rank of the mean among the samples with as many text tokens, 0..1: every length is kept alike
    blind               mean NLL with every pixel of the picture at the mean colour, which the model sees as zeros
    text_only           mean NLL without the picture's positions, for a reference that was trained on text alone; the
                        first word is given, not predicted

All are nats (but ranks), lower is less surprising. A sample longer than a row of the reference is scored on what fits.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from nmm.config import ConfigError
from nmm.data.counter_rng import CounterStream

SCORES = ("image_conditional", "summed", "length_normalised", "blind", "text_only")
BANDS = ("lowest", "middle", "highest", "random", "clean")
SCORELESS = ("random", "clean")  # bands that ask for no scores
SEES = {"blind": "blank", "text_only": "nothing"}  # all others see the image


@dataclass(frozen=True)
class Filter:
    """One `nmm filter` command; the fields are those of conf/filter.yaml."""

    shards: str
    reference: str
    reference_shards: str
    source: str
    score: str
    band: str
    keep: float
    seed: int
    out: str
    scores: str
    scores_only: bool
    table: str
    pictures: str
    batch_rows: int
    threads: int
    accelerator: str
    progress: bool

    def __post_init__(self) -> None:
        for name, allowed in (
            ("score", SCORES),
            ("band", BANDS),
            ("table", ("parquet", "jsonl")),
            ("pictures", ("keep", "drop")),
            ("accelerator", ("cpu", "gpu")),
        ):
            if getattr(self, name) not in allowed:
                raise ConfigError(f"{name}={getattr(self, name)!r} is not one of {', '.join(allowed)}")
        if not 0 < self.keep <= 1:
            raise ConfigError(f"keep={self.keep} must be above 0 and at most 1, e.g. keep=0.2")
        for name in ("batch_rows", "threads"):
            if getattr(self, name) < 1:
                raise ConfigError(f"{name}={getattr(self, name)} must be at least 1")
        for name, example in (("shards", "data=outputs/shards/pool"), ("out", "out=outputs/shards/lowest")):
            if not getattr(self, name):
                raise ConfigError(f"{example.split('=')[0]} is missing, e.g. {example}")
        if self.needs_scores and not self.reference:
            raise ConfigError("reference is missing: a run that scores, e.g. reference=outputs/runs/RUN_ID")

    @property
    def needs_scores(self) -> bool:
        """A choice at random can do without."""
        return bool(self.reference) or self.band not in SCORELESS or self.scores_only

    @property
    def sees(self) -> str:
        """What the reference is shown, see ``nmm.interventions.filter_score.Scorer``."""
        return SEES.get(self.score, "image")


def score_values(score: str, nll: np.ndarray, tokens: np.ndarray) -> np.ndarray:
    """(n,) float64 scores from (n,) summed NLL and numbers of tokens; NaN where nothing was predicted."""
    with np.errstate(all="ignore"):
        mean = np.where(tokens > 0, nll / tokens, np.nan)
    match score:
        case "summed":
            return np.where(tokens > 0, nll, np.nan)
        case "length_normalised":
            return _rank_within(mean, tokens)
        case _:
            return mean


def _rank_within(values: np.ndarray, groups: np.ndarray) -> np.ndarray:
    """(n,) (rank + 1/2) / size of every value inside its group, NaN for NaN."""
    order = np.lexsort((values, groups))  # NaN last
    found = np.isfinite(values[order])
    _, first, size = np.unique(groups[order], return_index=True, return_counts=True)
    rank = np.arange(len(values)) - np.repeat(first, size)
    scored = np.repeat(np.add.reduceat(found.astype(np.int64), first), size)
    result = np.full(len(values), np.nan)
    result[order[found]] = ((rank + 0.5) / np.maximum(scored, 1))[found]
    return result


def chosen(
    band: str, keep: float, scores: np.ndarray | None, count: int, seed: int, clean: np.ndarray | None = None
) -> np.ndarray:
    """(count,) bool: which samples are kept, round(keep * count) of them but at least one.

    Equal scores are taken in the order of the samples. ``random`` asks for no scores; the same ``seed`` keeps the same
    samples. ``clean`` draws likewise among the (count,) bool ``clean`` ones: what a filter could do at best. Samples
    without a score are never kept by the other bands. Raises ValueError where too few can be kept.
    """
    wanted = max(1, round(keep * count))
    if band in SCORELESS:
        order = CounterStream(seed, "filter", "random").permutation(count)
        if band == "clean":
            if clean is None:
                raise ValueError("band=clean needs samples whose noise is labelled, as those of a noisy world are")
            order = order[clean[order]]
        available, what, first = len(order), "are clean", 0
    else:
        if scores is None:
            raise ValueError(f"band={band} needs scores")
        order, available, what = np.argsort(scores, kind="stable"), int(np.isfinite(scores).sum()), "have a score"
        first = {"lowest": 0, "middle": (available - wanted) // 2, "highest": available - wanted}[band]
    if available < wanted:
        raise ValueError(f"keep={keep} asks for {wanted:,} samples, but only {available:,} {what}")
    kept = np.zeros(count, bool)
    kept[order[first : first + wanted]] = True
    return kept
