"""Every group, target and form of one table: fits, hold-outs, comparisons, and everything that was left out."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from analysis.bootstrap import bootstrap, pooled_noise
from analysis.compare import Comparison, compare_all
from analysis.fit import FORMS, FitError, fit_law
from analysis.result import VERSION, FitResult, plain, write_json
from analysis.table import Columns, Exclusion, RunTable
from analysis.validate import HOLDOUTS, holdout


@dataclass(frozen=True)
class Skipped:
    """A fit or hold-out that was asked for and could not be made, with the reason."""

    group: str
    target: str
    form: str
    what: str
    reason: str


@dataclass(frozen=True)
class Study:
    """What ``nmm fit`` writes: read back with ``load_study``. refused: run ids on the vision plateau, by group."""

    fits: tuple[FitResult, ...]
    comparisons: tuple[Comparison, ...]
    exclusions: tuple[Exclusion, ...]
    skipped: tuple[Skipped, ...]
    groups: tuple[str, ...]
    columns: Columns
    refused: dict[str, tuple[str, ...]]
    rows_read: int
    rows_used: int
    source: str
    bootstrap_draws: int
    seed: int
    min_tokens: float = 0.0
    version: str = VERSION

    def fit(self, group: str, target: str, form: str) -> FitResult | None:
        """One fit, or None when it was skipped."""
        for found in self.fits:
            if (found.group, found.target, found.form) == (group, target, form):
                return found
        return None

    def main_form(self, group: str, target: str) -> FitResult | None:
        """The fit to draw: E known where the entropy is known, otherwise E free."""
        return self.fit(group, target, "known") or self.fit(group, target, "free")

    @property
    def targets(self) -> tuple[str, ...]:
        """Targets with at least one fit, in the order asked for."""
        fitted = {f.target for f in self.fits}
        return tuple(t for t in self.columns.targets if t in fitted)

    def save(self, path: Path) -> None:
        """Write as JSON without NaN."""
        write_json(path, plain(asdict(self)) | {"fits": [f.to_dict() for f in self.fits]})


def load_study(path: Path | str) -> Study:
    """Read what ``Study.save`` wrote. Raises ``ValueError`` naming the file when it is something else."""
    path = Path(path)
    try:
        data: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise ValueError(f"{path} does not exist; write it with: nmm fit SWEEP_DIR --out {path}") from None
    except json.JSONDecodeError as error:
        raise ValueError(f"{path} is not JSON ({error}); fit again") from error
    if not isinstance(data, dict) or data.get("version") != VERSION:
        found = data.get("version") if isinstance(data, dict) else None
        raise ValueError(f"{path} was written by {found!r}, this is {VERSION!r}; fit again")
    columns = Columns(**{**data["columns"], "targets": tuple(data["columns"]["targets"])})
    return Study(
        **{
            **data,
            "fits": tuple(FitResult.from_dict(f) for f in data["fits"]),
            "comparisons": tuple(Comparison.from_dict(c) for c in data["comparisons"]),
            "exclusions": tuple(Exclusion(**e) for e in data["exclusions"]),
            "skipped": tuple(Skipped(**s) for s in data["skipped"]),
            "groups": tuple(data["groups"]),
            "columns": columns,
            "refused": {k: tuple(v) for k, v in data["refused"].items()},
        }
    )


def fit_study(
    table: RunTable,
    forms: Sequence[str] = FORMS,
    delta: float | str = "auto",
    draws: int = 200,
    seed: int = 0,
    method: str = "auto",
    on_fit: Callable[[str], None] = lambda label: None,
) -> Study:
    """Fit everything. ``on_fit`` is called with a label before each fit, for a progress bar.

    A fit that the rows cannot carry is listed in ``skipped``; an option that is wrong for all of them raises.
    """
    fits: list[FitResult] = []
    skipped: list[Skipped] = []
    exclusions = list(table.exclusions)
    for target in table.columns.targets:
        samples = {group: table.sample(group, target) for group in table.groups}
        exclusions += [missing for _, left_out in samples.values() for missing in left_out]
        for form in forms:
            points = []
            for group, (sample, _) in samples.items():
                on_fit(f"{group} {target} {form}")
                try:
                    points.append((fit_law(sample, form, delta), sample))
                except FitError as error:
                    skipped.append(Skipped(group, target, form, "fit", str(error)))
            noise = pooled_noise(points) if draws else None
            for fit, sample in points:
                fit = bootstrap(fit, sample, draws, seed, method, noise) if draws else fit
                exclusions += [
                    Exclusion(run, fit.group, f"{target}, form {form}", "excess", _EXCESS) for run in fit.excluded
                ]
                held, failed = _hold_out(sample, fit, delta)
                fits.append(replace(fit, holdouts=held))
                skipped += failed
    order = {
        key: i for i, key in enumerate((t, g, f) for t in table.columns.targets for g in table.groups for f in forms)
    }
    fits.sort(key=lambda fit: order[fit.target, fit.group, fit.form])
    refused = refused_runs(table)
    comparisons = compare_all(fits, table.groups, table.columns.targets, refused) if draws else []
    return Study(
        fits=tuple(fits),
        comparisons=tuple(comparisons),
        exclusions=tuple(exclusions),
        skipped=tuple(skipped),
        groups=tuple(table.groups),
        columns=table.columns,
        refused=refused,
        rows_read=len(table.every_row),
        rows_used=len(table.frame),
        source=table.source,
        bootstrap_draws=draws,
        seed=seed,
        min_tokens=table.min_tokens,
    )


_EXCESS = "the loss is below the known entropy, its logarithm does not exist"


def _hold_out(sample: Any, fit: FitResult, delta: float | str) -> tuple[dict[str, Any], list[Skipped]]:
    held, failed = {}, []
    for by, what in HOLDOUTS.items():
        try:
            held[by] = holdout(sample, fit.form, by, delta)
        except FitError as error:
            failed.append(Skipped(fit.group, fit.target, fit.form, f"hold-out of the {what}", str(error)))
    return held, failed


def refused_runs(table: RunTable) -> dict[str, tuple[str, ...]]:
    """Run ids on the vision plateau, by group (empty groups are left out)."""
    found: dict[str, list[str]] = {}
    for exclusion in table.exclusions:
        if exclusion.kind == "plateau":
            found.setdefault(exclusion.group, []).append(exclusion.run_id)
    return {group: tuple(runs) for group, runs in found.items()}


def entropy_verdict(fit: FitResult) -> str:
    """The fitted E beside the known entropy, in words: inside the interval, or why these runs cannot identify it."""
    if "E" not in fit.params:
        return f"fixed to the known {fit.known_entropy:.3f}"
    if fit.known_entropy is None:
        return "the truth is unknown"
    item, true = fit.ci.get("E"), fit.known_entropy
    lowest = (
        ""
        if fit.min_excess_ratio is None
        else (f"the lowest loss reached is still {100 * fit.min_excess_ratio:.0f} % above E, so E is an extrapolation")
    )
    if item is None:
        return f"no interval (no bootstrap); {lowest}"
    inside = item.low <= true <= item.high
    if not item.known:
        return f"not identified: {item.why}; {lowest}"
    if inside:
        return f"known {true:.3f} lies inside [{item.low:.3g}, {item.high:.3g}]"
    return f"known {true:.3f} lies outside [{item.low:.3g}, {item.high:.3g}]: this form is biased here; {lowest}"


def exclusion_counts(exclusions: Sequence[Exclusion]) -> Mapping[str, int]:
    """How many rows each kind of reason left out."""
    counts: dict[str, int] = {}
    for exclusion in exclusions:
        counts[exclusion.kind] = counts.get(exclusion.kind, 0) + 1
    return counts
