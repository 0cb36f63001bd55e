from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from studies import made_up

from sweeps.interventions.protocol import Arm, Metric, Step, StudyError

STEP = Step("one", ("shards",), Path("x"))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"control": "other"}, "control='other' is not one of its arms"),
        ({"arms": (Arm("plain", "control", ""), Arm("plain", "ceiling", ""))}, "arms: 'plain' is there twice"),
        ({"arms": (Arm("plain", "boss", ""),)}, "arm plain: role is 'boss', not one of control, treatment"),
        ({"arms": (Arm("plain", "control", ""), Arm("a b", "ceiling", ""))}, "arms: 'a b' is no name"),
        ({"arms": ()}, "arms: there are none"),
        ({"metrics": ()}, "metrics: there are none"),
        ({"metrics": (Metric("loss", "loss", "up"),)}, "metric loss: better is 'up', not one of lower, higher"),
        ({"steps": (STEP, STEP)}, "steps: 'one' is there twice"),
        ({"steps": (replace(STEP, name="../one"),)}, "is no name"),
        ({"steps": ()}, "steps: there are none"),
        ({"method": "magic"}, "method is 'magic', not one of filter, soup"),
        ({"acts_on": "hope"}, "acts_on is 'hope', not one of initialisation"),
    ],
)
def test_a_study_that_contradicts_itself(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(StudyError, match=message):
        replace(made_up((STEP,)), **changes)


def test_a_sound_study_is_built() -> None:
    assert made_up((STEP,)).control == "plain"
