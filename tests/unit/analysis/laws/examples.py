"""One realistic example of every law of the catalogue: published parameters where a paper prints them, and a design
of at least 40 noise-free rows that identifies all of them.

    response = EXAMPLES["chinchilla"].response      # (n,) in natural units

Laws of whole learning-rate schedules have their own examples beside their tests.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import product

import numpy as np

from analysis.engine.jet import Array
from analysis.engine.law import Law
from analysis.laws.catalogue import MIXTURES, law_named

Columns = dict[str, Array]
DOMAINS = 3


@dataclass(frozen=True)
class Example:
    """columns (n,) by name; params natural, or at the centre of the columns for laws that are meant there."""

    law: Law
    columns: Columns
    params: dict[str, float]

    @property
    def centre(self) -> dict[str, float]:
        """ln of the geometric mean of every centred column."""
        return self.law.centre_of(self.columns)

    @property
    def theta(self) -> Array:
        """Working parameters (1, P) at ``centre``."""
        at = {} if self.law.loose else self.centre
        natural = np.array([[self.params[name] for name in self.law.names]])
        return self.law.to_working(natural, at)

    @property
    def response(self) -> Array:
        """The law's exact response (n,)."""
        return self.law.loss(self.theta, self.columns, self.centre)[0]


def grid(**axes: Array | list[float]) -> Columns:
    """Full factorial design: every combination, (n,) by name."""
    rows = np.array(list(product(*axes.values())), dtype=float)
    return {name: rows[:, i] for i, name in enumerate(axes)}


def simplex(steps: int) -> Columns:
    """Every mixture of three domains in units of 1 / steps, zeros and pure ones included."""
    rows = [(i, j, steps - i - j) for i in range(steps + 1) for j in range(steps + 1 - i)]
    return {f"h_{k + 1}": np.array(rows, dtype=float)[:, k] / steps for k in range(3)}


def crossed(mixtures: Columns, **axes: Array | list[float]) -> Columns:
    """Every mixture at every combination of the axes."""
    plain = grid(**axes)
    count, times = len(next(iter(plain.values()))), len(next(iter(mixtures.values())))
    tiled = {name: np.tile(values, times) for name, values in plain.items()}
    return tiled | {name: np.repeat(values, count) for name, values in mixtures.items()}


SIZES, TOKENS, COMPUTE = np.geomspace(5e7, 1.6e10, 7), np.geomspace(1e9, 5e11, 7), np.geomspace(1e17, 1e23, 40)
SURFACE = grid(N=SIZES, D=TOKENS)
BESIROGLU = {"E": 1.817218, "A": 477.826, "alpha": 0.347310, "B": 2143.417, "beta": 0.367172}  # arXiv 2404.10102
FARSEER = {"a1": -0.124, "b1": 0.424, "a2": 88.01, "b2": -6.287, "a3": -0.021, "b3": -0.091}
FARSEER_POWERS = {"alpha": 0.123, "beta": -0.1, "gamma": 0.169}


def farseer_params() -> dict[str, float]:
    """The parameters of ``farseer`` for ``FARSEER``, with every a_i N^power read at a billion parameters."""
    out = dict(FARSEER_POWERS)
    for i, (level, slope, power) in enumerate((("A", "s1", "alpha"), ("B", "s2", "beta"), ("E", "s3", "gamma")), 1):
        grown = FARSEER[f"a{i}"] * 1e9 ** out[power]
        out[slope], out[level] = grown * out[power], float(np.exp(grown + FARSEER[f"b{i}"]))
    return out


def shapes() -> Columns:
    """Width and depth crossed with data; N as a transformer of that shape has."""
    out = grid(width=[256, 512, 1024, 2048, 3072], depth=[3, 8, 24, 72], D=[2e9, 1.2e10, 6e10, 3.5e11])
    return out | {"N": 12.0 * out["width"] ** 2 * out["depth"] + 2 * 50304 * out["width"]}


def repeated() -> Columns:
    """Unique tokens seen for 1 to 40 epochs by models from far too small to far too large for them."""
    out = grid(N=[2e7, 1e8, 5e8, 2e9, 8e9], U=[1e8, 1e9, 1e10], epochs=[1.0, 2.0, 4.0, 10.0, 40.0])
    return {"N": out["N"], "D": out["U"] * out["epochs"], "U": out["U"]}


def two_modalities() -> Columns:
    """Mean of two unimodal laws of arXiv 2301.03728 (its exponents for text and speech) beside N and both tokens."""
    text = 2.0 + 25.0 * SURFACE["N"] ** -0.18 + 90.0 * (SURFACE["D"] / 2) ** -0.22
    speech = 3.0 + 300.0 * SURFACE["N"] ** -0.31 + 120.0 * (SURFACE["D"] / 2) ** -0.24
    return SURFACE | {"base": 0.5 * (text + speech)}


_ROWS: dict[str, tuple[Columns, dict[str, float]]] = {
    "chinchilla": (SURFACE, BESIROGLU),
    "chinchilla_excess": (SURFACE, {name: BESIROGLU[name] for name in ("A", "alpha", "B", "beta")}),
    # the notebook of arXiv 2403.08540 on RedPajama: a = 166.21, b = -0.27285, beta = 366.69 = B 6^(-b / 2)
    "chinchilla_tied": (SURFACE, {"E": 1.83665, "A": 166.21, "B": 366.69 * 6 ** (-0.27285 / 2), "alpha": 0.27285}),
    "skaling": (SURFACE, {"E": 1.5, "A": 900.0, "alpha": 0.32, "B": 6000.0, "beta": 0.39, "k": 0.4}),
    "kaplan": (  # table 2: N_c = 6.4e13, D_c = 1.8e13
        grid(N=np.geomspace(1e6, 1.5e9, 7), D=np.geomspace(2.2e7, 2.3e10, 7)),
        {"A": 6.4e13**0.076, "alpha_N": 0.076, "B": 1.8e13**0.103, "alpha_D": 0.103},
    ),
    "interaction": (SURFACE, {"E": 1.9, "K": 0.8, "alpha": 0.16, "beta": 0.18, "gamma": 0.01}),
    "interaction_excess": (SURFACE, {"K": 0.8, "alpha": 0.16, "beta": 0.18, "gamma": 0.01}),
    "farseer": (SURFACE, farseer_params()),
    "width_depth": (  # published fit of all uncooled runs, e and coefficients as logarithms there
        shapes(),
        {
            "E": np.exp(0.39245797), "A": np.exp(1.4520106404), "alpha": 0.2446914313,
            "B": np.exp(-0.0781020281), "beta": 0.3871516764, "C": np.exp(7.9700333376), "gamma": 0.5000838843,
            "F": np.exp(10.0594263846), "delta": 0.4761055541,
        },
    ),
    "power_C": ({"C": COMPUTE}, {"A": 29.574, "alpha": 0.0492}),  # arXiv 2504.07951, early fusion
    "power_C_offset": ({"C": COMPUTE}, {"E": 1.7, "A": 3000.0, "alpha": 0.17}),
    "power_N": ({"N": np.geomspace(1e6, 1e10, 40)}, {"A": 8.8e13**0.076, "alpha": 0.076}),
    "power_N_offset": ({"N": np.geomspace(1e6, 1e10, 40)}, {"E": 1.8, "A": 480.0, "alpha": 0.35}),
    "power_D": ({"D": np.geomspace(1e7, 1e11, 40)}, {"A": 5.4e13**0.095, "alpha": 0.095}),
    "power_D_offset": ({"D": np.geomspace(1e7, 1e11, 40)}, {"E": 1.8, "A": 2100.0, "alpha": 0.37}),
    # arXiv 2106.04560, figure 2, in thousands of core days
    "power_C_shifted": ({"C": np.geomspace(1e-3, 1e3, 40)}, {"E": 0.09, "A": 0.26, "alpha": 0.35, "C_s": 0.01}),
    "power_C_broken": ({"C": COMPUTE}, {"E": 1.4, "A": 40.0, "c0": 0.06, "c1": 0.12, "d1": 3e19, "f1": 0.4}),
    "data_constrained": (
        repeated(),
        {
            "E": np.exp(0.6254804), "A": np.exp(6.255414), "alpha": 0.3526596, "B": np.exp(7.3049974),
            "beta": 0.3526596, "R_D": 15.387756, "R_N": 5.309743,
        },
    ),
    "sparsity": (  # table 3
        grid(N=np.geomspace(1e8, 2e10, 4), D=np.geomspace(2e9, 3e11, 4), S=[0.0, 0.5, 0.75, 0.9, 0.98]),
        {
            "a": 16612.5, "alpha": 0.5962, "b": 5455.67, "beta": 0.3954, "c": 0.4598, "lam": -0.1666, "d": 17.26,
            "delta": 0.1603, "gamma": 0.1595, "e": 0.94,
        },
    ),
    "granularity": (  # table 1, mixture-of-experts row
        grid(N=np.geomspace(1.29e8, 3.7e9, 5), D=np.geomspace(1.6e10, 1.3e11, 4), G=[1, 2, 4, 8, 16]),
        {"c": 0.47, "g": 2.1, "gamma": 0.58, "a": 18.1, "alpha": 0.115, "b": 30.8, "beta": 0.147},
    ),
    "moe_joint": (  # table 3
        grid(N=np.geomspace(3e7, 2.7e9, 4), D=np.geomspace(2e9, 1.5e11, 4), E=[1, 2, 4, 8, 16, 32]),
        {
            "a": 35.91, "alpha": -0.1889, "delta": -0.2285, "gamma": 0.0098, "b": 35.98, "beta": -0.1775,
            "omega": 0.5529, "zeta": -0.0259, "c": 1.3637, "E_start": 2.0732, "E_max": 290.4521,
        },
    ),
    "routed": (  # table 3, S-BASE
        grid(N=np.geomspace(1.5e7, 1.3e9, 7), E=[1, 2, 4, 8, 16, 32, 64, 128, 256, 512]),
        {"a": -0.082, "b": -0.108, "c": 0.009, "d": 1.104, "E_start": 1.847, "E_max": 314.478},
    ),
    "mixture_additive": (
        crossed(simplex(4), N=[1e8, 4e8, 1.6e9], D=[5e9, 3e10, 1.6e11]),
        {
            "E": 1.4, "A": 300.0, "alpha": 0.33, "B": 1500.0, "beta": 0.36,
            "C_1": 3.0, "C_2": 1.2, "C_3": 0.7, "gamma_1": 0.35, "gamma_2": 0.8, "gamma_3": 0.5,
        },
    ),
    "mixture_joint": (
        crossed(simplex(4), N=[1e8, 4e8, 1.6e9], D=[5e9, 3e10, 1.6e11]),
        {
            "E": 1.4, "alpha": 0.33, "beta": 0.36, "gamma_A": 0.7, "gamma_B": 1.4,
            "C_1": 3.0, "C_2": 1.2, "C_3": 0.7, "gamma_1": 0.35, "gamma_2": 0.8, "gamma_3": 0.5,
            "A_1": 200.0, "A_2": 330.0, "A_3": 500.0, "B_1": 900.0, "B_2": 1800.0, "B_3": 3000.0,
        },
    ),
    "mixture_exponential": (simplex(8), {"c": 2.1, "k": 0.9, "t_1": -1.3, "t_2": -0.4}),
    "mixed_modal": (two_modalities(), {"C": 0.15, "A": 60.0, "alpha": 0.28, "B": 150.0, "beta": 0.25}),
    "step_law_lr": (SURFACE, {"c": 1.79, "a": -0.713, "b": 0.307}),
    "step_law_batch": ({"D": np.geomspace(2e9, 1e11, 40)}, {"c": 0.58, "b": 0.571}),
    "accuracy_sigmoid": ({"L": np.linspace(0.3, 2.6, 40)}, {"a": -0.6, "k": 4.0, "L0": 1.1, "b": 0.85}),
    "error_exponential": ({"L": np.linspace(2.0, 6.0, 40)}, {"epsilon": 0.86, "k": 2.2, "gamma": 0.75}),
}  # fmt: skip

EXAMPLES: dict[str, Example] = {
    name: Example(law_named(name, DOMAINS if name in MIXTURES else None), columns, params)
    for name, (columns, params) in _ROWS.items()
}
