"""What an error was, by which runs that failed are counted and tried again."""

from __future__ import annotations

import errno
import os

import pytest
import torch

from nmm.config import ConfigError
from nmm.data.loader import WorkerLost
from nmm.data.reading import ShardError
from nmm.data.reasons import BadSample
from nmm.record import CAUSES, CheckpointError, DiskError, RecordError
from nmm.training.code import ChangedCode
from nmm.training.failure import ChangedData, cause_of
from nmm.training.stopping import Diverged


def os_error(number: int) -> OSError:
    return OSError(number, os.strerror(number), "/somewhere")


CPU = (
    "[enforce fail at alloc_cpu.cpp:127] err == 0. DefaultCPUAllocator: can't allocate memory: you tried to allocate 9"
)

CASES: list[tuple[BaseException, str]] = [
    *((os_error(number), "disk") for number in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO)),
    *((os_error(number), "disk") for number in (errno.EROFS, errno.EACCES, errno.EPERM)),
    (os_error(errno.ENOMEM), "oom"),
    (os_error(errno.ENOENT), "error"),
    (DiskError("full"), "disk"),
    (MemoryError(), "oom"),
    (torch.OutOfMemoryError("CUDA out of memory"), "oom"),
    (RuntimeError(CPU), "oom"),
    (RuntimeError("mat1 and mat2 shapes cannot be multiplied"), "error"),
    (ShardError("cut"), "data"),
    (WorkerLost("a data worker gave no batch"), "timeout"),
    (BadSample("no_text", "empty"), "data"),
    (ChangedData("now holds shards"), "data"),
    (ConfigError("unknown key"), "config"),
    (ChangedCode("other code"), "config"),
    (CheckpointError("none matches"), "error"),
    (RecordError("another result"), "error"),
    (Diverged("nan_loss", 3, float("nan"), 1.0), "nan"),
    (ZeroDivisionError(), "error"),
]


@pytest.mark.parametrize(("error", "cause"), CASES, ids=lambda case: repr(case)[:40])
def test_the_cause_of_an_error(error: BaseException, cause: str) -> None:
    assert cause_of(error) == cause
    assert cause in CAUSES


def raised(outer: BaseException, inner: BaseException, how: str) -> BaseException:
    try:
        try:
            raise inner
        except BaseException as error:
            if how == "from":
                raise outer from error
            if how == "from none":
                raise outer from None
            raise outer  # noqa: B904 - while handling is what is tried
    except BaseException as error:
        return error


@pytest.mark.parametrize(
    ("how", "cause"), [("from", "disk"), ("while handling", "disk"), ("from none", "error")], ids=str
)
def test_the_chain_is_followed(how: str, cause: str) -> None:
    hidden = RuntimeError("PytorchStreamWriter failed writing file data/3")
    assert cause_of(raised(hidden, os_error(errno.ENOSPC), how)) == cause


def test_what_was_raised_last_says_more() -> None:
    assert cause_of(raised(ShardError("unreadable"), os_error(errno.EACCES), "from")) == "data"


def test_a_chain_that_bites_its_tail_ends() -> None:
    one, other = RuntimeError("one"), RuntimeError("other")
    one.__context__, other.__context__ = other, one
    assert cause_of(one) == "error"
