"""No change of code may change a run unnoticed: the first twenty steps against those in losses.json (see golden.py).

Another processor or another build of torch rounds differently, hence 1e-4; the data and their order must be the same.
"""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from golden import CASES, FILE, STEPS, twenty_steps

TOLERANCE = 1e-4


@pytest.mark.parametrize("case", CASES)
def test_twenty_steps(tiny_shards: Path, tmp_path: Path, case: str) -> None:
    golden = json.loads(FILE.read_text())[case]
    found = twenty_steps(tiny_shards, case, tmp_path)
    assert found["shards"] == golden["shards"], "the world renders other documents: mark the commit DATA"
    assert found["order_hash"] == golden["order_hash"], "rows come in another order: mark the commit DATA-ORDER"
    assert found["entropy"] == pytest.approx(golden["entropy"], rel=1e-6)
    assert len(golden["train"]) == STEPS
    assert found["train"] == pytest.approx(golden["train"], rel=TOLERANCE), "mark the commit NUMERICS"
    assert found["held_out"] == pytest.approx(golden["held_out"], rel=TOLERANCE), "mark the commit NUMERICS"
    assert golden["train"][-1] < golden["train"][0] - 0.5
