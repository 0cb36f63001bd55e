"""Every group, target and form of one table: fits, hold-outs, comparisons, and everything that was left out."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields, replace
from pathlib import Path
from typing import Any

from analysis.decisions.compare import Comparison, compare_all
from analysis.decisions.usual import has_frontier, usual_values
from analysis.fit import FORMS, FitError, fit_law
from analysis.laws.catalogue import describe
from analysis.result import VERSION, FitResult, Interval, plain, write_json
from analysis.rows.table import Columns, Exclusion, RunTable, Sample, load
from analysis.uncertainty.bootstrap import bootstrap, pooled_noise
from analysis.uncertainty.delta import sandwich_intervals
from analysis.uncertainty.noise import TrunkNoise
from analysis.uncertainty.profiles import profiles
from analysis.validation.holdout import HOLDOUTS, holdout


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
    keep: str | None = None
    positive_loss: bool = True
    needed: tuple[str, ...] = ("N", "D")
    notes: tuple[str, ...] = ()
    version: str = VERSION

    def fit(self, group: str, target: str, form: str) -> FitResult | None:
        """One fit, or None when it was skipped."""
        for found in self.fits:
            if (found.group, found.target, found.form) == (group, target, form):
                return found
        return None

    def main_form(self, group: str, target: str) -> FitResult | None:
        """The fit to draw: E known where the entropy is known, otherwise E free, otherwise the first law asked for."""
        found = {fit.form: fit for fit in reversed(self.fits) if (fit.group, fit.target) == (group, target)}
        return found.get("known") or found.get("free") or next(reversed(found.values()), None)

    @property
    def targets(self) -> tuple[str, ...]:
        """Targets with at least one fit, in the order asked for."""
        fitted = {f.target for f in self.fits}
        return tuple(t for t in self.columns.targets if t in fitted)

    def save(self, path: Path, extra: Mapping[str, Any] | None = None) -> None:
        """Write as JSON without NaN: a summary of every fit first (at the top level when there is one), then all of
        it for ``load_study``. extra: further keys of the JSON, for other programs."""
        brief = [summary(fit) for fit in self.fits]
        top = brief[0] if len(brief) == 1 else {}
        whole = plain(asdict(self)) | {"fits": [f.to_dict() for f in self.fits]}
        write_json(path, {**top, "summary": brief, **(extra or {}), **whole})

    def reload(self, source: Path | str) -> RunTable:
        """The table as it was read for this study."""
        return load(
            source, self.columns, self.min_tokens, needed=self.needed, keep=self.keep, positive_loss=self.positive_loss
        )


@dataclass(frozen=True)
class Options:
    """What ``fit_study`` does to every group and target; see ``fit_law`` and ``bootstrap`` for each.

    profile: also the profile interval of every parameter and of a and b (0.2 to 0.6 s a fit).
    """

    forms: tuple[str, ...] = FORMS
    delta: float | str = "auto"
    objective: str = "log-huber"
    fixed: Mapping[str, float] = field(default_factory=dict)
    tilt: float = 1.0
    domains: tuple[str, ...] = ()
    draws: int = 200
    seed: int = 0
    method: str = "auto"
    profile: bool = False

    def fit(self, sample: Sample, form: str, check: bool = True) -> FitResult:
        """One point fit."""
        return fit_law(sample, form, self.delta, check, self.objective, self.fixed, self.tilt, self.domains)


def summary(fit: FitResult) -> dict[str, Any]:
    """The numbers of one fit that a script wants, in plain names: parameters and intervals by name."""
    return {
        "group": fit.group,
        "target": fit.target,
        "law": fit.law,
        "formula": describe(fit.shape, fit.params),
        "params": fit.params,
        "ci": {name: [item.low, item.high] for name, item in fit.ci.items()},
        "not_identified": fit.unidentified,
        "ci_method": fit.ci_method,
        "status": fit.status,
        "objective": fit.objective,
        "delta": fit.delta,
        "objective_value": fit.objective_value,
        "n_rows": fit.n_rows,
        "n_runs": fit.n_clusters,
        "condition": fit.condition,
        "num_optima": fit.num_optima,
        "gap": fit.gap,
        "gradient_norm": fit.gradient_norm,
        "digest": fit.digest,
        "seconds_fit": fit.seconds_fit,
        "seconds_bootstrap": fit.seconds_bootstrap,
    }


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
    names = {f.name for f in fields(Study)}
    return Study(
        **{
            **{name: value for name, value in data.items() if name in names},
            "fits": tuple(FitResult.from_dict(f) for f in data["fits"]),
            "comparisons": tuple(Comparison.from_dict(c) for c in data["comparisons"]),
            "exclusions": tuple(Exclusion(**e) for e in data["exclusions"]),
            "skipped": tuple(Skipped(**s) for s in data["skipped"]),
            "groups": tuple(data["groups"]),
            "columns": Columns(**data["columns"]),
            "needed": tuple(data["needed"]),
            "notes": tuple(data["notes"]),
            "refused": {k: tuple(v) for k, v in data["refused"].items()},
        }
    )


def fit_study(
    table: RunTable, options: Options | None = None, on_fit: Callable[[str], None] = lambda label: None
) -> Study:
    """Fit everything. ``on_fit`` is called with a label before each fit, for a progress bar.

    A fit that the rows cannot carry is listed in ``skipped``; an option that is wrong for all of them raises.
    """
    options = options or Options()
    fits: list[FitResult] = []
    skipped: list[Skipped] = []
    exclusions = list(table.exclusions)
    for target in table.columns.targets:
        samples = {group: table.sample(group, target) for group in table.groups}
        exclusions += [missing for _, left_out in samples.values() for missing in left_out]
        for form in options.forms:
            points = []
            for group, (sample, _) in samples.items():
                on_fit(f"{group} {target} {form}")
                try:
                    points.append((options.fit(sample, form), sample))
                except FitError as error:
                    skipped.append(Skipped(group, target, form, "fit", str(error)))
            found, failed = _with_uncertainty(points, options)
            fits += found
            skipped += failed
    exclusions += [
        Exclusion(run, fit.group, f"{fit.target}, form {fit.form}", "excess", _EXCESS)
        for fit in fits
        for run in fit.excluded
    ]
    rank = [(t, g, f) for t in table.columns.targets for g in table.groups for f in options.forms]
    fits.sort(key=lambda fit: rank.index((fit.target, fit.group, fit.form)))
    refused = refused_runs(table)
    comparisons, notes = _compared(fits, table, refused) if options.draws else ([], ())
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
        bootstrap_draws=options.draws,
        seed=options.seed,
        min_tokens=table.min_tokens,
        keep=table.keep,
        positive_loss=table.positive_loss,
        needed=tuple(sorted(set(table.symbols) - {"C"})),
        notes=(*table.notes, *notes),
    )


def _compared(
    fits: Sequence[FitResult], table: RunTable, refused: Mapping[str, Sequence[str]]
) -> tuple[list[Comparison], tuple[str, ...]]:
    """Every pair of groups under the laws that have a frontier, and a note on the columns held for that."""
    reaching = [fit for fit in fits if has_frontier(fit)]
    if len(table.groups) < 2 or not reaching:
        return [], ()
    first = reaching[0].target
    samples = [table.sample(group, first)[0] for group in table.groups]
    given: dict[str, float] = {}
    for fit in reaching:
        given |= usual_values(fit.shape, samples)
    where = ", ".join(f"{name} = {value:.4g}" for name, value in given.items())
    notes = (f"groups are compared at {where}, which most rows have",) if given else ()
    return compare_all(reaching, table.groups, table.columns.targets, refused, given=given), notes


def _with_uncertainty(
    points: Sequence[tuple[FitResult, Sample]], options: Options
) -> tuple[list[FitResult], list[Skipped]]:
    """Intervals and hold-outs for the fits of one form and target, whose groups share a noise estimate."""
    noise = pooled_noise(points) if options.draws and len(points) > 1 else None
    fits, skipped = [], []
    for fit, sample in points:
        if options.draws:
            fit = bootstrap(fit, sample, options.draws, options.seed, options.method, noise)
        fit = replace(fit, sandwich_ci=sandwich_intervals(fit), profile_ci=_profiled(fit, sample, options, noise))
        held, failed = _hold_out(sample, fit, options)
        fits.append(replace(fit, holdouts=held))
        skipped += failed
    return fits, skipped


def _profiled(fit: FitResult, sample: Sample, options: Options, noise: TrunkNoise | None) -> dict[str, Interval]:
    if not options.profile or fit.status == "failed":
        return {}
    return {name: found.interval for name, found in profiles(fit, sample, noise=noise).items()}


COLUMN_OF = {"size": "N", "tokens": "D"}
_EXCESS = "the loss is below the known entropy, its logarithm does not exist"


def _hold_out(sample: Sample, fit: FitResult, options: Options) -> tuple[dict[str, Any], list[Skipped]]:
    held, failed = {}, []
    for by, what in HOLDOUTS.items():
        if COLUMN_OF[by] not in fit.shape.columns:
            continue
        try:
            held[by] = holdout(
                sample, fit.form, by, options.delta, options.objective, options.fixed, options.tilt, options.domains
            )
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


def by_kind(exclusions: Sequence[Exclusion]) -> dict[str, list[Exclusion]]:
    """Exclusions by the kind of their reason, in order of appearance."""
    found: dict[str, list[Exclusion]] = {}
    for item in exclusions:
        found.setdefault(item.kind, []).append(item)
    return found
