"""The page of guided decoding: what guidance gives, what it needs, and what it is worth against the ratio of sizes."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence

import numpy as np

from analysis import plots
from analysis.interventions import guide_worth
from analysis.interventions.blocks import Block, Figure, Heading, Text, Verdict, table
from analysis.interventions.compose import (
    bars_figure,
    curves_figure,
    opening,
    paired_table,
    paired_verdict,
)
from analysis.interventions.guide_tables import (
    DRAWN,
    MAIN,
    Pair,
    alpha_table,
    arms_table,
    closed,
    drawn_table,
    main_data,
    mean_of,
    others,
    pairs_of,
    pairs_table,
    percent,
    steps_table,
)
from analysis.interventions.numbers import estimate_text
from analysis.interventions.paired import by_seed, paired
from analysis.interventions.rows import Arm, Data
from analysis.plots import intervention as pictures

SKEWED = ("skewed_base", "skewed_expert", "skewed_guided", "skewed_guided_half", "skewed_no_amateur",
          "skewed_no_amateur_half")  # fmt: skip
GATE = 0.9
LIMITS = (
    "One kind of question, on pictures of four objects. What tuning teaches here is a style, to go step by step; the "
    "small model cannot hand over what it does not see better than the large one, and is not asked to.",
    "Untuned models answer at once because the likeliest first word says so; going step by step is in their "
    "pretraining (40 % of it). A base without it would have nothing to be guided to.",
    "Sizes span a factor of about 10 at one amount of pretraining. Where every tuned model is right about everything, "
    "right answers tell neither sizes nor ways of guiding apart: a closed gap says that the skill was handed over, not "
    "that a guided model is as good as a tuned one at something harder.",
    "Sizes, pretraining and learning rate were settled in a first run of the study, so that large models pass the "
    "gate: after 800 steps at the usual rate d16, d24 and d32 had learned the skill in about half of the seeds (d48 in "
    "all), and a guide that had not learned it handed nothing over. Who learns late is not part of these intervals.",
    "FLOPs are counted, not timed. Charged are tuning and, to arms whose alpha was chosen, all answers that it was "
    "chosen by (as many as here: fewer would do, alpha 0.5 needs none). Not charged: pretraining, also of the small "
    "model, a rung of the same ladder; losses on validation, which chose nothing.",
    "All seeds of a size answer the same held-out questions; the luck of drawing them is in no interval over seeds. It "
    "mostly cancels in differences between arms, not in shares of right answers or N_eff.",
)


def blocks(data: Data) -> list[Block]:
    """The whole page."""
    pairs = pairs_of(data)
    main = next(pair for pair in pairs if pair.name in data.where("wrong_picture").levels("pair"))
    inside = main_data(data, main)
    return [
        *opening(data, verdicts(data, inside, pairs, main), LIMITS),
        Heading(f"Every arm, {main.name}"),
        arms_table(inside),
        bars_figure(inside, "arms", arms=[a for a in MAIN if a in inside.arms], title="Right answers of every arm"),
        paired_table([paired(inside, arm, comparisons=len(others(inside))) for arm in others(inside)]),
        Heading("Every pair of sizes"),
        pairs_table(data, pairs),
        *_gap_figures(data, pairs),
        *guide_worth.worth(data, pairs),
        Heading("How strongly"),
        Text(f"On validation questions, {main.name}; the alpha of every other table was chosen here, by seed."),
        curves_figure(
            data, "alpha", axis="alpha", arms=("alpha", "alpha_no_amateur"), where={"pair": main.name},
            axis_label="alpha", title="Right answers against alpha, with and without the untuned small model",
        ),
        curves_figure(
            data, "alpha_loss", "nll", "alpha", ("alpha", "alpha_no_amateur"), where={"pair": main.name},
            axis_label="alpha", title="Loss of held-out step-by-step answers against alpha", log_y=True,
        ),
        alphas_figure(data, pairs),
        alpha_table(data, pairs),
        Heading("Many answers"),
        drawn_table(data),
        drawn_figure(data),
        *_skewed(data),
        Heading("What guidance does, step by step"),
        steps_table(data, pairs),
    ]  # fmt: skip


# ---------------------------------------------------------------------------------------------------------------------
# verdicts


def verdicts(data: Data, inside: Data, pairs: Sequence[Pair], main: Pair) -> list[Verdict]:
    """The answers, the gate among them."""
    shares = [mean_of(closed(data, pair)) for pair in pairs]
    anything = ("better", "unresolved", "worse", "one seed")
    return [
        _gate(data, pairs),
        paired_verdict(
            paired(inside, "guided", comparisons=4), "Does guidance help a large model that never was tuned?"
        ),
        Verdict(
            "How much of what direct tuning gives does it give?",
            f"{percent(shares[0])} of the gap at a ratio of sizes of {pairs[0].ratio:.1f}, "
            f"{percent(shares[-1])} at {pairs[-1].ratio:.1f}.",
            tuple(f"ratio {pair.ratio:.1f}: {percent(share)}" for pair, share in zip(pairs, shares, strict=True)),
            "share of the gap closed, 95 % over seeds",
            f"{len(pairs)} pairs, {shares[0].n} seeds",
        ),
        paired_verdict(
            paired(inside, "guided", control="expert", comparisons=4),
            "Is the guided model better than its own guide?",
            expected=anything,
        ),
        paired_verdict(
            paired(inside, "guided", control="no_amateur", comparisons=4),
            "Is the untuned small model needed, each way at its best alpha?",
            "The paper: yes, clearly.",
            ("better",),
        ),
        paired_verdict(
            paired(inside, "guided", control="wrong_picture", comparisons=4),
            "Does the small pair have to see the picture?",
            "If not, what it hands over is a style and nothing about the picture.",
            anything,
        ),
        *guide_worth.verdicts(data),
    ]  # fmt: skip


def _gate(data: Data, pairs: Sequence[Pair]) -> Verdict:
    bigs = sorted({pair.big for pair in pairs})
    found = {big: mean_of(by_seed(data, "forced", where={"pair": big})) for big in bigs}
    passed = all(item.value > GATE for item in found.values())
    words = "yes" if passed else "not all of them"
    return Verdict(
        f"Can the large models do it when they are made to go step by step (gate: more than {GATE})?",
        f"{words.capitalize()}.",
        tuple(f"{big}: {estimate_text(item)}" for big, item in found.items()),
        "right answers with the first word given, 95 % over seeds",
        f"{len(bigs)} sizes",
        alarm=not passed,
    )


# ---------------------------------------------------------------------------------------------------------------------
# pictures and the skewed pair


def _gap_figures(data: Data, pairs: Sequence[Pair]) -> list[Block]:
    """The empirical law: share of the gap closed against the ratio of sizes."""
    seeds = data.seeds("guided")
    shares = [closed(data, pair) for pair in pairs]
    if len(pairs) < 2 or not all(shares):
        return []
    values = np.array([[share.get(seed, math.nan) for seed in seeds] for share in shares])
    found = [mean_of(share) for share in shares]
    line = pictures.Line(
        "guided", np.array([pair.ratio for pair in pairs]), np.array([e.value for e in found]),
        np.array([e.low for e in found]), np.array([e.high for e in found]), values,
    )  # fmt: skip

    def draw(narrow: bool) -> plots.Figure:
        colours = pictures.arm_colours(("base", "guided"), "base")
        label = "parameters of the large model over those of the small one"
        # from 0 to 1 at least: else seeds that differ by nothing fill the picture
        return pictures.metric_curves([line], colours, label, "share of the gap closed", narrow, y_span=(0.0, 1.1))

    caption = (
        "(guided - base) / (tuned - base) on test questions; mean over seeds with its 95 % t interval, seeds as dashes."
    )
    return [
        Figure(
            "gap", "Share of the gap to direct tuning that guidance closes, against the ratio of sizes", caption, draw
        )
    ]


def _renamed(data: Data, arm: str, pairs: Sequence[Pair]) -> Data:
    """Rows of one arm, every pair an arm of its own."""
    arms = tuple(Arm(pair.name, "treatment", f"ratio {pair.ratio:.1f}") for pair in pairs)
    rows = tuple({**row, "arm": row["pair"]} for row in data.where(arm, pair=[p.name for p in pairs]).rows)
    return Data(dataclasses.replace(data.study, arms=arms, control=pairs[0].name), rows)


def alphas_figure(data: Data, pairs: Sequence[Pair]) -> Figure:
    """Right answers against alpha, a line for every pair."""
    return curves_figure(
        _renamed(data, "alpha", pairs), "alpha_pairs", axis="alpha", axis_label="alpha",
        title="Right answers against alpha, for every pair",
    )  # fmt: skip


def drawn_figure(data: Data) -> Figure:
    """pass@k against k, a line for every model."""
    names = [arm for arm in DRAWN if arm in data.arms]
    rows = [
        {**row, "accuracy": row[name], "k": int(name.removeprefix("pass_"))}
        for row in data.where(names).rows
        for name in row
        if name.startswith("pass_")
    ]
    curves = Data(dataclasses.replace(data.study, control=names[0]), tuple(rows))
    return curves_figure(
        curves, "pass_at_k", axis="k", arms=names, axis_label="k", rung="k",
        title="At least one of k drawn answers is right",
    )  # fmt: skip


def _skewed(data: Data) -> list[Block]:
    """A small pair with another prior: whether the untuned small model matters then."""
    names = [arm for arm in SKEWED if arm in data.arms]
    if "skewed_guided" not in names or "skewed_no_amateur" not in names:
        return []
    gap = [paired(data, f"skewed_guided{x}", control=f"skewed_no_amateur{x}", comparisons=2) for x in ("", "_half")]
    rows = [(arm, estimate_text(mean_of(by_seed(data, arm)))) for arm in names]
    return [
        Heading("A small pair with a prior of its own"),
        Text(
            "Pretrained and tuned on pictures in which a few objects come again and again, so that some answers are "
            "much likelier than others; all of them are asked about the usual pictures, as every arm of this page. "
            "Without its untuned twin, its prior comes too."
        ),
        table(("arm", "right answers"), rows),
        paired_table(gap),
    ]
