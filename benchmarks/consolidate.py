"""Seconds and memory of turning many run directories into one Parquet, against pandas over the same files.

    python benchmarks/consolidate.py [--runs 10000] [--new 100] [--repeats 3]

Records are a real one of a tiny run, varied. Each call is a process of its own, imports included; peak memory is its
largest resident set. The alternative is what one writes in a notebook: json.load of every file, json_normalize of the
list, to_parquet; it has no increments, no checks and no columns that mean the same for every schema. Files are read
once before anything is timed, so that both find them in the page cache. Medians over the repeats.
"""

from __future__ import annotations

import argparse
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT / "tests"))
from run_records import write_record, write_records  # noqa: E402 - records of real size, as the tests have them

OURS = "from sweeps.consolidate import table_main; table_main(sys.argv[1:])"
PLAIN = """
import json, pathlib, pandas
records = [json.loads(path.read_text()) for path in sorted(pathlib.Path(sys.argv[1]).glob("*/record.json"))]
pandas.json_normalize(records).to_parquet(sys.argv[3], index=False)
"""
MEMORY = "print(open('/proc/self/status').read().split('VmHWM:')[1].split()[0])"  # ru_maxrss begins with the parent's


def call(code: str, runs: Path, out: Path) -> tuple[float, float]:
    """Seconds and peak MB of one process."""
    command = [sys.executable, "-c", f"import sys\n{code}\n{MEMORY}", str(runs), "--out", str(out)]
    began = time.perf_counter()
    done = subprocess.run(command, env=os.environ | {"PYTHONPATH": str(ROOT)}, capture_output=True, text=True)
    seconds = time.perf_counter() - began
    if done.returncode:
        raise SystemExit(done.stderr)
    return seconds, int(done.stdout.split()[-1]) / 1024


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=10_000)
    parser.add_argument("--new", type=int, default=100, help="runs that finish between two calls (default 100)")
    parser.add_argument("--repeats", type=int, default=3)
    arguments = parser.parse_args()
    found: dict[str, list[tuple[float, float]]] = {}
    with tempfile.TemporaryDirectory() as folder:
        runs, out, plain = Path(folder) / "runs", Path(folder) / "runs.parquet", Path(folder) / "plain.parquet"
        write_records(runs, arguments.runs)
        total = sum(path.stat().st_size for path in runs.glob("*/record.json"))
        call(PLAIN, runs, plain)
        for repeat in range(arguments.repeats):
            out.with_name(f".{out.name}.cache").unlink(missing_ok=True)
            found.setdefault("pandas.json_normalize in a loop", []).append(call(PLAIN, runs, plain))
            found.setdefault("nmm sweep table, first call", []).append(call(OURS, runs, out))
            found.setdefault("nmm sweep table, nothing new", []).append(call(OURS, runs, out))
            for number in range(arguments.new):
                write_record(runs, f"new-{repeat}-{number:05d}", seed=number)
            found.setdefault(f"nmm sweep table, {arguments.new} new runs", []).append(call(OURS, runs, out))
        sizes = f"{total / 1e6:.0f} MB of JSON -> {out.stat().st_size / 1e6:.1f} MB Parquet"
        print(f"{arguments.runs} runs, {sizes} (pandas: {plain.stat().st_size / 1e6:.1f} MB)")
    base = statistics.median(seconds for seconds, _ in found["pandas.json_normalize in a loop"])
    for name, values in found.items():
        seconds, memory = (statistics.median(v[i] for v in values) for i in (0, 1))
        print(f"{name:34}  {seconds:6.2f} s  {base / seconds:5.1f}x as fast  {memory:5.0f} MB")


if __name__ == "__main__":
    main()
