"""Bytes that training one model takes on one rank, by a simple formula. Arithmetic only.

Kept for the backward pass, for every position and block, as eager PyTorch keeps it (compiled blocks keep less):

    attention   4 D + 3 (H + 2 G) K + 2 H K     inputs and outputs of two norms; q, k, v three times; outputs twice
    dense FFN   2 F (relu2) or 4 F (swiglu)     up to the second matrix
    experts     the same for every expert in use, and 3 D for every copy of a position that is routed

The residual stream stays in fp32 (2 D of the above); the rest has the width of the precision. The head keeps 12 bytes a
logit: the logits, their log-softmax and its gradient. Activation checkpointing keeps the input of every block, in the
encoder too, and all of one block at a time. On a CPU in fp32 autograd saves this within 15 % (a test counts it).
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass

from nmm.config import RunConfig
from nmm.flops import count_params, expected_shares, ffn_hidden
from nmm.params import (
    active_experts,
    bridge_outputs,
    expert_layers,
    pixels_per_position,
    trained_encoder,
    vision_encoders,
)

BF16_FROM_WIDTH = 128  # ``precision: auto`` on a GPU: below it autocast costs more than the faster products save
LOGIT_BYTES = 12
BESIDE_TENSORS = 1 << 18  # names, numbers and padding in one checkpoint; for a tiny model, most of it


@dataclass(frozen=True)
class Memory:
    """Bytes of one rank: fp32 weights and their bf16 copies, gradients, two moments, activations of a micro-batch."""

    weights: float
    copies: float
    gradients: float
    optimizer: float
    activations: float
    logits: float

    @property
    def total(self) -> float:
        """All of them at once, the peak at the end of a forward pass."""
        return sum(dataclasses.astuple(self))


def uses_bf16(config: RunConfig) -> bool:
    """Whether products run in bf16: asked for, or ``auto`` on a GPU; on a CPU ``auto`` counts as fp32."""
    trainer = config.trainer
    is_fast = trainer.accelerator == "gpu" and config.size.width >= BF16_FROM_WIDTH
    return trainer.precision == "bf16" or (trainer.precision == "auto" and is_fast)


def micro_batch_rows(config: RunConfig, ranks: int) -> int:
    """Rows that one rank has in flight."""
    return -(-config.trainer.rows_per_step // (ranks * config.trainer.micro_batches))


def training_memory(config: RunConfig, ranks: int, strategy: str, checkpointing: bool) -> Memory:
    """Bytes of one of ``ranks`` ranks.

    strategy ddp: every rank holds the whole model. fsdp2: weights, gradients and moments are shared out; two blocks,
    one block's gradients, and all that is outside the blocks are gathered. Autocast keeps its bf16 copies either way.
    """
    params, half = count_params(config), uses_bf16(config)
    outputs = config.data.vocab_size if config.bridge is None else bridge_outputs(config)
    trainable = _trainable(config)
    shares, gathered = 1, 0.0
    if strategy == "fsdp2" and ranks > 1:
        block = params.decoder_non_embedding / config.size.depth
        outside = params.total - params.decoder_non_embedding - params.vision
        shares, gathered = ranks, outside + 3 * block
    rows = micro_batch_rows(config, ranks)
    positions = rows * config.data.context_length
    return Memory(
        weights=4.0 * params.total / shares + 4.0 * gathered,
        copies=2.0 * params.total if half else 0.0,
        gradients=4.0 * trainable / shares,
        optimizer=8.0 * trainable / shares,
        activations=activation_bytes(config, positions, checkpointing),
        logits=LOGIT_BYTES * positions * expected_shares(config)[1] * outputs,
    )


def activation_bytes(config: RunConfig, positions: float, checkpointing: bool) -> float:
    """Bytes kept for the backward pass of ``positions`` positions, without the logits."""
    width = 2 if uses_bf16(config) else 4
    sparse, dense = expert_layers(config), config.size.depth - expert_layers(config)
    blocks = dense * _block_bytes(config, width, False) + sparse * _block_bytes(config, width, True)
    if checkpointing:
        blocks = config.size.depth * 4.0 * config.size.width + _block_bytes(config, width, sparse > 0)
    patches = positions * expected_shares(config)[0]
    pixels = 4.0 * patches * (pixels_per_position(config) + config.size.width)
    mask = 4.0 * config.data.context_length if config.trainer.accelerator == "cpu" else 0.0  # dense there
    return positions * (blocks + mask) + pixels + width * patches * _encoder_floats(config, checkpointing)


def _encoder_floats(config: RunConfig, checkpointing: bool) -> float:
    """Floats a position of an image that the vision encoders keep."""
    if config.arch.fusion == "early":
        return 0.0
    floats = 0.0
    for encoder in vision_encoders(config):
        kept = encoder.saved / config.tokens_per_image
        if checkpointing and encoder.blocks and kept:
            kept = encoder.blocks * encoder.width + kept / encoder.blocks
        floats += kept
    return floats


def _block_bytes(config: RunConfig, width: int, has_experts: bool) -> float:
    """Bytes a position in one block; ``width`` bytes a number outside the residual stream."""
    size, arch, d = config.size, config.arch, config.size.width
    inner, mixed = size.num_heads * config.head_dim, (size.num_heads + 2 * config.num_kv_heads) * config.head_dim
    ffn = (4 if config.block.ffn == "swiglu" else 2) * ffn_hidden(config)
    if has_experts:
        ffn = ffn * active_experts(config) // arch.granularity + 3 * d * arch.top_k * arch.granularity
    return 4.0 * 2 * d + width * (2 * d + 3 * mixed + 2 * inner + ffn)


def checkpoint_bytes(config: RunConfig) -> int:
    """About how large one checkpoint on disk is: fp32 weights, and two moments of those that are trained."""
    return 4 * count_params(config).total + 8 * _trainable(config) + BESIDE_TENSORS


def _trainable(config: RunConfig) -> int:
    """Parameters that are trained."""
    params = count_params(config)
    encoder = trained_encoder(config) if config.arch.fusion == "late" else 0
    if config.bridge is None:
        return params.total - params.vision + encoder
    bridge, block = bridge_outputs(config) * config.size.width, params.decoder_non_embedding // config.size.depth
    patch = params.patch + params.connector + encoder if config.stage.train_patch else 0
    return bridge + patch + len(config.trained_blocks) * block
