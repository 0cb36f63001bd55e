"""The page of random-label bridges: does one help, is it language or the scale of weights, and what is it worth."""

from __future__ import annotations

from collections.abc import Sequence

from analysis.interventions import curve
from analysis.interventions.blocks import Block, Heading, Table, Text, Verdict, table
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
from analysis.interventions.paired import Paired, means, paired
from analysis.interventions.rows import Data

MAIN, CURVE, LABELS, JOINT = ({"part": part} for part in ("main", "curve", "labels", "joint"))
ANY = ("better", "unresolved", "worse", "one seed")
BRIDGED = ("lm_random", "lm_first", "lm_last", "lm_not_true", "lm_shift", "lm_next_patch", "lm_more", "lm_truth")
FROM_SCRATCH = ("rand_random", "rand_first", "rand_last", "rand_not_true", "rand_covariance", "rand_more", "rand_truth")
INITS = ("rand_none", "shuffle_none", "rescaled_none", "lm_none")
ON_CURVES = ("lm_none", "lm_random", "lm_first", "rand_none", "shuffle_none")
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
)


def blocks(data: Data) -> list[Block]:
    """The whole page."""
    bridges = _against(data, BRIDGED, "lm_none")
    inits = _against(data, [arm for arm in INITS if arm != "lm_none"], "lm_none")
    compute = [_worth(data, arm, "lm_none", "total", CURVE, "steps", number=2) for arm in ("lm_random", "lm_first")]
    labels = [_worth(data, "lm_first", "lm_none", "d", LABELS, "d", PICTURES)]
    return [
        *opening(data, _verdicts(data, bridges, inits, compute[1], labels[0]), LIMITS),
        Heading("Every arm"),
        _main_table(data),
        bars_figure(data, "arms", where=MAIN, title="Held-out accuracy at the last step"),
        Heading("Bridges, from language weights"),
        forest_figure("bridges", bridges, title="Accuracy at the last step, against language weights without a bridge"),
        paired_table(bridges),
        Heading("Earlier, and probed", 3),
        paired_table([gap for metric in ("accuracy_early", "accuracy_half", "probe") for gap in
                      _against(data, ("lm_random", "lm_first"), "lm_none", metric)]),
        Heading("Bridges, from scratch"),
        paired_table(_against(data, FROM_SCRATCH, "rand_none")),
        Heading("The language, or the scale of its weights"),
        Text(
            "Shuffling keeps every value of every tensor, so norms and outliers, and destroys what stands where. "
            "Rescaled weights are fresh ones with the language run's norms."
        ),
        paired_table(inits),
        _outlier_table(data),
        Heading("Accuracy along the way"),
        curves_figure(data, "curves", "accuracy", "steps", ON_CURVES, "Accuracy by steps", where=CURVE),
        Heading("What a bridge is worth in compute"),
        Text("The bridge is charged; the language run, which both sides have, is not."),
        multiplier_figure("compute", compute, data=data),
        multiplier_table(compute),
        Heading("What a bridge is worth in labels"),
        curves_figure(data, "labels", "accuracy", "d", ("lm_none", "lm_first", "rand_none"),
                      "Accuracy by labelled pictures, same steps", where=LABELS, rung="d", axis_label=PICTURES),
        multiplier_figure("label_worth", labels, data=data),
        multiplier_table(labels),
        *_language(data),
        *_image_text(data),
    ]  # fmt: skip


def _verdicts(
    data: Data, bridges: Sequence[Paired], inits: Sequence[Paired], compute: Multiplier, labels: Multiplier
) -> list[Verdict]:
    of = {gap.arm: gap for gap in (*bridges, *inits)}
    core = _against(data, ("lm_random", "lm_first"), "lm_none")
    probe = _against(data, ("lm_first", "lm_random"), "lm_none", "probe")
    structure = paired(data, "lm_none", control="shuffle_none", where=MAIN)
    leak = paired(data, "lm_not_true", control="lm_random", where=MAIN)
    joint = _against(data, [arm for arm in ("lm_first", "lm_next_patch")], "lm_none", "grounded", JOINT)
    return [
        paired_verdict(core[0], "Does a bridge of random labels help language weights?"),
        paired_verdict(core[1], "And in the first blocks only?"),
        paired_verdict(probe[0], "And under a probe, body frozen?"),
        multiplier_verdict(compute, "What is it worth in compute?", "Bridge of the first half, charged."),
        multiplier_verdict(labels, "And in labels?", "Bridge of the first half; it needs no labels."),
        paired_verdict(of["lm_more"], "The bridge's FLOPs spent on more classification instead?", expected=ANY),
        paired_verdict(
            structure, "Do language weights help by their structure (intact against shuffled)?", expected=ANY
        ),
        paired_verdict(leak, "Does it matter that published labels are never the true one?", expected=ANY),
        paired_verdict(joint[0], "Does the bridge help image-text training?"),
    ]


def _against(
    data: Data, arms: Sequence[str], control: str, metric: str = "", where: dict[str, str] | None = None
) -> list[Paired]:
    """Differences of several arms from one, corrected for their number."""
    present = [arm for arm in arms if arm in data.arms]
    return [paired(data, arm, metric, control, comparisons=len(present), where=where or MAIN) for arm in present]


def _worth(
    data: Data, arm: str, control: str, axis: str, where: dict[str, str], rung: str, label: str = "", number: int = 1
) -> Multiplier:
    return curve.multiplier(data, arm, "accuracy", axis, control, rung, where, label, number)


def _main_table(data: Data) -> Table:
    """Means of what the arms of the main part measure."""
    metrics = ("accuracy_early", "accuracy_half", "accuracy", "probe", "steps_to_target", "fit", "forgetting")
    return means_table(data, metrics, where=MAIN)


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
    free = _worth(data, "lm_none", "rand_none", "total", CURVE, "steps")
    paid = _worth(data, "lm_none", "rand_none", "with_lm", CURVE, "steps", WITH_LM)
    both = _worth(data, "lm_first", "rand_none", "with_lm", CURVE, "steps", WITH_LM)
    labels = _worth(data, "lm_none", "rand_none", "d", LABELS, "d", PICTURES)
    return [
        Heading("What language weights are worth against none"),
        Text("First as a gift, then with the language run charged (alone, then with the bridge), then in labels."),
        multiplier_table([free, paid, both, labels]),
    ]


def _image_text(data: Data) -> list[Block]:
    """Captions and texts trained together, after a bridge and without; and the text that a bridge forgets."""
    arms = [arm for arm in data.arms if data.where(arm, **JOINT).rows]
    others = [arm for arm in arms if arm != "lm_none"]
    forgotten = [arm for arm in data.arms if arm.startswith("lm_") and arm not in ("lm_none", "lm_more")]
    return [
        Heading("Image-text training after the bridge"),
        means_table(data, ("grounded", "caption_loss"), arms, JOINT),
        paired_table([
            gap for metric in ("grounded", "caption_loss") for gap in _against(data, others, "lm_none", metric, JOINT)
        ]),
        Heading("Text forgotten"),
        Text(
            "Loss on held-out texts right after the bridge minus before it, with the head of words as it was: the "
            "bridge learns on a head of its own."
        ),
        bars_figure(data, "forgetting", "forgetting", forgotten, "Text forgotten by the bridge", where=MAIN),
    ]  # fmt: skip
