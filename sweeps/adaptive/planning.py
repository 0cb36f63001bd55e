"""One step of plan -> run -> fit -> plan: from the finished runs of a sweep to the next lines of its manifest."""

from __future__ import annotations

import dataclasses
import os
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from nmm.config import ConfigError
from nmm.record import write_atomic, write_json
from sweeps import manifest
from sweeps.adaptive import engine
from sweeps.adaptive.engine import Advice, Fits
from sweeps.adaptive.finished import Finished, check_all_ended, finished, tokens_per_position, useful_points
from sweeps.adaptive.goal import Ask
from sweeps.adaptive.notes import FOLDER, numbers, write_note
from sweeps.adaptive.offers import Offer, free_seeds, lines_of, more_branches, new_trunks
from sweeps.adaptive.shapes import Shape, neighbours, shapes_of
from sweeps.estimate import estimate, observe
from sweeps.manifest import Entry, SweepError
from sweeps.plan import order

_WORTHWHILE = 0.995  # an interval that shrinks by less than this is not worth a run
_LESS = 1.0 - 1e-9


class NothingHelpsError(SweepError):
    """Nothing that the budget buys makes the goal's interval smaller."""


@dataclass(frozen=True)
class NextRuns:
    """What one step chose. groups: each offer with its new lines, most telling per FLOP first; number: of the note, 0
    before it is written."""

    ask: Ask
    advice: Advice
    groups: tuple[tuple[Offer, tuple[Entry, ...]], ...]
    notes: tuple[str, ...]
    number: int = 0

    @property
    def entries(self) -> list[Entry]:
        """All new lines."""
        return [entry for _, entries in self.groups for entry in entries]

    @property
    def cost(self) -> float:
        """FLOPs of the new lines, as the manifest has them."""
        return sum(entry.estimate.flops for entry in self.entries)


def ready(directory: Path) -> tuple[list[Entry], Finished]:
    """The manifest and what of it is finished. Raises ``SweepError`` while runs are open."""
    entries = manifest.read(directory)
    if any(entry.arm for entry in entries):
        raise SweepError(
            f"{directory} compares arms, and runs are added to all arms alike: give its sweep more sizes or seeds and "
            "plan again, or other token counts into a new directory"
        )
    found = finished(directory, entries)
    check_all_ended(directory, found)
    return entries, found


def fits_for(directory: Path, ask: Ask, found: Finished, folder: Path) -> Fits:
    """The file of fits asked for, or one made now in ``folder``. Raises ``SweepError`` for one of other runs."""
    if ask.fits is None:
        return engine.fit(directory, folder / "fits.json", ask.fit_options)
    fits = engine.read_fits(ask.fits)
    if fits.rows_read != found.points:
        raise SweepError(
            f"--fits {ask.fits} knows {fits.rows_read} points, but {found.points} of {directory} are finished now; fit "
            f"again: `nmm fit {directory} --out {ask.fits}`"
        )
    return fits


def choose(directory: Path, ask: Ask, entries: Sequence[Entry], found: Finished, fits: Fits, folder: Path) -> NextRuns:
    """Offer what can be run to ``nmm design`` and make lines of what it picks; nothing but ``folder`` is written.

    Raises ``NothingHelpsError``, ``SweepError`` with the analysis' own words, and ``ConfigError``.
    """
    filling = tokens_per_position(found, entries, ask.goal.group)
    offers, remarks = offers_of(ask, entries, found, fits)
    listed = folder / "candidates.json"
    write_json(listed, engine.candidates_of(offers, filling))
    limits = ("--budget", repr(ask.budget), "--max-runs", str(ask.max_runs), "--candidates", str(listed))
    advice = engine.design(fits, ask.goal, folder / "design.json", *limits, *ask.design_options)
    if not advice.picked or advice.ratio > _WORTHWHILE:
        raise NothingHelpsError(
            f"nothing that {ask.budget:.3g} FLOPs buy in this sweep makes the {ask.goal} smaller (the best choice: x "
            f"{advice.ratio:.3f}); give a larger budget, or other --sizes or --tokens"
        )
    picked = [offers[place] for place in advice.picked]
    groups = tuple(_with_lines(picked, entries, found))
    known = {e.shape for e in entries}
    new = [o for o in picked if (ask.goal.group, o.shape.name) not in known]
    if new:
        names = ", ".join(dict.fromkeys(o.shape.name for o in new))
        remarks.append(
            f"{len(new)} of {len(picked)} are of sizes that the sweep has not tested ({names}); see --beyond"
        )
    return NextRuns(ask, advice, groups, (*remarks, *advice.notes))


def offers_of(ask: Ask, entries: Sequence[Entry], found: Finished, fits: Fits) -> tuple[list[Offer], list[str]]:
    """All that the budget could buy, and remarks on what is not offered. Raises ``SweepError`` when it buys nothing."""
    shapes = shapes_of(entries, ask.goal.group, fits.column)
    others, remark = neighbours(shapes, fits.column, ask.beyond)
    ratios = [count / shape.count for shape in shapes.values() for count in shape.grid]
    beside = useful_points(found, entries, fits.excluded)
    planned = {entry.run_id for entry in entries}
    offers: list[Offer] = []
    for shape in _wanted(ask, shapes, others):
        low, high = (limit * shape.count for limit in (min(ratios) * _LESS, max(ratios) / _LESS))
        allowed = frozenset(count for count in shape.grid if low <= count <= high)
        mine = [e for e in entries if e.shape == (ask.goal.group, shape.name) and e.role == "trunk"]
        done = {e.run_id: e for e in mine if e.run_id in found.records}
        offers += new_trunks(shape, allowed, ask.max_runs)
        offers += more_branches(shape, done, beside, planned, allowed)
    bought = [offer for offer in offers if offer.flops <= ask.budget and offer.runs <= ask.max_runs]
    if not bought:
        cheapest = min(offers, key=lambda offer: offer.flops, default=None)
        least = f"the cheapest is {cheapest.name} for {cheapest.flops:.3g}" if cheapest else "there is none"
        raise NothingHelpsError(
            f"{ask.budget:.3g} FLOPs and {ask.max_runs} lines buy none of the runs on offer; {least}"
        )
    return bought, [remark] if remark else []


def _wanted(ask: Ask, shapes: dict[str, Shape], others: Sequence[Shape]) -> list[Shape]:
    """The shapes to offer, smallest first, with the token counts asked for. Raises ``ConfigError``."""
    known = sorted([*shapes.values(), *others], key=lambda shape: shape.count)
    unknown = [name for name in ask.sizes if name not in {shape.name for shape in known}]
    if unknown:
        raise ConfigError(
            f"--sizes {','.join(unknown)}: neither a size of the sweep nor one of its family within --beyond "
            f"{ask.beyond:g}; there are {', '.join(shape.name for shape in known)}"
        )
    chosen = [shape for shape in known if not ask.sizes or shape.name in ask.sizes]
    return [dataclasses.replace(shape, grid=_grid(shape, ask.tokens)) for shape in chosen]


def _grid(shape: Shape, more: Sequence[int]) -> tuple[int, ...]:
    """Whole steps; a count that is a grid point to within its rounding is not taken twice."""
    step = shape.base.tokens_per_step
    return tuple(sorted({*shape.grid, *(max(1, round(count / step)) * step for count in more)}))


def _with_lines(
    picked: Sequence[Offer], entries: Sequence[Entry], found: Finished
) -> Iterator[tuple[Offer, tuple[Entry, ...]]]:
    """Each offer with its lines; every new trunk of a size gets the next seed that this size does not have."""
    speeds = observe(found.records.values(), [e.config for e in entries] + [o.shape.base for o in picked])
    seeds: dict[str, Iterator[int]] = {}
    for offer in picked:
        name = offer.shape.name
        if offer.trunk is None and name not in seeds:
            seeds[name] = free_seeds(entries, offer.shape)
        seed = next(seeds[name]) if offer.trunk is None else offer.trunk.config.seed
        yield offer, tuple(Entry(config, estimate(config, speeds)) for config in lines_of(offer, seed))


def write(directory: Path, chosen: NextRuns, fits: Fits, round_number: int | None) -> NextRuns:
    """Write the note, keep a copy of the fits beside it, and add the lines to the manifest. Raises ``SweepError``."""
    kept = directory / FOLDER / f"fits-{max(numbers(directory), default=0) + 1:04d}.json"
    data = fits.path.read_bytes()
    write_atomic(kept, lambda file: file.write(data))
    number = write_note(directory, _note(chosen, kept, fits, round_number))
    ordered = [dataclasses.replace(entry, generation=number) for entry in order(chosen.entries)]
    manifest.append(directory, ordered)
    return dataclasses.replace(chosen, number=number)


def _note(chosen: NextRuns, kept: Path, fits: Fits, round_number: int | None) -> dict[str, Any]:
    advice = chosen.advice
    return {
        "goal": str(chosen.ask.goal),
        "budget": chosen.ask.budget,
        "cost": chosen.cost,
        "interval": engine.as_dict(advice.now),
        "expected": engine.as_dict(advice.expected),
        "ratio": advice.ratio,
        "repeat_ratio": advice.repeat_ratio,
        "blind_ratio": advice.blind_ratio,
        "notes": list(chosen.notes),
        "fits": {"file": kept.name, "sha256": fits.digest},
        "round": round_number,
        "offers": [{"name": offer.name, "flops": offer.flops, "runs": offer.runs} for offer, _ in chosen.groups],
        "runs": [{"run_id": entry.run_id, "flops": entry.estimate.flops} for entry in chosen.entries],
    }


def workplace(directory: Path) -> tempfile.TemporaryDirectory[str]:
    """A folder in the sweep's own directory for the files between the commands; gone afterwards."""
    return tempfile.TemporaryDirectory(dir=directory, prefix=f".next-{os.getpid()}-")
