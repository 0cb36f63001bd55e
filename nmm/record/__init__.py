"""The run directory: attempts, checkpoints on disk, the one record, and the flat table of many records. Stdlib only.

<run>/config.json               resolved, canonical; placed once
<run>/attempts/NNNN/            made with mkdir: the number is a fencing token; only its maker writes inside
    owner.json                  whose it is: host, process, SLURM task
    lock                        held while its process lives
    metrics.jsonl  log.txt
    checkpoints/step-000000123.pt + .json (size, sha256 of what was to be written)
    saved                       a mark: it has written a checkpoint, even if that is cleared away by now
    reserve                     room that its end needs on a full disk, let go then
    ended.json                  how it ended and of what (``CAUSES``); not there: without a word
<run>/record.json               published last, by link: the first finisher wins, a second one must agree
<run>/alarm-NNNN.json           attempt NNNN finished with another result than the record has

What a killed process left half written (``.*.tmp``) is cleared away when the next attempt begins, never what belongs to
one that lives, or that may live on another machine.
"""

from nmm.record.attempt import KEEP_CHECKPOINTS, Attempt, begin_attempt
from nmm.record.ending import CAUSES, ended
from nmm.record.files import (
    DISK_ERRNOS,
    CheckpointError,
    DiskError,
    RecordError,
    file_sha256,
    read_json,
    write_atomic,
    write_json,
)
from nmm.record.flat import RECORD_SCHEMA, flatten
from nmm.record.made import attempts, has_saved, is_alive, is_over
from nmm.record.owner import owner
from nmm.record.published import publish, read_record, status, write_config
from nmm.record.saved import checkpoint_at, checkpoints, newest_checkpoint
from nmm.record.table import Scan, Seen, load_table, scan

__all__ = [
    "CAUSES",
    "DISK_ERRNOS",
    "KEEP_CHECKPOINTS",
    "RECORD_SCHEMA",
    "Attempt",
    "CheckpointError",
    "DiskError",
    "RecordError",
    "Scan",
    "Seen",
    "attempts",
    "begin_attempt",
    "checkpoint_at",
    "checkpoints",
    "ended",
    "file_sha256",
    "flatten",
    "has_saved",
    "is_alive",
    "is_over",
    "load_table",
    "newest_checkpoint",
    "owner",
    "publish",
    "read_json",
    "read_record",
    "scan",
    "status",
    "write_atomic",
    "write_config",
    "write_json",
]
