"""Parameters by group, from formulas. Arithmetic only: no torch, no allocation.

Tests hold every number to the parameters of the built model. The hidden width of a late decoder, which follows from
FLOPs, is decided in ``nmm.flops``.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass

from nmm.config import ConfigError, RunConfig

# ``experts_active`` and ``vision_matrices`` are parts of other groups
PARTS = ("experts_active", "vision_matrices")
SIZED = "sized"  # of arch.vision_model2: another ViT of conf/size
SECOND_SEED = 1 << 20  # added to the seed of a run for its second encoder


@dataclass(frozen=True)
class Params:
    """Parameters by group.

    ``attention``, ``ffn``, ``experts``: matrices only; all gains are in ``norm``. ``experts_active`` is the part of
    ``experts`` that one token passes through, ``vision_matrices`` the part of ``vision`` in the matrices of its blocks.
    """

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
    vision_matrices: int
    connector: int

    @property
    def total(self) -> int:
        """Everything that is stored."""
        return sum(v for k, v in dataclasses.asdict(self).items() if k not in PARTS)

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

    @property
    def paper(self) -> int:
        """N (early, MoE) or N_t (late) as arXiv 2504.07951 prints it: matrices of the blocks, embedding and head.

        Of an MoE only the experts one token uses; no norms, router, patch projection, positions or connector. The
        encoder of late fusion is ``vision_matrices``, there N_v.
        """
        return self.paper_non_embedding + self.embedding + self.head

    @property
    def paper_non_embedding(self) -> int:
        """``paper`` without embedding and head."""
        return self.attention + self.ffn + self.experts_active

    @property
    def paper_stored(self) -> int:
        """``paper`` with all experts."""
        return self.paper - self.experts_active + self.experts


@dataclass(frozen=True)
class Encoder:
    """A vision encoder of late fusion: features a position, parameters, those in matrices; FLOPs, floats of an image.

    ``forward`` and ``backward`` are FLOPs (pixels need no gradient), ``saved`` the floats kept for the backward pass;
    ``blocks`` are what activation checkpointing computes twice, 0 in a net without any. Frozen, the two are 0.
    """

    width: int
    params: int
    matrices: int
    blocks: int
    forward: float
    backward: float
    saved: float


def has_experts(config: RunConfig, layer: int) -> bool:
    """Whether block ``layer`` (0-based) holds a mixture of experts: every n-th one, the last of each n."""
    return config.arch.num_experts > 0 and (layer + 1) % config.arch.moe_every == 0


def expert_layers(config: RunConfig) -> int:
    """How many blocks hold experts."""
    return sum(has_experts(config, layer) for layer in range(config.size.depth))


def stored_experts(config: RunConfig) -> int:
    """Experts of hidden / granularity that a layer stores, shared ones included."""
    return config.arch.num_experts * config.arch.granularity + config.arch.shared_experts


def active_experts(config: RunConfig) -> int:
    """Experts of hidden / granularity that one token passes through, shared ones included."""
    return config.arch.top_k * config.arch.granularity + config.arch.shared_experts


def ffn_matrices(config: RunConfig) -> int:
    """Matrices of one FFN, each (width, hidden)."""
    return 3 if config.block.ffn == "swiglu" else 2


def pixels_per_position(config: RunConfig) -> int:
    """Numbers in the pixels that one position of an image stands for."""
    return config.data.channels * config.position_size**2


def attention_matrices(config: RunConfig) -> int:
    """Entries of the projections to queries, keys, values and back, of one block."""
    heads = 2 * config.size.num_heads + 2 * config.num_kv_heads
    return config.size.width * heads * config.head_dim


def bridge_outputs(config: RunConfig) -> int:
    """Rows of the head that stage=bridge adds: its classes, or the pixels of a patch; 0 in every other stage."""
    if config.bridge is None:
        return 0
    return config.stage.num_classes if config.stage.objective == "labels" else pixels_per_position(config)


def parameters(config: RunConfig, hidden: int) -> Params:
    """Parameters of the model whose dense FFN (or granularity-1 expert) has the hidden width ``hidden``."""
    size, arch, data, d = config.size, config.arch, config.data, config.size.width
    is_late = arch.fusion == "late"
    ffn = ffn_matrices(config) * d * hidden
    sparse = expert_layers(config)
    encoder = vision_encoder(config) if is_late else None
    positions = config.tokens_per_image * d if config.block.patch_position else 0
    return Params(
        embedding=data.vocab_size * d,
        head=(0 if config.block.tied_head else data.vocab_size * d) + bridge_outputs(config) * d,
        attention=size.depth * attention_matrices(config),
        ffn=(size.depth - sparse) * ffn,
        norm=(2 * size.depth + 1) * d + size.depth * _qk_gains(config),
        router=sparse * d * arch.num_experts * arch.granularity,
        experts=sparse * stored_experts(config) * ffn // arch.granularity,
        experts_active=sparse * active_experts(config) * ffn // arch.granularity,
        patch=positions + (0 if is_late else pixels_per_position(config) * d),
        vision=encoder.params if encoder else 0,
        vision_matrices=encoder.matrices if encoder else 0,
        connector=connector_matrices(config, encoder.width) if encoder else 0,
    )


def _qk_gains(config: RunConfig) -> int:
    match config.block.qk_norm:
        case "head":
            return 2 * config.head_dim
        case "width":
            return (config.size.num_heads + config.num_kv_heads) * config.head_dim
    return 0


def connector_matrices(config: RunConfig, encoder_width: int) -> int:
    """Entries of what brings features of the encoder into the decoder."""
    d = config.size.width
    return encoder_width * d + (d * d if config.arch.connector == "mlp" else 0)


def encoder_configs(config: RunConfig) -> tuple[RunConfig, ...]:
    """One config for each encoder of a late model, in which it is the only one; both have the same positions.

    The second one begins with other values than the first: its config has another seed.
    """
    arch = config.arch
    alone = dataclasses.replace(arch, vision_model2="")
    if not arch.vision_model2:
        return (config,)
    patch = arch.vision_patch2 or config.data.patch_size
    second = dataclasses.replace(
        alone,
        vision_model="" if arch.vision_model2 == SIZED else arch.vision_model2,
        vision_weights=arch.vision_weights2,
        vision_facts=arch.vision_facts2,
        vision_frozen=arch.vision_frozen2,
        pixel_shuffle=config.position_size // patch,
    )
    return (
        dataclasses.replace(config, arch=alone),
        dataclasses.replace(
            config, arch=second, data=dataclasses.replace(config.data, patch_size=patch), seed=config.seed + SECOND_SEED
        ),
    )


def vision_encoders(config: RunConfig) -> tuple[Encoder, ...]:
    """The encoders of a late model: our ViT by formula, a timm model by what ``resolve.finalize`` counted.

    Raises ``ConfigError`` for a timm model that has not been counted.
    """
    found = tuple(_one_encoder(one) for one in encoder_configs(config))
    frozen = (config.arch.vision_frozen, config.arch.vision_frozen2)
    return tuple(
        dataclasses.replace(encoder, backward=0.0, saved=0.0) if is_frozen else encoder
        for encoder, is_frozen in zip(found, frozen, strict=False)
    )


def projection_matrix(config: RunConfig) -> int:
    """Entries of what makes the second encoder's features as many as the first one's; 0 where they are."""
    first, *others = vision_encoders(config)
    return sum(first.width * other.width for other in others if other.width != first.width)


def vision_encoder(config: RunConfig) -> Encoder:
    """All that stands between pixels and connector: the encoders of ``vision_encoders`` and their projection."""
    first, *others = vision_encoders(config)
    if not others:
        return first
    second, projection = others[0], projection_matrix(config)
    once = 2.0 * projection * config.tokens_per_image
    gradients = 2.0 if second.backward else 1.0  # a frozen encoder wants none of its features
    return Encoder(
        width=first.width,
        params=first.params + second.params + projection,
        matrices=first.matrices + second.matrices,
        blocks=first.blocks + second.blocks,
        forward=first.forward + second.forward + once,
        backward=first.backward + second.backward + gradients * once,
        saved=first.saved + second.saved,
    )


def trained_encoder(config: RunConfig) -> int:
    """Parameters between pixels and connector that are trained."""
    encoders = vision_encoders(config)
    frozen = (config.arch.vision_frozen, config.arch.vision_frozen2)
    return projection_matrix(config) + sum(
        encoder.params for encoder, is_frozen in zip(encoders, frozen, strict=False) if not is_frozen
    )


def _one_encoder(config: RunConfig) -> Encoder:
    if config.arch.vision_model:
        facts = config.arch.vision_facts
        if not facts:
            raise ConfigError(
                f"arch.vision_model={config.arch.vision_model!r} has not been counted yet; call "
                "nmm.resolve.count_encoder(config) first"
            )
        whole = {name: int(facts[name]) for name in ("width", "params", "matrices", "blocks")}
        return Encoder(**whole, forward=facts["forward"], backward=facts["backward"], saved=facts["saved"])
    return _our_vit(config)


def _our_vit(config: RunConfig) -> Encoder:
    """Patch embedding, positions, blocks, final norm; no class token.

    block.vision vit: timm's, with biases, LayerNorm, and two FFN matrices of 4 W. swiglu: as the trunk's blocks.
    """
    size, patches = config.size, config.patches_per_image
    pixels = config.data.channels * config.data.patch_size**2
    w, depth, hidden = size.vision_width, size.vision_depth, config.vision_hidden
    if config.block.vision == "swiglu":
        matrices = 4 * w * w + 3 * w * hidden
        block, ends = matrices + 2 * w + 2 * (w // size.vision_heads), w
        saved = 4 * w + 3 * 3 * w + 2 * w + 4 * hidden
    else:
        matrices = 4 * w * w + 2 * w * hidden
        block, ends = matrices + (3 * w + w + hidden + w) + 4 * w, w + 2 * w
        saved = 4 * w + 3 * w + 2 * w + 2 * hidden
    entry = 2.0 * pixels * w * patches
    inner = 2.0 * patches * depth * (matrices + 2 * patches * w)
    return Encoder(
        width=w * config.arch.pixel_shuffle**2,
        params=(pixels + patches) * w + depth * block + ends,
        matrices=depth * matrices,
        blocks=depth,
        forward=entry + inner,
        backward=entry + 2 * inner,
        saved=float(patches * depth * saved),
    )
