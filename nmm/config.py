"""What one run is: frozen dataclasses, their validation, canonical JSON and the content hash that names the run.

``from_dict`` turns a plain (Hydra-composed) mapping into a ``RunConfig`` and refuses unknown keys; ``validate`` refuses
impossible combinations; ``run_id`` hashes everything that can change the result and nothing else.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import types
import typing
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

CODE_NUMERICS = 1  # bump with every commit marked NUMERICS or DATA-ORDER: old and new runs then never share an id


class ConfigError(ValueError):
    """A configuration a person has to mend: the message names the field, its value and what is allowed."""


@dataclass(frozen=True)
class Arch:
    """Which family. ``num_experts`` 0 is dense; ``pairing`` says what late fusion holds equal to early at the same size."""

    name: str = "early"
    fusion: str = "early"  # early | late
    num_experts: int = 0
    top_k: int = 1
    balance_coef: float = 0.01
    pairing: str = "flops"  # flops | params | none: how the late decoder's FFN is chosen
    connector: str = "linear"  # linear | mlp
    image_attention: str = "bidirectional"  # bidirectional | causal
    document_mask: bool = True


@dataclass(frozen=True)
class Size:
    """Width and depth of the decoder, and of the vision encoder that late fusion puts before it."""

    name: str = "d32"
    width: int = 32
    depth: int = 2
    num_heads: int = 2
    mlp_ratio: float = 4.0
    vision_width: int = 16
    vision_depth: int = 1
    vision_heads: int = 1


@dataclass(frozen=True)
class Data:
    """Shards, mixture weights by tokens, and how documents become rows."""

    path: str = ""
    fingerprint: str = ""
    vocab_size: int = 0
    image_size: int = 32
    patch_size: int = 8
    channels: int = 3
    context_length: int = 128
    mixture: dict[str, float] = field(default_factory=lambda: {"caption": 0.45, "interleaved": 0.45, "text": 0.10})
    eval_rows: int = 256
    world: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Optim:
    """Fully decoupled AdamW. The learning rate is ``lr`` when given, else ``lr_width / width``."""

    lr: float | None = None
    lr_width: float = 0.25
    vision_lr_scale: float = 0.25
    beta1: float = 0.9
    beta2: float = 0.98
    eps: float = 1e-8
    weight_decay: float = 0.0
    grad_clip: float = 1.0


@dataclass(frozen=True)
class Schedule:
    """Warmup, constant, cooldown: a pure function of (step, total, branch point)."""

    warmup_steps: int = 160
    cooldown_fraction: float = 0.25
    cooldown_shape: str = "linear"  # linear | one_minus_sqrt


@dataclass(frozen=True)
class Budget:
    """How long: exactly one of the three is given by the user; ``resolve`` leaves only ``steps``."""

    tokens: int | None = None
    flops: float | None = None
    steps: int | None = None


@dataclass(frozen=True)
class Trainer:
    """How a step is executed. Fields below the line do not enter the run id."""

    rows_per_step: int = 4
    micro_batches: int = 1
    precision: str = "auto"  # auto | fp32 | bf16
    compile: str = "auto"  # auto | on | off
    accelerator: str = "cpu"  # cpu | gpu
    devices: int = 1
    threads: int = 1
    # -- no effect on the result --
    num_workers: int = 0
    checkpoint_every_seconds: float = 60.0
    checkpoint_every_steps: int = 0
    log_every_steps: int = 50
    eval_every_steps: int = 0
    progress: bool = True


@dataclass(frozen=True)
class Parent:
    """A branch starts from the trunk's checkpoint at ``step``."""

    run_id: str = ""
    step: int = 0


@dataclass(frozen=True)
class Logger:
    """A mirror of metrics.jsonl, never the record."""

    name: str = "none"  # none | wandb_offline
    project: str = "nmm"


@dataclass(frozen=True)
class RunConfig:
    """One run, whole. See ``conf/config.yaml`` for the defaults a user composes from."""

    name: str = "run"
    sweep: str = "single"
    out: str = "outputs/runs"
    seed: int = 0
    role: str = "run"  # run | trunk | branch
    keep_steps: tuple[int, ...] = ()
    arch: Arch = field(default_factory=Arch)
    size: Size = field(default_factory=Size)
    data: Data = field(default_factory=Data)
    optim: Optim = field(default_factory=Optim)
    schedule: Schedule = field(default_factory=Schedule)
    budget: Budget = field(default_factory=Budget)
    trainer: Trainer = field(default_factory=Trainer)
    parent: Parent = field(default_factory=Parent)
    logger: Logger = field(default_factory=Logger)

    @property
    def tokens_per_step(self) -> int:
        """Positions (image + text) in one optimizer step over all ranks."""
        return self.trainer.rows_per_step * self.data.context_length

    @property
    def tokens_per_image(self) -> int:
        """Patches, hence positions, of one image."""
        return (self.data.image_size // self.data.patch_size) ** 2

    @property
    def learning_rate(self) -> float:
        """Peak learning rate of everything but the vision parameters."""
        return self.optim.lr if self.optim.lr is not None else self.optim.lr_width / self.size.width

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


def _build(cls: Any, values: Any, where: str) -> Any:
    if not isinstance(values, Mapping):
        raise ConfigError(f"{where or 'config'} is {values!r}, but it must be a group of fields")
    hints = typing.get_type_hints(cls)
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
        return {str(k): (_convert(args[1], v, f"{where}.{k}") if args[1] is not Any else v) for k, v in value.items()}
    if origin is tuple:
        return tuple(_convert(args[0], v, f"{where}[{i}]") for i, v in enumerate(value))
    return _scalar(hint, value, where)


def _scalar(hint: Any, value: Any, where: str) -> Any:
    is_number = isinstance(value, (int, float)) and not isinstance(value, bool)
    if hint is float and is_number:
        return float(value)
    if hint is int and is_number and float(value) == int(value):
        return int(value)
    if hint in (bool, str) and isinstance(value, hint):
        return value
    if hint is str and hint is not bool and isinstance(value, bool):
        return "on" if value else "off"  # YAML reads on/off as booleans
    raise ConfigError(f"{where}={value!r} must be of type {hint.__name__}")


def to_dict(config: RunConfig) -> dict[str, Any]:
    """Plain nested dict (tuples become lists), ready for JSON."""
    return json.loads(json.dumps(dataclasses.asdict(config)))


# ---------------------------------------------------------------------------------------------------------------------
# identity

_NOT_IDENTITY = {
    "": ("name", "sweep", "out", "logger"),
    "data": ("path", "world", "eval_rows"),
    "trainer": (
        "num_workers",
        "checkpoint_every_seconds",
        "checkpoint_every_steps",
        "log_every_steps",
        "eval_every_steps",
        "progress",
        "devices",
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
    values["optim"]["lr"] = config.learning_rate
    values["optim"].pop("lr_width")
    values["code_numerics"] = CODE_NUMERICS
    return values


def run_id(config: RunConfig) -> str:
    """Readable prefix + 10 hex digits of the sha256 of the identity; two configs share it only if they are one run."""
    digest = hashlib.sha256(canonical_json(identity(config)).encode()).hexdigest()[:10]
    return f"{config.arch.name}-{config.size.name}-{config.role}-s{config.seed}-{config.total_steps}-{digest}"


# ---------------------------------------------------------------------------------------------------------------------
# validation

_CHOICES = {
    "role": ("run", "trunk", "branch"),
    "arch.fusion": ("early", "late"),
    "arch.pairing": ("flops", "params", "none"),
    "arch.connector": ("linear", "mlp"),
    "arch.image_attention": ("bidirectional", "causal"),
    "schedule.cooldown_shape": ("linear", "one_minus_sqrt"),
    "trainer.precision": ("auto", "fp32", "bf16"),
    "trainer.compile": ("auto", "on", "off"),
    "trainer.accelerator": ("cpu", "gpu"),
    "logger.name": ("none", "wandb_offline"),
}

_POSITIVE = (
    "size.width size.depth size.num_heads size.mlp_ratio size.vision_width size.vision_depth size.vision_heads "
    "data.image_size data.patch_size data.channels data.context_length data.eval_rows trainer.rows_per_step "
    "trainer.micro_batches trainer.devices trainer.threads optim.lr_width optim.eps optim.grad_clip"
).split()


def _get(config: RunConfig, dotted: str) -> Any:
    value: Any = config
    for part in dotted.split("."):
        value = getattr(value, part)
    return value


def validate(config: RunConfig) -> RunConfig:
    """Return the config unchanged, or raise ``ConfigError`` naming the field, its value and the fix."""
    for name, allowed in _CHOICES.items():
        if _get(config, name) not in allowed:
            raise ConfigError(f"{name}={_get(config, name)!r} is not one of {', '.join(allowed)}")
    for name in _POSITIVE:
        if not _get(config, name) > 0:
            raise ConfigError(f"{name}={_get(config, name)!r} must be greater than 0")
    _validate_shapes(config)
    _validate_budget(config)
    _validate_mixture(config.data.mixture)
    _validate_lineage(config)
    return config


def _validate_shapes(config: RunConfig) -> None:
    arch, size, data, trainer = config.arch, config.size, config.data, config.trainer
    if size.width % size.num_heads or (size.width // size.num_heads) % 2:
        raise ConfigError(
            f"size.width={size.width} with size.num_heads={size.num_heads} gives no even head_dim (RoPE needs pairs)"
        )
    if arch.fusion == "late" and size.vision_width % size.vision_heads:
        raise ConfigError(f"size.vision_width={size.vision_width} is not a multiple of vision_heads={size.vision_heads}")
    if data.image_size % data.patch_size:
        raise ConfigError(f"data.image_size={data.image_size} is not a multiple of data.patch_size={data.patch_size}")
    if config.tokens_per_image >= data.context_length:
        raise ConfigError(
            f"an image takes {config.tokens_per_image} tokens, data.context_length={data.context_length} leaves no room "
            "for text; raise context_length or patch_size"
        )
    if arch.num_experts < 0 or arch.num_experts == 1:
        raise ConfigError(f"arch.num_experts={arch.num_experts}: use 0 for a dense model or at least 2 experts")
    if arch.num_experts and not 1 <= arch.top_k <= arch.num_experts:
        raise ConfigError(f"arch.top_k={arch.top_k} must lie in 1..num_experts={arch.num_experts}")
    if arch.num_experts and arch.fusion == "late":
        raise ConfigError("arch.num_experts > 0 with arch.fusion=late is not supported; use arch.fusion=early")
    if trainer.rows_per_step % trainer.devices:
        raise ConfigError(f"trainer.rows_per_step={trainer.rows_per_step} is not a multiple of devices={trainer.devices}")
    if trainer.micro_batches > trainer.rows_per_step // trainer.devices:
        raise ConfigError(
            f"trainer.micro_batches={trainer.micro_batches} exceeds the {trainer.rows_per_step // trainer.devices} "
            "rows of a rank's step; rows are never split"
        )


def _validate_budget(config: RunConfig) -> None:
    given = {k: v for k, v in dataclasses.asdict(config.budget).items() if v is not None}
    if len(given) != 1:
        raise ConfigError(f"budget needs exactly one of tokens, flops, steps; got {given or 'none'}")
    name, value = next(iter(given.items()))
    if not value > 0:
        raise ConfigError(f"budget.{name}={value!r} must be greater than 0")
    if not 0 <= config.schedule.cooldown_fraction < 1:
        raise ConfigError(f"schedule.cooldown_fraction={config.schedule.cooldown_fraction} must lie in [0, 1)")
    if config.schedule.warmup_steps < 0:
        raise ConfigError(f"schedule.warmup_steps={config.schedule.warmup_steps} must be 0 or more")


def _validate_mixture(mixture: dict[str, float]) -> None:
    if not mixture or any(w < 0 for w in mixture.values()) or not sum(mixture.values()) > 0:
        raise ConfigError(f"data.mixture={mixture} needs non-negative weights with a positive sum")


def _validate_lineage(config: RunConfig) -> None:
    if (config.role == "branch") != bool(config.parent.run_id):
        raise ConfigError(f"role={config.role!r} with parent.run_id={config.parent.run_id!r}: a branch, and only a "
                          "branch, names its trunk")  # fmt: skip
    if (config.role == "trunk") != bool(config.keep_steps):
        raise ConfigError(f"role={config.role!r} with keep_steps={config.keep_steps}: a trunk, and only a trunk, keeps "
                          "the checkpoints its branches start from")  # fmt: skip
    if config.role == "trunk" and config.schedule.cooldown_fraction != 0:
        raise ConfigError("a trunk has no cooldown: set schedule.cooldown_fraction=0")
