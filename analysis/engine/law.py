"""A law: one numpy function of columns and parameters, with the kind of every parameter.

Shapes: R problems, n rows, P parameters.
    theta (R, P)  working parameters: positive scales as logarithms, columns divided by their geometric means
    params        natural parameters by name, as papers print them, one array (R,) each

A law is written as papers write it; positional arguments are columns, keyword-only ones parameters:

    @law_from(centre="A: alpha N, B: beta D", source="arXiv 2203.15556, equation 2")
    def chinchilla(N, D, *, E: Offset, A: Scale, alpha: Exponent, B: Scale, beta: Exponent):
        \"\"\"L = E + A / N^alpha + B / D^beta\"\"\"
        return E + A * N**-alpha + B * D**-beta

Which parameters are linear is read from the zero second derivatives, not declared.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Annotated, Any, get_args, get_type_hints

import numpy as np

from analysis.engine.jet import Array, Column, Jet

Columns = Mapping[str, Array]
LOG_BOUND = 60.0


@dataclass(frozen=True)
class Param:
    """The kind of a parameter: bounds (natural), whether it is optimised as its logarithm, and where to look for it.

    search: (low, high) of the global search when the law is not linear in it; log-spaced where both are positive.
    exponent: True for the parameters that are the result of a study (printed with intervals, profiled).
    """

    low: float
    high: float
    log: bool = False
    search: tuple[float, float] = (0.03, 2.5)
    exponent: bool = False

    @property
    def bounds(self) -> tuple[float, float]:
        """(low, high) of the working value."""
        if not self.log:
            return self.low, self.high
        return (float(np.log(self.low)) if self.low > 0 else -LOG_BOUND), min(float(np.log(self.high)), LOG_BOUND)


OFFSET = Param(0.0, np.inf, search=(1e-3, 10.0))
SCALE = Param(0.0, np.inf, log=True, search=(1e-3, 1e3))
EXPONENT = Param(1e-3, 3.0, search=(0.03, 2.5), exponent=True)
SIGNED = Param(-np.inf, np.inf, search=(-3.0, 3.0))
RATE = Param(0.0, np.inf, log=True, search=(1e-2, 1e3), exponent=True)

Offset = Annotated[Any, OFFSET]
Scale = Annotated[Any, SCALE]
Exponent = Annotated[Any, EXPONENT]
Signed = Annotated[Any, SIGNED]
Rate = Annotated[Any, RATE]


@dataclass(frozen=True)
class Shift:
    """Dividing ``column`` by x0 divides ``coefficient`` by x0^(sign exponent); an empty ``exponent`` stands for 1.

    A coefficient that is itself an exponent (c^(delta + gamma ln x)) loses sign exponent ln x0 instead.
    """

    coefficient: str
    exponent: str
    column: str
    sign: float


@dataclass(frozen=True)
class Law:
    """One functional form; see the module's text. ``function(*columns, **params)`` gives (R, n).

    log_value: the function returns ln of the response. positive: the response must be positive. derived: further
    quantities from natural parameters, by name (closed forms a paper prints). loose: columns that are centred though no
    parameter translates: the parameters are those at the centre, which is kept with the fit. same_unit: (column,
    other), divided by the centre of the other one.
    """

    name: str
    formula: str
    source: str
    function: Callable[..., Any]
    columns: tuple[str, ...]
    params: Mapping[str, Param]
    shifts: tuple[Shift, ...] = ()
    log_value: bool = False
    positive: bool = True
    derived: Callable[[Mapping[str, Array]], dict[str, Array]] | None = None
    notes: str = ""
    loose: tuple[str, ...] = ()
    same_unit: tuple[tuple[str, str], ...] = ()

    @cached_property
    def names(self) -> tuple[str, ...]:
        """Parameters in the order of theta."""
        return tuple(self.params)

    @property
    def num_params(self) -> int:
        """Number of parameters."""
        return len(self.params)

    @cached_property
    def exponents(self) -> tuple[str, ...]:
        """Parameters whose size is the result of the study."""
        return tuple(name for name, p in self.params.items() if p.exponent)

    @cached_property
    def log_names(self) -> tuple[str, ...]:
        """Parameters optimised, drawn and widened as logarithms."""
        return tuple(name for name, p in self.params.items() if p.log)

    @cached_property
    def bounds(self) -> tuple[tuple[float, float], ...]:
        """(low, high) of every working parameter."""
        return tuple(p.bounds for p in self.params.values())

    @cached_property
    def centred(self) -> tuple[str, ...]:
        """Columns that are divided by their geometric mean before fitting."""
        own = dict.fromkeys((*(shift.column for shift in self.shifts), *self.loose))
        return (*own, *(name for name, other in self.same_unit if other in own))

    @cached_property
    def _log_mask(self) -> Any:
        return np.array([p.log for p in self.params.values()])

    def centre_of(self, columns: Columns) -> dict[str, float]:
        """ln of the geometric mean of every centred column: it removes the collinearity of scale and exponent."""
        like = dict(self.same_unit)
        return {name: float(np.mean(np.log(columns[like.get(name, name)]))) for name in self.centred}

    def prepare(self, columns: Columns, centre: Mapping[str, float]) -> list[Any]:
        """The positional arguments of ``function`` at this centre. Raises ``KeyError`` for a missing column."""
        ready: list[Any] = []
        for name in self.columns:
            values = np.asarray(columns[name], dtype=float)
            ready.append(Column.of(values / np.exp(centre[name]) if name in centre else values))
        return ready

    def value(self, theta: Array, ready: Sequence[Any]) -> Array:
        """The response, or its logarithm for ``log_value``, (R, n) for working parameters (R, P)."""
        natural = np.where(self._log_mask, np.exp(np.where(self._log_mask, theta, 0.0)), theta)
        shape = (len(theta),) + (1,) * _row_axes(ready)
        out = self.function(*ready, **{n: natural[:, i].reshape(shape) for i, n in enumerate(self.names)})
        return np.broadcast_to(out, (len(theta), len(ready[0])))

    def jet(self, theta: Array, ready: Sequence[Any], held: Any = ()) -> Any:
        """The same with exact first and second derivatives with respect to the working parameters that are not
        ``held`` (indices); a plain array when all are."""
        shape = (len(theta),) + (1,) * _row_axes(ready)
        jets: dict[str, Any] = {}
        for i, (name, kind) in enumerate(self.params.items()):
            column = theta[:, i].reshape(shape)
            grown = np.exp(column) if kind.log else column
            if i in held:
                jets[name] = grown
            elif kind.log:
                jets[name] = Jet(grown, {i: grown}, {(i, i): grown})
            else:
                jets[name] = Jet(grown, {i: 1.0}, {})
        return self.function(*ready, **jets)

    def natural_jet(self, values: Array, ready: Sequence[Any], only: Sequence[int] | None = None) -> Any:
        """Derivatives with respect to the natural (unlogged) parameters at ``values`` (G, P), or to some of them; an
        array when the value depends on none."""
        shape = (len(values),) + (1,) * _row_axes(ready)
        given: dict[str, Any] = {}
        for i, name in enumerate(self.names):
            value = values[:, i].reshape(shape)
            given[name] = Jet(value, {i: 1.0}, {}) if only is None or i in only else value
        return self.function(*ready, **given)

    def loss(self, theta: Array, columns: Columns, centre: Mapping[str, float]) -> Array:
        """Predicted response (R, n) in natural units for working parameters (R, P) at ``centre``."""
        out = self.value(np.atleast_2d(np.asarray(theta, dtype=float)), self.prepare(columns, centre))
        return np.exp(out) if self.log_value else out

    def to_natural(self, theta: Array, centre: Mapping[str, float]) -> Array:
        """Natural parameters (R, P), in the order of ``names``, from working ones at ``centre``."""
        out = self._moved(theta, centre, 1.0)
        with np.errstate(over="ignore"):
            return np.where(self._log_mask, np.exp(np.where(self._log_mask, out, 0.0)), out)

    def to_working(self, params: Array, centre: Mapping[str, float]) -> Array:
        """The inverse of ``to_natural``."""
        out = np.array(params, dtype=float)
        out[:, self._log_mask] = np.log(out[:, self._log_mask])
        return self._moved(out, centre, -1.0)

    def _moved(self, theta: Array, centre: Mapping[str, float], direction: float) -> Array:
        out = np.array(theta, dtype=float)
        for shift in self.shifts:
            power = theta[:, self.names.index(shift.exponent)] if shift.exponent else 1.0
            amount = direction * shift.sign * power * centre.get(shift.column, 0.0)
            at, kind = self.names.index(shift.coefficient), self.params[shift.coefficient]
            if kind.log or kind.exponent:
                out[:, at] += amount
            else:
                out[:, at] *= np.exp(amount)
        return out

    def pinned(self, names: Sequence[str]) -> Law:
        """The same law without the centring that would mix the coefficients ``names`` with their exponents."""
        touched = {s.column for s in self.shifts if s.coefficient in names}
        return replace(self, shifts=tuple(s for s in self.shifts if s.column not in touched))


def _row_axes(ready: Sequence[Any]) -> int:
    return max(np.ndim(x) for x in ready)


def law_from(
    centre: str = "",
    source: str = "",
    log_value: bool = False,
    positive: bool = True,
    derived: Callable[[Mapping[str, Array]], dict[str, Array]] | None = None,
) -> Callable[[Callable[..., Any]], Law]:
    """Turn a function into a Law: columns, parameters and their kinds from its signature, the formula from its
    docstring's first line.

    centre: "A: alpha N" says that dividing column N by N0 turns A into A N0^-alpha; a minus before the exponent
    turns the sign, and it may be a number ("x: 1 N" for N + x). "N" alone centres a column whose parameters are meant
    at the centre; "U as D" divides U by the centre of D. Raises ``ValueError`` for a parameter without a kind or an
    unknown name in ``centre``.
    """

    def build(function: Callable[..., Any]) -> Law:
        hints = get_type_hints(function, include_extras=True)
        columns, params = [], {}
        for name, parameter in inspect.signature(function).parameters.items():
            if parameter.kind is inspect.Parameter.KEYWORD_ONLY:
                params[name] = _kind_of(function.__name__, name, hints.get(name))
            else:
                columns.append(name)
        doc = inspect.getdoc(function) or ""
        return make_law(function.__name__, doc, function, columns, params, centre, source, log_value, positive, derived)

    return build


def make_law(
    name: str,
    doc: str,
    function: Callable[..., Any],
    columns: Sequence[str],
    params: Mapping[str, Param],
    centre: str = "",
    source: str = "",
    log_value: bool = False,
    positive: bool = True,
    derived: Callable[[Mapping[str, Array]], dict[str, Array]] | None = None,
) -> Law:
    """A Law from its parts, for families whose number of parameters depends on the data (mixtures of k sources).

    ``function`` takes ``columns`` positionally and ``params`` by keyword. Raises ``ValueError`` as ``law_from`` does.
    """
    parts = [part.strip() for part in centre.split(",") if part.strip()]
    pairs = [tuple(part.split(" as ")) for part in parts if " as " in part]
    loose = tuple(part for part in parts if part in columns)
    same_unit = tuple((pair[0], pair[1]) for pair in pairs if len(pair) == 2 and set(pair) <= set(columns))
    rest = [part for part in parts if part not in loose and tuple(part.split(" as ")) not in same_unit]
    shifts = tuple(_shift(name, part, columns, params) for part in rest)
    formula, _, notes = doc.partition("\n")
    return Law(
        name, formula.strip(), source, function, tuple(columns), dict(params), shifts, log_value, positive, derived,
        notes.strip(), loose, same_unit,
    )  # fmt: skip


def _kind_of(law: str, name: str, hint: Any) -> Param:
    kinds = [item for item in get_args(hint) if isinstance(item, Param)]
    if not kinds:
        raise ValueError(
            f"law {law}: parameter {name} has no kind; annotate it with Offset, Scale, Exponent, Signed, Rate or "
            "Annotated[Any, Param(...)]"
        )
    return kinds[0]


def _shift(law: str, text: str, columns: Sequence[str], params: Mapping[str, Param]) -> Shift:
    coefficient, _, rest = text.partition(":")
    words = rest.split()
    if len(words) == 2 and coefficient.strip() in params and words[1] in columns:
        exponent, sign = words[0].lstrip("-"), -1.0 if words[0].startswith("-") else 1.0
        if exponent in params:
            return Shift(coefficient.strip(), exponent, words[1], sign)
        if exponent.replace(".", "", 1).isdigit():
            return Shift(coefficient.strip(), "", words[1], sign * float(exponent))
    raise ValueError(
        f"law {law}: centre {text!r} is not 'coefficient: exponent column', 'column' or 'column as column' with its "
        "own names"
    )


def linear_params(law: Law, ready: Sequence[Any]) -> tuple[str, ...]:
    """Parameters the function is jointly linear in: no second derivative couples any two of them."""
    middle = np.array([[_middle(p) for p in law.params.values()]])
    with np.errstate(all="ignore"):
        pairs = law.natural_jet(middle, ready).second
    chosen: list[int] = []
    for i in range(law.num_params):
        if (i, i) not in pairs and all((min(i, j), max(i, j)) not in pairs for j in chosen):
            chosen.append(i)
    return tuple(law.names[i] for i in chosen)


def _middle(kind: Param) -> float:
    low, high = kind.search
    return float(np.sqrt(low * high)) if low > 0 else 0.5 * (low + high)
