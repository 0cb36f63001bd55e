"""The page of random-label bridges: does one help, is it language or the scale of weights, and what is it worth."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from analysis.interventions import curve
from analysis.interventions.blocks import Block, Figure, Heading, Table, Text, Verdict, table
from analysis.interventions.compose import (
    bars_figure,
    curves_figure,
    forest_figure,
    means_table,
    multiplier_figure,
    multiplier_table,
    multiplier_verdict,
    opening,
    paired_table,
    paired_verdict,
)
from analysis.interventions.multiplier import Multiplier
from analysis.interventions.numbers import amount_text, gap_text
from analysis.interventions.paired import Paired, means, paired, wilson
from analysis.interventions.rows import Data

MAIN, CURVE, LABELS, JOINT = ({"part": part} for part in ("main", "curve", "labels", "joint"))
ANY = ("better", "unresolved", "worse", "one seed")
CORE = ("lm_random", "lm_first")
ON_CURVES = ("lm_none", "lm_random", "lm_first", "rand_none", "shuffle_none")
LONGER = ("lm_more", "rand_more")
CURVES = 7  # multiplier curves on the page: two in compute, one in labels, four of language weights
WITH_LM = "total cost with the language run (FLOPs)"
PICTURES = "labelled pictures (labels)"
WEIGHTS = {
    "above_1": "|w| > 1, all (as published)", "above_1_matrices": "|w| > 1, matrices",
    "above_6sd": "beyond 6 sd", "kurtosis": "kurtosis", "max_over_rms": "max / rms", "rms": "rms",
}  # fmt: skip
LIMITS = (
    "One tiny model (about 50,000 parameters), a language of a few hundred facts, pictures of 16 x 16 pixels. The "
    "paper used GPT-2 medium and natural images; nothing here contradicts or confirms it there.",
    "The language runs are short. A model that has learned more language may have more structure to bring along, and "
    "more to forget.",
    "The published recipe spends hundreds of epochs on the bridge; here it is charged, and as short as the "
    "classification that follows. Spread over many tasks its share would shrink.",
    "The learning rate is one for all arms, and constant in the classification: who wants another one loses here.",
    "Pictures with one object in a fixed set of shapes: the covariance of their patches is simple, and so is what "
    "random labels can teach.",
    "Intervals are over training seeds alone. The held-out pictures are the same for all seeds and arms, so their luck "
    "is in no interval: differences mostly cancel it, means do not.",
)


class Pairs(NamedTuple):
    """Differences of a section: arm minus control, in each of ``metrics``."""

    arms: tuple[tuple[str, str], ...]
    metrics: tuple[str, ...] = ("accuracy",)
    where: Mapping[str, str] = MAIN


def _from(control: str, *arms: str) -> tuple[tuple[str, str], ...]:
    return tuple((arm, control) for arm in arms)


SECTIONS = {
    "equal": Pairs(_from("lm_more", *CORE)),
    "bridges": Pairs(_from("lm_none", *CORE, "lm_last", "lm_not_true", "lm_shift", "lm_next_patch", "lm_more",
                           "lm_truth")),
    "variants": Pairs((("lm_random", "lm_next_patch"), ("lm_shift", "lm_first"), ("lm_not_true", "lm_random"))),
    "early": Pairs(_from("lm_none", *CORE), ("accuracy_early", "accuracy_half", "probe")),
    "scratch": Pairs(_from("rand_none", "rand_random", "rand_first", "rand_last", "rand_not_true", "rand_covariance",
                           "rand_more", "rand_truth")),
    "inits": Pairs(_from("lm_none", "rand_none", "shuffle_none", "rescaled_none")),
    "unstructured": Pairs((("shuffle_first", "shuffle_none"), ("rescaled_first", "rescaled_none"))),
    "joint": Pairs(_from("lm_none", "lm_first", "lm_next_patch", "rand_none"), ("grounded", "caption_loss"), JOINT),
}  # fmt: skip


def blocks(data: Data) -> list[Block]:
    """The whole page."""
    gaps = _judged(data)
    compute = [_worth(data, arm, "lm_none", "total", CURVE, "steps") for arm in CORE]
    labels = _worth(data, "lm_first", "lm_none", "d", LABELS, "d", PICTURES)
    return [
        *opening(data, _verdicts(data, gaps, compute[1], labels), (*LIMITS, _family(gaps))),
        Heading("Every arm"),
        _main_table(data),
        bars_figure(data, "arms", where=MAIN, title="Held-out accuracy at the last step"),
        Heading("Steps until half of the held-out pictures are right", 3),
        _target_table(data),
        *_bridges(gaps),
        Heading("The language, or the scale of its weights"),
        Text(
            "Shuffling keeps every value of every tensor, so norms and outliers, and destroys what stands where. "
            "Rescaled weights are fresh ones with the language run's norms."
        ),
        paired_table(gaps["inits"]),
        Text("A bridge on either, where there is no structure of language to connect to:"),
        paired_table(gaps["unstructured"]),
        _outlier_table(data),
        Heading("Accuracy along the way"),
        _steps_figure(data),
        Heading("What a bridge is worth in compute"),
        Text("The bridge is charged; the language run, which both sides have, is not."),
        curves_figure(data, "costs", "accuracy", "total", ("lm_none", *CORE), "Accuracy by FLOPs, the bridge charged",
                      where=CURVE, rung="steps"),
        multiplier_figure("compute", compute, "Compute multiplier, the bridge charged", data=data),
        multiplier_table(compute),
        Heading("What a bridge is worth in labels"),
        curves_figure(data, "labels", "accuracy", "d", ("lm_none", "lm_first", "rand_none"),
                      "Accuracy by labelled pictures, same steps", where=LABELS, rung="d", axis_label=PICTURES),
        multiplier_figure("label_worth", [labels], "Label multiplier", data=data),
        multiplier_table([labels]),
        *_language(data),
        *_image_text(data, gaps["joint"]),
    ]  # fmt: skip


def _judged(data: Data) -> dict[str, list[Paired]]:
    """Section -> its differences, all of the page as one family: a box and a table say the same of a pair."""
    number = sum(len(pairs.arms) * len(pairs.metrics) for pairs in SECTIONS.values())
    return {
        name: [
            paired(data, arm, metric, control, comparisons=number, where=pairs.where)
            for metric in pairs.metrics
            for arm, control in pairs.arms
        ]
        for name, pairs in SECTIONS.items()
    }


def _family(gaps: Mapping[str, Sequence[Paired]]) -> str:
    number = sum(map(len, gaps.values()))
    return (
        f"Verdicts are for the page as one family: intervals of differences hold for all {number} of them together, "
        f"bands of multipliers for all {CURVES} curves (Bonferroni), in boxes and tables alike. So much is asked of so "
        "few seeds that only large effects are resolved; plain 95 % intervals stand beside."
    )


def _verdicts(
    data: Data, gaps: Mapping[str, Sequence[Paired]], compute: Multiplier, labels: Multiplier
) -> list[Verdict]:
    of = {(gap.arm, gap.control, gap.metric.name): gap for found in gaps.values() for gap in found}

    def box(arm: str, control: str, question: str, metric: str = "accuracy", note: str = "",
            expected: Sequence[str] = ("better", "unresolved")) -> Verdict:  # fmt: skip
        gap = of[arm, control, metric]
        return paired_verdict(gap, question, f"{note} Alone, 95 %: {gap_text(gap.difference)}.".strip(), expected)

    return [
        box("lm_random", "lm_more", "Is a bridge of random labels better than its FLOPs spent on classification?",
            note=_spent(data, "lm_random")),
        box("lm_first", "lm_more", "And in the first blocks only?", note=_spent(data, "lm_first")),
        box("lm_random", "lm_none", "And with the bridge for free, at equal steps of classification?"),
        box("lm_first", "lm_none", "The same, in the first blocks only?"),
        box("lm_first", "lm_none", "And under a probe, body frozen?", "probe"),
        multiplier_verdict(compute, "What is it worth in compute?", "Bridge of the first half, charged."),
        multiplier_verdict(labels, "And in labels?", "Bridge of the first half; it needs no labels."),
        box("lm_random", "lm_next_patch", "Are random labels better than predicting the next patch, as many steps?"),
        box("shuffle_none", "lm_none", "Is it the structure of language weights? Shuffled ones, without a bridge:",
            expected=ANY),
        box("shuffle_first", "shuffle_none", "Does a bridge help these shuffled weights?", expected=ANY),
        box("lm_not_true", "lm_random", "Does it matter that published labels are never the true one?", expected=ANY),
        box("lm_first", "lm_none", "Does the bridge help image-text training?", "grounded"),
    ]  # fmt: skip


def _spent(data: Data, arm: str) -> str:
    """The total FLOPs of both sides of the comparison that is meant to be at equal FLOPs."""
    ours, theirs = (float(data.where(name, **MAIN).values("total").mean()) for name in (arm, "lm_more"))
    return f"FLOPs in all, beside the language run: {amount_text(ours)} for {arm}, {amount_text(theirs)} for lm_more."


def _bridges(gaps: Mapping[str, Sequence[Paired]]) -> list[Block]:
    return [
        Heading("Bridges, from language weights"),
        Heading("Against as many FLOPs of classification", 3),
        paired_table(gaps["equal"]),
        Heading("Against language weights alone", 3),
        forest_figure("bridges", gaps["bridges"], title="Accuracy at the last step, against language weights alone"),
        paired_table(gaps["bridges"]),
        Heading("Another task, moved pictures, labels that are never true", 3),
        paired_table(gaps["variants"]),
        Heading("Earlier, and probed", 3),
        paired_table(gaps["early"]),
        Heading("Bridges, from scratch"),
        paired_table(gaps["scratch"]),
    ]


def _worth(
    data: Data, arm: str, control: str, axis: str, where: Mapping[str, str], rung: str, label: str = ""
) -> Multiplier:
    return curve.multiplier(data, arm, "accuracy", axis, control, rung, where, label, CURVES)


def _main_table(data: Data) -> Table:
    """Means of what the arms of the main part measure."""
    metrics = ("accuracy_early", "accuracy_half", "accuracy", "probe", "fit", "forgetting")
    return means_table(data, metrics, where=MAIN)


def _target_table(data: Data) -> Table:
    """How many seeds of every arm reached the target within the steps that all arms have, and when half had."""
    rows = []
    for arm in (arm for arm in data.arms if arm not in LONGER):
        mine = data.where(arm, **MAIN)
        last = int(mine.values("steps").max())
        taken = sorted(math.inf if math.isnan(value) else value for value in mine.values("steps_to_target"))
        there = sum(map(math.isfinite, taken))
        share = wilson(there, len(taken), unit="seeds")
        ends = [_steps_text(value, last) for value in (taken[(len(taken) - 1) // 2], taken[0], taken[-1])]
        rows.append((arm, f"{there} of {len(taken)}", f"{100 * share.low:.0f} % to {100 * share.high:.0f} %", ends[0],
                     f"{ends[1]} to {ends[2]}"))  # fmt: skip
    notes = [
        "Counted within the steps that all arms have; > : not by then. The median is the step by which half of the "
        "seeds, rounded up, were there. Interval of the share: Wilson's, 95 %."
    ]
    header = ("arm", "seeds that reached it", "95 % of the share", "median (steps)", "first to last seed (steps)")
    return table(header, rows, notes=notes)


def _steps_text(value: float, last: int) -> str:
    return f"{value:.0f}" if math.isfinite(value) else f">{last}"


def _steps_figure(data: Data) -> Figure:
    """Accuracy by steps, as far as all its arms were measured."""
    last = min(max(data.where(arm, **CURVE).levels("steps")) for arm in ON_CURVES)
    where: dict[str, Any] = {**CURVE, "steps": [step for step in data.levels("steps") if step <= last]}
    return curves_figure(data, "curves", "accuracy", "steps", ON_CURVES, "Accuracy by steps", where=where)


def _outlier_table(data: Data) -> Table:
    """Statistics of the weights that the classification began with."""
    arms = [arm for arm in data.arms if not arm.endswith("_more")]
    found = {name: means(data, name, arms, MAIN) for name in WEIGHTS}
    rows = [
        (arm, *(f"{found[name][arm].value:.3g}" if arm in found[name] else "-" for name in WEIGHTS)) for arm in arms
    ]
    notes = [
        "Of the weights right before the classification, means over seeds. All but the first column are of matrices "
        "alone; beyond 6 sd, kurtosis (3 for a normal distribution) and max / rms are taken tensor by tensor and do "
        "not depend on scale. The first column counts gains too, which begin at 1."
    ]
    return table(("arm", *WEIGHTS.values()), rows, notes=notes)


def _language(data: Data) -> list[Block]:
    """Language weights against none, with and without the cost of the language run."""
    asked = (
        ("The language run as a gift:", "lm_none", "total", ""),
        ("The language run charged:", "lm_none", "with_lm", WITH_LM),
        ("The language run and the bridge charged:", "lm_first", "with_lm", WITH_LM),
    )
    found: list[Block] = [Heading("What language weights are worth against none")]
    for text, arm, axis, label in asked:
        found += [Text(text), multiplier_table([_worth(data, arm, "rand_none", axis, CURVE, "steps", label)])]
    labels = _worth(data, "lm_none", "rand_none", "d", LABELS, "d", PICTURES)
    return [*found, Text("In labels:"), multiplier_table([labels])]


def _image_text(data: Data, gaps: Sequence[Paired]) -> list[Block]:
    """Captions and texts trained together, after a bridge and without; and the text that a bridge forgets."""
    arms = [arm for arm in data.arms if data.where(arm, **JOINT).rows]
    forgotten = [arm for arm in data.arms if arm.startswith("lm_") and arm not in ("lm_none", "lm_more")]
    return [
        Heading("Image-text training after the bridge"),
        means_table(data, ("grounded", "caption_loss"), arms, JOINT),
        paired_table(gaps),
        Heading("Text forgotten"),
        Text(
            "Loss on held-out texts right after the bridge minus before it, with the head of words as it was: the "
            "bridge learns on a head of its own."
        ),
        bars_figure(data, "forgetting", "forgetting", forgotten, "Text forgotten by the bridge", where=MAIN),
    ]
