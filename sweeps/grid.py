"""From a sweep to configurations: for every (arch, size, seed) one trunk and one cooldown branch a token count.

A trunk trains at constant learning rate and keeps the checkpoints its branches start from; a branch adds the cooldown
and is one (N, D) point. Sharing the trunk is what makes many token counts cheap (arXiv 2405.18392). With trunks off
every token count is a run by itself; with arms all of this is there once for each arm.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Sequence
from pathlib import Path

from nmm.compose import compose
from nmm.config import Budget, ConfigError, Parent, RunConfig, run_id, validate
from nmm.flops import resolve_budget
from nmm.resolve import check_held_out, finalize
from sweeps.spec import SweepSpec

Compose = Callable[[Sequence[str]], RunConfig]


def expand(spec: SweepSpec, out: str | Path, composer: Compose = compose) -> list[RunConfig]:
    """Every run of the sweep, resolved and validated: each trunk directly before its branches.

    Raises ``ConfigError`` when two of them are one run, as an arm is that changes nothing but labels.
    """
    bases = functools.cache(lambda *combination: _bases(spec, combination, out, composer))  # seeds mostly share one
    runs: list[RunConfig] = []
    for arm in spec.arms or ("",):
        for arch in spec.archs:
            for size in spec.sizes:
                for seed in spec.seeds:
                    found = bases(arm, arch, size, *_filled(spec, arm, arch, size, seed))
                    seeded = [dataclasses.replace(base, seed=seed) for base in found]
                    runs += trunk_with_branches(seeded[0], spec.tokens_for(arch, size)) if spec.trunks else seeded
    _refuse_same(runs)
    return runs


def _filled(spec: SweepSpec, arm: str, arch: str, size: str, seed: int) -> tuple[str, ...]:
    """Overrides of one combination; those of its arm come last, so they win."""
    own = [*spec.overrides, *spec.arms.get(arm, ())]
    for name, value in (("{arch}", arch), ("{size}", size), ("{seed}", str(seed))):
        own = [override.replace(name, value) for override in own]
    return tuple(own)


def _bases(spec: SweepSpec, combination: Sequence[str], out: str | Path, composer: Compose) -> list[RunConfig]:
    """What trunk and branches share, or the runs that stand alone; but for the seed.

    A warmup rule goes by the longest branch, so that trunk and branches have one warmup.
    """
    arm, arch, size, *overrides = combination
    config = composer([f"arch={arch}", f"size={size}", *overrides])
    schedule = config.schedule
    if spec.cooldown_fraction is not None:
        schedule = dataclasses.replace(schedule, cooldown_fraction=float(spec.cooldown_fraction))
    labels = dataclasses.replace(config.intervention, arm=arm) if arm else config.intervention
    quiet = dataclasses.replace(config.trainer, progress=False)  # the launcher shows progress; a worker has no terminal
    config = dataclasses.replace(
        config, sweep=spec.name, out=str(out), schedule=schedule, trainer=quiet, intervention=labels
    )
    budgets = [Budget(tokens=max(spec.tokens_for(arch, size)))] if spec.trunks else spec.budgets_for(arch, size)
    found = [finalize(dataclasses.replace(config, budget=budget)) for budget in budgets]
    check_held_out(found[-1])
    return found


def _refuse_same(runs: Sequence[RunConfig]) -> None:
    """Two arms must differ in more than labels and paths, else one of them would silently be the other."""
    seen: dict[str, RunConfig] = {}
    for config in runs:
        first = seen.setdefault(run_id(config), config)
        if first is config:
            continue
        mine, other = (c.intervention.arm for c in (config, first))
        if mine == other:
            raise ConfigError(
                f"{run_id(config)} is planned twice: two archs, sizes or budgets of the sweep are one run; name it once"
            )
        raise ConfigError(
            f"arms {other} and {mine} are one run ({run_id(config)}): their overrides change nothing that a run "
            "depends on. Labels and paths do not count, what lies there does; change one of them, or drop it"
        )


def trunk_with_branches(base: RunConfig, tokens: Sequence[int]) -> list[RunConfig]:
    """One trunk that ends at the last branch point, then one branch for each token count, in the given order.

    Raises ``ConfigError`` when two counts are the same number of steps, or a cooldown would begin inside the warmup.
    """
    if not 0 < base.schedule.cooldown_fraction < 1:
        raise ConfigError(
            f"schedule.cooldown_fraction={base.schedule.cooldown_fraction}: a branch is its cooldown, so it must lie "
            "between 0 and 1; give cooldown_fraction=0.25"
        )
    whole = [resolve_budget(dataclasses.replace(base, budget=Budget(tokens=count))) for count in tokens]
    _check_branches(whole, tokens)
    keep = tuple(sorted({config.branch_step for config in whole}))
    trunk = dataclasses.replace(
        base,
        role="trunk",
        keep_steps=keep,
        schedule=dataclasses.replace(base.schedule, cooldown_fraction=0.0),
        budget=Budget(steps=keep[-1]),
    )
    trunk_id = run_id(validate(trunk))
    branches = [
        validate(dataclasses.replace(config, role="branch", parent=Parent(run_id=trunk_id, step=config.branch_step)))
        for config in whole
    ]
    return [trunk, *branches]


def _check_branches(whole: Sequence[RunConfig], tokens: Sequence[int]) -> None:
    seen: dict[int, int] = {}
    for config, count in zip(whole, tokens, strict=True):
        if config.total_steps in seen:
            raise ConfigError(
                f"tokens {seen[config.total_steps]} and {count} are both {config.total_steps} steps of "
                f"{config.tokens_per_step} tokens, hence the same run; space them further apart"
            )
        seen[config.total_steps] = count
        least = max(1, config.schedule.warmup_steps)
        if config.branch_step < least or config.branch_step == config.total_steps:
            raise ConfigError(
                f"tokens={count} is {config.total_steps} steps with a cooldown from step {config.branch_step}; it must "
                f"begin after the warmup (schedule.warmup_steps={config.schedule.warmup_steps}) and last at least one "
                "step: use more tokens or a shorter warmup"
            )
