"""Pairs of sizes and tables of the page of guided decoding."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from analysis.interventions.blocks import Table, table
from analysis.interventions.numbers import cost_text, estimate_text
from analysis.interventions.paired import Estimate, by_seed, mean, wilson
from analysis.interventions.rows import Data

MAIN = (
    "base", "guided", "guided_half", "expert", "tuned", "forced", "no_amateur", "no_amateur_half", "wrong_picture",
    "random_delta", "permuted_delta", "vote", "oracle", "larger", "guided_early", "expert_early", "guided_opposite",
    "expert_opposite", "guided_coin", "expert_coin",
)  # fmt: skip
ALONE = ("base", "forced", "tuned")
DRAWN = ("drawn_base", "drawn_guided", "drawn_expert", "drawn_tuned")


@dataclass(frozen=True)
class Pair:
    """A small model and the large one it guides; ratio of their parameters."""

    name: str
    small: str
    big: str
    ratio: float


def pairs_of(data: Data) -> list[Pair]:
    """Pairs that were guided, the smallest ratio first."""
    found = {
        row["pair"]: Pair(row["pair"], row["small"], row["big"], float(row["ratio"]))
        for row in data.where("guided").rows
    }
    return sorted(found.values(), key=lambda pair: (pair.ratio, pair.name))


def main_data(data: Data, main: Pair) -> Data:
    """The rows of one pair and of its large model alone, so that every arm has one row a seed."""
    rows = [
        row
        for row in data.rows
        if row["arm"] in MAIN and (row["pair"] == main.name or (row["arm"] in ALONE and row["pair"] == main.big))
    ]
    return Data(data.study, tuple(rows))


def others(inside: Data) -> list[str]:
    return [arm for arm in inside.arms if arm != inside.control]


def closed(data: Data, pair: Pair, arm: str = "guided") -> dict[int, float]:
    """Seed -> share of the gap between base and tuned that an arm closes; seeds without a gap are left out."""
    base, tuned = (by_seed(data, name, where={"pair": pair.big}) for name in ("base", "tuned"))
    reached = by_seed(data, arm, where={"pair": pair.name})
    shared = sorted(base.keys() & tuned.keys() & reached.keys())
    return {s: (reached[s] - base[s]) / (tuned[s] - base[s]) for s in shared if tuned[s] != base[s]}


def mean_of(values: dict[int, float]) -> Estimate:
    return mean(list(values.values())) if values else Estimate(math.nan, math.nan, math.nan, 0)


def percent(item: Estimate) -> str:
    """12.3 % [10.1, 14.5], a share in percent."""
    if math.isnan(item.value):
        return "no gap"
    text = f"{100 * item.value:.1f} %"
    return f"{text} [{100 * item.low:.1f}, {100 * item.high:.1f}]" if item.known else f"{text} ({item.n} seed)"


def arms_table(inside: Data) -> Table:
    """Accuracy of every arm of the main pair with both intervals, manner, and costs."""
    rows = []
    for arm in inside.arms:
        found = inside.where(arm).rows
        shares = [float(row["accuracy"]) for row in found]
        single = [wilson(round(row["accuracy"] * row["asked"]), row["asked"], unit="questions") for row in found]
        reach = max((each.high - each.low) / 2 for each in single)
        rows.append(
            (
                arm,
                estimate_text(mean(shares)),
                " ".join(f"{share:.3f}" for share in shares),
                f"{reach:.3f}",
                f"{np.mean([row['length'] for row in found]):.1f}",
                f"{100 * np.mean([row['slow'] for row in found]):.0f} %",
                cost_text([row["flops"] for row in found]),
                cost_text([row["charged"] for row in found]),
            )
        )
    header = (
        "arm",
        "right answers",
        "by seed",
        "+- one model",
        "words",
        "step by step",
        "FLOPs a question",
        "charged FLOPs",
    )
    return table(
        header, rows, notes=(
            "Right answers: mean over seeds with its 95 % t interval. +- one model: half the widest Wilson interval of "
            "a model on its questions. vote and oracle: as many drawn answers as the FLOPs of one guided answer buy. "
            "Charged: tuning, and the validation answers that alpha was chosen by.",
        ),
    )  # fmt: skip


def pairs_table(data: Data, pairs: Sequence[Pair]) -> Table:
    """Base, expert, guided, tuned and the gap closed, by ratio of sizes."""
    rows = []
    for pair in pairs:
        alone = [mean_of(by_seed(data, arm, where={"pair": pair.big})) for arm in ("forced", "base", "tuned")]
        both = [mean_of(by_seed(data, arm, where={"pair": pair.name})) for arm in ("expert", "guided", "no_amateur")]
        loss = [
            mean_of(by_seed(data, arm, "nll", {"pair": name}))
            for arm, name in (("guided", pair.name), ("tuned", pair.big))
        ]
        texts = [f"{item.value:.3f}" for item in (*alone, *both)] + [f"{item.value:.3g}" for item in loss]
        rows.append((pair.name, f"{pair.ratio:.1f}", *texts, percent(mean_of(closed(data, pair)))))
    header = ("pair", "ratio", "forced", "base", "tuned", "expert", "guided", "no amateur", "loss guided", "loss tuned",
              "gap closed")  # fmt: skip
    note = (
        "Means over seeds of right answers; loss: nats of a held-out step-by-step answer; alpha chosen on validation."
    )
    return table(header, rows, notes=(note,))


def alpha_table(data: Data, pairs: Sequence[Pair]) -> Table:
    """The alpha that validation chose, and right answers of every alpha, by pair."""
    alphas = data.where("alpha").levels("alpha")
    rows = []
    for pair in pairs:
        chosen = by_seed(data, "guided", "alpha", {"pair": pair.name})
        values = [mean_of(by_seed(data, "alpha", where={"pair": pair.name, "alpha": alpha})).value for alpha in alphas]
        picked = " ".join(f"{value:g}" for value in chosen.values())
        rows.append((pair.name, f"{pair.ratio:.1f}", picked, *(f"{value:.3f}" for value in values)))
    return table(("pair", "ratio", "chosen (by seed)", *(f"{alpha:g}" for alpha in alphas)), rows)


def drawn_table(data: Data) -> Table:
    """pass@k and votes of drawn answers."""
    first = data.where(DRAWN[0]).rows[0]
    ks = sorted(int(name.removeprefix("pass_")) for name in first if name.startswith("pass_"))
    rows = []
    for arm in (arm for arm in DRAWN if arm in data.arms):
        found = data.where(arm).rows
        passed = [f"{np.mean([row[f'pass_{k}'] for row in found]):.3f}" for k in ks]
        voted = [f"{np.mean([row[f'vote_{k}'] for row in found]):.3f}" for k in ks]
        rows.append((arm.removeprefix("drawn_"), *passed, *voted))
    header = ("model", *(f"pass@{k}" for k in ks), *(f"vote of {k}" for k in ks))
    return table(header, rows, notes=("Drawn at temperature 1; means over seeds.",))


def steps_table(data: Data, pairs: Sequence[Pair]) -> Table:
    """How large guidance is, how far the small models are apart, and how often it changes the likeliest word."""
    rows = []
    for pair in pairs:
        found = data.where("guided", pair=pair.name).rows
        means = [f"{np.mean([row[name] for row in found]):.3f}" for name in ("delta_norm", "js", "flip")]
        at = [
            np.mean([row["flip_by_step"][0] for row in found]),
            np.mean([max(row["flip_by_step"][1:], default=0.0) for row in found]),
        ]
        words = {f"{each['from']} -> {each['to']}" for row in found for each in row["flips"][:1]}
        rows.append((pair.name, *means, f"{at[0]:.2f}", f"{at[1]:.3f}", ", ".join(sorted(words))))
    header = ("pair", "length of the difference", "JS of the small models (nats)", "changed words",
              "at the first word", "at the worst later word", "commonest change")  # fmt: skip
    return table(header, rows, notes=("Means over steps and seeds, at the alpha that validation chose.",))
