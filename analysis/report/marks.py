"""What the pictures share: colours, markers, words, and which rows go where. No drawing."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np

from analysis.rows.table import RunTable, Sample
from analysis.study import Study

Colour = tuple[float, float, float, float]
GROUP_COLOURS = {"early": "#0072B2", "late": "#D55E00", "moe": "#007D5C", "all": "#0072B2"}
_OTHER_COLOURS = ("#CC79A7", "#B8860B", "#56B4E9", "#000000")
FORM_MARKERS = {"known": "o", "free": "s", "interaction": "D"}
_OTHER_MARKERS = ("^", "v", "P", "X", "<", ">")
FORM_WORDS = {"known": "E known", "free": "E free", "interaction": "N-D interaction (local slopes)"}
GATE_NATS, GATE_TOKENS = 1.0, 1e6


def group_colour(group: str, groups: Sequence[str]) -> str:
    """A fixed colour for early, late, moe and all (no groups), the next free one for any other group."""
    others = [g for g in groups if g not in GROUP_COLOURS]
    return GROUP_COLOURS.get(group) or _OTHER_COLOURS[others.index(group) % len(_OTHER_COLOURS)]


def short(value: float) -> str:
    """19k, 1.2M, 3.4B, 1.4T."""
    for unit, name in ((1e12, "T"), (1e9, "B"), (1e6, "M"), (1e3, "k")):
        if value >= unit:
            return f"{value / unit:.3g}{name}"
    return f"{value:.3g}"


def form_markers(forms: Iterable[str]) -> dict[str, str]:
    """A marker per form present: fixed for the three usual ones, which come first, the next free one for any other."""
    present = dict.fromkeys(forms)
    usual = {form: marker for form, marker in FORM_MARKERS.items() if form in present}
    others = [form for form in present if form not in FORM_MARKERS]
    return usual | {form: _OTHER_MARKERS[i % len(_OTHER_MARKERS)] for i, form in enumerate(others)}


def sample_map(table: RunTable, target: str) -> dict[str, Sample]:
    """The usable rows of every group that has some, by group."""
    found = {group: table.sample(group, target)[0] for group in table.groups}
    return {group: sample for group, sample in found.items() if len(sample)}


def forest_rows(study: Study) -> list[tuple[str, str]]:
    """(target, group) from top to bottom."""
    return [(target, group) for target in study.targets for group in study.groups]


# Viridis from light to dark, at eight equal steps between 0.82 and 0.05.
_RAMP = ((0.64, 0.86, 0.21), (0.41, 0.80, 0.36), (0.23, 0.72, 0.45), (0.13, 0.62, 0.53), (0.13, 0.53, 0.55),
         (0.18, 0.42, 0.56), (0.24, 0.30, 0.54), (0.28, 0.12, 0.42))  # fmt: skip


def size_colours(sizes: Iterable[float]) -> dict[float, Colour]:
    """A colour per distinct size, light for the smallest, dark for the largest."""
    ordered = sorted(set(sizes))
    places = np.linspace(0, len(_RAMP) - 1, len(ordered))
    steps = np.arange(len(_RAMP))
    channels = [np.interp(places, steps, [colour[c] for colour in _RAMP]) for c in range(3)]
    return {size: (float(r), float(g), float(b), 1.0) for size, r, g, b in zip(ordered, *channels, strict=True)}
