"""The policy gradient of one step: advantages within a group of answers, and the divergence from the start model.

Shape legend: P prompts, S samples (answers to a prompt), R = P S rows, G tokens that were drawn, V vocabulary,
W = V - 2 tokens that can be drawn (no padding, no image).

    loss = 1/R sum over rows of sum over the row's tokens of  [ -A log pi(token) + kl_coef KL(pi || start) ]

A is the row's reward, less the mean of its group, over the group's standard deviation (GRPO, arXiv 2402.03300); tokens
are summed, not averaged over a row, so that long wrong answers are not excused (arXiv 2503.20783). There is one update
for every set of answers: they were drawn from the very policy that is updated, so the ratio of GRPO is 1 and nothing is
clipped. The divergence is exact over the vocabulary, at the states that were visited. pi is the distribution that was
drawn from: over text alone, at the temperature.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from nmm.batch import END_ID

LEAST_DEVIATION = 1e-6


@dataclass(frozen=True)
class Sums:
    """Sums over tokens: the loss to be minimised (with gradient); for the log, divergence and entropy in nats, and the
    number of tokens.
    """

    loss: Tensor
    kl: Tensor
    entropy: Tensor
    tokens: int


def advantages(reward_PS: Tensor) -> Tensor:
    """(P, S) rewards against their group's; 0 where all answers of a group got the same."""
    centred_PS = reward_PS - reward_PS.mean(dim=1, keepdim=True)
    deviation_P1 = centred_PS.square().mean(dim=1, keepdim=True).sqrt()
    return torch.where(deviation_P1 > LEAST_DEVIATION, centred_PS / deviation_P1.clamp(min=LEAST_DEVIATION), 0.0)


def log_policy(logits_GV: Tensor, temperature: float) -> Tensor:
    """(G, W) log-probabilities of the tokens that can be drawn, whose ids begin with END_ID."""
    return (logits_GV[:, END_ID:].float() / temperature).log_softmax(dim=-1)


def policy_sums(
    logits_GV: Tensor,
    start_GV: Tensor,
    token_G: Tensor,
    advantage_G: Tensor,
    rows: int,
    temperature: float,
    kl_coef: float,
) -> Sums:
    """The loss of some of a step's ``rows``: summed over all of them it is that of the step."""
    log_GW, start_GW = log_policy(logits_GV, temperature), log_policy(start_GV, temperature)
    chosen_G = log_GW.gather(1, (token_G - END_ID)[:, None]).squeeze(1)
    kl_G = (log_GW.exp() * (log_GW - start_GW)).sum(dim=1)
    loss = (-advantage_G * chosen_G + kl_coef * kl_G).sum() / rows
    entropy = -(log_GW.exp() * log_GW).sum()
    return Sums(loss, kl_G.detach().sum(), entropy.detach(), len(token_G))
