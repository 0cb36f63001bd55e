"""The policy gradient: advantages within a group, an exact divergence, and a reward that rises."""

from __future__ import annotations

import math

import pytest
import torch

from nmm.batch import END_ID
from nmm.interventions.rft_loss import advantages, log_policy, policy_sums


def test_advantages_are_standard_scores_of_a_group_and_zero_where_all_are_alike():
    reward = torch.tensor([[1.0, 0.0, 0.0, 1.0], [1.0, 1.0, 1.0, 1.0], [0.0, 0.0, 0.0, 1.0]])
    found = advantages(reward)
    assert found[0].tolist() == [1.0, -1.0, -1.0, 1.0]
    assert found[1].tolist() == [0.0] * 4
    assert found[2].tolist() == pytest.approx([-1 / math.sqrt(3)] * 3 + [math.sqrt(3)])
    assert torch.allclose(found.mean(dim=1), torch.zeros(3), atol=1e-6)


def test_only_text_can_be_drawn_and_the_temperature_divides():
    logits = torch.tensor([[50.0, 50.0, 1.0, 3.0, 2.0]])  # padding and image would win
    found = log_policy(logits, temperature=2.0)
    assert found.exp().sum().item() == pytest.approx(1.0)
    assert found.tolist() == [torch.tensor([0.5, 1.5, 1.0]).log_softmax(0).tolist()]


def test_the_divergence_is_that_of_the_distributions_and_zero_at_the_start():
    torch.manual_seed(0)
    logits, start = torch.randn(6, 9), torch.randn(6, 9)
    token, advantage = torch.full((6,), END_ID), torch.zeros(6)
    sums = policy_sums(logits, start, token, advantage, rows=3, temperature=1.0, kl_coef=0.5)
    ours, theirs = (torch.distributions.Categorical(logits=x[:, END_ID:]) for x in (logits, start))
    expected = torch.distributions.kl_divergence(ours, theirs).sum()
    assert sums.kl.item() == pytest.approx(expected.item(), rel=1e-5)
    assert sums.entropy.item() == pytest.approx(ours.entropy().sum().item(), rel=1e-5)
    assert sums.loss.item() == pytest.approx(0.5 * expected.item() / 3, rel=1e-5)
    same = policy_sums(logits, logits.clone(), token, advantage, rows=3, temperature=1.0, kl_coef=0.5)
    assert same.kl.item() == pytest.approx(0.0, abs=1e-6)


def test_the_gradient_is_that_of_expected_reward():
    """With all answers weighed by their probability, the update is the gradient of the mean reward."""
    logits = torch.tensor([0.0, 0.0, 0.3, -0.2, 0.1], requires_grad=True)
    reward = torch.tensor([1.0, 0.0, 0.5])
    policy = log_policy(logits[None], 1.0)[0].exp()
    policy.dot(reward).backward()
    expected, logits.grad = logits.grad, None
    total = torch.zeros(())
    for token, (share, value) in enumerate(zip(policy.tolist(), reward.tolist(), strict=True)):
        chosen = torch.tensor([END_ID + token])
        total = (
            total
            + share * policy_sums(logits[None], logits[None].detach(), chosen, torch.tensor([value]), 1, 1.0, 0.0).loss
        )
    total.backward()
    assert torch.allclose(logits.grad, -expected, atol=1e-6)


def test_the_reward_of_a_bandit_of_two_tokens_rises():
    """One state, two words, the second one is right: sampled steps make it likely; the divergence holds it back."""

    def learned(kl_coef: float) -> float:
        logits = torch.tensor([-50.0, -50.0, 1.0, -1.0], requires_grad=True)  # the right word has 12 %
        start = logits.detach().clone()
        generator = torch.Generator().manual_seed(0)
        for _ in range(60):
            policy = log_policy(logits[None], 1.0)[0].exp().detach()
            token = torch.multinomial(policy, 16, replacement=True, generator=generator)
            advantage = advantages((token == 1).float()[None])[0]
            sums = policy_sums(logits.expand(16, -1), start.expand(16, -1), token + END_ID, advantage, 16, 1.0, kl_coef)
            (gradient,) = torch.autograd.grad(sums.loss, logits)
            logits = (logits - 0.3 * gradient).detach().requires_grad_()
        return log_policy(logits[None], 1.0)[0].exp()[1].item()

    free, held = learned(0.0), learned(2.0)
    assert free > 0.95
    assert 0.12 < held < free - 0.2
