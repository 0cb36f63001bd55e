"""The run directory: attempts, checkpoints on disk, the one record, and the flat table of many records. Stdlib only.

<run>/config.json               resolved, canonical
<run>/attempts/NNNN/            made with mkdir: the number is a fencing token; only its maker writes inside
    metrics.jsonl  log.txt  lock  ended.json  checkpoints/step-000000123.pt + .json (size, sha256)
<run>/record.json               published last, by link: the first finisher wins, a second one must agree
"""

from nmm.record.attempt import KEEP_CHECKPOINTS, Attempt, attempts, begin_attempt, is_alive
from nmm.record.files import (
    CheckpointError,
    RecordError,
    file_sha256,
    read_json,
    write_atomic,
    write_json,
)
from nmm.record.flat import flatten, iter_records, load_table
from nmm.record.published import publish, read_record, status, write_config
from nmm.record.saved import checkpoint_at, checkpoints, newest_checkpoint

RECORD_SCHEMA = 3  # 2: stage, result.routing, result.sft; 3: data, skipped_samples, unique tokens; tables read all

__all__ = [
    "KEEP_CHECKPOINTS",
    "RECORD_SCHEMA",
    "Attempt",
    "CheckpointError",
    "RecordError",
    "attempts",
    "begin_attempt",
    "checkpoint_at",
    "checkpoints",
    "file_sha256",
    "flatten",
    "is_alive",
    "iter_records",
    "load_table",
    "newest_checkpoint",
    "publish",
    "read_json",
    "read_record",
    "status",
    "write_atomic",
    "write_config",
    "write_json",
]
