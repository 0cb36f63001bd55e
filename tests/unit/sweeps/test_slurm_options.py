from __future__ import annotations

from pathlib import Path

import pytest

from nmm.config import ConfigError
from sweeps.launch_command import local_options, pairs
from sweeps.slurm.options import SlurmOptions, duration_seconds, parse_options, time_limit


def test_what_is_given_is_read_and_the_rest_is_slurm_s_own_default(tmp_path: Path) -> None:
    assert parse_options({}, tmp_path) == SlurmOptions()
    given = {
        "partition": "gpu", "account": "me", "time": "1:30:00", "max_parallel": "8", "chunk": "10min", "cpus": "4",
        "gres": "gpu:{devices}", "mem": "8G", "extra": "--qos=low -C 'a100|h100'", "workers": "2", "attempts": "5",
        "requeues": "0", "signal_seconds": "120", "dry_run": "yes",
    }  # fmt: skip
    options = parse_options(given, tmp_path)
    assert options == SlurmOptions(
        partition="gpu", account="me", time="1:30:00", max_parallel=8, chunk_seconds=600.0, cpus=4,
        gres="gpu:{devices}", mem="8G", extra=("--qos=low", "-C", "a100|h100"), workers=2, attempts=5, requeues=0,
        signal_seconds=120, dry_run=True,
    )  # fmt: skip
    assert options.useful_seconds == 5400 - 120
    assert SlurmOptions().useful_seconds is None


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"parttion": "x"}, "unknown option slurm.parttion; allowed: slurm.partition, slurm.account, slurm.time"),
        ({"time": "one hour"}, "slurm.time=one hour is not a time limit; allowed: minutes, M:S"),
        ({"time": "2:00"}, "slurm.time=2:00 is over before work begins: the signal comes 180 s ahead"),
        ({"max_parallel": "0"}, "slurm.max_parallel=0 must be a whole number of at least 1"),
        ({"cpus": "many"}, "slurm.cpus=many must be a whole number"),
        ({"chunk": "30"}, "slurm.chunk=30 is not a duration; allowed: a number and s, sec, min"),
        ({"chunk": "0min"}, "is not a duration"),
        ({"dry_run": "maybe"}, "slurm.dry_run=maybe is not one of yes, no"),
        ({"env": "missing.sh"}, "slurm.env=missing.sh: there is no such file"),
        ({"extra": "--qos='x"}, "cannot be split into words"),
        ({"extra": "--array=0-3"}, "--array=0-3 is set by the launcher itself"),
    ],
)
def test_a_mistake_names_what_is_allowed(given: dict[str, str], message: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=message.replace("(", r"\(")):
        parse_options(given, tmp_path)


@pytest.mark.parametrize(
    "extra",
    ["--array=0-3", "-a 0-3", "-a0-3", "-Ha0-3", "--arr=0-3", "--dependency=singleton", "--dep singleton",
     "-dsingleton", "--signal=TERM@5", "--no-requeue", "--no-req", "--requeue", "--open-mode=truncate",
     "--output=x", "-o x", "-ox", "--job-name=x", "-J x", "-Jx", "--parsable", "--wrap=x", "--"],
)  # fmt: skip
def test_extra_cannot_take_what_the_launcher_hangs_on(extra: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="is set by the launcher itself"):
        parse_options({"extra": f"--qos=low {extra}"}, tmp_path)


def test_extra_takes_the_rest(tmp_path: Path) -> None:
    text = "-A me --account=me -Dx --chdir=x -O --overcommit --nodes=1 --no-kill --exclude=a -wnode -H --nice=5 -G1"
    assert parse_options({"extra": text}, tmp_path).extra == tuple(text.split())


def test_the_environment_file_is_taken_where_there_is_one(tmp_path: Path) -> None:
    assert parse_options({}, tmp_path).env == ""
    (tmp_path / "slurm").mkdir()
    (tmp_path / "slurm" / "env.sh").touch()
    (tmp_path / "mine.sh").touch()
    assert parse_options({}, tmp_path).env == str(tmp_path / "slurm" / "env.sh")
    assert parse_options({"env": "mine.sh"}, tmp_path).env == str(tmp_path / "mine.sh")


@pytest.mark.parametrize(
    ("text", "seconds"),
    [("30", 1800), ("30:05", 1805), ("4:00:00", 14400), ("2-0", 172800), ("1-2:30", 95400), ("1-00:00:07", 86407)],
)
def test_time_limits_as_sbatch_reads_them(text: str, seconds: int) -> None:
    assert time_limit(text) == seconds


def test_durations() -> None:
    assert [duration_seconds("k", text) for text in ("0.5s", "30min", "2h", "1d")] == [0.5, 1800, 7200, 86400]


def test_options_of_one_launcher_are_refused_by_the_other() -> None:
    with pytest.raises(ConfigError, match=r"unknown option slurm.time for launcher=local; .* goes with launcher=slurm"):
        local_options(pairs(["slurm.time=1:00:00"]))
