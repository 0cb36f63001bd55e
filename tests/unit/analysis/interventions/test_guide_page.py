"""The page of guided decoding: what it concludes from results whose truth is known."""

from __future__ import annotations

import json
from pathlib import Path

import guide_study
import pytest

from analysis.interventions.blocks import Figure, Table, Text, Verdict
from analysis.interventions.guide import blocks
from analysis.interventions.guide_tables import closed, pairs_of
from analysis.interventions.page import write_page
from analysis.interventions.rows import Data, load
from sweeps.interventions.guide import study
from sweeps.interventions.guide_plans import CPU
from sweeps.interventions.steps import as_json


@pytest.fixture
def data(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Data:
    rows = guide_study.made_up(tmp_path / "out", monkeypatch)
    (tmp_path / "out" / "results.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (tmp_path / "out" / "study.json").write_text(json.dumps(as_json(study(tmp_path / "out", "cpu"))))
    return load(tmp_path / "out")


def test_pairs_come_by_ratio_and_close_the_gap_they_close(data):
    pairs = pairs_of(data)
    assert [pair.name for pair in pairs] == [
        "d24 guides d32", "d24 guides d48", "d32 guides d64", "d24 guides d64",
    ]  # fmt: skip
    share = (guide_study.GUIDED["d64"] - guide_study.BASE) / (guide_study.TUNED["d64"] - guide_study.BASE)
    assert closed(data, pairs[-1])[1] == pytest.approx(share)


def test_verdicts_say_what_holds_and_what_does_not(data):
    found = {block.question: block for block in blocks(data) if isinstance(block, Verdict)}
    words = {question: block.verdict for question, block in found.items()}
    assert "guided is better than base" in words["Does guidance help a large model that never was tuned?"]
    needed = found["Is the untuned small model needed, each way at its best alpha?"]
    assert needed.alarm and "No effect resolved" in needed.verdict  # the paper says otherwise
    seen = words["Does the small pair have to see the picture?"]
    assert "No effect resolved" in seen
    gate = next(block for question, block in found.items() if "gate" in question)
    assert gate.verdict == "Yes." or gate.alarm


def test_the_gate_is_an_alarm_where_a_large_model_cannot_do_it(data):
    rows = tuple({**row, "accuracy": 0.6} if row["arm"] == "forced" else row for row in data.rows)
    gate = next(block for block in blocks(Data(data.study, rows)) if isinstance(block, Verdict))
    assert gate.alarm and gate.verdict == "Not all of them."


def test_all_numbers_are_there(data):
    tables = [block for block in blocks(data) if isinstance(block, Table)]
    arms = next(table for table in tables if "by seed" in table.header)
    assert {"guided", "tuned", "vote", "oracle", "guided_opposite"} <= {row[0] for row in arms.rows}
    pairs = next(table for table in tables if "gap closed" in table.header)
    assert len(pairs.rows) == 4 and pairs.rows[0][-1].startswith("103.")  # d32: guided 0.92, tuned 0.9
    drawn = next(table for table in tables if "pass@16" in table.header)
    assert [row[0] for row in drawn.rows] == ["base", "guided", "expert", "tuned"]


def test_the_page_is_written_with_its_pictures(data, tmp_path):
    found = blocks(data)
    write_page(data.study.title, found, tmp_path / "page")
    names = {block.name for block in found if isinstance(block, Figure)}
    assert {"arms", "gap", "alpha", "alpha_loss", "alpha_pairs", "pass_at_k"} <= names
    assert all((tmp_path / "page" / f"{name}.png").stat().st_size > 5_000 for name in names)


def _asked(data: Data) -> tuple[list[str], list[str], list[Table]]:
    found = blocks(data)
    questions = [block.question for block in found if isinstance(block, Verdict)]
    texts = [block.text for block in found if isinstance(block, Text)]
    return questions, texts, [block for block in found if isinstance(block, Table)]


def test_size_equivalents_need_a_ladder_that_rises(data):
    """Where tuned models of all sizes are right about everything, none of them is as good as the guided one."""
    questions, _, tables = _asked(data)
    assert any("worth in decoding FLOPs" in question for question in questions)
    assert sum("N_eff / N, by right answers" in table.header for table in tables) == 2
    rows = tuple({**row, "accuracy": 1.0} if row["arm"] in ("tuned", "guided") else row for row in data.rows)
    flat = Data(data.study, rows)
    questions, texts, tables = _asked(flat)
    assert not any("worth in decoding FLOPs" in question for question in questions)
    assert any("N_eff" in question for question in questions)
    assert any("By right answers there is no N_eff" in text for text in texts)
    assert not any("N_eff / N, by right answers" in table.header for table in tables)


def test_guiding_and_tuning_one_size_break_even(data):
    (costs,) = (t for t in _asked(data)[2] if "questions until tuning has paid" in t.header)
    half = next(row for row in costs.rows if row[0] == "d24 guides d64" and row[2] == "0.5")
    big, small = guide_study.PARAMS["d64"], guide_study.PARAMS["d24"]
    assert half[4].startswith(f"{big / small:.3g}"[:3])
    spared, extra = 1e3 * CPU.rft_steps * (big - small), 40.0 * 2 * small
    assert float(half[-1].replace(",", "")) == pytest.approx(spared / extra, rel=0.06)
