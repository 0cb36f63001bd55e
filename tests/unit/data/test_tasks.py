"""Questions that a program can check: prompts end where answering begins; right answers are told from wrong ones."""

from __future__ import annotations

from pathlib import Path

import pytest
from lab import tiny_config_on
from reasoning_lab import asking_config, write_asking_shards

from nmm.batch import END_ID, IMAGE_ID
from nmm.data.manifest import Shards
from nmm.data.tasks import Task, Verifier, tasks, verifier
from nmm.training.run import shards_of


@pytest.fixture(scope="module")
def asking(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_asking_shards(tmp_path_factory.mktemp("asking") / "shards")


def opened(path: Path) -> tuple[Shards, list[Task], Verifier]:
    config = asking_config(path)
    shards = shards_of(config)
    assert isinstance(shards, Shards)
    return shards, tasks(shards, config, "val", 30), verifier(shards.tokenizer)


def test_a_prompt_ends_with_its_mark_and_what_is_told_goes_on(asking):
    shards, found, check = opened(asking)
    words = shards.tokenizer.words
    assert len(found) == 30 and {task.kind for task in found} == {"sum"}
    slow = 0
    for task in found:
        assert [words[i] for i in task.tokens[-3:]] == ["Q", "sum", "A"]
        assert task.tokens.count(IMAGE_ID) == 16 and task.patches.shape == (1, 16, 192)
        assert words[task.told[0]] in ("is", "since") and task.told[-1:] == task.answer
        assert check.is_right(task, [*task.told, END_ID])
        slow += check.is_slow(task.told)
    assert 0 < slow < 30


def test_the_final_answer_counts_whatever_the_style(asking):
    shards, found, check = opened(asking)
    ids, task = shards.tokenizer.ids, found[0]
    answer = task.answer[0]
    wrong = next(ids[word] for word in ("zero", "one", "two") if ids[word] != answer)
    fast, slow, place = ids["is"], ids["since"], ids["topleft"]
    assert check.is_right(task, [fast, answer, END_ID])
    assert check.is_right(task, [slow, place, wrong, wrong, fast, answer, END_ID])  # steps are free
    assert check.is_right(task, [fast, wrong, fast, answer, END_ID])  # the last word on it counts
    assert check.is_right(task, [fast, answer, ids["Q"]])  # the next question ends it too
    for said in (
        [fast, wrong, END_ID],
        [fast, answer],  # not brought to an end
        [fast, answer, answer, END_ID],
        [slow, answer, fast, END_ID],
        [],
        [END_ID],
    ):
        assert not check.is_right(task, said), said
    assert check.final("sum", [fast, answer]) is None
    assert check.final("sum", [answer, END_ID]) == (answer,)  # without a style it is the whole of it


def test_other_kinds_are_right_word_for_word(tiny_shards):
    config = tiny_config_on(tiny_shards)
    shards = shards_of(config)
    assert isinstance(shards, Shards)
    check = verifier(shards.tokenizer)
    assert check.marker is None and check.slow is None  # this world knows no sums
    found = tasks(shards, config, "val", 3)
    kinds = {task.kind for task in found}
    assert {"count", "colour", "left", "after", "same", "where"} <= kinds
    assert max(sum(task.kind == kind for task in found) for kind in kinds) == 3
    for task in found:
        assert task.told == task.answer
        assert check.is_right(task, [*task.answer, END_ID])
        assert not check.is_right(task, [*task.answer, *task.answer, END_ID])
        assert not check.is_right(task, list(task.answer))


def test_kinds_are_chosen_and_questions_skipped(tiny_shards):
    config = tiny_config_on(tiny_shards)
    shards = shards_of(config)
    assert isinstance(shards, Shards)
    chosen = tasks(shards, config, "val", 4, kinds=("colour", "count"))
    assert [task.kind for task in chosen] == ["colour"] * 4 + ["count"] * 4
    later = tasks(shards, config, "val", 2, kinds=("count",), skip=2)
    assert [task.tokens for task in later] == [task.tokens for task in chosen[6:]]
    with pytest.raises(ValueError, match="asks no question of kind sum"):
        tasks(shards, config, "val", 4, kinds=("sum",))
    with pytest.raises(ValueError, match="after the first 100000"):
        tasks(shards, config, "val", 4, skip=100_000)
