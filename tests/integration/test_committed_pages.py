"""The pages of analysis/pages say what their own rows say: drawn again, text for text, numbers within rounding."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from analysis.commands.intervention import METHODS, blocks_of
from analysis.interventions.blocks import Figure
from analysis.interventions.page import markdown
from analysis.interventions.rows import load

PAGES = Path(__file__).parents[2] / "analysis" / "pages"
NUMBER = re.compile(r"[-+]?\d[\d,]*\.?\d*(?:e[-+]?\d+)?")


@pytest.mark.slow
@pytest.mark.parametrize("method", METHODS)
def test_a_committed_page_is_what_its_rows_give(method: str) -> None:
    data = load(PAGES / method)
    blocks = blocks_of(data)
    committed = (PAGES / method / "README.md").read_text(encoding="utf-8")
    drawn = markdown(data.study.title, blocks)
    assert NUMBER.sub("#", drawn) == NUMBER.sub("#", committed)
    for ours, theirs in zip(NUMBER.findall(drawn), NUMBER.findall(committed), strict=True):
        assert _value(ours) == pytest.approx(_value(theirs), rel=0.03, abs=0.02)  # other BLAS, other last digits
    pictures = {f"{block.name}.png" for block in blocks if isinstance(block, Figure)}
    assert pictures == {path.name for path in (PAGES / method).glob("*.png")}


def _value(text: str) -> float:
    return float(text.replace(",", ""))
