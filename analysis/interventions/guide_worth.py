"""What guided decoding is worth: against directly tuned models of all sizes, and against the one of the same size."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from analysis.interventions import curve
from analysis.interventions.blocks import Block, Heading, Text, Verdict, table
from analysis.interventions.compose import multiplier_verdict
from analysis.interventions.guide_tables import Pair, mean_of
from analysis.interventions.multiplier import Multiplier
from analysis.interventions.numbers import amount_text, estimate_text, gap_text
from analysis.interventions.paired import Estimate, by_seed, mean
from analysis.interventions.rows import Data

AXES = {"n": "N_eff / N", "flops": "inference", "charged": "training"}
METRICS = {"accuracy": "right answers", "nll": "loss"}
ARMS = {"guided": "alpha chosen on validation", "guided_half": "alpha 0.5"}


def verdicts(data: Data) -> list[Verdict]:
    """The multipliers by right answers, where larger tuned models give more of them; else that there are none."""
    questions = {
        "flops": "What is it worth in decoding FLOPs, against directly tuned models?",
        "charged": "And in FLOPs of tuning?",
    }
    anything = ("better", "no effect", "worse", "mixed", "no interval")
    if apart(data, "accuracy"):
        return [
            multiplier_verdict(_multiplier(data, "guided", "accuracy", axis), question, expected=anything)
            for axis, question in questions.items()
        ]
    sizes = _sizes(data)
    return [
        Verdict(
            "At what size is a directly tuned model as good (N_eff), and what is guidance worth by that?",
            f"Not defined here: directly tuned, {sizes[-1]} does not give more right answers than {sizes[0]}.",
            (gap_text(_largest_minus_smallest(data, "accuracy")),),
            f"right answers, {sizes[-1]} minus {sizes[0]}, 95 %",
            f"{len(sizes)} sizes",
            "What guiding and tuning cost at one size is in a table below.",
        )
    ]


def apart(data: Data, metric: str) -> bool:
    """Whether the largest directly tuned model is better than the smallest by more than chance.

    If not, no size in particular is as good as a guided model, and what reads one off a ladder reads noise.
    """
    gap = _largest_minus_smallest(data, metric)
    return gap.known and min(data.metric(metric).sign * end for end in (gap.low, gap.high)) > 0


def _sizes(data: Data) -> list[str]:
    """Directly tuned sizes, the smallest first."""
    return [size for _, size in sorted({(row["n"], row["big"]) for row in data.where("tuned").rows})]


def _largest_minus_smallest(data: Data, metric: str) -> Estimate:
    small, large = (by_seed(data, "tuned", metric, {"pair": size}) for size in (_sizes(data)[0], _sizes(data)[-1]))
    return mean([large[seed] - small[seed] for seed in small.keys() & large.keys()])


def worth(data: Data, pairs: Sequence[Pair]) -> list[Block]:
    """The section: multipliers read off the ladder of tuned models where there is one, and costs at one size."""
    known = [metric for metric in METRICS if apart(data, metric)]
    blocks: list[Block] = [Heading("What guidance is worth")]
    if known:
        blocks.append(
            Text(
                "N_eff is the size at which a directly tuned model is as good as the guided one. The inference "
                "multiplier is the FLOPs that this tuned model needs for a question, over those of the guided model, "
                "all three models counted; the training multiplier the FLOPs of tuning it, over those of tuning the "
                "small one and of choosing alpha. With the paper's alpha nothing has to be chosen."
            )
        )
        blocks += [_multipliers(data, pairs, arm, known) for arm in ARMS]
    for metric in (metric for metric in METRICS if metric not in known):
        sizes, gap = _sizes(data), gap_text(_largest_minus_smallest(data, metric))
        blocks.append(
            Text(
                f"By {METRICS[metric]} there is no N_eff: directly tuned, {sizes[-1]} is not better than {sizes[0]} "
                f"({gap}), so no size in particular is as good as the guided model."
            )
        )
    return [*blocks, _same_size(data, pairs)]


def _multiplier(data: Data, arm: str, metric: str, axis: str) -> Multiplier:
    """Of guided models against the ladder of directly tuned ones: decoding FLOPs, FLOPs of tuning, or parameters."""
    label = {"flops": "decoding a question (FLOPs)", "charged": "tuning (FLOPs)", "n": "size (parameters)"}[axis]
    return curve.multiplier(data, arm, metric, axis, "tuned", "pair", axis_label=label, comparisons=2)


def _multipliers(data: Data, pairs: Sequence[Pair], arm: str, metrics: Sequence[str]) -> Block:
    found = {(metric, axis): _by_pair(data, pairs, arm, metric, axis) for metric in metrics for axis in AXES}
    rows = [(pair.name, f"{pair.ratio:.1f}", *(texts[pair.name] for texts in found.values())) for pair in pairs]
    header = ("pair", "ratio", *(f"{AXES[axis]}, by {METRICS[metric]}" for metric, axis in found))
    note = (
        f"{ARMS[arm].capitalize()}. With 95 % intervals over seeds, resampled together. <= and >=: even the smallest "
        "directly tuned model was as good, or not even the largest; nothing is extrapolated."
    )
    return table(header, rows, notes=(note,))


def _by_pair(data: Data, pairs: Sequence[Pair], arm: str, metric: str, axis: str) -> dict[str, str]:
    """Pair -> multiplier as text. A multiplier has its rungs by cost, and by name where costs are equal."""
    curve_of = _multiplier(data, arm, metric, axis)
    cost = {pair.name: data.where(arm, pair=pair.name).values(axis) for pair in pairs}
    order = sorted(sorted(cost), key=lambda name: float(np.exp(np.mean(np.log(cost[name])))))
    return {name: curve_of.text(index) for index, name in enumerate(order)}


def _same_size(data: Data, pairs: Sequence[Pair]) -> Block:
    """Guiding a large model, or tuning it: right answers, and how many questions until tuning is cheaper."""
    rows = []
    for pair in pairs:
        for arm, alpha in (("guided", "chosen"), ("guided_half", "0.5")):
            ours, theirs = {"pair": pair.name}, {"pair": pair.big}
            gap = _minus(by_seed(data, arm, where=ours), by_seed(data, "tuned", where=theirs))
            spared = _minus(by_seed(data, "tuned", "charged", theirs), by_seed(data, arm, "charged", ours))
            extra = _minus(by_seed(data, arm, "flops", ours), by_seed(data, "tuned", "flops", theirs))
            tuning = _over(by_seed(data, "tuned", "charged", theirs), by_seed(data, arm, "charged", ours))
            question = _over(by_seed(data, arm, "flops", ours), by_seed(data, "tuned", "flops", theirs))
            rows.append(
                (
                    pair.name, f"{pair.ratio:.1f}", alpha, gap_text(mean_of(gap)), estimate_text(tuning),
                    estimate_text(question), _even(mean_of(spared).value, mean_of(extra).value),
                )
            )  # fmt: skip
    header = ("pair", "ratio", "alpha", "right answers, guided - tuned", "tuning FLOPs, tuned / guided",
              "FLOPs a question, guided / tuned", "questions until tuning has paid")  # fmt: skip
    note = (
        "Guiding a large model against tuning that same model, means over seeds with 95 % t intervals. Tuning FLOPs of "
        "guided include the choice of alpha where it was chosen. Pretraining of the small model is not charged."
    )
    return table(header, rows, notes=(note,))


def _even(spared: float, extra: float) -> str:
    """How many questions use up the FLOPs of tuning that guidance spared, by what each costs more."""
    if spared <= 0:
        return "0" if extra >= 0 else "-"
    return amount_text(spared / extra) if extra > 0 else "never"


def _minus(left: dict[int, float], right: dict[int, float]) -> dict[int, float]:
    return {seed: left[seed] - right[seed] for seed in sorted(left.keys() & right.keys())}


def _over(left: dict[int, float], right: dict[int, float]) -> Estimate:
    return mean([left[seed] / right[seed] for seed in sorted(left.keys() & right.keys())])
