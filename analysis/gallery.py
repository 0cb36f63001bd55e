"""Which pictures a report shows, in reading order, with their titles and captions."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from analysis import forest, marks, page, plots
from analysis.study import Study
from analysis.table import RunTable


@dataclass(frozen=True)
class Picture:
    """A title, a caption, and how to draw it: ``draw(narrow)``."""

    title: str
    caption: str
    draw: Callable[[bool], plots.Figure]

    def html(self) -> str:
        """Both layouts, embedded."""
        return page.picture(self.title, self.caption, plots.to_svg(self.draw(False)), plots.to_svg(self.draw(True)))


def pictures(
    table: RunTable, study: Study, on_picture: Callable[[str, int], None] = lambda title, total: None
) -> list[str]:
    """The HTML of every picture the study has data for. ``on_picture(title, total)`` is called before each."""
    todo = [*_of_runs(table, study), *_of_fits(table, study)]
    found = []
    for picture in todo:
        on_picture(picture.title, len(todo))
        found.append(picture.html())
    return found


def _of_runs(table: RunTable, study: Study) -> list[Picture]:
    """Loss against compute and tokens for the headline target."""
    target = study.targets[0]
    fits = {g: f for g in study.groups if (f := study.main_form(g, target)) is not None}
    samples = {g: s for g, s in marks.sample_map(table, target).items() if g in fits}
    found = [
        Picture(
            f"Loss against compute, {target}",
            "Points are runs, lines the lowest loss the fitted law reaches at each compute inside the tested sizes and "
            "tokens, bands 95 %. The lower panel is the verdict: a band on one side of 0 is a resolved difference (the "
            "band covers the whole curve at once).",
            lambda narrow: plots.loss_vs_compute(samples, fits, study, target, narrow),
        ),
        Picture(
            f"Loss against tokens, {target}",
            "One colour per model size (parameters at the end of each line). Bands: 95 % interval of the fitted law.",
            lambda narrow: plots.loss_vs_tokens(samples, fits, False, narrow),
        ),
    ]
    if all(sample.entropy is not None for sample in samples.values()):
        excess = Picture(
            f"Excess over the known entropy, {target}",
            "The same on logarithmic axes after subtracting the entropy of the same evaluation tokens: a power law in "
            "tokens alone would be straight.",
            lambda narrow: plots.loss_vs_tokens(samples, fits, True, narrow),
        )
        found.append(excess)
    residuals = Picture(
        f"Residuals, {target}",
        "Diamonds: rows of the largest size, predicted by a fit that never saw that size.",
        lambda narrow: plots.residuals(samples, fits, narrow),
    )
    return [*found, residuals]


def _of_fits(table: RunTable, study: Study) -> list[Picture]:
    """Exponents, fitted E, and the gauge of the vision plateau."""
    found = [
        Picture(
            "Exponents",
            "95 % intervals. The interaction form has local slopes at the centre of the runs, not limits.",
            lambda narrow: forest.exponents_forest(study, narrow),
        )
    ]
    if any("E" in fit.params for fit in study.fits):
        entropy = Picture(
            "Fitted E and the known entropy",
            "A fit that covers the black bar agrees with the truth; a dotted one says nothing about E.",
            lambda narrow: forest.entropy_forest(study, narrow),
        )
        found.append(entropy)
    if "colour_excess" in table.every_row and table.every_row["colour_excess"].notna().any():
        plateau = Picture(
            "Vision plateau",
            "Loss on colour words above their entropy. A run above the gate has not learned to look; crosses: refused.",
            lambda narrow: plots.vision_plateau(table, narrow),
        )
        found.append(plateau)
    return found
