"""Laws against the numbers their papers print, or against the same formula written another way."""

from __future__ import annotations

import numpy as np
import pytest
from examples import EXAMPLES, FARSEER, FARSEER_POWERS, SURFACE

from analysis.laws.additive import chinchilla, chinchilla_tied
from analysis.laws.catalogue import law_named
from analysis.laws.compute import power_law
from analysis.laws.coupled import farseer, interaction, kaplan, skaling
from analysis.laws.downstream import accuracy_sigmoid, chained, value_at
from analysis.laws.mixture import mixture_additive, mixture_exponential, mixture_joint, unimodal_mean
from analysis.laws.moe import effective_experts, granularity, moe_joint, routed
from analysis.laws.repetition import data_constrained

HOFFMANN = {"E": 1.69, "A": 406.4, "alpha": 0.34, "B": 410.7, "beta": 0.28}
N, D = SURFACE["N"], SURFACE["D"]


def derived(name: str) -> dict[str, float]:
    law = EXAMPLES[name].law
    assert law.derived is not None
    return {k: float(v) for k, v in law.derived({n: np.float64(v) for n, v in EXAMPLES[name].params.items()}).items()}


def test_chinchilla_at_chinchilla() -> None:
    at = {"N": np.array([70e9]), "D": np.array([1.4e12])}
    assert value_at(chinchilla, HOFFMANN, at)[0, 0] == pytest.approx(1.69 + 0.083 + 0.163, abs=1e-3)


def test_the_closed_form_allocation_is_the_minimum_at_fixed_compute() -> None:
    found, budget = derived("chinchilla"), 1e21 / 6
    sizes = found["G"] * budget ** found["a"] * np.exp(np.linspace(-0.1, 0.1, 2001))
    loss = value_at(chinchilla, EXAMPLES["chinchilla"].params, {"N": sizes, "D": budget / sizes})[0]
    assert abs(int(loss.argmin()) - 1000) <= 1
    assert found["a"] + found["b"] == pytest.approx(1.0)


def test_tied_exponents_in_the_paper_s_compute_and_multiplier() -> None:
    found, E = derived("chinchilla_tied"), EXAMPLES["chinchilla_tied"].params["E"]
    M, C = D / N, 6 * N * D
    paper = E + (found["a"] * M ** found["eta"] + found["b"] * M ** -found["eta"]) * C ** -found["eta"]
    np.testing.assert_allclose(value_at(chinchilla_tied, EXAMPLES["chinchilla_tied"].params, SURFACE)[0], paper)
    assert found["b"] == pytest.approx(366.69)


def test_kaplan_in_the_paper_s_symbols() -> None:
    found = derived("kaplan")
    assert found["N_c"] == pytest.approx(6.4e13) and found["D_c"] == pytest.approx(1.8e13)
    paper = ((6.4e13 / N) ** (0.076 / 0.103) + 1.8e13 / D) ** 0.103
    np.testing.assert_allclose(value_at(kaplan, EXAMPLES["kaplan"].params, SURFACE)[0], paper)


def test_skaling_contains_chinchilla() -> None:
    same = value_at(skaling, HOFFMANN | {"k": 1.0}, SURFACE)
    np.testing.assert_allclose(same, value_at(chinchilla, HOFFMANN, SURFACE), rtol=1e-13)


def test_interaction_parameters_are_those_at_the_centre() -> None:
    params, centre = EXAMPLES["interaction"].params, interaction.centre_of(SURFACE)
    middle = {"N": np.array([np.exp(centre["N"])]), "D": np.array([np.exp(centre["D"])])}
    assert value_at(interaction, params, middle, centre)[0, 0] == pytest.approx(params["E"] + params["K"])


def test_farseer_in_the_paper_s_symbols() -> None:
    found = derived("farseer")
    assert found == pytest.approx(FARSEER)
    a1, b1, a2, b2, a3, b3 = (found[k] for k in ("a1", "b1", "a2", "b2", "a3", "b3"))
    alpha, beta, gamma = (FARSEER_POWERS[k] for k in ("alpha", "beta", "gamma"))
    paper = np.exp(a3 * N**gamma + b3) + np.exp(a2 * N**beta + b2) * D ** -np.exp(a1 * N**alpha + b1)
    np.testing.assert_allclose(value_at(farseer, EXAMPLES["farseer"].params, SURFACE)[0], paper)


def test_power_laws_print_the_critical_scale() -> None:
    assert derived("power_N")["N_c"] == pytest.approx(8.8e13)
    assert derived("power_D")["D_c"] == pytest.approx(5.4e13)
    with pytest.raises(ValueError, match="it is 'M', allowed are C, N, D"):
        power_law("M", offset=True)


def test_a_broken_power_law_has_both_slopes() -> None:
    example = EXAMPLES["power_C_broken"]
    ends = np.array([1e10, 1.001e10, 1e29, 1.001e29])
    reducible = value_at(example.law, example.params, {"C": ends})[0] - example.params["E"]
    slope = -np.diff(np.log(reducible))[::2] / np.log(1.001)
    np.testing.assert_allclose(slope, [0.06, 0.06 + 0.12], rtol=1e-3)


def test_repetition_example_of_the_paper() -> None:
    """R_D* = 3 and four repetitions of one unit are worth 3.21 units, a hundred 3.99 (appendix A)."""
    U, epochs = np.full(3, 1e10), np.array([1.0, 5.0, 101.0])
    params = {"E": 0.0, "A": 1e-30, "alpha": 1.0, "B": 1.0, "beta": 1.0, "R_D": 3.0, "R_N": 1e30}
    loss = value_at(data_constrained, params, {"N": np.full(3, 1e9), "D": U * epochs, "U": U})[0]
    assert 1 / loss / 1e10 == pytest.approx([1.0, 3.21, 4.0], abs=5e-3)


def test_repetition_without_decay_or_without_repetition_is_chinchilla() -> None:
    columns, params = EXAMPLES["data_constrained"].columns, EXAMPLES["data_constrained"].params
    plain = value_at(chinchilla, {k: params[k] for k in HOFFMANN}, columns)
    endless = value_at(data_constrained, params | {"R_D": 1e9, "R_N": 1e9}, columns)
    np.testing.assert_allclose(endless, plain, rtol=1e-6)
    once = (columns["D"] == columns["U"]) & (columns["N"] < 0.05 * columns["U"])
    np.testing.assert_allclose(EXAMPLES["data_constrained"].response[once], plain[0, once], rtol=1e-12)
    assert once.sum() == 3


def test_usable_parameters_of_the_paper_s_fit() -> None:
    """U_N = 0.051 U: parameters up to there count in full (equation 17 of appendix A)."""
    G, params = derived("data_constrained")["G"], EXAMPLES["data_constrained"].params
    ratio = G * G
    assert ratio == pytest.approx(0.051, abs=5e-4)
    size = np.array([ratio * 1e9, 1e14])
    gap = value_at(data_constrained, params, {"N": size, "D": np.full(2, 1e9), "U": np.full(2, 1e9)})[0]
    limit = params["A"] * (ratio * 1e9 * (1 + params["R_N"])) ** -params["alpha"]
    assert gap[0] - gap[1] == pytest.approx(params["A"] * size[0] ** -params["alpha"] - limit)


def test_granularity_gives_the_paper_s_losses() -> None:
    """Table 2, "64 x 100M" and so on: 516 / 12 times the dense parameters without embeddings."""
    rows = [(1e8, 4.37e9, 8, 3.133), (1e9, 28.94e9, 16, 2.491), (7e9, 137.6e9, 32, 2.076), (1e12, 7.94e12, 64, 1.367)]
    dense, tokens, grains, loss = np.array(rows).T
    found = value_at(granularity, EXAMPLES["granularity"].params, {"N": 43 * dense, "D": tokens, "G": grains})
    np.testing.assert_allclose(found[0], loss, atol=0.03)


@pytest.mark.parametrize(
    ("experts", "m", "mu", "n", "nu"),
    [(1, 30.3640, -0.1817, 53.9838, -0.1965), (8, 21.8330, -0.1676, 119.9126, -0.2338),
     (32, 16.5424, -0.1557, 234.6726, -0.2652)],
)  # fmt: skip
def test_joint_mixture_of_experts_is_the_paper_s_chinchilla_law_for_every_number(
    experts: int, m: float, mu: float, n: float, nu: float
) -> None:
    params = EXAMPLES["moe_joint"].params
    found = value_at(moe_joint, params, SURFACE | {"E": np.full(len(N), float(experts))})[0]
    np.testing.assert_allclose(found, m * N**mu + n * D**nu + 1.3637, rtol=2e-3)
    if experts == 1:
        assert list(derived("moe_joint").values()) == pytest.approx([m, mu, n, nu], rel=3e-3)


def test_experts_saturate() -> None:
    assert effective_experts(1.0, 1.847, 314.478) == pytest.approx(1.847)
    assert effective_experts(1e12, 1.847, 314.478) == pytest.approx(314.478)


def test_routing_as_the_paper_reads_its_fit() -> None:
    params = EXAMPLES["routed"].params
    small = value_at(routed, params, {"N": np.array([5e6, 55e6]), "E": np.array([128.0, 1.0])})[0]
    assert small[0] == pytest.approx(small[1], rel=0.01)
    cutoff = 10 ** (-params["b"] / params["c"])
    assert cutoff == pytest.approx(937e9, rel=0.1)
    at_cutoff = value_at(routed, params, {"N": np.full(2, cutoff), "E": np.array([1.0, 512.0])})[0]
    assert at_cutoff[0] == pytest.approx(at_cutoff[1])


def test_a_domain_with_no_share_contributes_nothing() -> None:
    law, params = mixture_additive(2), {"E": 1.0, "A": 1e-9, "alpha": 1.0, "B": 1e-9, "beta": 1.0}
    params |= {"C_1": 2.0, "C_2": 5.0, "gamma_1": 0.5, "gamma_2": 0.01}
    columns = {"N": np.full(2, 1e9), "D": np.full(2, 1e9), "h_1": np.array([1.0, 0.25]), "h_2": np.array([0.0, 0.75])}
    floor = [1 / 2.0, 1 / (2 * 0.5 + 5 * 0.75**0.01)]
    np.testing.assert_allclose(value_at(law, params, columns)[0], 1.0 + np.array(floor), rtol=1e-12)


def test_the_joint_mixture_law_in_the_paper_s_symbols() -> None:
    example, found = EXAMPLES["mixture_joint"], derived("mixture_joint")
    params, columns = example.params, example.columns
    shares = [columns[f"h_{i}"] for i in (1, 2, 3)]
    size, data = (
        sum(found[f"C{side}_{i}"] * h for i, h in enumerate(shares, 1)) ** params[f"gamma_{side}"] for side in "AB"
    )
    floor = 1 / sum(params[f"C_{i}"] * h ** params[f"gamma_{i}"] for i, h in enumerate(shares, 1))
    paper = params["E"] + floor + size * columns["N"] ** -0.33 + data * columns["D"] ** -0.36
    np.testing.assert_allclose(example.response, paper, rtol=1e-11)
    assert mixture_joint(8).num_params == 37  # as the paper counts


def test_the_exponential_mixture_law_leaves_out_one_of_the_paper_s_parameters() -> None:
    example, shift = EXAMPLES["mixture_exponential"], 0.7
    h = [example.columns[f"h_{i}"] for i in (1, 2, 3)]
    paper = 2.1 + 0.9 * np.exp(-shift) * np.exp((-1.3 + shift) * h[0] + (-0.4 + shift) * h[1] + shift * h[2])
    np.testing.assert_allclose(example.response, paper, rtol=1e-12)


def test_domains_by_name() -> None:
    law = mixture_exponential(("text", "caption", "interleaved"))
    assert law.columns == ("text", "caption", "interleaved") and law.names == ("c", "k", "t_text", "t_caption")
    assert mixture_additive(["h_text", "code"]).names[-4:] == ("C_text", "C_code", "gamma_text", "gamma_code")
    for bad, message in ((1, "at least 2"), (("a b", "c"), "rename the column"), (("a", "a"), "must differ")):
        with pytest.raises(ValueError, match=message):
            mixture_joint(bad)  # type: ignore[arg-type]


def test_mixed_modal_without_interaction_is_the_mean_of_both() -> None:
    base = unimodal_mean([2.0, 3.0], [4.0, 1.0])
    np.testing.assert_array_equal(base, [3.0, 2.0])
    columns = {"base": base, "N": np.full(2, 1e9), "D": np.full(2, 1e10)}
    params = {"C": 0.2, "A": 1e-9, "alpha": 1.0, "B": 1e-9, "beta": 1.0}
    np.testing.assert_allclose(value_at(law_named("mixed_modal"), params, columns)[0], base - 0.2)


def test_step_law() -> None:
    found = value_at(law_named("step_law_lr"), EXAMPLES["step_law_lr"].params, SURFACE)[0]
    np.testing.assert_allclose(found, 1.79 * N**-0.713 * D**0.307)
    batch = value_at(law_named("step_law_batch"), EXAMPLES["step_law_batch"].params, {"D": np.array([1e11])})
    assert batch[0, 0] == pytest.approx(0.58 * 1e11**0.571)


def test_accuracy_runs_from_its_top_to_guessing_without_overflow() -> None:
    params = {"a": -0.6, "k": 50.0, "L0": 1.1, "b": 0.85}
    found = value_at(accuracy_sigmoid, params, {"L": np.array([0.0, 1.1, 1e3])})[0]
    assert found == pytest.approx([0.85, 0.55, 0.25])


def test_loss_and_accuracy_are_chained_draw_by_draw() -> None:
    columns = {"N": np.array([1e9, 7e9]), "D": np.array([1e11, 2e12])}
    draws = {k: np.array([v, v * 1.01]) for k, v in HOFFMANN.items()}
    sigmoid = EXAMPLES["accuracy_sigmoid"].params | {"L0": 2.1}
    found = chained(chinchilla, draws, accuracy_sigmoid, sigmoid, columns)
    assert found.shape == (2, 2)
    loss = value_at(chinchilla, draws, columns)
    np.testing.assert_allclose(found, 0.85 - 0.6 / (1 + np.exp(-4.0 * (loss - 2.1))), rtol=1e-12)
    with pytest.raises(ValueError, match="second stage must be a law of L"):
        chained(chinchilla, draws, chinchilla, draws, columns)
    with pytest.raises(ValueError, match="parameter k is missing"):
        chained(chinchilla, draws, accuracy_sigmoid, {"a": 1.0, "L0": 1.0, "b": 0.0}, columns)
    with pytest.raises(ValueError, match="column D is missing"):
        value_at(chinchilla, HOFFMANN, {"N": np.array([1e9])})
    with pytest.raises(ValueError, match="parameter beta is missing"):
        value_at(chinchilla, {k: v for k, v in HOFFMANN.items() if k != "beta"}, columns)
