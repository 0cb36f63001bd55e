"""From a sweep to configurations: for every (arch, size, seed) one trunk and one cooldown branch a token count.

A trunk trains at constant learning rate and keeps the checkpoints its branches start from; a branch adds the cooldown
and is one (N, D) point. Sharing the trunk is what makes many token counts cheap (arXiv 2405.18392).
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from pathlib import Path

from nmm.compose import compose
from nmm.config import Budget, ConfigError, Parent, RunConfig, run_id, validate
from nmm.flops import resolve_budget
from nmm.resolve import check_held_out, finalize
from sweeps.spec import SweepSpec

Compose = Callable[[Sequence[str]], RunConfig]


def expand(spec: SweepSpec, out: str | Path, composer: Compose = compose) -> list[RunConfig]:
    """Every run of the sweep, resolved and validated: each trunk directly before its branches."""
    runs: list[RunConfig] = []
    for arch in spec.archs:
        for size in spec.sizes:
            tokens = spec.tokens_for(arch, size)
            base = _base(spec, arch, size, max(tokens), out, composer)
            for seed in spec.seeds:
                runs += trunk_with_branches(dataclasses.replace(base, seed=seed), tokens)
    return runs


def _base(spec: SweepSpec, arch: str, size: str, longest: int, out: str | Path, composer: Compose) -> RunConfig:
    """What trunk and branches share; a warmup rule goes by the longest branch, so all of them have one warmup."""
    config = composer([f"arch={arch}", f"size={size}", *spec.overrides])
    schedule = config.schedule
    if spec.cooldown_fraction is not None:
        schedule = dataclasses.replace(schedule, cooldown_fraction=float(spec.cooldown_fraction))
    quiet = dataclasses.replace(config.trainer, progress=False)  # the launcher shows progress; a worker has no terminal
    base = finalize(
        dataclasses.replace(
            config, sweep=spec.name, out=str(out), schedule=schedule, trainer=quiet, budget=Budget(tokens=longest)
        )
    )
    check_held_out(base)
    return base


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
