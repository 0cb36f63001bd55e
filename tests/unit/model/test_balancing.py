"""Balance loss and router z-loss by hand, in one modality and in two; biases that even out a skewed load."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from nmm.config import Arch, RunConfig, Size
from nmm.model.balancing import balance_losses, loads, router_z_losses, update_biases
from nmm.model.layers import Context
from nmm.model.moe import MoE, Routing


def routing(
    probability: Tensor,
    expert: Tensor,
    valid: Tensor | None = None,
    image: Tensor | None = None,
    image_experts: int = 0,
) -> Routing:
    """A routing with these probabilities (B, T, E), whose logits are their logarithms, and choices (B, T, k)."""
    B, T, E = probability.shape
    ends = expert.reshape(-1).bincount(minlength=E).cumsum(0).int()
    valid = torch.ones(B, T) if valid is None else valid
    image = torch.zeros(B, T, dtype=torch.bool) if image is None else image
    return Routing(probability.log(), probability, expert, ends, valid, image, image_experts)


def test_balance_loss_on_a_hand_example() -> None:
    """Two experts, one row of four positions: three to expert 0 with probability 0.8, one to expert 1 with 0.9.

    f = (3/4, 1/4), P = ((3 * 0.8 + 0.1) / 4, (3 * 0.2 + 0.9) / 4) = (0.625, 0.375), loss = 2 * (f0 P0 + f1 P1).
    """
    probability = torch.tensor([[[0.8, 0.2], [0.8, 0.2], [0.8, 0.2], [0.1, 0.9]]])
    one = routing(probability, torch.tensor([[[0], [0], [0], [1]]]))
    assert balance_losses([one]).flatten().tolist() == pytest.approx([2 * (0.75 * 0.625 + 0.25 * 0.375)])
    assert loads([one]).tolist() == [[[3, 1]]]


def test_each_layer_and_each_row_has_its_own() -> None:
    even, skewed = torch.full((2, 4, 2), 0.5), torch.tensor([0.9, 0.1]).expand(2, 4, 2)
    spread, first = torch.tensor([[[0], [1], [0], [1]]] * 2), torch.zeros(2, 4, 1, dtype=torch.long)
    layers = [routing(even, spread), routing(skewed, torch.cat([first[:1], spread[1:]]))]
    assert balance_losses(layers).flatten().tolist() == pytest.approx([1.0, 1.0, 1.8, 1.0])
    assert loads(layers).tolist() == [[[2, 2], [2, 2]], [[4, 0], [2, 2]]]


def test_padding_counts_for_nothing() -> None:
    probability = torch.tensor([[[0.8, 0.2], [0.1, 0.9], [0.5, 0.5], [0.5, 0.5]]])
    chosen = torch.tensor([[[0], [1], [0], [0]]])
    padded = routing(probability, chosen, torch.tensor([[1.0, 1.0, 0.0, 0.0]]))
    short = routing(probability[:, :2], chosen[:, :2])
    assert loads([padded]).tolist() == loads([short]).tolist() == [[[1, 1]]]
    for losses in (balance_losses, router_z_losses):
        assert losses([padded]).item() == pytest.approx(losses([short]).item())
        assert losses([routing(probability, chosen, torch.zeros(1, 4))]).tolist() == [[0.0]]


@pytest.mark.parametrize("top_k", [1, 2])
def test_balance_is_one_when_balanced_and_the_number_of_experts_when_collapsed(top_k: int) -> None:
    uniform = torch.full((1, 4, 4), 0.25)
    spread = torch.stack([(torch.arange(4) + i) % 4 for i in range(top_k)], dim=-1)[None]
    assert balance_losses([routing(uniform, spread)]).item() == pytest.approx(1.0)
    first = torch.arange(top_k).expand(1, 4, top_k)
    certain = torch.zeros(1, 4, 4).scatter(2, first, 1 / top_k)
    assert balance_losses([routing(certain, first)]).item() == pytest.approx(4 / top_k)


# --------------------------------------------------------------------------------------------------- two modalities


def test_each_modality_is_balanced_among_its_own_experts() -> None:
    """Experts 0-1 for images, 2-4 for text. By hand, position by position, and weighted by the positions."""
    image = torch.tensor([[True, True, True, False, False, False, False]])
    probability = torch.zeros(1, 7, 5)
    probability[0, :3, :2] = torch.tensor([[0.9, 0.1], [0.7, 0.3], [0.2, 0.8]])
    probability[0, 3:, 2:] = torch.tensor([[0.5, 0.3, 0.2], [0.6, 0.3, 0.1], [0.1, 0.2, 0.7], [0.4, 0.5, 0.1]])
    chosen = torch.tensor([[[0], [0], [1], [2], [2], [4], [3]]])
    f, P = (2 / 3, 1 / 3), (1.8 / 3, 1.2 / 3)
    of_images = 2 * (f[0] * P[0] + f[1] * P[1])
    f, P = (2 / 4, 1 / 4, 1 / 4), (1.6 / 4, 1.3 / 4, 1.1 / 4)
    of_text = 3 * sum(a * b for a, b in zip(f, P, strict=True))
    found = balance_losses([routing(probability, chosen, image=image, image_experts=2)]).item()
    assert found == pytest.approx((3 * of_images + 4 * of_text) / 7, rel=1e-6)


@pytest.mark.parametrize("images", [0, 2, 4, 8])
def test_it_is_one_when_both_are_balanced_however_many_there_are(images: int) -> None:
    """Two experts for images and four for text, all with even probabilities."""
    image = (torch.arange(8) < images)[None]
    probability = torch.where(
        image[..., None], torch.tensor([0.5] * 2 + [0.0] * 4), torch.tensor([0.0] * 2 + [0.25] * 4)
    )
    chosen = torch.where(image, torch.arange(8) % 2, 2 + torch.arange(8) % 4)[..., None]
    one = routing(probability, chosen, image=image, image_experts=2)
    assert balance_losses([one]).item() == pytest.approx(1.0)


def test_hard_wired_experts_are_balanced_by_definition() -> None:
    image = torch.tensor([[True, False, False, False]])
    probability = torch.where(image[..., None], torch.tensor([1.0, 0.0]), torch.tensor([0.0, 1.0]))
    one = routing(probability, (~image).long()[..., None], image=image, image_experts=1)
    assert balance_losses([one]).item() == pytest.approx(1.0)


def test_padding_belongs_to_no_modality() -> None:
    image = torch.tensor([[True, False, False, True, False]])
    valid = torch.tensor([[1.0, 1.0, 1.0, 0.0, 0.0]])
    probability = torch.where(image[..., None], torch.tensor([0.9, 0.1, 0, 0]), torch.tensor([0, 0, 0.4, 0.6]))
    chosen = torch.where(image, 0, 3)[..., None]
    padded = routing(probability, chosen, valid, image, 2)
    short = routing(probability[:, :3], chosen[:, :3], valid[:, :3], image[:, :3], 2)
    assert balance_losses([padded]).item() == pytest.approx(balance_losses([short]).item())
    assert loads([padded]).tolist() == [[[1, 0, 0, 2]]]


# ---------------------------------------------------------------------------------------------------------- z and slope


def test_router_z_by_hand() -> None:
    logits = torch.tensor([[[1.0, 2.0], [0.0, -1.0], [3.0, 3.0]]])
    one = routing(logits.softmax(-1), torch.tensor([[[1], [0], [0]]]), torch.tensor([[1.0, 1.0, 0.0]]))
    one = Routing(logits, one.probability, one.expert, one.ends, one.valid, one.is_image)
    expected = (math.log(math.e + math.e**2) ** 2 + math.log(1 + 1 / math.e) ** 2) / 2
    assert router_z_losses([one, one]).flatten().tolist() == pytest.approx([expected, expected], rel=1e-6)


def test_router_z_has_a_finite_gradient_where_experts_are_masked() -> None:
    logits = torch.tensor([[[1.0, 2.0]]], requires_grad=True)
    masked = logits.masked_fill(torch.tensor([False, True]), float("-inf"))
    expert = torch.zeros(1, 1, 1, dtype=torch.long)
    one = routing(masked.softmax(-1), expert, image=torch.ones(1, 1, dtype=torch.bool), image_experts=1)
    one = Routing(masked, one.probability, expert, one.ends, one.valid, one.is_image, 1)
    (router_z_losses([one]) + balance_losses([one])).sum().backward()
    assert logits.grad is not None
    assert logits.grad.flatten().tolist() == pytest.approx([2.0, 0.0])  # of (log e^1)^2


D = 16


def layer_of(**arch: object) -> MoE:
    layer = MoE(RunConfig(arch=Arch(num_experts=4, **arch), size=Size(width=D, hidden=32)))  # type: ignore[arg-type]
    generator = torch.Generator().manual_seed(0)
    for _, parameter in sorted(layer.named_parameters()):
        parameter.data = torch.randn(parameter.shape, generator=generator) * 0.3
    return layer


def context(rows: int, width: int, image: Tensor | None = None) -> Context:
    none = torch.empty(0)
    image = torch.zeros(rows, width, dtype=torch.bool) if image is None else image
    return Context(none, none, none, torch.ones(rows, width), image)


def skewed(rows: int, seed: int = 1) -> Tensor:
    """(rows, 32, D) positions that share a direction, which makes routers prefer some experts."""
    x = torch.randn(rows, 32, D, generator=torch.Generator().manual_seed(seed))
    return x + torch.arange(D) / 16


def test_balance_has_a_gradient_that_evens_the_load() -> None:
    """One step down the balance loss moves the router's mean probability away from the crowded expert."""
    layer, x = layer_of(), skewed(3)
    where = context(3, 32)
    one = layer(x, where)[1]
    crowded = int(loads([one]).sum(dim=(0, 1)).argmax())
    (gradient,) = torch.autograd.grad(balance_losses([one]).sum(), [layer.router.weight])
    layer.router.weight.data -= 0.01 * gradient
    assert layer(x, where)[1].probability[..., crowded].mean() < one.probability[..., crowded].mean()


# -------------------------------------------------------------------------------------------------------------- biases


def test_biases_move_by_the_sign_of_what_is_missing() -> None:
    layers = torch.nn.ModuleList([layer_of(balancing="bias"), layer_of(balancing="bias")])
    update_biases(layers, torch.tensor([[4.0, 0.0, 2.0, 2.0], [1.0, 1.0, 1.0, 1.0]]), 0.25)
    update_biases(layers, torch.tensor([[5.0, 3.0, 0.0, 0.0], [0.0, 0.0, 0.0, 9.0]]), 0.25)
    assert layers[0].bias.tolist() == [-0.5, 0.0, 0.25, 0.25]
    assert layers[1].bias.tolist() == [0.25, 0.25, 0.25, -0.25]


def test_biases_know_the_mean_of_their_modality() -> None:
    layer = layer_of(balancing="bias", routing="aware", image_experts=2)
    update_biases(layer, torch.tensor([[90.0, 110.0, 3.0, 1.0]]), 1.0)
    assert layer.bias.tolist() == [1.0, -1.0, -1.0, 1.0]


def test_a_mean_that_is_no_whole_number_is_compared_exactly() -> None:
    layer = layer_of(balancing="bias")
    update_biases(layer, torch.tensor([[2.0**23, 2.0**23 + 1, 2.0**23, 2.0**23]]), 1.0)
    assert layer.bias.tolist() == [1.0, -1.0, 1.0, 1.0]


@pytest.mark.parametrize("aware", [False, True])
def test_biases_even_out_a_skewed_load(aware: bool) -> None:
    """The router itself never changes: what evens the load are the biases alone."""
    layer = layer_of(balancing="bias", **({"routing": "aware", "image_experts": 2} if aware else {}))
    image = (torch.arange(16 * 32) % 2 == 0).view(16, 32)
    sides = [slice(0, 2), slice(2, 4)] if aware else [slice(0, 4)]

    def unevenness(seed: int) -> tuple[float, Tensor]:
        load = loads([layer(skewed(16, seed), context(16, 32, image))[1]]).sum(dim=1)
        return max((load[0, s] / load[0, s].mean()).max().item() for s in sides), load

    before, _ = unevenness(999)
    for seed in range(400):
        update_biases(layer, unevenness(seed)[1], 0.002)
    after, _ = unevenness(999)
    assert before > 1.5
    assert after < 1.15


def test_a_forward_pass_leaves_biases_alone() -> None:
    layer = layer_of(balancing="bias")
    for training in (True, False):
        layer.train(training)
        layer(skewed(2), context(2, 32))
        assert layer.bias.tolist() == [0.0] * 4
