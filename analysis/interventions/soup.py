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
from analysis.interventions.multiplier import Multiplier
from analysis.interventions.numbers import estimate_text, gap_text
from analysis.interventions.paired import Paired, means, paired
from analysis.interventions.rows import Data

SOUPS = ("greedy", "uniform", "maximum", "individual_select", "model_stock")
FRESH = ("pretrained", "D_only", "best_single", *SOUPS, "lr_best_single", "lr_greedy", "joint")
APART = "other_starts"  # its sets share pretrained models, so it has no interval and stands by itself
PLATEAU = ("plateau_start", "plateau_best_single", "plateau_uniform", "plateau_greedy", "plateau_joint",
           "plateau_joint_long")  # fmt: skip
LADDERS = ("best_single", "greedy", "uniform", "model_stock", "joint")
LIMITS = (
    "Everything is one small world: skills are kinds of question about two objects, learned within hundreds of steps. "
    "Nothing here says what a soup of large instruction-tuned models is worth.",
    "Joint training sees every kind in one run. Where data sets contradict each other, or cannot be mixed because they "
    "arrive one after another or at different places, a soup may be all there is; that was not measured.",
    "Members start near each other. Longer or hotter fine-tunes go further apart; the ladder of lengths shows how the "
    "soup's gain changes inside the range that was tested, not beyond it.",
    "Selection passes over the val split are charged, but a sweep over members that were thrown away earlier is not.",
    "Intervals are over training seeds. All seeds answer the same held-out questions, whose luck is in no interval: it "
    "mostly cancels in differences, and not in means.",
    "The interval of a box holds for its own family at once: all soups against the best member, all against joint "
    "training, the ladders, the three side questions. It does not hold for all boxes of the page together.",
)


def blocks(data: Data) -> list[Block]:
    """The whole page."""
    main = max(data.where("greedy").levels("steps"))
    at = {"steps": main}
    tried = ("greedy", "uniform", "model_stock")
    worth = [curve.multiplier(data, arm, control="joint", rung="steps", comparisons=len(tried)) for arm in tried]
    gaps, losses = (_against(data, SOUPS, "best_single", metric=metric) for metric in ("accuracy", "loss"))
    joint, side = _against(data, SOUPS, "joint"), _side(data, at)
    fair = _against(data, SOUPS, "joint", {"spent": main * _members(data)})
    return [
        *opening(data, _verdicts(data, gaps[0], worth[0], joint[0], side), LIMITS),
        Heading("Every arm"),
        means_table(data, arms=[a for a in FRESH if a in data.arms], where={"steps": [0, main]}),
        Text(f"Members, soups and joint training after {main} steps each; the soup of learning rates after as many."),
        bars_figure(data, "arms", arms=FRESH, where={"steps": [0, main]}, title=f"Accuracy after {main} steps"),
        Heading("Against the best member"),
        Text("Of each seed the mean difference over all lengths of the fine-tunes; length by length further below."),
        forest_figure("against_best", gaps, title="Accuracy: differences from the best member"),
        forest_figure("against_best_loss", losses, title="Loss: differences from the best member"),
        paired_table([*gaps, *losses]),
        Heading("Against joint training"),
        Text("At equal steps, where joint training costs a k-th of the soup; over all lengths."),
        paired_table(joint),
        Text(f"At equal training FLOPs: joint training for k times the {main} steps of one member."),
        paired_table(fair),
        curves_figure(data, "cost", arms=LADDERS, rung="steps", title="Accuracy against everything that was spent"),
        multiplier_figure("worth", worth, data=data),
        multiplier_table(worth),
        Heading("How long the members were fine-tuned"),
        _lengths(data),
        curves_figure(data, "length", axis="steps", arms=LADDERS, rung="steps",
                      title="Accuracy against the steps of one member",
                      axis_label="training of one member, or joint training (steps)"),
        Heading("What the soups are made of"),
        _composition(data, at),
        Heading("By kind of question"),
        _kinds(data, {"steps": [0, main]}),
        *_plateau(data),
        Heading("The three side questions"),
        Text("As in the boxes: intervals for the three together."),
        paired_table(side),
        Heading("Members of different pretrained models"),
        _apart(data),
    ]  # fmt: skip


_ANY = ("better", "unresolved", "worse")


def _verdicts(data: Data, gap: Paired, worth: Multiplier, joint: Paired, side: Sequence[Paired]) -> list[Verdict]:
    """The boxes: of the greedy soup, then the side questions."""
    return [
        paired_verdict(gap, "Is a greedy soup better than its best member?"),
        multiplier_verdict(
            worth,
            "What is a greedy soup worth in compute, if the same data may be trained on together?",
            "Cost of joint training for the soup's accuracy, over the cost of all members and the selection.",
            ("better", "no effect", "worse"),
        ),
        paired_verdict(joint, "And against joint training for as many steps as one member?", expected=_ANY),
        paired_verdict(
            side[0], "Does a soup over learning rates of one data set beat the best of them?", expected=_ANY
        ),
        _apart_verdict(data),
        paired_verdict(
            side[1], "After joint training has flattened out, does a soup beat its best member?", expected=_ANY
        ),
        paired_verdict(side[2], "And there, joint training for the same FLOPs?", expected=_ANY),
    ]


def _members(data: Data) -> int:
    return int(max(data.where("greedy").levels("k")))


def _against(data: Data, arms: Sequence[str], control: str, where: Where = None, metric: str = "") -> list[Paired]:
    """Differences of several arms from one, corrected for their number: where both have the same steps (the mean over
    all of them counts once a seed), or with ``where``.
    """
    by = () if where else ("steps",)
    return [paired(data, arm, metric, control, by, len(arms), where) for arm in arms]


def _side(data: Data, at: Where) -> list[Paired]:
    """The side questions of the boxes, one family: learning rates; on the plateau, best member and joint training."""
    pairs = (
        ("lr_greedy", "lr_best_single", at),
        ("plateau_greedy", "plateau_best_single", None),
        ("plateau_greedy", "plateau_joint_long", None),
    )
    return [paired(data, arm, control=control, comparisons=len(pairs), where=where) for arm, control, where in pairs]


def _apart_verdict(data: Data) -> Verdict:
    """Of members of different pretrained models: ranges in place of an interval."""
    apart, best = _apart_pairs(data)
    collapse = max(apart) < min(best)
    words = (
        f"{APART} collapses: each of these means is worse than every best member of one start."
        if collapse
        else f"{APART} does not collapse: some of these means are as good as a best member of one start."
    )
    k = _members(data)
    return Verdict(
        "And a mean of members that began with different pretrained models?",
        words,
        (f"{min(apart):.3f} to {max(apart):.3f} against {min(best):.3f} to {max(best):.3f}",),
        f"{data.metric().bare}, least to most, no interval",
        f"{len(apart)} sets of {k} members",
        f"Every pretrained model has members in {k} of the sets, so these are no independent repetitions. Built with "
        "different_starts=accept; `nmm soup` refuses it otherwise.",
    )


def _apart_pairs(data: Data) -> tuple[list[float], list[float]]:
    """Accuracies of the means, and of the best members after as many steps."""
    apart = data.where(APART)
    best = data.where("best_single", steps=apart.levels("steps"))
    name = data.metric().name
    return apart.values(name).tolist(), best.values(name).tolist()


def _apart(data: Data) -> Table:
    """Set by set."""
    apart, steps = data.where(APART), data.where(APART).levels("steps")
    best = {row["seed"]: row for row in data.where("best_single", steps=steps).rows}
    columns = [metric.name for metric in data.study.metrics]
    rows = [
        (str(row["seed"]), *(f"{one[column]:.3f}" for one in (row, best[row["seed"]]) for column in columns))
        for row in apart.rows
    ]
    header = ("first seed", *(f"{arm}: {column}" for arm in (APART, "best_single") for column in columns))
    note = (
        f"The set of a row has a member of each of {_members(data)} pretrained models, its seed's and the next ones'."
    )
    return table(header, rows, "r" * len(header), [note])


def _lengths(data: Data) -> Table:
    """Differences at every length of the fine-tunes: from the start, from the best member, from joint training."""
    pairs = (
        ("best_single", "pretrained"),
        ("greedy", "pretrained"),
        ("greedy", "best_single"),
        ("uniform", "best_single"),
        ("model_stock", "best_single"),
        ("greedy", "joint"),
    )
    rows = []
    for steps in data.where("greedy").levels("steps"):
        gaps = [
            paired(data, arm, control=control, where={"steps": [0, steps] if control == "pretrained" else steps})
            for arm, control in pairs
        ]
        rows.append((str(steps), *(gap_text(gap.difference) for gap in gaps)))
    header = ("steps of a member", *(f"{arm} - {control}" for arm, control in pairs))
    return table(header, rows, "r" * len(header), ["Paired by seed, 95 % t intervals, each by itself."], wrap=header)


def _composition(data: Data, at: Where) -> Table:
    rows = []
    for arm in ("best_single", *SOUPS, "lr_best_single", "lr_greedy"):
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
    (start,), (steps,) = data.where("plateau_start").levels("steps"), data.where("plateau_greedy").levels("steps")
    gaps = [paired(data, arm, control="plateau_start", comparisons=len(PLATEAU) - 1) for arm in PLATEAU[1:]]
    return [
        Heading("After joint training has flattened out"),
        Text(
            f"All go on from the model that was trained on all data sets for {start} steps: the members with {steps} "
            f"steps on D + d_i each, joint training with {steps} and with {steps * _members(data)} steps."
        ),
        bars_figure(data, "plateau", arms=PLATEAU, title="Accuracy after going on"),
        means_table(data, arms=PLATEAU),
        paired_table(gaps),
    ]
