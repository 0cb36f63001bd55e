"""What a run is asked besides its losses, by stage: questions and captions of a tuned run, labels of a bridge."""

from __future__ import annotations

from typing import Any

from nmm.bridge import Test, make_test, mark
from nmm.config import RunConfig
from nmm.data.indexed import IndexedSources
from nmm.data.manifest import Shards
from nmm.model.fusion import NativeMultimodalModel
from nmm.model.outliers import outliers
from nmm.sft import Exam, grade, make_exam
from nmm.training.parallel import device_of
from nmm.training.stopping import StopFlag, Stoppable


def exam_of(config: RunConfig, shards: Shards | IndexedSources) -> Exam | Test | None:
    """The exam of a run, None for pretraining. Raises ValueError for shards that do not hold one."""
    if config.stage.name not in ("sft", "bridge"):
        return None
    assert isinstance(shards, Shards)  # nmm.validation
    return make_exam(shards, config) if config.stage.name == "sft" else make_test(shards, config)


def grades(
    config: RunConfig, model: NativeMultimodalModel, exam: Exam | Test, flag: StopFlag, step: int
) -> dict[str, Any]:
    """Under the name of the stage, the marks of ``model`` after ``step`` steps. Raises ``Interrupted``."""
    if isinstance(exam, Exam):
        return {"sft": grade(model, exam)}
    device = device_of(config)
    parts = ([batch.to(device) for batch in part] for part in (exam.held_out, exam.train))
    return {"bridge": mark(model, *(Stoppable(part, flag, step) for part in parts))}


def weight_facts(model: NativeMultimodalModel, exam: Exam | Test | None) -> dict[str, Any]:
    """Of a bridge, the outliers of its weights before and after."""
    if not isinstance(exam, Test):
        return {}
    return {"outliers": {"before": exam.before, "after": outliers(dict(model.named_parameters()))}}
