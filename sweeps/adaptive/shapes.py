"""The recipes that new runs are made from: one for every size of the sweep, from its manifest, and for its neighbours.

A recipe is a branch of the manifest without its seed, length and parent: same data, optimizer, schedule and warmup. A
size that the sweep does not have is one of conf/size that belongs to the same family; all but the size comes from the
manifest as well.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from importlib import resources
from typing import Any

from nmm.compose import CONFIG_MODULE
from nmm.config import Budget, ConfigError, Parent, RunConfig, Size, from_dict, validate
from nmm.flops import count_params
from nmm.resolve import count_encoder
from sweeps.manifest import Entry, ManifestError

_LESS = 1.0 - 1e-9

# what a fit may have used for N (the columns of the flat table and those derived from them) -> how to count it
COUNTS: Mapping[str, Callable[[Any], float]] = {
    "n_total": lambda p: p.total,
    "n_non_embedding": lambda p: p.non_embedding,
    "n_active": lambda p: p.active,
    "n_active_non_embedding": lambda p: p.active_non_embedding,
    "n_decoder_non_embedding": lambda p: p.decoder_non_embedding,
    "n_decoder_active": lambda p: p.decoder_non_embedding - (p.total - p.active),
    "n_decoder_with_embedding": lambda p: p.active - p.vision,
    "n_decoder_encoder": lambda p: p.decoder_non_embedding - (p.total - p.active) + p.vision,
}


@dataclass(frozen=True)
class Shape:
    """One size of one architecture. base: a run of it, of no particular seed or length; grid: token counts (positions)
    of its branches, rising; count: N as the fit counts it."""

    base: RunConfig
    grid: tuple[int, ...]
    count: float

    @property
    def name(self) -> str:
        """Of the size."""
        return self.base.size.name


def shapes_of(entries: Sequence[Entry], group: str, column: str) -> dict[str, Shape]:
    """The sizes of ``group`` in the manifest by name, smallest first. column: the fit's N, of ``COUNTS``.

    Raises ``ConfigError`` for another column and ``ManifestError`` when a size was planned with two recipes.
    """
    if column not in COUNTS:
        raise ConfigError(
            f"the fits count N as {column!r}, which a planned run cannot; fit with one of {', '.join(COUNTS)}"
        )
    bases: dict[str, RunConfig] = {}
    grids: dict[str, set[int]] = {}
    for config in (e.config for e in entries if e.role == "branch" and e.shape[0] == group):
        base, size = recipe(config), config.size.name
        if bases.setdefault(size, base) != base:
            raise ManifestError(f"the manifest has {group} {size} with two recipes; nothing says which to go on with")
        grids.setdefault(size, set()).add(config.total_steps * config.tokens_per_step)
    found = [_shape(base, sorted(grids[size]), column) for size, base in bases.items()]
    return {shape.name: shape for shape in sorted(found, key=lambda s: s.count)}


def recipe(config: RunConfig) -> RunConfig:
    """A branch without what makes it this one: seed, length, parent."""
    steps = Budget(steps=config.schedule.warmup_steps + 1)  # a length is needed to be a config at all
    return dataclasses.replace(config, role="run", seed=0, keep_steps=(), parent=Parent(), budget=steps)


def _shape(base: RunConfig, grid: Sequence[int], column: str) -> Shape:
    return Shape(base, tuple(grid), float(COUNTS[column](count_params(base))))


def neighbours(shapes: Mapping[str, Shape], column: str, beyond: float) -> tuple[list[Shape], str]:
    """Sizes of conf/size that are of the family of the sweep's sizes but not among them, and whose N is at most
    ``beyond`` times the largest or at least 1 / ``beyond`` of the smallest; and a note when conf/ cannot say.

    Token counts are those of the size nearest in N.
    """
    known = list(shapes.values())
    listed = conf_sizes()
    kin = [found for shape in known if (found := listed.get(shape.name)) is not None]
    if not kin or any(listed[s.name].size != s.base.size for s in known if s.name in listed):
        return [], "the sizes of the sweep are not those of conf/size now, so no other size is offered"
    low, high = known[0].count / beyond, known[-1].count * beyond
    made = []
    for one in listed.values():
        if one.size.name in shapes or not any(one.kin(other) for other in kin):
            continue
        shape = _resized(known, one.size, column)
        if shape is not None and low * _LESS <= shape.count <= high / _LESS:
            made.append(shape)
    return sorted(made, key=lambda s: s.count), ""


def _resized(known: Sequence[Shape], size: Size, column: str) -> Shape | None:
    """The recipe of the nearest size with another size in it; None where that is no model (no room for a decoder)."""
    made = []
    for near in known:
        arch = dataclasses.replace(near.base.arch, vision_facts={}, vision_facts2={})
        try:
            base = count_encoder(validate(dataclasses.replace(near.base, size=size, arch=arch)))
            made.append((near, _shape(base, near.grid, column)))
        except ConfigError:
            continue
    return min(
        made,
        default=(None, None),
        key=lambda pair: max(pair[0].count, pair[1].count) / min(pair[0].count, pair[1].count),
    )[1]


@dataclass(frozen=True)
class ConfSize:
    """One file of conf/size: the size, and what it brings along (block, data, ...)."""

    size: Size
    rest: Mapping[str, Any]

    def kin(self, other: ConfSize) -> bool:
        """True when taking one for the other changes nothing but the size, and both may be paired alike."""
        return self.rest == other.rest and self.size.paired == other.size.paired and self.size.width > 0


def conf_sizes() -> dict[str, ConfSize]:
    """conf/size by name, in the order of the files' names."""
    from omegaconf import OmegaConf

    found = {}
    folder = resources.files(CONFIG_MODULE) / "size"
    for file in sorted(folder.iterdir(), key=lambda f: f.name):
        if file.name.endswith(".yaml"):
            values: Any = OmegaConf.to_container(OmegaConf.create(file.read_text(encoding="utf-8")))
            rest = {key: value for key, value in values.items() if key != "size"} if "size" in values else {}
            one = ConfSize(from_dict({"size": values.get("size", values)}).size, rest)
            found[one.size.name] = one
    return found
