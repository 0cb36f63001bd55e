"""Exact first and second derivatives of a numpy expression, sparse in the parameters.

Shapes: R problems, n rows. A Jet holds a value that broadcasts to (R, n) and, for the parameters it really depends on,
    first[i]       d value / d theta_i
    second[i, j]   d2 value / d theta_i d theta_j, i <= j; an absent entry is zero for every problem and row
so A / N^alpha costs two first and three second derivatives however many other parameters the law has, and the absent
entries say which parameters a law is linear in (``engine.law``).

The rules are the chain rule to second order (Griewank and Walther, Evaluating Derivatives, chapter 13).
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]
First = dict[int, Any]
Second = dict[tuple[int, int], Any]


class Column(np.ndarray):
    """A positive column of a table whose logarithm is taken once: ``N ** -alpha`` is exp(-alpha ln N).

    Anything computed from a Column is a plain array or a Jet again.
    """

    _log: Array | None = None

    @classmethod
    def of(cls, values: Any) -> Column:
        """A float64 copy of ``values`` (n,)."""
        return np.array(values, dtype=float).view(cls)

    @property
    def log(self) -> Array:
        """ln of the column (n,), remembered."""
        if self._log is None:
            self._log = np.log(self.view(np.ndarray))
        return self._log

    def __array_ufunc__(self, ufunc: Any, method: str, *inputs: Any, **kwargs: Any) -> Any:
        plain = tuple(x.view(np.ndarray) if isinstance(x, Column) else x for x in inputs)
        if ufunc is np.log and method == "__call__":
            return self.log
        if any(isinstance(x, Jet) for x in plain):
            return _apply(ufunc, method, plain, kwargs)
        return getattr(ufunc, method)(*plain, **kwargs)

    def __pow__(self, exponent: Any) -> Any:  # type: ignore[override]
        if np.ndim(exponent) == 0 and not isinstance(exponent, Jet):
            return self.view(np.ndarray) ** exponent
        return np.exp(self.log * exponent)


class Jet:
    """A value with its derivatives; a parameter is Jet(x, {i: 1.0}, {}); combined by ordinary numpy arithmetic."""

    __slots__ = ("value", "first", "second")
    __array_priority__ = 1000.0

    def __init__(self, value: Any, first: First, second: Second) -> None:
        self.value, self.first, self.second = value, first, second

    @property
    def ndim(self) -> int:
        """Axes of the value."""
        return int(np.ndim(self.value))

    def __array_ufunc__(self, ufunc: Any, method: str, *inputs: Any, **kwargs: Any) -> Any:
        plain = tuple(x.view(np.ndarray) if isinstance(x, Column) else x for x in inputs)
        return _apply(ufunc, method, plain, kwargs)

    def __add__(self, other: Any) -> Jet:
        return _add(self, other)

    __radd__ = __add__

    def __neg__(self) -> Jet:
        return _scaled(self, -1.0)

    def __sub__(self, other: Any) -> Jet:
        return _add(self, -other)

    def __rsub__(self, other: Any) -> Jet:
        return _add(_scaled(self, -1.0), other)

    def __mul__(self, other: Any) -> Jet:
        return _multiply(self, other)

    __rmul__ = __mul__

    def __truediv__(self, other: Any) -> Jet:
        return _multiply(self, _reciprocal(other))

    def __rtruediv__(self, other: Any) -> Jet:
        return _multiply(_reciprocal(self), other)

    def __pow__(self, exponent: Any) -> Jet:
        if isinstance(exponent, Jet) or np.ndim(exponent):
            return _exp(_multiply(_log(self), exponent))
        power = float(exponent)
        v = self.value
        return _chain(self, v**power, power * v ** (power - 1.0), power * (power - 1.0) * v ** (power - 2.0))

    def __rpow__(self, base: Any) -> Jet:
        return _exp(_multiply(self, base.log if isinstance(base, Column) else np.log(base)))

    def sum(self, axis: int = -1, keepdims: bool = False) -> Jet:
        """Sum over an axis of the rows, as a schedule law needs over its steps."""
        shape = np.shape(self.value)

        def over(x: Any) -> Any:
            return np.broadcast_to(x, shape).sum(axis=axis, keepdims=keepdims)

        return _map(self, over)

    def __getitem__(self, at: Any) -> Jet:
        shape = np.shape(self.value)
        return _map(self, lambda x: np.broadcast_to(x, shape)[at])


def _map(jet: Jet, f: Callable[[Any], Any]) -> Jet:
    """A linear map of the value, applied to the derivatives as well."""
    return Jet(f(jet.value), {i: f(g) for i, g in jet.first.items()}, {k: f(h) for k, h in jet.second.items()})


def _scaled(jet: Jet, factor: Any) -> Jet:
    return _map(jet, lambda x: x * factor)


def _add(a: Jet, b: Any) -> Jet:
    if not isinstance(b, Jet):
        return Jet(a.value + b, a.first, a.second)
    first, second = dict(a.first), dict(a.second)
    for i, g in b.first.items():
        first[i] = first[i] + g if i in first else g
    for k, h in b.second.items():
        second[k] = second[k] + h if k in second else h
    return Jet(a.value + b.value, first, second)


def _multiply(a: Jet, b: Any) -> Jet:
    if not isinstance(b, Jet):
        return _scaled(a, b)
    first: First = {i: g * b.value for i, g in a.first.items()}
    second: Second = {k: h * b.value for k, h in a.second.items()}
    for i, g in b.first.items():
        term = a.value * g
        first[i] = first[i] + term if i in first else term
    for k, h in b.second.items():
        term = a.value * h
        second[k] = second[k] + term if k in second else term
    for i, g in a.first.items():
        for j, other in b.first.items():
            key, term = (i, j) if i <= j else (j, i), (2.0 * g if i == j else g) * other
            second[key] = second[key] + term if key in second else term
    return Jet(a.value * b.value, first, second)


def _chain(a: Jet, value: Any, slope: Any, curve: Any) -> Jet:
    """f(a) from f, f' and f'' at the value of ``a``; ``curve`` None means that f' equals f'' equals the value (exp)."""
    first = {i: slope * g for i, g in a.first.items()}
    second: Second = {k: slope * h for k, h in a.second.items()}
    along = first if curve is None else {i: curve * g for i, g in a.first.items()}
    keys = sorted(a.first)
    for at, i in enumerate(keys):
        for j in keys[at:]:
            term = along[i] * a.first[j]
            second[i, j] = second[i, j] + term if (i, j) in second else term
    return Jet(value, first, second)


def _exp(a: Any) -> Any:
    value = np.exp(a.value)
    return _chain(a, value, value, None)


def _log(a: Any) -> Any:
    if not isinstance(a, Jet):
        return np.log(a)
    slope = 1.0 / a.value
    return _chain(a, np.log(a.value), slope, -slope * slope)


def _reciprocal(a: Any) -> Any:
    if not isinstance(a, Jet):
        return 1.0 / a
    value = 1.0 / a.value
    slope = -value * value
    return _chain(a, value, slope, -2.0 * slope * value)


def _tanh(a: Jet) -> Jet:
    value = np.tanh(a.value)
    slope = 1.0 - value * value
    return _chain(a, value, slope, -2.0 * value * slope)


def _log1p(a: Jet) -> Jet:
    slope = 1.0 / (1.0 + a.value)
    return _chain(a, np.log1p(a.value), slope, -slope * slope)


def _expm1(a: Jet) -> Jet:
    slope = np.exp(a.value)
    return _chain(a, np.expm1(a.value), slope, slope)


def _power(base: Any, exponent: Any) -> Any:
    return base**exponent if isinstance(base, Jet) else exponent.__rpow__(base)


def _minimum(a: Any, b: Any) -> Jet:
    """The smaller of the two with its derivatives: exact wherever they differ."""
    lower = np.asarray(_value_of(a) <= _value_of(b))
    out = Jet(0.0, {}, {})
    for side, chosen in ((a, lower), (b, ~lower)):
        if isinstance(side, Jet):
            out = _add(out, _map(side, partial(_kept, chosen)))
    return Jet(np.minimum(_value_of(a), _value_of(b)), out.first, out.second)


def _kept(chosen: Any, x: Any) -> Any:
    return np.where(chosen, x, 0.0)


def _value_of(a: Any) -> Any:
    return a.value if isinstance(a, Jet) else a


_UNARY: dict[Any, Callable[[Any], Any]] = {
    np.exp: _exp,
    np.log: _log,
    np.log1p: _log1p,
    np.expm1: _expm1,
    np.tanh: _tanh,
    np.sqrt: lambda a: a**0.5,
    np.square: lambda a: a * a,
    np.negative: lambda a: -a,
}
_BINARY: dict[Any, Callable[[Any, Any], Any]] = {
    np.add: lambda a, b: a + b if isinstance(a, Jet) else b + a,
    np.subtract: lambda a, b: a - b if isinstance(a, Jet) else b.__rsub__(a),
    np.multiply: lambda a, b: a * b if isinstance(a, Jet) else b * a,
    np.true_divide: lambda a, b: a / b if isinstance(a, Jet) else b.__rtruediv__(a),
    np.power: _power,
    np.minimum: _minimum,
}


def _apply(ufunc: Any, method: str, inputs: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    if method == "__call__" and not kwargs:
        if ufunc in _UNARY:
            return _UNARY[ufunc](*inputs)
        if ufunc in _BINARY:
            return _BINARY[ufunc](*inputs)
    allowed = ", ".join(sorted(f.__name__ for f in (*_UNARY, *_BINARY)))
    raise TypeError(f"a law may not use np.{ufunc.__name__} on a parameter; allowed are {allowed}, and .sum(axis=...)")
