"""The study of bridges without its training: what is planned from what, and rows and page of known records."""

from __future__ import annotations

import json
import zlib
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from safetensors.torch import save_file

from analysis.interventions.blocks import Figure, Table, Verdict
from analysis.interventions.bridge import blocks
from analysis.interventions.rows import load
from nmm.config import RunConfig, to_dict
from nmm.data.shards import write_shards
from nmm.data.world import WorldConfig
from nmm.model.build import build
from nmm.record import write_json
from sweeps import manifest
from sweeps.interventions.bridge import ARMS, study
from sweeps.interventions.bridge_chain import Asked, Chain
from sweeps.interventions.bridge_rows import collect
from sweeps.interventions.bridge_scale import Scale, scale_of
from sweeps.interventions.steps import check_rows, publish
from sweeps.manifest import Entry

PLAN = scale_of("tiny")
SCORES = {"lm_none": 0.5, "lm_random": 0.6, "lm_first": 0.7, "rand_none": 0.3}
FLOPS_OF_A_STEP, CHANCE = 1000.0, 0.125


@pytest.fixture(scope="module")
def planned(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, list[Entry]]]:
    """A study whose runs are made up: weights from scratch, records from ``SCORES``."""
    out = tmp_path_factory.mktemp("study")
    world = WorldConfig(num_entities=40, name_words=8, image_size=16, object_counts=(1.0, 0.0, 0.0, 0.0))
    counts = {"caption": {"train": 120, "val": 60}, "text": {"train": 30, "val": 60}}
    write_shards(world, out / "shards", counts, 128, progress=False)
    chain, found = Chain(out, PLAN), {}
    for name, asked in (("lm", chain.language), ("bridge", chain.bridges), ("after", chain.after)):
        found[name] = _planned(chain, out / "runs" / name, asked())
        for entry in found[name]:
            _pretend(out / "runs" / name / entry.run_id, entry.config)
    return out, found


def _planned(chain: Chain, folder: Path, asked: list[Asked]) -> list[Entry]:
    entries = [entry for one in asked for entry in chain.entries(one, folder)]
    folder.mkdir(parents=True)
    (folder / manifest.FILE_NAME).write_text(manifest.as_text(entries))  # refuses a run that is there twice
    return entries


def _pretend(run: Path, config: RunConfig) -> None:
    """A finished run with weights, a record and measurements."""
    arm, steps = config.intervention.arm, config.total_steps
    labelled = config.bridge is not None
    marks = {"accuracy": _score(arm, steps), "chance": CHANCE, "train_accuracy": 0.4} if labelled else {}
    block = dict.fromkeys(("above_1", "above_6sd", "kurtosis", "max_over_rms", "rms"), 1.0 + config.seed)
    result: dict[str, Any] = {
        "loss": {"text": 2.0 + labelled * 0.25, "caption": 3.0}, "class_excess": {"colour": 0.2, "shape": 0.4},
    }  # fmt: skip
    if labelled:
        result |= {"bridge": marks, "outliers": {"before": {"all": block, "matrices": block}}}
    record = {
        "schema": 4, "run_id": run.name, "status": "done", "role": "run", "seed": config.seed, "steps": steps,
        "params": {"active_non_embedding": 100}, "tokens": {"total": 7}, "flops": {"total": steps * FLOPS_OF_A_STEP},
        "intervention": {"method": "bridge", "arm": arm, "charged_flops": 0.0}, "result": result,
    }  # fmt: skip
    (run / "attempts" / "0001").mkdir(parents=True)
    write_json(run / "config.json", {"run_id": run.name, "settings": to_dict(config)})
    write_json(run / "record.json", record)
    if labelled:
        measured = [{"step": s, "bridge_loss": 1.0, "bridge_accuracy": _score(arm, s)} for s in range(2, steps + 1, 2)]
        lines = "".join(json.dumps(row) + "\n" for row in measured)
        (run / "attempts" / "0001" / "metrics.jsonl").write_text(lines)
    state = build(config).state_dict()
    state["trunk.norm.weight"] += zlib.crc32(arm.encode()) / 2**32
    save_file({name: value.contiguous() for name, value in state.items()}, str(run / "model.safetensors"))


def _score(arm: str, step: int) -> float:
    return SCORES.get(arm, 0.4) * step / 8


def test_every_arm_is_classified_and_starts_where_it_should(planned: tuple[Path, dict[str, list[Entry]]]) -> None:
    _, found = planned
    of_lm = {entry.config.seed: entry.run_id for entry in found["lm"]}
    of_bridge = {(entry.arm, entry.config.seed): entry.run_id for entry in found["bridge"]}
    downs = [e for e in found["after"] if e.config.bridge and e.config.stage.train == "all"]
    assert {e.arm for e in downs} | {"lm_more", "rand_more"} == {arm.name for arm in ARMS}
    for entry in (*found["bridge"], *found["after"]):
        arm, seed, start = entry.arm, entry.config.seed, entry.config.start
        source = "rand_random" if arm == "rand_covariance" else arm
        bridged = of_bridge.get((source, seed)) if entry not in found["bridge"] else None
        expected = bridged or (None if arm.startswith("rand") else of_lm[seed])
        assert (Path(start.path).name if start.path else None) == expected, arm
        assert entry.config.intervention.method == "bridge"
    budgets = {e.config.total_steps for e in found["bridge"]}
    assert budgets == {PLAN.bridge_steps}, "every bridge is as long"
    transforms = Counter(e.config.start.transform for e in downs)
    assert transforms["shuffle"] == transforms["rescaled_random"] == len(PLAN.core) and transforms["covariance"] == 1
    probes = [e.config for e in found["after"] if e.config.bridge and e.config.stage.train == "none"]
    assert all(p.start.fresh == ("patch", "labels") for p in probes if p.start.path) and len(probes) > 10


def test_rows_of_known_records(planned: tuple[Path, dict[str, list[Entry]]]) -> None:
    out, _ = planned
    rows = collect(out, PLAN, [arm.name for arm in ARMS])
    check_rows(study(out, "tiny"), rows)

    def row(arm: str, part: str = "main", **more: Any) -> dict[str, Any]:
        (one,) = [r for r in rows if r["arm"] == arm and r["part"] == part and r["seed"] == 0
                  and all(r[k] == v for k, v in more.items())]  # fmt: skip
        return one

    none, bridged, more = row("lm_none"), row("lm_first"), row("lm_more")
    assert none["accuracy"] == pytest.approx(0.5) and none["accuracy_early"] == pytest.approx(0.125)
    assert none["flops"] == PLAN.steps * FLOPS_OF_A_STEP and none["charged"] == 0
    assert bridged["charged"] == PLAN.bridge_steps * FLOPS_OF_A_STEP
    assert more["flops"] == none["flops"] + bridged["charged"] and more["charged"] == 0, "equal FLOPs, spent otherwise"
    assert more["accuracy"] == pytest.approx(0.5 * 12 / 8) and more["probe"] is None
    lm = none["with_lm"] - none["flops"]
    assert lm > 0 and bridged["with_lm"] == bridged["flops"] + bridged["charged"] + lm
    assert row("rand_none")["with_lm"] == row("rand_none")["flops"]
    assert row("rand_covariance")["charged"] == bridged["charged"], "it needs rand_random's bridge"
    assert bridged["forgetting"] == pytest.approx(0.25) and bridged["fit"] == 0.4
    assert none["forgetting"] is None and row("rand_random")["forgetting"] is None
    first = 0.7 * 2 / 8  # the first measurement, at step 2; chance before
    assert bridged["steps_to_target"] == pytest.approx(2 * (PLAN.target - CHANCE) / (first - CHANCE))
    assert more["steps_to_target"] is None, "it is lm_none's run, which has the number"
    assert [r["d"] for r in rows if r["part"] == "labels" and r["arm"] == "lm_none"] == [30, 60]
    assert row("lm_first", "joint")["grounded"] == pytest.approx(0.3)


def test_a_page_of_known_rows(planned: tuple[Path, dict[str, list[Entry]]]) -> None:
    out, _ = planned
    publish(study(out, "tiny"), out)
    found = blocks(load(out))
    verdicts = [block for block in found if isinstance(block, Verdict)]
    assert len(verdicts) == 12 and "lm_random" in verdicts[0].verdict and "lm_more" in verdicts[0].verdict
    figures = {block.name for block in found if isinstance(block, Figure)}
    assert figures == {"arms", "bridges", "curves", "costs", "compute", "labels", "label_worth", "forgetting"}
    main = next(block for block in found if isinstance(block, Table) and "held-out accuracy of a probe" in str(block))
    assert {row[0] for row in main.rows} == {arm.name for arm in ARMS}


def test_the_cpu_study_has_enough_seeds() -> None:
    plan: Scale = scale_of("cpu")
    assert len(plan.core) >= 8 and len(plan.seeds) >= 5 and 0 not in plan.core, "0 chose the bridge's learning rate"
    assert set(plan.seeds) <= set(plan.core)
    assert plan.bridge_steps % plan.every == plan.steps % (4 * plan.every) == 0, "what rows read was measured"
