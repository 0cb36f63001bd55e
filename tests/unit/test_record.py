"""The run directory: attempts, checkpoints on disk, the one record, the flat table. Everything with files alone."""

from __future__ import annotations

import json
import math
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any, BinaryIO

import pytest
from lab import child_environment

from nmm.record import (
    CheckpointError,
    RecordError,
    attempts,
    begin_attempt,
    checkpoint_at,
    checkpoints,
    flatten,
    is_alive,
    load_table,
    newest_checkpoint,
    publish,
    read_json,
    read_record,
    status,
    write_atomic,
    write_config,
    write_json,
)


def content(step: int) -> bytes:
    return f"weights of step {step} ".encode() * 50


def save(run: Path, *steps: int, pinned: tuple[int, ...] = ()) -> None:
    """One attempt that writes checkpoints at ``steps`` and ends."""
    attempt = begin_attempt(run)
    for step in steps:
        attempt.save_checkpoint(step, lambda file, step=step: file.write(content(step)), pinned)
    attempt.end("interrupted")


def on_disk(run: Path) -> list[str]:
    return sorted(str(path.relative_to(run / "attempts")) for path in run.rglob("checkpoints/*"))


# ------------------------------------------------------------------------------------------------------------ files


def test_write_atomic_replaces_whole_files_and_leaves_nothing_behind(tmp_path: Path) -> None:
    path = tmp_path / "new" / "file"
    write_atomic(path, lambda file: file.write(b"one"))
    write_atomic(path, lambda file: file.write(b"two"))
    assert path.read_bytes() == b"two"
    assert [p.name for p in path.parent.iterdir()] == ["file"]


def test_a_writer_that_fails_leaves_the_old_file(tmp_path: Path) -> None:
    def fails(file: BinaryIO) -> None:
        file.write(b"half")
        raise OSError("disk full")

    path = tmp_path / "file"
    write_atomic(path, lambda file: file.write(b"whole"))
    with pytest.raises(OSError, match="disk full"):
        write_atomic(path, fails)
    assert path.read_bytes() == b"whole"
    assert [p.name for p in tmp_path.iterdir()] == ["file"]


def test_json_refuses_nan_and_names_broken_files(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="not JSON compliant"):
        write_json(tmp_path / "x.json", {"loss": math.nan})
    (tmp_path / "x.json").write_text('{"half": ')
    with pytest.raises(RecordError, match=r"x.json is not valid JSON"):
        read_json(tmp_path / "x.json")


# --------------------------------------------------------------------------------------------------------- attempts


def test_attempt_numbers_are_taken_once(tmp_path: Path) -> None:
    first, second = begin_attempt(tmp_path), begin_attempt(tmp_path)
    assert [first.path.name, second.path.name] == ["0001", "0002"] == [p.name for p in attempts(tmp_path)]
    (tmp_path / "attempts" / "0007").mkdir()
    assert begin_attempt(tmp_path).path.name == "0008"


def test_a_number_taken_in_between_is_not_shared(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    mkdir = Path.mkdir

    def late(path: Path, *args: Any, **options: Any) -> None:
        if path.name == "0001" and not path.exists():
            mkdir(path)  # another process was faster
        mkdir(path, *args, **options)

    monkeypatch.setattr(Path, "mkdir", late)
    assert begin_attempt(tmp_path).path.name == "0002"


def test_what_an_attempt_writes_is_there_at_once(tmp_path: Path) -> None:
    attempt = begin_attempt(tmp_path)
    attempt.log_metrics({"step": 1, "train_loss": 2.5, "entropy": None})
    attempt.log("hello")
    assert json.loads((attempt.path / "metrics.jsonl").read_text()) == {"step": 1, "train_loss": 2.5, "entropy": None}
    assert (attempt.path / "log.txt").read_text().endswith("Z hello\n")
    with pytest.raises(ValueError, match="not JSON compliant"):
        attempt.log_metrics({"train_loss": math.nan})


def test_status_from_files_alone(tmp_path: Path) -> None:
    assert status(tmp_path) == "pending"
    attempt = begin_attempt(tmp_path)
    assert is_alive(attempt.path)
    assert status(tmp_path) == "running"
    attempt.end("failed", "Traceback ...")
    assert not is_alive(attempt.path)
    assert status(tmp_path) == "failed"
    assert read_json(attempt.path / "ended.json")["detail"] == "Traceback ..."
    publish(tmp_path, begin_attempt(tmp_path), {"status": "diverged", "result": {}})
    assert status(tmp_path) == "diverged"


def test_a_killed_process_is_not_alive(tmp_path: Path) -> None:
    code = "import sys, pathlib, time; from nmm.record import begin_attempt\n"
    code += f"attempt = begin_attempt(pathlib.Path({str(tmp_path)!r})); print('ready', flush=True); time.sleep(60)"
    with subprocess.Popen([sys.executable, "-c", code], env=child_environment(), stdout=subprocess.PIPE) as child:
        assert child.stdout is not None
        child.stdout.readline()
        assert status(tmp_path) == "running"
        child.send_signal(signal.SIGKILL)
        child.wait()
    assert status(tmp_path) == "interrupted"


# ------------------------------------------------------------------------------------------------------ checkpoints


def test_two_checkpoints_and_the_pinned_are_kept(tmp_path: Path) -> None:
    save(tmp_path, 1, 2, 3, 4, 5, pinned=(2,))
    names = [f"0001/checkpoints/step-{step:09d}.{kind}" for step in (2, 4, 5) for kind in ("json", "pt")]
    assert on_disk(tmp_path) == names
    assert [step for step, _ in checkpoints(tmp_path)] == [5, 4, 2]


def test_newest_is_the_highest_step_of_the_newest_attempt(tmp_path: Path) -> None:
    assert newest_checkpoint(tmp_path) is None
    save(tmp_path, 5)
    save(tmp_path, 3, 5)
    found = newest_checkpoint(tmp_path)
    assert found is not None
    assert (found[0], found[1].parent.parent.name) == (5, "0002")
    assert found[1].read_bytes() == content(5)


def damage(path: Path, how: str) -> None:
    data, sidecar = path.read_bytes(), path.with_suffix(".json")
    match how:
        case "cut":
            path.write_bytes(data[: len(data) // 2])
        case "one bit":
            path.write_bytes(data[:100] + bytes([data[100] ^ 1]) + data[101:])
        case "empty":
            path.write_bytes(b"")
        case "gone":
            path.unlink()
        case "sidecar cut":
            sidecar.write_bytes(sidecar.read_bytes()[:20])
        case "sidecar foreign":
            sidecar.write_text("[1, 2]")
        case "sidecar of another":
            sidecar.write_text(json.dumps({"step": 1, "bytes": len(data), "sha256": "0" * 64}))


HOW = ("cut", "one bit", "empty", "gone", "sidecar cut", "sidecar foreign", "sidecar of another")


@pytest.mark.parametrize("how", HOW)
def test_a_damaged_newest_falls_back_to_the_older(tmp_path: Path, how: str) -> None:
    save(tmp_path, 4, 8)
    newest, older = (path for _, path in checkpoints(tmp_path))
    damage(newest, how)
    assert newest_checkpoint(tmp_path) == (4, older)
    with pytest.raises(CheckpointError, match=r"no verified checkpoint at step 8 \(steps on disk: \[4, 8\]\)"):
        checkpoint_at(tmp_path, 8)
    assert checkpoint_at(tmp_path, 4) == older


@pytest.mark.parametrize("how", HOW)
def test_all_damaged_is_an_error_never_a_restart(tmp_path: Path, how: str) -> None:
    save(tmp_path, 4, 8)
    for _, path in checkpoints(tmp_path):
        damage(path, how)
    with pytest.raises(CheckpointError, match="2 checkpoints, none matches its checksum"):
        newest_checkpoint(tmp_path)


def test_a_checkpoint_without_its_sidecar_was_never_finished(tmp_path: Path) -> None:
    save(tmp_path, 4)
    (tmp_path / "attempts/0001/checkpoints/step-000000008.pt").write_bytes(content(8))
    found = newest_checkpoint(tmp_path)
    assert found is not None
    assert found[0] == 4


# -------------------------------------------------------------------------------------------------------- the record

RESULT = {"loss": {"text": 1.5}, "order_hash": "ab"}


def test_the_first_finisher_wins_and_an_agreeing_second_gets_its_record(tmp_path: Path) -> None:
    first = {"status": "done", "result": RESULT, "wall_seconds": 1.0}
    assert publish(tmp_path, begin_attempt(tmp_path), first) == first
    assert publish(tmp_path, begin_attempt(tmp_path), {**first, "wall_seconds": 2.0}) == first
    assert read_record(tmp_path) == first
    assert list(tmp_path.glob("alarm-*")) == []


def test_a_disagreeing_second_finisher_raises_an_alarm(tmp_path: Path) -> None:
    first = {"status": "done", "result": RESULT}
    publish(tmp_path, begin_attempt(tmp_path), first)
    other = {"status": "done", "result": {**RESULT, "order_hash": "cd"}}
    with pytest.raises(RecordError, match="attempt 0002 finished with another result"):
        publish(tmp_path, begin_attempt(tmp_path), other)
    assert read_record(tmp_path) == first
    assert read_json(tmp_path / "alarm-0002.json") == {"published": RESULT, "this": other["result"]}


def test_config_is_written_once(tmp_path: Path) -> None:
    write_config(tmp_path, {"run_id": "a", "identity": {"seed": 0}, "settings": {"out": "x"}})
    write_config(tmp_path, {"run_id": "a", "identity": {"seed": 0}, "settings": {"out": "y"}})
    assert read_json(tmp_path / "config.json")["settings"] == {"out": "x"}
    with pytest.raises(RecordError, match="holds another configuration"):
        write_config(tmp_path, {"run_id": "b", "identity": {"seed": 1}, "settings": {}})


# --------------------------------------------------------------------------------------------------------- the table

COLUMNS = """
run_id sweep arch size seed trunk_id status n_total n_non_embedding n_active n_active_non_embedding
n_decoder_non_embedding n_vision tokens text_tokens image_tokens flops_6nd flops_exact loss_caption loss_interleaved
loss_text loss_avg loss_mixture entropy_caption entropy_interleaved entropy_text entropy_avg entropy_mixture
colour_excess on_plateau wall_seconds tokens_per_second steps order_hash unique_tokens arm charged_flops
loss_grounded entropy_grounded
"""


def make_record(run_id: str, role: str = "run", state: str = "done") -> dict[str, Any]:
    names = ("total", "non_embedding", "active", "active_non_embedding", "decoder_non_embedding", "vision")
    sources = ("caption", "interleaved", "text", "avg", "mixture")
    return {
        "run_id": run_id,
        "sweep": "s",
        "arch": "early",
        "size": "d16",
        "seed": 0,
        "status": state,
        "role": role,
        "steps": 10,
        "lineage": {"trunk_id": "t"},
        "params": {name: 10 + i for i, name in enumerate(names)},
        "tokens": {"total": 100, "text": 60, "image": 40},
        "flops": {"6nd": 1.0, "total": 2.0},
        "on_plateau": False,
        "wall_seconds": 1.0,
        "tokens_per_second": 100.0,
        "result": {
            "loss": {name: 1.0 + i for i, name in enumerate(sources)},
            "entropy": {name: None for name in sources},
            "class_excess": {"colour": 0.5},
            "order_hash": "ab",
        },
    }


def test_a_row_has_the_promised_columns() -> None:
    row = flatten(make_record("r"))
    assert sorted(row) == sorted(COLUMNS.split())
    assert (row["n_total"], row["n_vision"], row["flops_exact"]) == (10, 15, 2.0)
    assert (row["loss_caption"], row["loss_mixture"]) == (1.0, 5.0)
    assert math.isnan(row["entropy_avg"])
    assert (row["tokens"], row["trunk_id"], row["colour_excess"]) == (100, "t", 0.5)


def test_records_of_older_schemas_have_the_same_columns(tmp_path: Path) -> None:
    """Schema 2 added what experts took, 4 which code it was: to the record, not to the table. 5 added the arm
    and what is grounded."""
    old = {**make_record("a"), "schema": 1}
    routed = {**old, "run_id": "b", "schema": 2, "result": {**old["result"], "routing": {"all": [{"layer": 0}]}}}
    counted = {**routed, "run_id": "c", "schema": 3, "data": {}, "tokens": {**old["tokens"], "unique": 90}}
    coded = {**counted, "run_id": "d", "schema": 4, "versions": {"code": "c0de", "code_history": ["c0de"]}}
    labels = {"method": "filter", "arm": "lowest", "charged_flops": 2e9}
    labelled = {**coded, "run_id": "e", "schema": 5, "intervention": labels}
    grounded = {"loss": 0.4, "entropy": 0.1, "targets": 9, "loss_tail": 0.6, "entropy_tail": None, "targets_tail": 2}
    looked = {**labelled, "run_id": "f", "result": {**labelled["result"], "grounded": grounded}}
    for record in (old, routed, counted, coded, labelled, looked):
        write_json(tmp_path / record["run_id"] / "record.json", record)
    first, second, third, fourth, fifth, sixth = load_table(tmp_path)
    assert sorted(first) == sorted(COLUMNS.split())
    assert repr({**first, "run_id": "b"}) == repr(second)  # repr: unknown entropies are NaN
    assert repr({**second, "run_id": "c", "unique_tokens": 90.0}) == repr(third)
    assert repr({**third, "run_id": "d"}) == repr(fourth)
    assert (first["arm"], first["charged_flops"]) == ("", 0.0)
    assert repr({**fourth, "run_id": "e", "arm": "lowest", "charged_flops": 2e9}) == repr(fifth)
    assert math.isnan(fifth["loss_grounded"])
    assert "loss_grounded_tail" not in fifth
    assert (sixth["loss_grounded"], sixth["entropy_grounded"], sixth["loss_grounded_tail"]) == (0.4, 0.1, 0.6)
    assert math.isnan(sixth["entropy_grounded_tail"])


def test_the_table_holds_finished_points_only(tmp_path: Path) -> None:
    for name, role, state in (
        ("a", "run", "done"),
        ("b", "trunk", "done"),
        ("c", "branch", "done"),
        ("d", "run", "diverged"),
    ):
        write_json(tmp_path / name / "record.json", make_record(name, role, state))
    (tmp_path / "e").mkdir()
    assert [row["run_id"] for row in load_table(tmp_path)] == ["a", "c"]
    with pytest.raises(RecordError, match="is not a directory"):
        load_table(tmp_path / "nowhere")
