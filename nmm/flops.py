"""Parameters by group, FLOPs by component, budget -> steps. Arithmetic only: no torch, no allocation.

Tests hold every number here to the counted parameters and the counted forward and backward of the built model.
A multiply-add is 2 FLOPs; the backward of a matrix product costs twice its forward; norms, rotations, softmax and
activations are not counted (below 1 % from width 32 on).
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass

from nmm.config import Budget, ConfigError, RunConfig


@dataclass(frozen=True)
class Params:
    """Parameters by group. ``experts_active`` is the part of ``experts`` that one token passes through."""

    embedding: int
    head: int
    attention: int
    ffn: int
    norm: int
    router: int
    experts: int
    experts_active: int
    patch: int
    vision: int
    connector: int

    @property
    def total(self) -> int:
        """Everything that is stored."""
        fields = dataclasses.asdict(self)
        return sum(v for k, v in fields.items() if k != "experts_active")

    @property
    def decoder_non_embedding(self) -> int:
        """Trunk without embedding, head, and vision; all experts counted."""
        return self.attention + self.ffn + self.norm + self.router + self.experts

    @property
    def non_embedding(self) -> int:
        """Everything but token embedding and output head."""
        return self.total - self.embedding - self.head

    @property
    def active(self) -> int:
        """Total, with only the experts one token uses."""
        return self.total - self.experts + self.experts_active

    @property
    def active_non_embedding(self) -> int:
        """``non_embedding``, with only the experts one token uses."""
        return self.non_embedding - self.experts + self.experts_active


def ffn_hidden(config: RunConfig) -> int:
    """Hidden width of one FFN (one expert) of the decoder.

    Late fusion with ``pairing`` flops or params shrinks it, in units of 1, until the model's FLOPs per token (or its
    non-embedding parameters) come as close to the early model of the same size as the unit allows.
    """
    early_hidden = round(config.size.width * config.size.mlp_ratio)
    if config.arch.fusion == "early" or config.arch.pairing == "none":
        return early_hidden
    early = dataclasses.replace(config, arch=dataclasses.replace(config.arch, fusion="early"))
    per_hidden = 2 * config.size.depth * config.size.width
    if config.arch.pairing == "params":
        at_zero = _params(config, 0).non_embedding
        hidden = (_params(early, early_hidden).non_embedding - at_zero) / per_hidden
    else:
        surplus = _typical_flops(early, early_hidden) - _typical_flops(config, 0)
        hidden = surplus / (2 * per_hidden)
    if hidden < 1:
        raise ConfigError(
            f"size {config.size.name}: the vision encoder (width {config.size.vision_width}, depth "
            f"{config.size.vision_depth}) leaves no room for a late decoder with arch.pairing={config.arch.pairing}; "
            "make it smaller or set arch.pairing=none"
        )
    return round(hidden)


def has_experts(config: RunConfig, layer: int) -> bool:
    """Whether block ``layer`` (0-based) holds a mixture of experts: every n-th one, the last of each n."""
    return config.arch.num_experts > 0 and (layer + 1) % config.arch.moe_every == 0


# Shares of positions that are patches, and whose next token is text, at which pairing=flops equalises early and late
# and budgets given in FLOPs become steps: those of the world's 45-45-10 mixture. The record has the exact ones.
IMAGE_SHARE, TARGET_SHARE = 0.40, 0.58


def count_params(config: RunConfig) -> Params:
    """Parameters by group of the model that ``nmm.model.build`` makes from the same config."""
    return _params(config, ffn_hidden(config))


def _params(config: RunConfig, hidden: int) -> Params:
    size, arch, vocab = config.size, config.arch, config.data.vocab_size
    d, layers, head_dim = size.width, size.depth, size.width // size.num_heads
    pixels = config.data.channels * config.data.patch_size**2
    ffn = 2 * layers * d * hidden
    is_moe = arch.num_experts > 0
    vision = _vision_params(config, pixels) if arch.fusion == "late" else 0
    positions = config.tokens_per_image * d  # learned position of a patch, added where patches enter the decoder
    connector = size.vision_width * d + (d * d if arch.connector == "mlp" else 0) if arch.fusion == "late" else 0
    return Params(
        embedding=vocab * d,
        head=vocab * d,
        attention=layers * (4 * d * d + 2 * head_dim),
        ffn=0 if is_moe else ffn,
        norm=(2 * layers + 1) * d,
        router=layers * d * arch.num_experts if is_moe else 0,
        experts=ffn * arch.num_experts if is_moe else 0,
        experts_active=ffn * arch.top_k if is_moe else 0,
        patch=positions + (pixels * d if arch.fusion == "early" else 0),
        vision=vision,
        connector=connector,
    )


def _vision_params(config: RunConfig, pixels: int) -> int:
    """timm VisionTransformer: patch embedding + positions + blocks (biases, LayerNorm) + final norm; no class token."""
    w = config.size.vision_width
    block = (3 * w * w + 3 * w) + (w * w + w) + 2 * (4 * w * w) + 5 * w + 4 * w
    return pixels * w + w + config.tokens_per_image * w + config.size.vision_depth * block + 2 * w


@dataclass(frozen=True)
class Flops:
    """Forward FLOPs per position, averaged over the row, by component."""

    attention_projections: float
    attention_scores: float
    ffn: float
    router: float
    head: float
    patch: float
    vision: float
    connector: float

    @property
    def total(self) -> float:
        """All components."""
        return sum(dataclasses.astuple(self))


def forward_flops(config: RunConfig, image_share: float = IMAGE_SHARE, target_share: float = TARGET_SHARE) -> Flops:
    """Forward FLOPs per position.

    ``image_share`` of the positions are patches, ``target_share`` are scored by the head (the next token is text).
    Attention scores are counted dense over the context, as a masked dense product executes them.
    """
    return _forward_flops(config, ffn_hidden(config), image_share, target_share)


def _typical_flops(config: RunConfig, hidden: int) -> float:
    return _forward_flops(config, hidden, IMAGE_SHARE, TARGET_SHARE).total


def _forward_flops(config: RunConfig, hidden: int, image_share: float, target_share: float) -> Flops:
    size, arch, d = config.size, config.arch, config.size.width
    pixels = config.data.channels * config.data.patch_size**2
    passes = arch.top_k if arch.num_experts else 1
    late = arch.fusion == "late"
    return Flops(
        attention_projections=size.depth * 8.0 * d * d,
        attention_scores=size.depth * 4.0 * config.data.context_length * d,
        ffn=size.depth * 4.0 * d * hidden * passes,
        router=size.depth * 2.0 * d * arch.num_experts,
        head=target_share * 2.0 * d * config.data.vocab_size,
        patch=0.0 if late else image_share * 2.0 * pixels * d,
        vision=image_share * _vision_flops(config, pixels) if late else 0.0,
        connector=image_share * 2.0 * (size.vision_width * d + (d * d if arch.connector == "mlp" else 0))
        if late
        else 0.0,
    )


def _vision_flops(config: RunConfig, pixels: int) -> float:
    w, patches = config.size.vision_width, config.tokens_per_image
    block = 8.0 * w * w + 4.0 * patches * w + 16.0 * w * w
    return 2.0 * pixels * w + config.size.vision_depth * block


def training_flops(
    config: RunConfig, tokens: float, image_share: float = IMAGE_SHARE, target_share: float = TARGET_SHARE
) -> dict[str, float]:
    """FLOPs of a stand-alone training run of ``tokens`` positions: exact by component, ``total``, and ``6nd``.

    The patch projections (early's, and the encoder's first layer) need no gradient with respect to pixels, so their
    backward costs once, not twice, their forward. ``6nd`` uses active parameters, embeddings included
    (arXiv 2504.07951, section 2.2).
    """
    forward = forward_flops(config, image_share, target_share)
    exact = {name: 3.0 * value * tokens for name, value in dataclasses.asdict(forward).items()}
    pixels = config.data.channels * config.data.patch_size**2
    entry = config.size.vision_width if config.arch.fusion == "late" else config.size.width
    exact["vision" if config.arch.fusion == "late" else "patch"] -= image_share * 2.0 * pixels * entry * tokens
    exact["total"] = sum(exact.values())
    exact["6nd"] = 6.0 * count_params(config).active * tokens
    return exact


def resolve_budget(config: RunConfig) -> RunConfig:
    """Replace ``budget`` by whole optimizer steps (nearest; at least 1), whichever way it was given."""
    budget = config.budget
    if budget.steps is not None:
        return config
    if budget.tokens is not None:
        tokens = float(budget.tokens)
    else:
        assert budget.flops is not None
        tokens = budget.flops / training_flops(config, 1.0)["total"]
    steps = max(1, round(tokens / config.tokens_per_step))
    return dataclasses.replace(config, budget=Budget(steps=steps))
