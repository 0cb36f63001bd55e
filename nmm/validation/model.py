"""Which models are possible: shapes, encoder, experts, muP."""

from __future__ import annotations

from typing import TYPE_CHECKING

from nmm.validation.tables import ConfigError

if TYPE_CHECKING:
    from nmm.config import RunConfig


def validate_mup(config: RunConfig) -> None:
    """Refuse what muP cannot scale."""
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


def validate_shapes(config: RunConfig) -> None:
    """Refuse widths, heads and pictures that do not fit each other."""
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
    if config.arch.pixel_shuffle not in (1, 2):
        raise ConfigError(
            f"arch.pixel_shuffle={config.arch.pixel_shuffle} must be 1 (off) or 2: 2 x 2 patches make one position"
        )
    if data.image_size % data.patch_size:
        raise ConfigError(f"data.image_size={data.image_size} is not a multiple of data.patch_size={data.patch_size}")
    if data.image_size % config.position_size:
        raise ConfigError(
            f"data.image_size={data.image_size} has {data.image_size // data.patch_size} patches a side, no multiple "
            f"of arch.pixel_shuffle={config.arch.pixel_shuffle}; choose another data.patch_size, or pixel_shuffle=1"
        )
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


def validate_vision(config: RunConfig) -> None:
    """Refuse an encoder that cannot be, or options of one in early fusion."""
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
    _validate_second(config)


def _validate_second(config: RunConfig) -> None:
    """Refuse a second encoder that cannot be, or options of one without it."""
    arch, net = config.arch, config.arch.vision_model2
    if not net:
        if arch.vision_weights2 or arch.vision_frozen2 or arch.vision_patch2:
            raise ConfigError(
                f"arch.vision_weights2={arch.vision_weights2!r}, vision_frozen2={arch.vision_frozen2}, vision_patch2="
                f'{arch.vision_patch2} are for a second encoder; set arch.vision_model2 ("sized" or a timm name)'
            )
        return
    if arch.fusion != "late":
        raise ConfigError(
            f"arch.vision_model2={net!r} needs arch.fusion=late: early fusion has no encoder, and the weighted mean of "
            "two patch projections is one projection again"
        )
    if not 0 < arch.vision_mix < 1:
        raise ConfigError(f"arch.vision_mix={arch.vision_mix} must lie between 0 and 1, where one encoder is unused")
    patch = arch.vision_patch2 or config.data.patch_size
    if patch < 1 or config.position_size % patch:
        raise ConfigError(
            f"arch.vision_patch2={patch} must divide {config.position_size}, the pixels of a position (data.patch_size="
            f"{config.data.patch_size} x arch.pixel_shuffle={arch.pixel_shuffle}): each position needs whole patches"
        )
    if net != "sized" and arch.pairing != "none" and config.size.paired:
        raise ConfigError(f"arch.vision_model2={net!r}: pairing knows only the ViT of conf/size; set arch.pairing=none")
    if arch.vision_weights2 and net == "sized":
        raise ConfigError(f"arch.vision_weights2={arch.vision_weights2!r} needs arch.vision_model2 to be the timm name "
                          "of what the file holds")  # fmt: skip
    if arch.vision_weights2 and config.start.kind == "run":
        raise ConfigError(f"arch.vision_weights2={arch.vision_weights2!r} with start=run: the weights of the run have "
                          "this encoder already; leave one of the two out")  # fmt: skip
    if arch.vision_frozen2 and not (arch.vision_weights2 or config.start.kind == "run"):
        raise ConfigError("arch.vision_frozen2=true freezes random weights; give arch.vision_weights2 or start=run")
    if config.optim.mup:
        raise ConfigError(f"optim.mup with arch.vision_model2={net!r}: muP has no rule for mixed encoders; drop one")


def validate_experts(config: RunConfig) -> None:
    """Refuse experts that cannot be."""
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
