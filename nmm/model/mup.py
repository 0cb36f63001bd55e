"""Maximal update parametrisation for Adam (arXiv 2203.03466): the best learning rate is the same for every width.

r = mup_width / width. All scales are 1 at the width ``optim.mup_width``, and everywhere without ``optim.mup``.

| role | parameters | learning rate | deviation at the start |
|---|---|---|---|
| vector | gains, biases | 1 | 1 |
| input | embedding, positions, what reads pixels | 1 | 1 |
| hidden | matrices of blocks and experts, connector | r | 1 (it is 1 / sqrt(fan in) already) |
| output | head, router | r | sqrt(r) (the head starts at 0 anyway) |

This is the paper's table 3. Its table 8 divides the head's output by the width instead of its rate; for Adam both are
the same function (its lemma J.1), and in this form a model is no other function than without muP, so that decoding and
exported weights need to know nothing of it. A router is an output, as it reads the width and has few logits; arXiv
2508.09752 studies muP for experts. The vision encoder is taken to widen with the decoder, as the sizes of conf/size do,
unless it is a timm model, whose width is its own: then all its rates are 1 and the connector is an input.

Depth is not covered. Weight decay needs no scale: nmm.training.optim multiplies by 1 - decay * lr_t / lr_peak.
"""

from __future__ import annotations

import math

from nmm.config import RunConfig


def role(name: str, config: RunConfig) -> str:
    """vector | input | hidden | output, for a parameter of ``NativeMultimodalModel`` by its name."""
    encoder_is_fixed = bool(config.arch.vision_model)
    if "norm" in name or name.endswith("bias"):
        return "vector"
    if name in ("embedding.weight", "patch_position") or "pos_embed" in name or "patch_embed" in name:
        return "input"
    if name.startswith("vision."):
        return "input" if encoder_is_fixed else "hidden"
    if name == first_of_connector(config):
        return "input" if encoder_is_fixed or config.arch.fusion == "early" else "hidden"
    if name == "head.weight" or "router" in name:
        return "output"
    return "hidden"


def first_of_connector(config: RunConfig) -> str:
    """The matrix that reads pixels (early) or the encoder's features (late)."""
    if config.arch.fusion == "early":
        return "connector.weight"
    return "connector.net.weight" if config.arch.connector == "linear" else "connector.net.0.weight"


def lr_scale(name: str, config: RunConfig) -> float:
    """What muP multiplies the peak learning rate of a parameter by."""
    return ratio(config) if role(name, config) in ("hidden", "output") else 1.0


def init_scale(name: str, config: RunConfig) -> float:
    """What muP multiplies the standard deviation of a parameter's initial values by."""
    return math.sqrt(ratio(config)) if role(name, config) == "output" else 1.0


def attention_scale(config: RunConfig) -> float | None:
    """Factor of q . k in the decoder; None is the usual 1 / sqrt(head_dim), right while heads keep their size.

    Where they grow, learned queries and keys are aligned, normed or not, so that q . k grows like head_dim: the factor
    is sqrt(mup_head_dim) / head_dim (definition 4.1), and scores start as small as 1 / sqrt(head_dim).
    """
    base = config.optim.mup_head_dim
    if not config.optim.mup or base in (0, config.head_dim):
        return None
    return math.sqrt(base) / config.head_dim


def ratio(config: RunConfig) -> float:
    """mup_width / width under muP, else 1."""
    return config.optim.mup_width / config.size.width if config.optim.mup else 1.0
