"""What an error was: one of ``nmm.record.CAUSES``, by which runs that failed are counted and tried again or not."""

from __future__ import annotations

import errno
from collections.abc import Iterator

import torch

from nmm.config import ConfigError
from nmm.data.formats import UnknownFormat
from nmm.data.loader import WorkerLost
from nmm.data.reading import ShardError
from nmm.data.reasons import BadSample
from nmm.record import DISK_ERRNOS, DiskError, RecordError
from nmm.training.code import ChangedCode
from nmm.training.stopping import Diverged

CPU_OUT_OF_MEMORY = ("can't allocate memory", "not enough memory", "std::bad_alloc")  # torch has no class of its own


class ChangedData(RecordError):
    """The data are not those that the run was planned with."""


def cause_of(error: BaseException) -> str:
    """One of ``CAUSES`` but exit, which only others can see: the first that fits in the chain of errors.

    What was raised last comes first: an error of ours says more of it than the one that it was raised from.
    """
    return next((cause for one in _chain(error) if (cause := _cause(one))), "error")


def _cause(error: BaseException) -> str:
    if isinstance(error, Diverged):
        return "nan"
    if isinstance(error, ConfigError | ChangedCode):
        return "config"
    if isinstance(error, WorkerLost):
        return "timeout"
    if isinstance(error, ShardError | BadSample | UnknownFormat | ChangedData):
        return "data"
    if isinstance(error, DiskError):
        return "disk"
    if isinstance(error, MemoryError | torch.OutOfMemoryError):
        return "oom"
    if isinstance(error, OSError):
        return "oom" if error.errno == errno.ENOMEM else "disk" if error.errno in DISK_ERRNOS else ""
    if isinstance(error, RuntimeError) and any(words in str(error) for words in CPU_OUT_OF_MEMORY):
        return "oom"
    return ""


def _chain(error: BaseException) -> Iterator[BaseException]:
    """The error, what it was raised from or while handling, and so on."""
    seen: set[int] = set()
    following: BaseException | None = error
    while following is not None and id(following) not in seen:
        seen.add(id(following))
        yield following
        hidden = None if following.__suppress_context__ else following.__context__
        following = following.__cause__ or hidden
