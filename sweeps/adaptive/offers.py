"""What could be run next, at what exact cost: a new trunk with some of its branches, or branches of a finished trunk.

A new trunk always has a seed of its own: the same seed with other branch points would be the same training again. It
keeps the checkpoints of all token counts of the grid up to its end, so that a later call can add the branches that this
one leaves out for the price of their cooldowns.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations

from nmm.config import Budget, Parent, RunConfig, run_id, validate
from sweeps.adaptive.shapes import Shape
from sweeps.estimate import Speeds, estimate
from sweeps.grid import trunk_with_branches
from sweeps.manifest import Entry
from sweeps.plan import big

_MOST_POINTS = 4  # of one trunk, or all of them: the number of sets stays small, and most gain is in the first few


@dataclass(frozen=True)
class Offer:
    """Something to run. points: token counts (positions) of its branches. trunk: the finished one they belong to, None
    for a new one. flops: of its lines together. beside: a finished point of the same trunk, by run id."""

    shape: Shape
    points: tuple[int, ...]
    flops: float
    trunk: Entry | None = None
    beside: str = ""

    @property
    def runs(self) -> int:
        """Lines of the manifest."""
        return len(self.points) + (self.trunk is None)

    @property
    def name(self) -> str:
        """For a person."""
        what = f"branch of seed {self.trunk.config.seed}" if self.trunk else "new trunk"
        return f"{self.shape.base.arch.name} {self.shape.name}, {what}: {' '.join(map(big, self.points))}"


def new_trunks(shape: Shape, allowed: Collection[int], most_runs: int) -> Iterator[Offer]:
    """For every length of the grid a trunk with its longest branch and sets of the shorter ones.

    allowed: token counts that may be a point. Costs do not depend on the seed.
    """
    for end in range(1, len(shape.grid) + 1):
        trunk, *branches = _cost_of_all(shape, shape.grid[:end])
        longest = shape.grid[end - 1]
        if longest not in allowed:
            continue
        shorter = [at for at in range(end - 1) if shape.grid[at] in allowed]
        for chosen in _sets(shorter):
            if len(chosen) + 2 <= most_runs:
                points = (*(shape.grid[at] for at in chosen), longest)
                flops = trunk + branches[end - 1] + sum(branches[at] for at in chosen)
                yield Offer(shape, points, flops)


def _sets(items: Sequence[int]) -> Iterator[tuple[int, ...]]:
    for count in range(min(len(items), _MOST_POINTS - 1) + 1):
        yield from combinations(items, count)
    if len(items) >= _MOST_POINTS:
        yield tuple(items)


def _cost_of_all(shape: Shape, grid: Sequence[int]) -> list[float]:
    return [estimate(config, Speeds()).flops for config in trunk_with_branches(shape.base, grid)]


def more_branches(
    shape: Shape, trunks: Mapping[str, Entry], beside: Mapping[str, str], planned: Collection[str],
    allowed: Collection[int],
) -> Iterator[Offer]:  # fmt: skip
    """Sets of branches of finished trunks at kept steps from which no branch is planned yet.

    trunks: finished ones of this shape by run id. beside: for each a finished point that the fit used; a trunk without
    one is left out, for nothing says why its points are of no use. planned: run ids of the manifest.
    """
    for name, trunk in trunks.items():
        if name not in beside:
            continue
        open_points = {}
        for count in (c for c in shape.grid if c in allowed):
            config = branch_of(trunk.config, shape, count)
            if config is not None and run_id(config) not in planned:
                open_points[count] = estimate(config, Speeds()).flops
        for chosen in _sets(sorted(open_points)):
            if chosen:
                yield Offer(shape, chosen, sum(open_points[c] for c in chosen), trunk, beside[name])


def branch_of(trunk: RunConfig, shape: Shape, tokens: int) -> RunConfig | None:
    """The branch of a trunk that ends at ``tokens`` positions; None where the trunk keeps no checkpoint for it."""
    steps = Budget(steps=round(tokens / shape.base.tokens_per_step))
    whole = dataclasses.replace(shape.base, seed=trunk.seed, budget=steps)
    if whole.branch_step not in trunk.keep_steps:
        return None
    return validate(dataclasses.replace(whole, role="branch", parent=Parent(run_id(trunk), whole.branch_step)))


def lines_of(offer: Offer, seed: int) -> list[RunConfig]:
    """The runs of an offer, a new trunk before its branches and with this seed."""
    if offer.trunk is not None:
        made = [branch_of(offer.trunk.config, offer.shape, count) for count in offer.points]
        return [config for config in made if config is not None]
    grid = [count for count in offer.shape.grid if count <= offer.points[-1]]
    trunk, *branches = trunk_with_branches(dataclasses.replace(offer.shape.base, seed=seed), grid)
    return [trunk, *(branch for count, branch in zip(grid, branches, strict=True) if count in offer.points)]


def free_seeds(entries: Sequence[Entry], shape: Shape) -> Iterator[int]:
    """Seeds that no run of this architecture and size has yet, smallest first."""
    used = {e.config.seed for e in entries if e.shape == (shape.base.arch.name, shape.name)}
    seed = 0
    while True:
        if seed not in used:
            yield seed
        seed += 1
