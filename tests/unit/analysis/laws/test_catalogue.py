"""Finding a law by name or in a user's file, and printing it with its numbers."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from examples import BESIROGLU, EXAMPLES

from analysis.laws.catalogue import LAW_NAMES, MIXTURES, describe, law_named, listing

OWN = '''"""A user's laws."""
import numpy as np
from analysis.engine.law import Exponent, Offset, Scale, law_from

@law_from(centre="K: alpha N", source="mine")
def mine(N, *, E: Offset, K: Scale, alpha: Exponent):
    """L = E + K ln(1 + 1 / N^alpha)"""
    return E + K * np.log1p(N**-alpha)

def not_a_law(N):
    return N
'''


@pytest.mark.parametrize("name", LAW_NAMES)
def test_every_name_gives_its_law(name: str) -> None:
    assert law_named(name, 3 if name in MIXTURES else None).name == name
    assert name in listing()


def test_an_unknown_name_lists_the_laws_with_their_formulas() -> None:
    with pytest.raises(ValueError, match="unknown law 'chinchila'") as error:
        law_named("chinchila")
    assert "L = E + A / N^alpha + B / D^beta" in str(error.value) and "path/to/file.py:function" in str(error.value)


def test_domains_go_with_mixtures_only() -> None:
    with pytest.raises(ValueError, match="mixture_joint needs its domains"):
        law_named("mixture_joint")
    with pytest.raises(ValueError, match="chinchilla has no domains"):
        law_named("chinchilla", ("text", "image"))


def test_a_law_of_the_user_s_own(tmp_path: Path) -> None:
    file = tmp_path / "own.py"
    file.write_text(OWN)
    law = law_named(f"{file}:mine")
    assert law.names == ("E", "K", "alpha") and law.columns == ("N",) and law.centred == ("N",)
    assert describe(law, {"E": 1.5, "K": 2.0, "alpha": 0.25}) == "L = 1.5 + 2 ln(1 + 1 / N^0.25)"
    with pytest.raises(ValueError, match="has no law 'not_a_law'; its laws are mine"):
        law_named(f"{file}:not_a_law")
    with pytest.raises(ValueError, match="there is no file"):
        law_named(f"{tmp_path}/other.py:mine")


def test_a_formula_with_its_numbers() -> None:
    law = EXAMPLES["chinchilla"].law
    assert describe(law, BESIROGLU) == "L = 1.817 + 477.8 / N^0.3473 + 2143 / D^0.3672"
    with pytest.raises(ValueError, match="parameter beta is missing"):
        describe(law, {k: v for k, v in BESIROGLU.items() if k != "beta"})


def test_names_that_begin_other_names_are_replaced_whole() -> None:
    text = describe(EXAMPLES["mixture_joint"].law, EXAMPLES["mixture_joint"].params)
    assert text.startswith("L = 1.4 + 1 / (3 h_1^0.35 + 1.2 h_2^0.8 + 0.7 h_3^0.5)")
    assert "(h_1 200^(1/0.7) + h_2 330^(1/0.7) + h_3 500^(1/0.7))^0.7 / N^0.33" in text


def test_signs_are_tidied() -> None:
    assert describe(EXAMPLES["accuracy_sigmoid"].law, EXAMPLES["accuracy_sigmoid"].params) == (
        "acc = 0.85 - 0.6 / (1 + exp(-4 (L - 1.1)))"
    )
    sparse = describe(EXAMPLES["sparsity"].law, EXAMPLES["sparsity"].params)
    assert "16610 / N^0.5962" in sparse and "0.4598 / (1 - S)^-0.1666" in sparse
    lowered = describe(EXAMPLES["interaction"].law, {"E": 1.0, "K": 2.0, "alpha": -0.5, "beta": 0.25, "gamma": -0.125})
    assert lowered == "L = 1 + 2 (N/N0)^0.5 (D/D0)^-(0.25 - 0.125 ln(N/N0))"


def test_the_centre_is_printed_where_parameters_are_meant_there() -> None:
    text = describe(
        EXAMPLES["interaction_excess"].law, EXAMPLES["interaction_excess"].params, {"N": np.log(1e9), "D": np.log(3e10)}
    )
    assert text == "L - E_known = 0.8 (N/1e+09)^-0.16 (D/3e+10)^-(0.18 + 0.01 ln(N/1e+09))"


@pytest.mark.parametrize("name", EXAMPLES)
def test_every_parameter_is_printed(name: str) -> None:
    example = EXAMPLES[name]
    marked = {n: 0.1 + i / 1000 for i, n in enumerate(example.law.names)}
    text = describe(example.law, marked)
    for value in marked.values():
        assert f"{value:.4g}" in text
