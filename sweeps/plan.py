"""``nmm sweep plan``: expand, estimate, order, freeze into the manifest, and show what it will cost."""

from __future__ import annotations

import dataclasses
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table

from nmm.compose import compose
from nmm.config import RunConfig
from nmm.flops import count_params
from sweeps import manifest
from sweeps.estimate import Speeds, estimate, observe, published, stand_alone_flops, wall_seconds
from sweeps.grid import Compose, expand
from sweeps.manifest import Entry
from sweeps.spec import SweepSpec

PLANNED_WORKERS = 2  # what the printed wall time assumes
COLUMNS = ("arm", "arch", "size", "N active", "trunks", "points", "tokens", "FLOPs", "time*", "memory*")


@dataclass(frozen=True)
class Plan:
    """A written plan: all its lines, how many of them this call added, and where they are."""

    entries: list[Entry]
    added: int
    path: Path
    speeds: Speeds


def make_plan(spec: SweepSpec, out: Path, composer: Compose = compose) -> Plan:
    """Expand ``spec`` and write ``out/manifest.jsonl``.

    Planning the same again changes nothing; planning more adds lines; anything else raises ``ManifestError``.
    """
    out = out.absolute()
    configs = expand(spec, out, composer)
    speeds = observe(published(out), configs)
    entries = order([Entry(config, estimate(config, speeds)) for config in configs])
    path = out / manifest.FILE_NAME
    with manifest.alone(out):
        if not path.exists():
            return Plan(entries, len(entries), manifest.write(out, entries), speeds)
        old = manifest.read(out)
        merged = manifest.merge(old, entries)
        if len(merged) > len(old):
            manifest.write(out, merged)
        return Plan(merged, len(merged) - len(old), path, speeds)


def order(entries: Sequence[Entry]) -> list[Entry]:
    """Trunks before branches, the longest first within each."""
    return sorted(entries, key=lambda e: (e.role == "branch", -e.estimate.seconds, e.run_id))


def show(plan: Plan, console: Console) -> None:
    """Print the table by arm, where there are any, arch and size, and the totals."""
    groups: dict[tuple[str, str, str], list[Entry]] = defaultdict(list)
    # shown with what is known now; the manifest keeps what was known when it was planned
    fresh = [dataclasses.replace(e, estimate=estimate(e.config, plan.speeds)) for e in plan.entries]
    for entry in fresh:
        groups[entry.arm, *entry.shape].append(entry)
    has_arms = any(entry.arm for entry in fresh)
    table = Table(
        title=f"sweep {plan.entries[0].config.sweep}",
        title_justify="left",
        box=SIMPLE_HEAD,
        collapse_padding=True,
        pad_edge=False,
    )
    columns = [c for c in COLUMNS if c not in (("trunks", "memory*") if has_arms else ("arm",))]  # 80 characters
    for name in columns:
        table.add_column(name, justify="left" if name in ("arm", "arch", "size") else "right", no_wrap=True)
    for (arm, arch, size), members in sorted(groups.items(), key=_rank):
        cells = dict(zip(COLUMNS, (arm, arch, size, *_cells(members)), strict=True))
        table.add_row(*(cells[name] for name in columns))
    console.print(table)
    for line in _summary(plan, fresh):
        console.print(line, highlight=False, markup=False, soft_wrap=True)


def _rank(group: tuple[tuple[str, str, str], Sequence[Entry]]) -> tuple[str, str, int]:
    (arm, arch, _), members = group
    return arm, arch, count_params(members[0].config).total


def _cells(members: Sequence[Entry]) -> list[str]:
    points = [e.config for e in members if e.role != "trunk"]
    tokens = [c.total_steps * c.tokens_per_step for c in points]
    return [
        big(count_params(members[0].config).active_non_embedding),
        str(sum(e.role == "trunk" for e in members)),
        str(len(points)),
        f"{big(min(tokens))}-{big(max(tokens))}" if min(tokens) != max(tokens) else big(max(tokens)),
        f"{sum(e.estimate.flops for e in members):.2e}",
        duration(sum(e.estimate.seconds for e in members)),
        f"{max(e.estimate.memory_bytes for e in members) / 1e9:.1f} GB",
    ]


def _summary(plan: Plan, entries: Sequence[Entry]) -> list[str]:
    trunks = sum(e.role == "trunk" for e in entries)
    flops, alone = sum(e.estimate.flops for e in entries), stand_alone_flops(entries)
    work, wall = sum(e.estimate.seconds for e in entries), wall_seconds(entries, PLANNED_WORKERS)
    basis = (
        f"speeds observed on {len(plan.speeds.observed)} shapes" if plan.speeds.observed else "a model of one free core"
    )
    saved = f"; sharing trunks saves {100 * (1 - flops / alone):.0f} % of {alone:.2e}" if flops < alone else ""
    return [
        f"total: {trunks} trunks + {len(entries) - trunks} points, {flops:.2e} FLOPs{saved}",
        f"* estimates, from {basis}: {duration(work)} of work, about {duration(wall)} with {PLANNED_WORKERS} workers",
        _closing(plan),
    ]


def _closing(plan: Plan) -> str:
    if plan.added == 0:
        return f"already planned: {plan.path} is unchanged ({len(plan.entries)} runs)"
    grown = f", added to {len(plan.entries) - plan.added}" if plan.added < len(plan.entries) else ""
    return f"wrote {plan.added} runs{grown} to {plan.path}; start them with `nmm sweep launch {plan.path.parent}`"


def big(number: float) -> str:
    """1234567 -> '1.23M'."""
    for unit, size in (("G", 1e9), ("M", 1e6), ("k", 1e3)):
        if number >= size:
            return f"{number / size:.3g}{unit}"
    return f"{number:.0f}"


def duration(seconds: float) -> str:
    """Seconds as a person says them: 45 s, 12 min, 3 h 05 min, 2 d 4 h."""
    minutes = round(seconds / 60)
    if seconds < 90:
        return f"{seconds:.0f} s"
    if minutes < 90:
        return f"{minutes} min"
    if minutes < 48 * 60:
        return f"{minutes // 60} h {minutes % 60:02d} min"
    return f"{minutes // 1440} d {minutes % 1440 // 60} h"


def describe(config: RunConfig) -> str:
    """A run in a few words for messages, e.g. 'early d32 seed 0, branch to 1.0M tokens', its arm before it."""
    tokens = big(config.total_steps * config.tokens_per_step)
    arm = f"{config.intervention.arm}: " if config.intervention.arm else ""
    return f"{arm}{config.arch.name} {config.size.name} seed {config.seed}, {config.role} to {tokens} tokens"
