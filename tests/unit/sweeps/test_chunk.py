from __future__ import annotations

import errno
import io
from pathlib import Path

import pytest
from rich.console import Console

from nmm.config import ConfigError
from nmm.record import RecordError
from sweeps.chunk import run_chunk
from sweeps.manifest import ManifestError, SweepError
from sweeps.slurm.submissions import chunk_end, chunk_ended, mark_cancelled, new_submission
from sweeps.status import note_failure

OPTIONS = {"attempts": 3, "workers": 1, "signal_seconds": 180, "runner": "no_such_module:execute", "forgiven": {}}


def test_an_index_or_a_submission_that_does_not_exist_is_an_error(plan) -> None:
    directory: Path = plan().path.parent
    console = Console(file=io.StringIO())
    with pytest.raises(RecordError, match=r"0001.json does not exist; `nmm sweep launch"):
        run_chunk(directory, 1, 0, console)
    new_submission(directory, "toy", "trunk", [["a"], ["b"]], OPTIONS)
    for index in (-1, 2):
        with pytest.raises(ConfigError, match="submission 1 has 2 chunks, counted from 0"):
            run_chunk(directory, 1, index, console)
    with pytest.raises(ManifestError, match="submission 1 names a, which .* does not plan"):
        run_chunk(directory, 1, 0, console)


def test_the_last_line_says_that_the_chunk_came_to_its_end(plan) -> None:
    planned, said = plan(), io.StringIO()
    run = planned.entries[0].run_id
    new_submission(planned.path.parent, "toy", "trunk", [[run]], OPTIONS)
    note_failure(planned.path.parent, run, "ConfigError: 0 GPUs", Path("log"), 1)
    assert run_chunk(planned.path.parent, 1, 0, Console(file=said)) == 1
    last = said.getvalue().splitlines()[-1]
    assert last == chunk_end(1, 0, 1) and chunk_ended(last)


def test_a_directory_that_cannot_be_written_is_one_line(plan, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise OSError(errno.EROFS, "Read-only file system")

    planned, said = plan(), io.StringIO()
    new_submission(planned.path.parent, "toy", "trunk", [[planned.entries[0].run_id]], OPTIONS)
    monkeypatch.setattr("sweeps.chunk.run_entries", refuse)
    with pytest.raises(SweepError, match="cannot be written"):
        run_chunk(planned.path.parent, 1, 0, Console(file=said))
    assert "ended with status" not in said.getvalue()


def test_a_cancelled_submission_begins_nothing(plan) -> None:
    planned, said = plan(), io.StringIO()
    directory = planned.path.parent
    made = new_submission(directory, "toy", "trunk", [[planned.entries[0].run_id]], OPTIONS)
    mark_cancelled(directory, made)
    assert run_chunk(directory, 1, 0, Console(file=said)) == 1
    assert "submission 1 was cancelled" in said.getvalue()
    assert not (directory / planned.entries[0].run_id).exists()
