"""Every law by name, a user's own law from a file, and a law printed with its numbers."""

from __future__ import annotations

import difflib
import re
from collections.abc import Mapping, Sequence
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path

import numpy as np

from analysis.engine.law import Law
from analysis.laws import additive, arms, compute, coupled, downstream, hyper, mixture, moe, repetition, schedule

MIXTURES = ("mixture_additive", "mixture_joint", "mixture_exponential")
ARMS = ("arms_shared", "arms_own", "arms_data_shared", "arms_data_own")  # of interventions; no command asks for them
WITH_DOMAINS = (*MIXTURES, *ARMS)
LAW_NAMES = (
    "chinchilla", "chinchilla_excess", "chinchilla_tied", "skaling", "kaplan", "interaction", "interaction_excess",
    "farseer", "width_depth",
    "power_C", "power_C_offset", "power_N", "power_N_offset", "power_D", "power_D_offset",
    "power_C_shifted", "power_C_broken",
    "data_constrained", "sparsity", "granularity", "moe_joint", "routed",
    *MIXTURES, "mixed_modal", "annealing", "multi_power",
    "step_law_lr", "step_law_batch", "accuracy_sigmoid", "error_exponential",
)  # fmt: skip

_MODULES = (additive, coupled, compute, repetition, moe, mixture, schedule, hyper, downstream)
_SYMBOL = re.compile(r"(?<![\w.])[A-Za-z_]\w*")
_LISTED_DOMAINS = 2


def law_named(name: str, domains: int | Sequence[str] | None = None) -> Law:
    """The law of a name, or of "path/to/file.py:function" for a user's own (this EXECUTES that file).

    domains: number of domains or names of their columns, for the mixture laws; the arms, for those of interventions.
    Raises ``ValueError`` for an unknown name, listing the names with their formulas, for missing or needless domains,
    and for a file that cannot be read or has no such law.
    """
    if name in WITH_DOMAINS and domains is None:
        raise ValueError(f"law {name} needs its domains: their number, or the names of their columns")
    if name not in WITH_DOMAINS and domains is not None:
        raise ValueError(f"law {name} has no domains; only {', '.join(MIXTURES)} have")
    if ".py:" in name:
        return _own_law(name)
    if name in WITH_DOMAINS:
        return getattr(mixture if name in MIXTURES else arms, name)(domains)
    match name.split("_"):
        case ["power", "C" | "N" | "D" as column]:
            return compute.power_law(column, offset=False)
        case ["power", "C" | "N" | "D" as column, "offset"]:
            return compute.power_law(column, offset=True)
    for module in _MODULES:
        if isinstance(law := vars(module).get(name), Law):
            return law
    close = difflib.get_close_matches(name, LAW_NAMES, n=1)
    hint = f"did you mean {close[0]}? " if close else ""
    raise ValueError(f"unknown law {name!r}; {hint}the laws are:\n{listing()}\nor path/to/file.py:function")


def listing() -> str:
    """One line a law: its name and formula; mixtures for two domains."""
    width = max(map(len, LAW_NAMES))
    laws = (law_named(name, _LISTED_DOMAINS if name in MIXTURES else None) for name in LAW_NAMES)
    return "\n".join(f"  {name:<{width}}  {law.formula}" for name, law in zip(LAW_NAMES, laws, strict=True))


def _own_law(address: str) -> Law:
    """The law ``function`` of ``path``; the file is executed, as any Python program the user runs."""
    path, _, name = address.rpartition(":")
    if not Path(path).is_file():
        raise ValueError(f"law {address!r}: there is no file {path}")
    spec = spec_from_file_location(Path(path).stem, path)
    if spec is None or spec.loader is None:
        raise ValueError(f"law {address!r}: {path} is not a Python file")
    module = module_from_spec(spec)
    spec.loader.exec_module(module)
    found = getattr(module, name, None)
    if not isinstance(found, Law):
        laws = [key for key, value in vars(module).items() if isinstance(value, Law)]
        raise ValueError(
            f"law {address!r}: {path} has no law {name!r}; its laws are {', '.join(laws) or 'none'} (a law is a "
            "function decorated with analysis.engine.law.law_from)"
        )
    return found


def describe(law: Law, params: Mapping[str, float], centre: Mapping[str, float] | None = None) -> str:
    """The formula with ``params`` (natural, one number each) in place of their names, four significant digits.

    centre: ln of the geometric means; it puts numbers for N0 and D0 where parameters are meant at the centre. Names
    that the formula does not show follow in brackets. Raises ``ValueError`` naming a missing parameter.
    """
    if missing := [name for name in law.names if name not in params]:
        raise ValueError(f"law {law.name}: parameter {missing[0]} is missing; it needs {', '.join(law.names)}")
    numbers = {name: _digits(float(params[name])) for name in law.names}
    numbers |= {f"{column}0": _digits(float(np.exp(value))) for column, value in (centre or {}).items()}
    text = _SYMBOL.sub(lambda found: numbers.get(found[0], found[0]), law.formula)
    text = text.replace("+ -", "- ").replace("- -", "+ ").replace("--", "")
    shown = set(_SYMBOL.findall(law.formula))
    hidden = [f"{name} = {numbers[name]}" for name in law.names if name not in shown]
    return f"{text} ({', '.join(hidden)})" if hidden else text


def _digits(value: float) -> str:
    if value and np.isfinite(value) and 1e-4 <= abs(value) < 1e7:
        return str(np.format_float_positional(value, precision=4, unique=False, fractional=False, trim="-"))
    return f"{value:.4g}"
