"""Controls of guided decoding: what else than the tuning of the expert might have done it.

Shape legend: B rows, W tokens that base and guides share.

Left out here because options of ``guided`` are enough: no amateur (``amateur=None``), the expert alone, alpha 0.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from nmm.batch import IMAGE_ID, PAD_ID
from nmm.data.counter_rng import CounterStream
from nmm.interventions.guide import Change
from nmm.model.decode import Prompt

NEVER = (PAD_ID, IMAGE_ID)


def centred(delta: Tensor) -> Tensor:
    """(..., W) the part of a difference of logits that changes a distribution over text.

    Its mean over all text tokens is taken off, and it is 0 at the tokens that are never chosen.
    """
    text = delta.clone()
    text[..., NEVER] = 0.0
    text = text - text.sum(dim=-1, keepdim=True) / (delta.shape[-1] - len(NEVER))
    text[..., NEVER] = 0.0
    return text


def random_delta(seed: int = 0) -> Change:
    """In place of expert - amateur: a Gaussian direction of the same length, new for every prompt and step.

    Length is that of ``centred``. Draws depend on (seed, the prompt's number, step) alone.
    """
    stream = CounterStream(seed, "guide", "random delta")

    def change(delta_BW: Tensor, numbers_B: Tensor, step: int) -> Tensor:
        width = delta_BW.shape[1]
        uniform = stream.uniform(numbers_B.cpu().numpy(), step * width, width)
        normal = torch.special.ndtri(torch.from_numpy(uniform + 2.0**-54)).to(delta_BW)
        direction_BW = centred(normal)
        length_B1 = centred(delta_BW).norm(dim=1, keepdim=True)
        return direction_BW * (length_B1 / direction_BW.norm(dim=1, keepdim=True))

    return change


def permuted_delta(seed: int = 0) -> Change:
    """In place of expert - amateur: its own values, handed to other text tokens, by one permutation for all steps."""

    def change(delta_BW: Tensor, numbers_B: Tensor, step: int) -> Tensor:
        text = np.array([i for i in range(delta_BW.shape[1]) if i not in NEVER])
        order = CounterStream(seed, "guide", "permuted delta").permutation(len(text))
        moved_BW = delta_BW.clone()
        moved_BW[:, text] = delta_BW[:, text[order]]
        return moved_BW

    return change


def other_pictures(prompts: Sequence[Prompt]) -> list[Prompt]:
    """Every prompt with the pictures of the next one that has as many and other ones; without pictures: as it is.

    Raises ValueError for a prompt to whose pictures there are no others.
    """
    result = []
    for number, prompt in enumerate(prompts):
        if prompt.patches is None or not len(prompt.patches):
            result.append(prompt)
            continue
        following = (prompts[(number + ahead) % len(prompts)] for ahead in range(1, len(prompts)))
        found = next((one.patches for one in following if _differs(one.patches, prompt.patches)), None)
        if found is None:
            raise ValueError(
                f"prompt {number}: no other prompt has {len(prompt.patches)} other pictures to show in place of its own"
            )
        result.append(Prompt(prompt.tokens, found))
    return result


def _differs(one: object, two: object) -> bool:
    here, there = np.asarray(one), np.asarray(two)
    return here.shape == there.shape and not np.array_equal(here, there)
