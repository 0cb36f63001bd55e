"""Which configurations are possible: every refusal names the field, its value and the fix.

``nmm.config`` exports what others need from here.
"""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from nmm.config import RunConfig


class ConfigError(ValueError):
    """A configuration a person has to mend: the message names the field, its value and what is allowed."""


_CHOICES = {
    "role": ("run", "trunk", "branch"),
    "arch.fusion": ("early", "late"),
    "arch.pairing": ("flops", "params", "none"),
    "arch.connector": ("linear", "mlp"),
    "arch.image_attention": ("bidirectional", "causal"),
    "arch.routing": ("agnostic", "aware"),
    "arch.balancing": ("loss", "bias", "none"),
    "block.norm": ("rms", "layer"),
    "block.qk_norm": ("head", "width", "none"),
    "block.ffn": ("relu2", "swiglu"),
    "block.rope": ("1d", "2d"),
    "block.vision": ("vit", "swiglu"),
    "block.init": ("plain", "depth"),
    "start.kind": ("scratch", "hf", "run"),
    "start.embeddings": ("load", "fresh"),
    "stage.name": ("pretrain", "sft"),
    "data.weights": ("tokens", "samples"),
    "optim.on_nonfinite": ("stop", "skip"),
    "optim.on_spike": ("skip", "stop"),
    "schedule.warmup_rule": ("fixed", "paper"),
    "schedule.cooldown_shape": ("linear", "one_minus_sqrt", "inverse_sqrt"),
    "trainer.strategy": ("ddp", "fsdp2"),
    "trainer.precision": ("auto", "fp32", "bf16"),
    "trainer.compile": ("auto", "on", "off"),
    "trainer.accelerator": ("cpu", "gpu"),
    "trainer.changed_code": ("refuse", "accept"),
    "logger.name": ("none", "wandb_offline"),
}

MAX_SOURCES = 127  # a batch numbers them in a byte
_POSITIVE = {
    "arch": ("granularity", "moe_every"),
    "block": ("norm_eps", "hidden_multiple", "rope_theta"),
    "size": ("width", "depth", "num_heads", "mlp_ratio", "vision_width", "vision_depth", "vision_heads"),
    "data": ("image_size", "patch_size", "channels", "context_length", "eval_rows"),
    "stage": ("lr_scale", "eval_questions", "eval_captions"),
    "optim": ("lr_width", "vision_lr_scale", "patch_lr_scale", "mup_width", "eps", "grad_clip"),
    "trainer": ("rows_per_step", "micro_batches", "devices", "num_nodes", "threads", "log_every_steps"),
}

_NOT_NEGATIVE = {
    "arch": ("shared_experts", "balance_coef", "bias_rate", "router_z_coef"),
    "size": ("num_kv_heads", "head_dim", "hidden"),
    "optim": ("mup_head_dim", "weight_decay", "z_loss_coef", "spike_factor", "max_skips"),
    "schedule": ("warmup_steps",),
    "trainer": ("num_workers", "checkpoint_every_seconds", "checkpoint_every_steps", "eval_every_steps"),
}


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
    for table, bound in ((_POSITIVE, "greater than 0"), (_NOT_NEGATIVE, "0 or more")):
        for name in (f"{group}.{field}" for group, fields in table.items() for field in fields):
            value = _get(config, name)
            if not (value > 0 if table is _POSITIVE else value >= 0):
                raise ConfigError(f"{name}={value!r} must be {bound}")
    _validate_optim(config)
    _validate_shapes(config)
    _validate_vision(config)
    _validate_experts(config)
    _validate_start(config)
    _validate_ranks(config)
    _validate_budget(config)
    validate_data(config)
    _validate_lineage(config)
    return config


def _validate_optim(config: RunConfig) -> None:
    optim = config.optim
    for name, value in (("optim.lr", optim.lr), ("size.lr", config.size.lr)):
        if value is not None and not value > 0:
            raise ConfigError(f"{name}={value!r} must be greater than 0, or null for the next rule (nmm/groups.py)")
    for name in ("beta1", "beta2"):
        if not 0 <= getattr(optim, name) < 1:
            raise ConfigError(f"optim.{name}={getattr(optim, name)!r} must lie in [0, 1)")
    if 0 < optim.spike_factor <= 1:
        raise ConfigError(f"optim.spike_factor={optim.spike_factor} must be above 1 (e.g. 2), or 0 for no spikes")
    if optim.mup:
        _validate_mup(config)


def _validate_mup(config: RunConfig) -> None:
    optim, size = config.optim, config.size
    if config.block.tied_head:
        raise ConfigError("optim.mup with block.tied_head: embedding and head need scales of their own; untie the head")
    if optim.lr is None and size.lr is not None:
        raise ConfigError(
            f"optim.mup with size.lr={size.lr}, which was tuned for width {size.width} without muP; give optim.lr, the "
            f"best rate of optim.mup_width={optim.mup_width}"
        )
    if size.width == optim.mup_width and optim.mup_head_dim not in (0, config.head_dim):
        raise ConfigError(
            f"optim.mup_head_dim={optim.mup_head_dim}, but at size.width={size.width}=optim.mup_width heads have "
            f"{config.head_dim}; it is the head_dim of exactly that width"
        )


def _validate_shapes(config: RunConfig) -> None:
    size, data = config.size, config.data
    if not size.head_dim and size.width % size.num_heads:
        raise ConfigError(
            f"size.width={size.width} is not a multiple of size.num_heads={size.num_heads}; set size.head_dim"
        )
    pairs = 4 if config.block.rope == "2d" else 2
    if config.head_dim % pairs:
        raise ConfigError(
            f"size.head_dim={size.head_dim}, size.width={size.width} and size.num_heads={size.num_heads} give heads of "
            f"{config.head_dim}; block.rope={config.block.rope} needs a multiple of {pairs}"
        )
    if size.num_heads % config.num_kv_heads:
        raise ConfigError(f"size.num_heads={size.num_heads} is not a multiple of size.num_kv_heads={size.num_kv_heads}")
    if data.image_size % data.patch_size:
        raise ConfigError(f"data.image_size={data.image_size} is not a multiple of data.patch_size={data.patch_size}")
    if config.tokens_per_image >= data.context_length:
        raise ConfigError(
            f"an image takes {config.tokens_per_image} tokens, data.context_length={data.context_length} leaves no "
            "room for text; raise context_length or patch_size"
        )
    for name in ("pixel_mean", "pixel_std"):
        values = getattr(data, name)
        if len(values) != data.channels or (name == "pixel_std" and not all(v > 0 for v in values)):
            raise ConfigError(
                f"data.{name}={values} needs one number (std above 0) for each of {data.channels} channels"
            )


def _validate_vision(config: RunConfig) -> None:
    arch, size = config.arch, config.size
    if arch.fusion == "late" and not arch.vision_model and size.vision_width % size.vision_heads:
        raise ConfigError(
            f"size.vision_width={size.vision_width} is not a multiple of vision_heads={size.vision_heads}"
        )
    if arch.vision_model and arch.fusion != "late":
        raise ConfigError(
            f"arch.vision_model={arch.vision_model!r} needs arch.fusion=late; early fusion has no encoder"
        )
    if arch.vision_model and arch.pairing != "none" and size.paired:
        raise ConfigError(f"arch.vision_model={arch.vision_model!r}: pairing knows only the ViT of conf/size; set "
                          "arch.pairing=none")  # fmt: skip
    if arch.vision_weights and not arch.vision_model:
        raise ConfigError(f"arch.vision_weights={arch.vision_weights!r} needs arch.vision_model, the timm name of what "
                          "the file holds")  # fmt: skip
    if arch.vision_weights and config.start.kind == "run":
        raise ConfigError(f"arch.vision_weights={arch.vision_weights!r} with start=run: the weights of the run have an "
                          "encoder already; leave one of the two out")  # fmt: skip
    if arch.vision_frozen and not (arch.vision_weights or config.start.kind == "run"):
        raise ConfigError("arch.vision_frozen=true freezes random weights; give arch.vision_weights or start=run")


def _validate_experts(config: RunConfig) -> None:
    arch, size = config.arch, config.size
    if arch.num_experts < 0 or arch.num_experts == 1:
        raise ConfigError(f"arch.num_experts={arch.num_experts}: use 0 for a dense model or at least 2 experts")
    if not arch.num_experts:
        if arch.routing == "aware" or arch.shared_experts or arch.image_experts:
            raise ConfigError(
                f"arch.routing={arch.routing}, shared_experts={arch.shared_experts}, image_experts="
                f"{arch.image_experts} need experts: set arch.num_experts, e.g. 8, or arch=moe"
            )
        return
    if arch.fusion == "late":
        raise ConfigError("arch.num_experts > 0 with arch.fusion=late is not supported; use arch.fusion=early")
    if size.depth % arch.moe_every:
        raise ConfigError(f"arch.moe_every={arch.moe_every} does not divide size.depth={size.depth}")
    image = arch.image_experts
    if arch.routing == "aware" and not 1 <= image < arch.num_experts:
        raise ConfigError(f"arch.image_experts={image} must lie in 1..{arch.num_experts - 1}: routing=aware gives the "
                          "other experts to text")  # fmt: skip
    if arch.routing == "agnostic" and image:
        raise ConfigError(f"arch.image_experts={image} needs arch.routing=aware; agnostic routing shares all experts")
    least = min(image, arch.num_experts - image) if arch.routing == "aware" else arch.num_experts
    if not 1 <= arch.top_k <= least:
        raise ConfigError(f"arch.top_k={arch.top_k} must lie in 1..{least}, the experts a position can choose from")
    if config.hidden % arch.granularity:
        raise ConfigError(
            f"arch.granularity={arch.granularity} does not divide {config.hidden}, the hidden width of an expert; "
            "choose a divisor, or set size.hidden to a multiple of it"
        )
    if size.width % 8 or config.hidden // arch.granularity % 8:
        raise ConfigError(
            f"arch.num_experts={arch.num_experts} with size.width={size.width} and experts of hidden width "
            f"{config.hidden // arch.granularity}: grouped products need multiples of 8 (16 bytes in bf16)"
        )


def _validate_start(config: RunConfig) -> None:
    start = config.start
    if (start.kind == "scratch") == bool(start.path):
        raise ConfigError(f"start.kind={start.kind!r} with start.path={start.path!r}: hf and run need a directory, "
                          "scratch has none")  # fmt: skip
    if start.embeddings == "fresh" and start.kind == "scratch":
        raise ConfigError("start.embeddings=fresh: from scratch all weights are fresh; leave it at load")
    if config.stage.name == "sft" and start.kind == "scratch":
        raise ConfigError("stage=sft tunes a pretrained model: add start=run start.path=RUN_DIRECTORY (or start=hf)")


def _validate_ranks(config: RunConfig) -> None:
    trainer = config.trainer
    if trainer.rows_per_step % trainer.world_size:
        raise ConfigError(
            f"trainer.rows_per_step={trainer.rows_per_step} is not a multiple of the {trainer.world_size} ranks "
            f"(devices={trainer.devices} x num_nodes={trainer.num_nodes})"
        )
    if trainer.micro_batches > trainer.rows_per_step // trainer.world_size:
        raise ConfigError(
            f"trainer.micro_batches={trainer.micro_batches} exceeds the {trainer.rows_per_step // trainer.world_size} "
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


def validate_data(config: RunConfig) -> None:
    """Refuse a mixture or a data source that cannot be. Raises ``ConfigError``."""
    data, mixture = config.data, config.data.mixture
    for name, allowed in (("val_fraction", "[0, 1)"), ("max_skipped", "[0, 1)"), ("flip", "[0, 1]")):
        value = getattr(data, name)
        if not (0 <= value < 1 or (value == 1 and allowed.endswith("]"))):
            raise ConfigError(f"data.{name}={value} must lie in {allowed}")
    if not 0 < data.crop_scale <= 1:
        raise ConfigError(f"data.crop_scale={data.crop_scale} must lie in (0, 1], 1 for centre crops")
    if data.sources:
        _validate_sources(config)
    elif data.weights != "tokens" or data.crop_scale < 1 or data.flip or data.cut_text or data.val_fraction:
        raise ConfigError(
            f"data.weights={data.weights}, data.crop_scale={data.crop_scale}, data.flip={data.flip}, "
            f"data.cut_text={data.cut_text}, data.val_fraction={data.val_fraction}: rendered shards are mixed by "
            "tokens, whole, seen as they are and have a split of their own; these are for indexed tars (data.sources)"
        )
    for name in ("image_share", "target_share"):
        value = getattr(config.data, name)
        if not 0 <= value <= 1:
            raise ConfigError(f"data.{name}={value} must lie in [0, 1], a share of the positions")
    if not mixture or any(w < 0 for w in mixture.values()) or not sum(mixture.values()) > 0:
        raise ConfigError(f"data.mixture={mixture} needs non-negative weights with a positive sum")


def _validate_sources(config: RunConfig) -> None:
    data = config.data
    reserved = sorted({"avg", "mixture", "all"} & data.sources.keys())
    if reserved:
        raise ConfigError(f"data.sources.{reserved[0]}: records call means by that name; call the source otherwise")
    if len(data.sources) > MAX_SOURCES:
        raise ConfigError(f"data.sources has {len(data.sources)} names, at most {MAX_SOURCES} are possible; join some")
    if not data.tokenizer:
        raise ConfigError("data.tokenizer is empty; data.sources need one: bytes, or a tokenizer.json")
    if not data.val_fraction > 0:
        raise ConfigError(
            f"data.val_fraction={data.val_fraction} holds nothing out of data.sources; runs are judged on held-out "
            "samples, 0.01 is usual"
        )
    absent = [name for name, weight in data.mixture.items() if weight > 0 and name not in data.sources]
    if absent:
        raise ConfigError(
            f"data.mixture draws from {', '.join(absent)}, but data.sources names {', '.join(sorted(data.sources))}; "
            f"add +data.sources.{absent[0]}=FOLDER or set data.mixture.{absent[0]}=0"
        )
    if config.start.kind == "hf" and config.start.embeddings == "load":
        raise ConfigError(
            "start=hf with data.sources: tokens of an indexed source have other ids than in the start's own vocabulary "
            "(three special words come first); set start.embeddings=fresh"
        )
    if config.stage.name == "sft":
        raise ConfigError("stage.name=sft needs the questions of a rendered world (data=world); data.sources have none")


def _validate_lineage(config: RunConfig) -> None:
    if (config.role == "branch") != bool(config.parent.run_id):
        raise ConfigError(f"role={config.role!r} with parent.run_id={config.parent.run_id!r}: a branch, and only a "
                          "branch, names its trunk")  # fmt: skip
    if (config.role == "trunk") != bool(config.keep_steps):
        raise ConfigError(f"role={config.role!r} with keep_steps={config.keep_steps}: a trunk, and only a trunk, keeps "
                          "the checkpoints its branches start from")  # fmt: skip
    if config.role == "trunk" and config.schedule.cooldown_fraction != 0:
        raise ConfigError("a trunk has no cooldown: set schedule.cooldown_fraction=0")
    if config.budget.steps is None:
        return  # which steps there are is known once the budget is resolved; ``finalize`` comes here again
    if config.role == "branch" and not 1 <= config.parent.step <= config.branch_step:
        raise ConfigError(
            f"parent.step={config.parent.step} must lie in 1..{config.branch_step}: a branch of {config.total_steps} "
            f"steps with schedule.cooldown_fraction={config.schedule.cooldown_fraction} leaves its trunk before cooling"
        )
    if config.role == "trunk" and not all(1 <= step <= config.total_steps for step in config.keep_steps):
        raise ConfigError(f"keep_steps={config.keep_steps} must lie in 1..{config.total_steps}, the steps of the trunk")
