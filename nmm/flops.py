"""FLOPs by component, the FFN of a late decoder, budget -> steps. Arithmetic only: no torch, no allocation.

Tests hold every number here to the counted forward and backward of the built model. A multiply-add is 2 FLOPs; the
backward of a matrix product costs twice its forward. Norms, rotations, softmax and activations are not counted (below
1 % from width 32 on), nor is what activation checkpointing computes twice.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass

from nmm.config import Budget, ConfigError, Data, RunConfig
from nmm.params import (
    Params,
    active_experts,
    attention_matrices,
    bridge_outputs,
    connector_matrices,
    expert_layers,
    ffn_matrices,
    parameters,
    pixels_per_position,
    vision_encoder,
)
from nmm.params import has_experts as has_experts

# Shares of positions that are patches, and whose next token is text, of the world's 45-45-10 mixture. Pairing by FLOPs
# and budgets in FLOPs go by ``data.image_share`` and ``data.target_share``; the record has the exact ones.
IMAGE_SHARE, TARGET_SHARE = Data.image_share, Data.target_share


def ffn_hidden(config: RunConfig) -> int:
    """Hidden width of one FFN of the decoder; an expert has this / granularity.

    Late fusion with ``pairing`` flops or params shrinks it, in units of 1, until the model's FLOPs per token (or its
    non-embedding parameters) come as close to the early model of the same size as the unit allows. Raises
    ``ConfigError`` when the encoder alone costs more than that.
    """
    arch, size = config.arch, config.size
    if arch.fusion == "early" or arch.pairing == "none" or not size.paired:
        return config.hidden
    early = dataclasses.replace(config, arch=dataclasses.replace(arch, fusion="early"))
    per_hidden = ffn_matrices(config) * size.depth * size.width
    if arch.pairing == "params":
        surplus = parameters(early, config.hidden).non_embedding - parameters(config, 0).non_embedding
        hidden = surplus / per_hidden
    else:
        hidden = (_typical_flops(early, config.hidden) - _typical_flops(config, 0)) / (2 * per_hidden)
    if hidden < 1:
        raise ConfigError(
            f"size {size.name}: the vision encoder (width {size.vision_width}, depth {size.vision_depth}) leaves no "
            f"room for a late decoder with arch.pairing={arch.pairing}; make it smaller or set arch.pairing=none"
        )
    return round(hidden)


def expert_hidden(config: RunConfig) -> int:
    """Hidden width of one expert, routed or shared (arXiv 2401.06066: hidden / granularity)."""
    return ffn_hidden(config) // config.arch.granularity


def count_params(config: RunConfig) -> Params:
    """Parameters by group of the model that ``nmm.model.build`` makes from the same config."""
    return parameters(config, ffn_hidden(config))


@dataclass(frozen=True)
class Flops:
    """Forward FLOPs per position, averaged over the row, by component."""

    attention_projections: float
    attention_scores: float
    ffn: float
    router: float
    experts: float
    head: float
    patch: float
    vision: float
    connector: float

    @property
    def total(self) -> float:
        """All components."""
        return sum(dataclasses.astuple(self))


def forward_flops(config: RunConfig, image_share: float | None = None, target_share: float | None = None) -> Flops:
    """Forward FLOPs per position.

    ``image_share`` of the positions are patches, ``target_share`` are scored by the head (the next token is text);
    None: those of ``config.data``. Attention scores are dense over the context, as a masked product executes them.
    """
    return _forward_flops(config, ffn_hidden(config), *_shares(config, image_share, target_share))


def _shares(config: RunConfig, image: float | None, target: float | None) -> tuple[float, float]:
    expected = expected_shares(config)
    return expected[0] if image is None else image, expected[1] if target is None else target


def expected_shares(config: RunConfig) -> tuple[float, float]:
    """Shares of positions that are patches, and that are scored: as the data says, or of rows of whole images alone."""
    if config.bridge is None:
        return config.data.image_share, config.data.target_share
    patches, width = config.tokens_per_image, config.data.context_length
    images = width // patches / width
    return images * patches, images * (1 if config.stage.objective == "labels" else patches - 1)


def _typical_flops(config: RunConfig, hidden: int) -> float:
    return _forward_flops(config, hidden, config.data.image_share, config.data.target_share).total


def _forward_flops(config: RunConfig, hidden: int, image_share: float, target_share: float) -> Flops:
    size, arch, d = config.size, config.arch, config.size.width
    ffn, sparse = 2.0 * ffn_matrices(config) * d * hidden, expert_layers(config)
    images = image_share / config.tokens_per_image  # a position
    encoder = vision_encoder(config) if arch.fusion == "late" else None
    return Flops(
        attention_projections=size.depth * 2.0 * attention_matrices(config),
        attention_scores=size.depth * 4.0 * config.data.context_length * size.num_heads * config.head_dim,
        ffn=(size.depth - sparse) * ffn,
        router=sparse * 2.0 * d * arch.num_experts * arch.granularity,
        experts=sparse * ffn * active_experts(config) / arch.granularity,
        head=target_share * 2.0 * d * (bridge_outputs(config) if config.bridge else config.data.vocab_size),
        patch=0.0 if encoder else image_share * 2.0 * pixels_per_position(config) * d,
        vision=images * encoder.forward if encoder else 0.0,
        connector=image_share * 2.0 * connector_matrices(config, encoder.width) if encoder else 0.0,
    )


def training_flops(
    config: RunConfig, tokens: float, image_share: float | None = None, target_share: float | None = None
) -> dict[str, float]:
    """FLOPs of a stand-alone training run of ``tokens`` positions: exact by component, ``total``, and ``6nd``.

    What meets pixels or a frozen encoder first needs no gradient with respect to its input. ``6nd`` is the paper's
    6 (N_v D_v + N D): matrices, embedding and head of the experts in use, D_v the patches (arXiv 2504.07951, table 1).
    """
    image_share, target_share = _shares(config, image_share, target_share)
    forward = _forward_flops(config, ffn_hidden(config), image_share, target_share)
    times = _times_forward(config)
    exact = {name: times[name] * value * tokens for name, value in dataclasses.asdict(forward).items()}
    patches, learns = image_share * tokens, config.bridge is None or config.stage.train_patch
    saved = 1 if learns else 2  # products that what comes first does not take: for its input; frozen, its weights too
    if config.arch.fusion == "early":
        exact["patch"] -= saved * patches * 2.0 * pixels_per_position(config) * config.size.width
    else:
        encoder = vision_encoder(config)
        exact["vision"] = patches / config.tokens_per_image * (encoder.forward + learns * encoder.backward)
        if not learns:
            exact["connector"] /= 3.0
        elif not encoder.backward:
            exact["connector"] -= patches * 2.0 * encoder.width * config.size.width
    params = count_params(config)
    exact["total"] = sum(exact.values())
    exact["6nd"] = 6.0 * (params.vision_matrices * patches + params.paper * tokens)
    return exact


def _times_forward(config: RunConfig) -> dict[str, float]:
    """By component, forward and backward together as a multiple of forward: 3, and less where stage=bridge freezes.

    A frozen matrix has no product for its weights; below the first thing that learns there is no backward pass at all.
    Attention's two products have no weights: each costs two in any backward pass.
    """
    times = dict.fromkeys((f.name for f in dataclasses.fields(Flops)), 3.0)
    if config.bridge is None:
        return times
    depth, trained = config.size.depth, config.trained_blocks
    lowest = -1 if config.stage.train_patch else min(trained, default=depth)
    passed = [3.0 if layer >= lowest else 1.0 for layer in range(depth)]
    products = [3.0 if layer in trained else 2.0 if layer > lowest else 1.0 for layer in range(depth)]
    sparse = [value for layer, value in enumerate(products) if has_experts(config, layer)]
    dense = [value for layer, value in enumerate(products) if not has_experts(config, layer)]
    times |= {"attention_projections": _mean(products), "attention_scores": _mean(passed), "ffn": _mean(dense)}
    times |= {"router": _mean(sparse), "experts": _mean(sparse), "head": 3.0 if lowest < depth else 2.0}
    return times


def _mean(values: list[float]) -> float:
    return sum(values) / len(values) if values else 0.0


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
