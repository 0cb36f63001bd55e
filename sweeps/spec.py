"""What a sweep asks for: sweeps/recipes/X.yaml or a user's file, with ``key=value`` overrides, checked and frozen."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from importlib import resources
from importlib.resources.abc import Traversable
from pathlib import Path
from typing import Any, cast

from nmm.compose import plain
from nmm.config import Budget, ConfigError
from nmm.safety import check_texts


@dataclass(frozen=True)
class SweepSpec:
    """One sweep file. Keys of ``max_tokens`` and ``tokens_of`` are a size ("d96") or an arch and a size ("moe/d96").

    ``trunks`` false: every token count is a run of its own, as fine-tuning needs it; ``steps`` may then take the place
    of ``tokens``. Each arm is the whole grid with its overrides. In overrides {arch}, {size} and {seed} stand for the
    run's own, as in start.path=outputs/pretrained/{size}-{seed}.
    """

    name: str
    archs: tuple[str, ...]
    sizes: tuple[str, ...]
    tokens: tuple[int, ...] = ()
    steps: tuple[int, ...] = ()
    seeds: tuple[int, ...] = (0,)
    trunks: bool = True
    cooldown_fraction: float | None = None  # None: schedule.cooldown_fraction as composed
    max_tokens: Mapping[str, int] = field(default_factory=dict)
    tokens_of: Mapping[str, tuple[int, ...]] = field(default_factory=dict)
    overrides: tuple[str, ...] = ()
    arms: Mapping[str, tuple[str, ...]] = field(default_factory=dict)  # of a comparison of recipes; none: no arms

    def budgets_for(self, arch: str, size: str) -> tuple[Budget, ...]:
        """Of the runs of one combination that stand alone, the shortest first."""
        if self.steps:
            return tuple(Budget(steps=count) for count in sorted(self.steps))
        return tuple(Budget(tokens=count) for count in self.tokens_for(arch, size))

    def tokens_for(self, arch: str, size: str) -> tuple[int, ...]:
        """Token counts of one combination, ascending: its own list or the common one, cut at its limit."""
        own = self.tokens_of.get(f"{arch}/{size}", self.tokens_of.get(size, self.tokens))
        limit = self.max_tokens.get(f"{arch}/{size}", self.max_tokens.get(size))
        kept = tuple(sorted(t for t in own if limit is None or t <= limit))
        if not kept:
            raise ConfigError(
                f"sweep {self.name}: {arch}/{size} has no token count left (max_tokens={limit}, tokens={list(own)}); "
                "raise max_tokens or take the size out of sizes"
            )
        return kept


SPEC_KEYS = tuple(f.name for f in dataclasses.fields(SweepSpec))

_SWEPT = {  # what the grid itself sets, and the sweep key that changes it
    "arch": "archs=[...]",
    "size": "sizes=[...]",
    "seed": "seeds=[...]",
    "sweep": "name=...",
    "out": "out=DIR",
    "budget": "tokens=[...]",
    "schedule.cooldown_fraction": "cooldown_fraction=...",
    "role": "tokens=[...]",
    "keep_steps": "tokens=[...]",
    "parent": "tokens=[...]",
    "intervention.arm": "arms",
}
_ARM_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.+-]{0,59}")


def available() -> list[str]:
    """Names of the sweeps that ship in sweeps/recipes/ (in conf/, Hydra would take the field ``sweep`` for a group)."""
    return sorted(e.name.removesuffix(".yaml") for e in _recipes().iterdir() if e.name.endswith(".yaml"))


def _recipes() -> Traversable:
    return resources.files("sweeps") / "recipes"


def load_spec(name: str, overrides: Sequence[str] = ()) -> SweepSpec:
    """Read a sweep by name or yaml path; ``key=value`` overrides change its keys or every run's config.

    Raises ``ConfigError`` for an unknown sweep, key or value, and for what names code or reads a secret.
    """
    from omegaconf import DictConfig, OmegaConf
    from omegaconf.errors import OmegaConfBaseException
    from yaml import YAMLError

    check_texts(list(overrides))
    mine = [o.lstrip("+") for o in overrides if _key(o).split(".")[0] in SPEC_KEYS]
    rest = [o for o in overrides if _key(o).split(".")[0] not in SPEC_KEYS]
    text = _read_text(name)
    try:
        written: Any = OmegaConf.create(text)
        if not isinstance(written, DictConfig):
            raise ConfigError(f"sweep {name} holds a list; a sweep file holds keys ({', '.join(SPEC_KEYS)})")
        merged = cast(DictConfig, OmegaConf.merge(written, OmegaConf.from_dotlist(mine)))
        values = plain(merged)
    except (OmegaConfBaseException, YAMLError) as error:
        raise ConfigError(f"sweep {name}: {' '.join(str(error).split())}") from error
    spec = spec_from_dict(values, rest)
    # a limit may name a size that this call leaves out, so the file's own names count as well
    _check_limits(spec, *({*getattr(spec, key), *(written.get(key) or [])} for key in ("sizes", "archs")))
    return spec


def _read_text(name: str) -> str:
    if name.endswith((".yaml", ".yml")):
        if not Path(name).is_file():
            raise ConfigError(f"sweep={name}: no such file")
        return Path(name).read_text(encoding="utf-8")
    return recipe_text(name)


def recipe_text(name: str) -> str:
    """sweeps/recipes/NAME.yaml as it stands. Raises ``ConfigError`` for a name that is not there."""
    if name not in available():
        raise ConfigError(f"sweep={name!r} does not exist; there are {', '.join(available())}, or give a .yaml file")
    return (_recipes() / f"{name}.yaml").read_text(encoding="utf-8")


def _key(override: str) -> str:
    return override.lstrip("+~").split("=", 1)[0].strip()


def _refuse_swept(override: str) -> None:
    key = _key(override)
    for swept, instead in _SWEPT.items():
        exact_only = swept in ("arch", "size")  # arch.top_k=2 for every run is fine; arch=moe is the grid's business
        if key == swept or (not exact_only and key.startswith(swept + ".")):
            raise ConfigError(f"{override}: {key} is set by the sweep itself; use {instead}")


def spec_from_dict(values: Mapping[str, Any], extra_overrides: Sequence[str] = ()) -> SweepSpec:
    """Check a plain mapping and freeze it. Raises ``ConfigError`` naming the key."""
    unknown = [str(key) for key in values if key not in SPEC_KEYS]
    if unknown:
        raise ConfigError(f"unknown sweep key {', '.join(unknown)}; allowed: {', '.join(SPEC_KEYS)}")
    long = "steps" if values.get("steps") else "tokens"
    missing = [key for key in ("name", "archs", "sizes", long) if not values.get(key)]
    if missing:
        raise ConfigError(f"the sweep lacks {', '.join(missing)}")
    trunks = _switch("trunks", values.get("trunks", True))
    spec = SweepSpec(
        name=str(values["name"]),
        archs=_texts(values, "archs"),
        sizes=_texts(values, "sizes"),
        tokens=_counts("tokens", values["tokens"], least=1) if long == "tokens" else (),
        steps=_steps(values, trunks) if long == "steps" else (),
        seeds=_counts("seeds", values.get("seeds", [0]), least=0),
        trunks=trunks,
        cooldown_fraction=_cooldown(values.get("cooldown_fraction"), trunks),
        max_tokens={k: _counts(f"max_tokens.{k}", [v], 1)[0] for k, v in _mapping(values, "max_tokens").items()},
        tokens_of={k: _counts(f"tokens_of.{k}", v, 1) for k, v in _mapping(values, "tokens_of").items()},
        overrides=(*_texts(values, "overrides"), *extra_overrides),
        arms=_arms(values.get("arms")),
    )
    for override in (*spec.overrides, *(override for arm in spec.arms.values() for override in arm)):
        _refuse_swept(override)
    return spec


def _cooldown(found: Any, trunks: bool) -> float | None:
    if found is None or (_is_number(found) and (0 < found < 1 or (found == 0 and not trunks))):
        return found
    raise ConfigError(f"cooldown_fraction={found!r} must lie between 0 and 1: a branch is its cooldown")


def _steps(values: Mapping[str, Any], trunks: bool) -> tuple[int, ...]:
    clash = [key for key in ("tokens", "tokens_of", "max_tokens") if values.get(key)]
    if clash:
        raise ConfigError(f"steps=... and {', '.join(clash)}: a sweep counts in steps or in tokens, not in both")
    if trunks:
        raise ConfigError("steps=... needs trunks=off: branches of one trunk are told apart by their tokens")
    return _counts("steps", values["steps"], least=1)


def _switch(key: str, found: Any) -> bool:
    match found:
        case bool():
            return found
        case "on" | "off":  # of a command line; YAML reads them as booleans
            return found == "on"
    raise ConfigError(f"{key}={found!r} is not one of on, off")


def _arms(found: Any) -> dict[str, tuple[str, ...]]:
    """Arm -> its overrides; an arm without any is ``control: []``."""
    if not found:
        return {}
    if not isinstance(found, Mapping):
        raise ConfigError(f"arms={found!r} must map the name of an arm to its overrides, as in control: []")
    for name in found:
        if not isinstance(name, str) or not _ARM_NAME.fullmatch(name):
            raise ConfigError(f"arms: {name!r} is no name of an arm; use letters, digits and . _ + - (at most 60)")
    return {name: _texts({f"arms.{name}": overrides}, f"arms.{name}") for name, overrides in found.items()}


def _check_limits(spec: SweepSpec, sizes: set[str], archs: set[str]) -> None:
    """A misspelt size in a limit would otherwise limit nothing, silently."""
    for group in ("max_tokens", "tokens_of"):
        for key in getattr(spec, group):
            *arch, size = key.split("/")
            if size not in sizes or arch not in ([], *([name] for name in archs)):
                raise ConfigError(
                    f"{group}.{key}: no such size in this sweep; give one of {', '.join(sorted(sizes))}, or arch/size "
                    f"with an arch of {', '.join(sorted(archs))}"
                )


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)


def _mapping(values: Mapping[str, Any], key: str) -> Mapping[str, Any]:
    found = values.get(key) or {}
    if not isinstance(found, Mapping):
        raise ConfigError(f"{key}={found!r} must map a size (d96) or arch/size (moe/d96) to token counts")
    return found


def _texts(values: Mapping[str, Any], key: str) -> tuple[str, ...]:
    found = values.get(key) or []
    if not isinstance(found, list) or not all(isinstance(item, str) for item in found):
        raise ConfigError(f"{key}={found!r} must be a list of names, e.g. {key}=[a,b]")
    if len(set(found)) != len(found):
        raise ConfigError(f"{key}={found!r} names something twice")
    return tuple(found)


def _counts(key: str, found: Any, least: int) -> tuple[int, ...]:
    if not isinstance(found, list) or not found:
        raise ConfigError(f"{key}={found!r} must be a list of whole numbers, e.g. {key}=[500000,1e6]")
    for item in found:
        if not _is_number(item) or item != int(item) or item < least:
            raise ConfigError(f"{key}: {item!r} is not a whole number of at least {least}")
    counts = tuple(int(item) for item in found)
    if len(set(counts)) != len(counts):
        raise ConfigError(f"{key}={list(counts)} names a value twice")
    return counts
