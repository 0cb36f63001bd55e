"""What one run is: frozen dataclasses, their validation, canonical JSON and the content hash that names the run.

``from_dict`` turns a plain (Hydra-composed) mapping into a ``RunConfig`` and refuses unknown keys; ``validate`` refuses
impossible combinations; ``run_id`` hashes everything that can change the result and nothing else.
"""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import json
import math
import re
import types
import typing
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from nmm.groups import Arch as Arch
from nmm.groups import Block as Block
from nmm.groups import Budget as Budget
from nmm.groups import Data as Data
from nmm.groups import Intervention as Intervention
from nmm.groups import Logger as Logger
from nmm.groups import Optim as Optim
from nmm.groups import Parent as Parent
from nmm.groups import Rft as Rft
from nmm.groups import Schedule as Schedule
from nmm.groups import Size as Size
from nmm.groups import Stage as Stage
from nmm.groups import Start as Start
from nmm.groups import Trainer as Trainer
from nmm.validation import ConfigError as ConfigError
from nmm.validation import trained_blocks
from nmm.validation import validate as validate

Group = typing.TypeVar("Group")
CODE_NUMERICS = 3  # bump with every commit marked NUMERICS or DATA-ORDER: old and new runs then never share an id


def hidden_width(width: int, mlp_ratio: float, multiple: int) -> int:
    """``mlp_ratio`` times ``width``, rounded, or in steps of ``multiple`` rounded up, as Llama-style decoders do it."""
    if multiple == 1:
        return round(mlp_ratio * width)
    return multiple * math.ceil(math.floor(mlp_ratio * width) / multiple)


@dataclass(frozen=True)
class RunConfig:
    """One run, whole. See ``conf/config.yaml`` for the defaults a user composes from."""

    sweep: str = "single"
    out: str = "outputs/runs"
    seed: int = 0
    role: str = "run"  # run | trunk | branch
    keep_steps: tuple[int, ...] = ()
    arch: Arch = field(default_factory=Arch)
    block: Block = field(default_factory=Block)
    size: Size = field(default_factory=Size)
    start: Start = field(default_factory=Start)
    stage: Stage = field(default_factory=Stage)
    data: Data = field(default_factory=Data)
    optim: Optim = field(default_factory=Optim)
    schedule: Schedule = field(default_factory=Schedule)
    budget: Budget = field(default_factory=Budget)
    trainer: Trainer = field(default_factory=Trainer)
    parent: Parent = field(default_factory=Parent)
    logger: Logger = field(default_factory=Logger)
    intervention: Intervention = field(default_factory=Intervention)
    rft: Rft | None = None  # of stage rft only

    @property
    def tokens_per_step(self) -> int:
        """Positions (image + text) in one optimizer step over all ranks."""
        return self.trainer.rows_per_step * self.data.context_length

    @property
    def position_size(self) -> int:
        """Side in pixels of the square that one position of an image stands for: a patch, with pixel shuffle 2 x 2."""
        return self.data.patch_size * self.arch.pixel_shuffle

    @property
    def row_data(self) -> Data:
        """``data`` as rows are built from it, whose patches are the squares of positions."""
        return dataclasses.replace(self.data, patch_size=self.position_size)

    @property
    def tokens_per_image(self) -> int:
        """Positions of one image."""
        return (self.data.image_size // self.position_size) ** 2

    @property
    def patches_per_image(self) -> int:
        """Patches of one image, as an encoder sees them; with pixel shuffle more than there are positions."""
        return (self.data.image_size // self.data.patch_size) ** 2

    @property
    def bridge(self) -> Stage | None:
        """The stage of a run that learns labels of pictures (or their next patches) instead of words, else None."""
        return self.stage if self.stage.name == "bridge" else None

    @property
    def trained_blocks(self) -> tuple[int, ...]:
        """Numbers of the trunk's blocks that learn. Raises ``ConfigError`` for a ``stage.train`` that names none."""
        depth = self.size.depth
        return trained_blocks(self.stage.train, depth) if self.bridge else tuple(range(depth))

    @property
    def learning_rate(self) -> float:
        """Peak learning rate of everything but vision encoder and patches (and, under muP, of the width mup_width)."""
        if self.optim.lr is not None:
            return self.optim.lr
        if self.size.lr is not None:
            return self.stage.lr_scale * self.size.lr
        width = self.optim.mup_width if self.optim.mup else self.size.width
        return self.stage.lr_scale * self.optim.lr_width / width

    @property
    def head_dim(self) -> int:
        """Width of one attention head."""
        return self.size.head_dim or self.size.width // self.size.num_heads

    @property
    def num_kv_heads(self) -> int:
        """Heads of keys and values; each serves num_heads / num_kv_heads query heads (arXiv 2305.13245)."""
        return self.size.num_kv_heads or self.size.num_heads

    @property
    def hidden(self) -> int:
        """Hidden width of one dense FFN; ``nmm.flops.ffn_hidden`` shrinks it where late is paired with early."""
        size = self.size
        return size.hidden or hidden_width(size.width, size.mlp_ratio, self.block.hidden_multiple)

    @property
    def vision_hidden(self) -> int:
        """Hidden width of the encoder's FFN: four times its width in a ViT, by the trunk's rule in a SwiGLU encoder."""
        if self.block.vision == "vit":
            return 4 * self.size.vision_width
        return hidden_width(self.size.vision_width, self.size.mlp_ratio, self.block.hidden_multiple)

    @property
    def total_steps(self) -> int:
        """Optimizer steps of the whole run, parent's steps included."""
        if self.budget.steps is None:
            raise ConfigError("budget.steps is not resolved yet; call nmm.flops.resolve_budget(config) first")
        return self.budget.steps

    @property
    def branch_step(self) -> int:
        """The step at which the cooldown begins (equal to total_steps for a trunk)."""
        return self.total_steps - round(self.schedule.cooldown_fraction * self.total_steps)


# ---------------------------------------------------------------------------------------------------------------------
# mapping -> dataclass


def from_dict(values: Mapping[str, Any]) -> RunConfig:
    """Build a ``RunConfig`` from a plain nested mapping; unknown keys and wrong types raise ``ConfigError``."""
    return _build(RunConfig, values, "")


def group_from_dict(cls: type[Group], values: Mapping[str, Any]) -> Group:
    """Any frozen dataclass from a plain mapping, checked as ``from_dict`` checks a run's."""
    built: Group = _build(cls, values, "")
    return built


@functools.cache
def _hints(cls: Any) -> dict[str, Any]:
    return typing.get_type_hints(cls)


def _build(cls: Any, values: Any, where: str) -> Any:
    if not isinstance(values, Mapping):
        raise ConfigError(f"{where or 'config'} is {values!r}, but it must be a group of fields")
    hints = _hints(cls)
    known = [f.name for f in dataclasses.fields(cls)]
    for key in values:
        if key not in known:
            raise ConfigError(f"unknown key {where}{key}; allowed here: {', '.join(known)}")
    return cls(**{key: _convert(hints[key], value, f"{where}{key}") for key, value in values.items()})


def _convert(hint: Any, value: Any, where: str) -> Any:
    if dataclasses.is_dataclass(hint):
        return _build(hint, value, where + ".")
    origin, args = typing.get_origin(hint), typing.get_args(hint)
    if origin in (typing.Union, types.UnionType):
        if value is None:
            return None
        return _convert(next(a for a in args if a is not type(None)), value, where)
    if origin is dict:
        if not isinstance(value, Mapping):
            raise ConfigError(f"{where}={value!r} must be a mapping")
        if "_target_" in value:
            raise ConfigError(f"{where}._target_: a configuration names no code here; take the key out")
        return {str(k): (_convert(args[1], v, f"{where}.{k}") if args[1] is not Any else v) for k, v in value.items()}
    if origin is tuple:
        if not isinstance(value, (list, tuple)):
            raise ConfigError(f"{where}={value!r} must be a list")
        return tuple(_convert(args[0], v, f"{where}[{i}]") for i, v in enumerate(value))
    return _scalar(hint, value, where)


def _scalar(hint: Any, value: Any, where: str) -> Any:
    is_number = isinstance(value, (int, float)) and not isinstance(value, bool)
    if hint is float and is_number:
        return float(value)
    if hint is int and is_number and float(value).is_integer():
        return int(value)
    if hint in (bool, str) and isinstance(value, hint):
        return value
    if hint is str and isinstance(value, bool):
        return "on" if value else "off"  # YAML reads on/off as booleans
    raise ConfigError(f"{where}={value!r} must be of type {hint.__name__}")


def to_dict(config: RunConfig) -> dict[str, Any]:
    """Plain nested dict (tuples become lists), ready for JSON."""
    return json.loads(json.dumps(dataclasses.asdict(config)))


# ---------------------------------------------------------------------------------------------------------------------
# identity

_FILE_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.+-]{0,119}")
_NOT_IDENTITY = {
    "": ("sweep", "out", "logger", "intervention"),
    "arch": ("vision_weights", "vision_facts", "vision_weights2", "vision_facts2"),
    "data": ("path", "world", "sources", "tokenizer", "index_dir", "max_skipped"),
    "start": ("path",),
    "trainer": (
        "devices",
        "num_nodes",
        "strategy",
        "activation_checkpointing",
        "num_workers",
        "checkpoint_every_seconds",
        "checkpoint_every_steps",
        "log_every_steps",
        "eval_every_steps",
        "progress",
        "changed_code",
    ),
}
# fields younger than CODE_NUMERICS 3: at their defaults they change no run id
_ADDED: dict[str, tuple[str, ...]] = {
    "arch": ("pixel_shuffle", "vision_model2", "vision_mix", "vision_patch2", "vision_digest2", "vision_frozen2"),
    "data": ("picture_size", "tiles"),
    "start": ("transform", "fresh"),
    "stage": (
        "objective",
        "labels",
        "classes",
        "num_classes",
        "labelled",
        "train",
        "train_patch",
        "shift",
        "eval_images",
    ),
}


def canonical_json(value: Any) -> str:
    """The one spelling that is hashed: sorted keys, no spaces, NaN refused."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), allow_nan=False)


def identity(config: RunConfig) -> dict[str, Any]:
    """The part of the resolved config that can change the result."""
    values = to_dict(config)
    for group, names in _NOT_IDENTITY.items():
        for name in names:
            (values[group] if group else values).pop(name)
    for group, names in _ADDED.items():
        for name in names:
            if getattr(getattr(config, group), name) == getattr(_default(group), name):
                values[group].pop(name)
    if config.rft is None:  # younger than CODE_NUMERICS 3, like _ADDED
        values.pop("rft")
    values["optim"]["lr"] = config.learning_rate
    values["optim"].pop("lr_width")
    values["size"].pop("lr")
    values["stage"].pop("lr_scale")
    values["code_numerics"] = CODE_NUMERICS
    return values


def _default(group: str) -> Any:
    return _hints(RunConfig)[group]()


def run_id(config: RunConfig) -> str:
    """Readable prefix + 10 hex digits of the sha256 of the identity; two configs share it only if they are one run.

    Raises ``ConfigError`` when a name in it would lead out of the directory of runs.
    """
    for field_name, value in (
        ("arch.name", config.arch.name),
        ("size.name", config.size.name),
        ("parent.run_id", config.parent.run_id),
    ):
        if not _FILE_NAME.fullmatch(value) and (value or field_name == "arch.name"):
            raise ConfigError(f"{field_name}={value!r} names a directory; use at most 120 letters, digits and . _ + -")
    digest = hashlib.sha256(canonical_json(identity(config)).encode()).hexdigest()[:10]
    return f"{config.arch.name}-{config.size.name}-{config.role}-s{config.seed}-{config.total_steps}-{digest}"
