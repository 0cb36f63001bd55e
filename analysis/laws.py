"""Laws of the shape L = E + sum_k exp(x_k . theta_k), with x_k built from centred ln N and ln D.

Shapes: R problems (resamples), n rows, P parameters of one law.
    theta (R, P)  working parameters: [E] then the linear coefficients of every term, at the centre (ln N0, ln D0)
    params        natural parameters by name, as papers print them

Every law of this shape has the same gradient and Hessian. With p_k = exp(x_k . theta_k) / L,
    d ln L / d theta_k = p_k x_k          d ln L / dE = 1 / L
    d2 ln L            = blockdiag(p_k x_k x_k^T, 0 for E) - (d ln L)(d ln L)^T
so a new law is a list of terms and the two translations between working and natural parameters.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]
Center = tuple[float, float]

_FEATURES: dict[str, Callable[[Array, Array], Array]] = {
    "1": lambda n, d: np.ones_like(n),
    "-n": lambda n, d: -n,
    "-d": lambda n, d: -d,
    "-nd": lambda n, d: -n * d,
}
EXPONENT_BOUNDS = (1e-3, 3.0)
LOG_COEFFICIENT_BOUNDS = (-60.0, 60.0)


@dataclass(frozen=True)
class Law:
    """One functional form.

    names: natural parameters in the order of theta. exponents: the names whose size is the result of the study.
    bounds: (low, high) per working parameter. log_names: natural parameters that are positive scales (drawn and
    widened in logs). to_natural and to_working translate (R, P) arrays given the centre.
    """

    name: str
    formula: str
    source: str
    offset: bool
    terms: tuple[tuple[str, ...], ...]
    names: tuple[str, ...]
    exponents: tuple[str, ...]
    log_names: tuple[str, ...]
    bounds: tuple[tuple[float, float], ...]
    to_natural: Callable[[Array, Center], Array]
    to_working: Callable[[Array, Center], Array]

    @property
    def num_params(self) -> int:
        """Free parameters, the offset included."""
        return int(self.offset) + sum(len(term) for term in self.terms)

    def design(self, log_n: Array, log_d: Array, center: Center) -> list[Array]:
        """One (n, P_k) feature matrix per term, from natural logs of N and D."""
        n, d = log_n - center[0], log_d - center[1]
        return [np.stack([_FEATURES[feature](n, d) for feature in term], axis=1) for term in self.terms]

    def loss(self, theta: Array, size: Array, tokens: Array, center: Center) -> Array:
        """Predicted loss (R, n) for working parameters (R, P) at parameters ``size`` (n,) and ``tokens`` (n,)."""
        theta = np.atleast_2d(theta)
        design = self.design(np.log(np.asarray(size, float)), np.log(np.asarray(tokens, float)), center)
        at = int(self.offset)
        total = theta[:, :1] * np.ones((1, len(design[0]))) if self.offset else np.zeros((len(theta), len(design[0])))
        for block in design:
            total = total + np.exp(theta[:, at : at + block.shape[1]] @ block.T)
            at += block.shape[1]
        return total


def center_of(size: Array, tokens: Array) -> Center:
    """(mean ln N, mean ln D): centring removes the collinearity of a coefficient with its exponent."""
    return float(np.mean(np.log(size))), float(np.mean(np.log(tokens)))


def chinchilla(offset: bool = True) -> Law:
    """L = E + A / N^alpha + B / D^beta (arXiv 2203.15556, equation 2); without ``offset`` the excess L - E.

    Natural parameters E (nats), A, B (nats at N = 1 and D = 1), alpha, beta. Working parameters: E,
    ln(A N0^-alpha), alpha, ln(B D0^-beta), beta. Bounds: E >= 0, exponents in [0.001, 3].
    Gradient of ln L: 1/L; p_A, -p_A (ln N - ln N0); p_B, -p_B (ln D - ln D0) with p_A = A N^-alpha / L.
    """
    shift = int(offset)

    def translate(theta: Array, center: Center, sign: int) -> Array:
        out = np.array(theta, float)
        out[:, shift] += sign * out[:, shift + 1] * center[0]
        out[:, shift + 2] += sign * out[:, shift + 3] * center[1]
        return out

    def to_natural(theta: Array, center: Center) -> Array:
        out = translate(theta, center, 1)
        out[:, [shift, shift + 2]] = np.exp(out[:, [shift, shift + 2]])
        return out

    def to_working(params: Array, center: Center) -> Array:
        out = np.array(params, float)
        out[:, [shift, shift + 2]] = np.log(out[:, [shift, shift + 2]])
        return translate(out, center, -1)

    pair = (LOG_COEFFICIENT_BOUNDS, EXPONENT_BOUNDS)
    return Law(
        name="chinchilla" if offset else "chinchilla_excess",
        formula="L = E + A / N^alpha + B / D^beta" if offset else "L - E_known = A / N^alpha + B / D^beta",
        source="arXiv 2203.15556",
        offset=offset,
        terms=(("1", "-n"), ("1", "-d")),
        names=("E",) * shift + ("A", "alpha", "B", "beta"),
        exponents=("alpha", "beta"),
        log_names=("A", "B"),
        bounds=((0.0, np.inf),) * shift + pair + pair,
        to_natural=to_natural,
        to_working=to_working,
    )


def interaction(offset: bool = True) -> Law:
    """L = E + K (N/N0)^-alpha (D/D0)^-(beta + gamma ln(N/N0)): the slope in data depends on the size.

    The first-order form of B(N) D^-A(N) in Farseer (arXiv 2506.10972): ln B and A are linear in ln N. N0 and D0 are
    the geometric means of the fitted rows, kept with the fit; alpha and beta are the local slopes there.
    Working parameters: E, ln K, alpha, beta, gamma. Bounds: E >= 0, alpha and beta in [0.001, 3], gamma in [-1, 1].
    Gradient of ln L: 1/L; p, -p n, -p d, -p n d with n, d the centred logs and p = 1 - E / L.
    gamma > 0 means that larger models gain more from data. At fixed 6ND the optimum then moves as N* ~ C^0.5 by
    construction, so this form says nothing about the allocation exponent; and it has no floor in N at infinite D,
    so it is for reading and interpolating inside the range of the runs.
    """
    shift = int(offset)

    def to_natural(theta: Array, center: Center) -> Array:
        out = np.array(theta, float)
        out[:, shift] = np.exp(out[:, shift])
        return out

    def to_working(params: Array, center: Center) -> Array:
        out = np.array(params, float)
        out[:, shift] = np.log(out[:, shift])
        return out

    return Law(
        name="interaction" if offset else "interaction_excess",
        formula=("L = E + " if offset else "L - E_known = ") + "K (N/N0)^-alpha (D/D0)^-(beta + gamma ln(N/N0))",
        source="first-order form of arXiv 2506.10972",
        offset=offset,
        terms=(("1", "-n", "-d", "-nd"),),
        names=("E",) * shift + ("K", "alpha", "beta", "gamma"),
        exponents=("alpha", "beta", "gamma"),
        log_names=("K",),
        bounds=((0.0, np.inf),) * shift + (LOG_COEFFICIENT_BOUNDS, EXPONENT_BOUNDS, EXPONENT_BOUNDS, (-1.0, 1.0)),
        to_natural=to_natural,
        to_working=to_working,
    )


def law_named(name: str) -> Law:
    """The law a saved fit names. Raises ``ValueError`` listing the known names."""
    match name:
        case "chinchilla":
            return chinchilla()
        case "chinchilla_excess":
            return chinchilla(offset=False)
        case "interaction":
            return interaction()
        case "interaction_excess":
            return interaction(offset=False)
    known = "chinchilla, chinchilla_excess, interaction, interaction_excess"
    raise ValueError(f"unknown law {name!r}; the laws are: {known}")
