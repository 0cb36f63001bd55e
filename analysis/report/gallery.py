"""Which pictures a report shows, in reading order, with their titles and captions; or why one is missing."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from analysis import plots
from analysis.fit import FitError
from analysis.report import forest, inputs, marks, page
from analysis.report.cards import NO_GROUP
from analysis.report.evidence import Evidence, Missing, Shown, attempted
from analysis.rows.table import RunTable, Sample
from analysis.study import Study


@dataclass(frozen=True)
class Picture:
    """A title, a caption, and how to draw it: ``draw(narrow)``; a ``ValueError`` of it becomes a sentence."""

    title: str
    caption: str
    draw: Callable[[bool], plots.Figure]

    def html(self) -> str:
        """Both layouts, embedded; or the title and the reason why there is no picture."""
        drawn = attempted(lambda: [plots.to_svg(self.draw(narrow)) for narrow in (False, True)])
        if isinstance(drawn, Missing):
            return page.missing(self.title, drawn.why)
        return page.picture(self.title, self.caption, *drawn)


Chapter = tuple[str, list[Picture]]


def chapters(table: RunTable, study: Study, evidence: Evidence) -> list[Chapter]:
    """All pictures: those of the whole study under an empty title, then what belongs to one group each."""
    whole = [*_curves(study, evidence), *_plans(study, evidence), *_of_fits(table, study, evidence)]
    lone = len(evidence) == 1
    own = [(f"Diagnostics of {group}", _of_group(group, one)) for group, one in evidence.items()]
    return [("", [*whole, *own[0][1]])] if lone else [("", whole), *own]


def pictures(
    table: RunTable,
    study: Study,
    evidence: Evidence,
    on_picture: Callable[[str, int], None] = lambda title, total: None,
) -> list[str]:
    """The HTML of every picture; those of one group among several are folded. ``on_picture(title, total)`` is called
    before each."""
    todo = chapters(table, study, evidence)
    total = sum(len(items) for _, items in todo)
    found = []
    for title, items in todo:
        drawn = []
        for picture in items:
            on_picture(picture.title, total)
            drawn.append(picture.html())
        found.append(page.folded(title, *drawn) if title else "".join(drawn))
    return found


def of(target: str) -> str:
    """How a title names its target: not at all where it is just the loss."""
    return "" if target == "loss" else f", {target}"


def _curves(study: Study, evidence: Evidence) -> list[Picture]:
    """Loss against compute and tokens for the headline target."""
    target = study.targets[0]
    fits, samples = {g: one.fit for g, one in evidence.items()}, {g: one.sample for g, one in evidence.items()}
    reaching = {g: one for g, one in evidence.items() if one.has_frontier}
    near = {g: one.near for g, one in reaching.items()}
    given = {name: value for one in reaching.values() for name, value in one.given.items()}
    found = []
    if len(evidence) > 1 or not all("N" in sample.columns for sample in samples.values()):
        text = (
            "Points are runs, lines the lowest loss the fitted law reaches at each compute inside the tested sizes and "
            "tokens, bands 95 %."
        )
        if any(c.status == "ok" for c in study.comparisons):
            text += (
                " The lower panel is the verdict: a band on one side of 0 is a resolved difference (the band covers "
                "the whole curve at once)."
            )
        found.append(
            Picture(
                f"Loss against compute{of(target)}",
                text,
                lambda narrow: plots.loss_vs_compute(near, _need(fits, reaching), study, target, narrow, given),
            )
        )
    if all("N" in sample.columns for sample in samples.values()):
        found.append(_frontiers(evidence, reaching, target))
    found += _against_tokens(evidence, samples, target)
    return found


def _need(fits: Mapping, reaching: Mapping) -> dict:
    if not reaching:
        laws = ", ".join(sorted({fit.law for fit in fits.values()}))
        raise FitError(f"law {laws} does not say how loss falls with compute")
    return {group: fits[group] for group in reaching}


def _frontiers(evidence: Evidence, reaching: Evidence, target: str) -> Picture:
    where = {f"{name} = {value:.4g}" for one in reaching.values() for name, value in one.given.items()}
    at = (
        f" Runs and frontier at the most frequent values of the other columns: {', '.join(sorted(where))}."
        if where
        else ""
    )

    def draw(narrow: bool) -> plots.Figure:
        _need({g: one.fit for g, one in evidence.items()}, reaching)
        return plots.compute_frontier([inputs.frontier(one) for one in reaching.values()], False, narrow)

    caption = (
        "Runs coloured by size, and the lowest loss of the fitted law at each compute inside the tested sizes and "
        f"tokens, with its 95 % band.{at}"
    )
    return Picture(f"Frontier and sizes{of(target)}", caption, draw)


def _against_tokens(evidence: Evidence, samples: dict[str, Sample], target: str) -> list[Picture]:
    fits = {g: one.fit for g, one in evidence.items()}
    if any(set(fit.shape.columns) != {"N", "D"} for fit in fits.values()):
        return []
    if any(len(set(sample.size)) > 12 for sample in samples.values()):
        return []
    found = [
        Picture(
            f"Loss against tokens{of(target)}",
            "One colour per model size (parameters at the end of each line). Bands: 95 % interval of the fitted law.",
            lambda narrow: plots.loss_vs_tokens(samples, fits, False, narrow),
        )
    ]
    if all(sample.entropy is not None for sample in samples.values()):
        excess = Picture(
            f"Excess over the known entropy{of(target)}",
            "The same on logarithmic axes after subtracting the entropy of the same evaluation tokens: a power law in "
            "tokens alone would be straight.",
            lambda narrow: plots.loss_vs_tokens(samples, fits, True, narrow),
        )
        found.append(excess)
    return found


def _plans(study: Study, evidence: Evidence) -> list[Picture]:
    """What a budget buys: multipliers, the three approaches, the surface with its path."""
    target, found = study.targets[0], []
    if len(evidence) > 1:
        found.append(
            Picture(
                f"Compute for equal loss{of(target)}",
                "How many times its own compute the second group needs for the loss the first group reaches. Hatched: "
                "only a bound, the loss lies outside the tests of one of them. Dashed: an optimum at the edge of the "
                "tested sizes or tokens.",
                lambda narrow: plots.multiplier_curves(inputs.multipliers(study, target), study.groups, narrow),
            )
        )
    if any(one.splits_budgets for one in evidence.values()):
        found.append(
            Picture(
                f"Three approaches to the best split{of(target)}",
                "Exponents of N* ~ C^a and D* ~ C^b: the envelope of the curves (1), parabolas through isoFLOP slices "
                "(2, raw and with the bias of a parabola on an asymmetric surface removed), and the fitted law (3, by "
                "its closed form where C = 6 N D, and by regression over its simulated optima). Approach 3 is the "
                "primary one.",
                lambda narrow: plots.approaches_forest(inputs.estimates(evidence), narrow),
            )
        )
        found.append(
            Picture(
                f"Loss over N and D{of(target)}",
                "Grey: the fitted loss; a run whose shade stands out from its surroundings is one the law misses. The "
                "line is the compute-optimal path with its 95 % band, dashed beyond the tested compute. Dotted: "
                f"{'equal FLOPs of these runs' if len(evidence) == 1 else '6 N D, to compare the groups'}.",
                lambda narrow: plots.loss_contour(
                    [inputs.loss_map(one) for one in evidence.values() if one.splits_budgets],
                    inputs.cost_of_runs(evidence),
                    narrow,
                ),
            )
        )
    return found


def _of_fits(table: RunTable, study: Study, evidence: Evidence) -> list[Picture]:
    """All fits of the study: exponents, fitted E, residuals of the groups, and the gauge of the vision plateau."""
    target = study.targets[0]
    found = []
    local = "The interaction form has local slopes at the centre of the runs, not limits."
    local = local if any(fit.form.startswith("interaction") for fit in study.fits) else ""
    if len(study.fits) > 1 and forest.exponent_names(study):
        found.append(
            Picture(
                "Exponents",
                f"95 % intervals. {local}".strip(),
                lambda narrow: forest.exponents_forest(study, narrow),
            )
        )
    if any("E" in fit.params and fit.known_entropy is not None for fit in study.fits):
        found.append(
            Picture(
                "Fitted E and the known entropy",
                "A fit that covers the black bar agrees with the truth; a dotted one says nothing about E.",
                lambda narrow: forest.entropy_forest(study, narrow),
            )
        )
    if len(evidence) > 1 and all(one.fit.shape.positive for one in evidence.values()):
        samples, fits = marks.sample_map(table, target), {g: one.fit for g, one in evidence.items()}
        found.append(
            Picture(
                f"Residuals{of(target)}",
                "Diamonds: rows of the largest size, predicted by a fit that never saw that size.",
                lambda narrow: plots.residuals(samples, fits, narrow),
            )
        )
    if "colour_excess" in table.every_row and table.every_row["colour_excess"].notna().any():
        found.append(
            Picture(
                "Vision plateau",
                "Loss on colour words above their entropy. A run above the gate has not learned to look; crosses: "
                "refused.",
                lambda narrow: plots.vision_plateau(table, narrow),
            )
        )
    return found


def _of_group(group: str, one: Shown) -> list[Picture]:
    """What shows whether the law of one group can be trusted."""
    name, title = ("", "") if group == NO_GROUP else (f", {group}", group)

    def clouds(narrow: bool) -> plots.Figure:
        given = inputs.clouds(one)
        return plots.bootstrap_clouds(given.pop("draws"), given.pop("best"), given.pop("pairs"), **given, narrow=narrow)

    found = [
        Picture(
            f"Predicted and observed{name}",
            "Held out: every row above a cut, predicted by a fit to the rows below it, for cuts all through the data. "
            "The second panel shows how errors grow with the distance from what was fitted.",
            lambda narrow: plots.predicted_against_observed(inputs.predictions(one), title, narrow),
        ),
        Picture(
            f"Residuals{name}",
            "Structure here is something the law does not say; the last panel compares the residuals with normal ones.",
            lambda narrow: plots.residual_panels(inputs.residuals(one), title, narrow),
        ),
        Picture(
            f"Profiles{name}",
            "How much worse the best fit becomes when one parameter is held at a value. Where the curve stays below "
            "the dashed line towards one side, the runs do not bound the parameter there.",
            lambda narrow: plots.profile_curves(inputs.profile_pictures(one), 1.0, "1 = 95 %", narrow),
        ),
        Picture(
            f"Resamples{name}",
            "The pairs of parameters that trade against each other most over all resamples (a coefficient and its own "
            "exponent always do, and are left out).",
            clouds,
        ),
    ]
    if one.splits_budgets:
        slices = Picture(
            f"IsoFLOP slices{name}",
            "Loss against size at nearly one compute. Second panel: how far the minimum of the parabola lies from that "
            f"of the law; the arrow is the analytic correction of the parabola's bias. {inputs.slicing_text(one)}",
            lambda narrow: plots.isoflop_slices(inputs.isoflop_pictures(one), narrow),
        )
        found.insert(0, slices)
    return found


def titles(chapter: Sequence[Chapter]) -> list[str]:
    """The titles of all pictures, in reading order."""
    return [picture.title for _, items in chapter for picture in items]
