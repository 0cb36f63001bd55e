"""The page of weight soups: against the best member, against joint training at equal steps and at equal cost."""

from __future__ import annotations

from collections.abc import Sequence

from analysis.interventions import curve
from analysis.interventions.blocks import Block, Heading, Table, Text, Verdict, table
from analysis.interventions.compose import (
    Where,
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
from analysis.interventions.numbers import estimate_text, gap_text
from analysis.interventions.paired import Paired, means, paired
from analysis.interventions.rows import Data

SOUPS = ("greedy", "uniform", "maximum", "individual_select", "model_stock")
FRESH = ("pretrained", "D_only", "best_single", *SOUPS, "lr_greedy", "other_starts", "joint")
PLATEAU = ("plateau_start", "plateau_best_single", "plateau_uniform", "plateau_greedy", "plateau_joint")
LADDERS = ("best_single", "greedy", "uniform", "joint")
LIMITS = (
    "Everything is one small world: skills are kinds of question about two objects, learned within hundreds of steps. "
    "Nothing here says what a soup of large instruction-tuned models is worth.",
    "Joint training sees every kind in one run. Where data sets contradict each other, or cannot be mixed because they "
    "arrive one after another or at different places, a soup may be all there is; that was not measured.",
    "Members start near each other. Longer or hotter fine-tunes go further apart; the ladder of lengths shows how the "
    "soup's gain changes inside the range that was tested, not beyond it.",
    "Selection passes over the val split are charged, but a sweep over members that were thrown away earlier is not.",
)


def blocks(data: Data) -> list[Block]:
    """The whole page."""
    main = max(data.where("greedy").levels("steps"))
    at = {"steps": main}
    worth = [curve.multiplier(data, arm, control="joint", rung="steps") for arm in ("greedy", "uniform")]
    gaps = _against(data, SOUPS, "best_single", at)
    joint = _against(data, SOUPS, "joint", at)
    fair = _against(data, SOUPS, "joint", {"spent": main * _members(data)})
    verdicts = [
        paired_verdict(gaps[0], "Is a greedy soup better than its best member?"),
        multiplier_verdict(
            worth[0],
            "What is a greedy soup worth in compute, if the same data may be trained on together?",
            "Cost of joint training for the soup's accuracy, over the cost of all members and the selection.",
            ("better", "no effect", "worse"),
        ),
        paired_verdict(
            joint[0], f"And against joint training for as many steps as one member ({main})?", expected=_ANY
        ),
        *_side_verdicts(data, at),
        *_plateau_verdicts(data),
    ]
    return [
        *opening(data, verdicts, LIMITS),
        Heading("Every arm"),
        means_table(data, arms=[a for a in FRESH if a in data.arms], where={"steps": [0, main]}),
        Text(f"Members, soups and joint training after {main} steps each; the soup of learning rates after as many."),
        bars_figure(data, "arms", arms=FRESH, where={"steps": [0, main]}, title=f"Accuracy after {main} steps"),
        Heading("Against the best member"),
        forest_figure("against_best", gaps),
        paired_table(gaps),
        Heading("Against joint training"),
        Text("First at equal steps (joint training costs a k-th of the soup), then at equal training FLOPs (k times "
             "the steps of one member)."),
        paired_table([*joint, *fair]),
        curves_figure(data, "cost", arms=LADDERS, rung="steps", title="Accuracy against everything that was spent"),
        multiplier_figure("worth", worth, data=data),
        multiplier_table(worth),
        Heading("How long the members were fine-tuned"),
        _lengths(data),
        curves_figure(data, "length", axis="steps", arms=LADDERS, rung="steps",
                      title="Accuracy against the steps of one member"),
        Heading("What the soups are made of"),
        _composition(data, at),
        Heading("By kind of question"),
        _kinds(data, {"steps": [0, main]}),
        *_plateau(data),
    ]  # fmt: skip


_ANY = ("better", "unresolved", "worse")


def _members(data: Data) -> int:
    return int(max(data.where("greedy").levels("k")))


def _against(data: Data, arms: Sequence[str], control: str, where: Where) -> list[Paired]:
    """Differences of several arms from one, corrected for their number. ``where`` steps or spent fits both sides."""
    return [paired(data, arm, control=control, comparisons=len(arms), where=where) for arm in arms]


def _side_verdicts(data: Data, at: Where) -> list[Verdict]:
    rates = paired(data, "lr_greedy", control="D_only", where=at)
    apart = paired(data, "other_starts", control="best_single", where=at)
    return [
        paired_verdict(rates, "Does a soup over learning rates of one data set help?", expected=_ANY),
        paired_verdict(
            apart,
            "And a mean of members that began with different pretrained models?",
            "Built with different_starts=accept; `nmm soup` refuses it otherwise.",
            _ANY,
        ),
    ]


def _plateau_verdicts(data: Data) -> list[Verdict]:
    steps = max(data.where("plateau_greedy").levels("steps"))
    soup = paired(data, "plateau_greedy", control="plateau_best_single", where={"steps": steps})
    fair = paired(data, "plateau_greedy", control="plateau_joint", where={"spent": steps * _members(data)})
    return [
        paired_verdict(
            soup, "After joint training has flattened out, does a soup beat its best member?", expected=_ANY
        ),
        paired_verdict(fair, "And there, joint training for the same FLOPs?", expected=_ANY),
    ]


def _lengths(data: Data) -> Table:
    """Gain of the soup over its best member, and over joint training, at every length of the fine-tunes."""
    rows = []
    lengths = data.where("greedy").levels("steps")
    for steps in lengths:
        cells = [
            gap_text(paired(data, arm, control=control, where={"steps": steps}).difference)
            for arm, control in (("greedy", "best_single"), ("uniform", "best_single"), ("greedy", "joint"))
        ]
        rows.append((str(steps), *cells))
    header = ("steps of a member", "greedy - best single", "uniform - best single", "greedy - joint, equal steps")
    return table(header, rows, "rrrr", ["Paired by seed, 95 % t intervals, each by itself."])


def _composition(data: Data, at: Where) -> Table:
    rows = []
    for arm in ("best_single", *SOUPS, "lr_greedy"):
        kept, passes = (means(data, column, [arm], at)[arm] for column in ("kept", "evaluations"))
        rows.append((arm, estimate_text(kept), f"{passes.value:.1f}"))
    return table(("arm", "members kept", "passes over the val split"), rows, "lrr", ["Mean over seeds."])


def _kinds(data: Data, where: Where) -> Table:
    """Accuracy by kind of question, mean over seeds."""
    prefix = "accuracy_"
    columns = [c for c in data.where("greedy").rows[0] if c.startswith(prefix) and c != f"{prefix}val"]
    rows = []
    for arm in [a for a in FRESH if a in data.arms]:
        found = [means(data, column, [arm], where)[arm].value for column in columns]
        rows.append((arm, *(f"{value:.3f}" for value in found)))
    return table(("arm", *(c.removeprefix(prefix) for c in columns)), rows, notes=["Mean over seeds."])


def _plateau(data: Data) -> list[Block]:
    """What goes on from the longest joint training."""
    steps = max(data.where("plateau_greedy").levels("steps"))
    start = data.where("plateau_start").levels("steps")
    both = {"steps": [*start, steps, steps * _members(data)]}
    return [
        Heading("After joint training has flattened out"),
        Text(
            f"All go on from the model that was trained on all data sets for {start[0]} steps: the members with "
            f"{steps} steps on D + d_i each, joint training with {steps} and with {steps * _members(data)} steps."
        ),
        bars_figure(data, "plateau", arms=PLATEAU, where=both, group="steps", title="Accuracy after going on"),
        means_table(data, arms=PLATEAU[:-1], where=both),
        means_table(data, arms=PLATEAU[-1:], where={"steps": steps}),
        means_table(data, arms=PLATEAU[-1:], where={"steps": steps * _members(data)}),
    ]
