"""The optional mirror: the rows of metrics.jsonl, grouped by sweep, under the attempt, and no look at the network."""

from __future__ import annotations

import json
import socket
import struct
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from lab import ROOT, child_environment, run_directory, tiny_config_on

from nmm.config import RunConfig, run_id, to_dict

# In the child: any look at the network from Python is noted and refused.
WATCH = """
import os, socket
connect = socket.socket.connect
def refuse(self, address, *rest):
    if self.family in (socket.AF_INET, socket.AF_INET6):
        with open(os.environ["NETWORK_LOG"], "a") as log:
            log.write(f"{address}\\n")
        raise OSError("the network is forbidden in this test")
    return connect(self, address, *rest)
socket.socket.connect = socket.socket.connect_ex = refuse
"""
RUN = (
    "import sys, json; from nmm.config import from_dict; from lab import train; train(from_dict(json.load(sys.stdin)))"
)


class Listener:
    """A server that wandb believes to be its own, and every proxy: whoever looks at the network is heard here."""

    def __init__(self) -> None:
        self.heard: list[bytes] = []
        self.server = socket.create_server(("127.0.0.1", 0))
        self.url = f"http://127.0.0.1:{self.server.getsockname()[1]}"
        threading.Thread(target=self._listen, daemon=True).start()

    def _listen(self) -> None:
        while True:
            try:
                caller, _ = self.server.accept()
            except OSError:
                return
            with caller:
                caller.settimeout(2)
                self.heard.append(caller.recv(200))

    def environment(self) -> dict[str, str]:
        proxies = ("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "http_proxy", "https_proxy", "WANDB_BASE_URL")
        return dict.fromkeys(proxies, self.url) | {"NO_PROXY": "", "no_proxy": ""}


@pytest.fixture(scope="module")
def mirrored(tiny_shards: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[RunConfig, Path, list]]:
    """A finished run with the mirror on, the home it ran in, and everything that was heard from it."""
    folder = tmp_path_factory.mktemp("wandb")
    config = tiny_config_on(
        tiny_shards,
        logger={"name": "wandb_offline", "project": "a-project"},
        sweep="a-sweep",
        out=str(folder / "runs"),
        trainer={"eval_every_steps": 6},
    )
    (folder / "site").mkdir()
    (folder / "home").mkdir()
    (folder / "site" / "sitecustomize.py").write_text(WATCH)
    listener, log = Listener(), folder / "network"
    paths = ":".join(str(p) for p in (folder / "site", ROOT, ROOT / "tests"))
    environment = child_environment() | listener.environment()
    environment |= {"PYTHONPATH": paths, "HOME": str(folder / "home"), "NETWORK_LOG": str(log)}
    for name in [name for name in environment if name.startswith("WANDB_") and name != "WANDB_BASE_URL"]:
        del environment[name]
    settings = json.dumps(to_dict(config))
    done = subprocess.run(
        [sys.executable, "-c", RUN], input=settings, env=environment, cwd=folder, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    listener.server.close()
    yield config, folder, [*listener.heard, *(log.read_text().splitlines() if log.exists() else [])]


def records(file: Path) -> list[Any]:
    """The protobuf records of an offline run: LevelDB's log format, in blocks of 32 KiB, after a header of 7 bytes."""
    from wandb.proto.wandb_internal_pb2 import Record

    data, at, pending, found = file.read_bytes(), 7, b"", []
    while at + 7 <= len(data):
        left = 32768 - at % 32768
        if left < 7:
            at += left
            continue
        _, length, kind = struct.unpack("<IHB", data[at : at + 7])
        pending += data[at + 7 : at + 7 + length]
        at += 7 + length
        if kind in (1, 4):  # whole, or last part
            record = Record()
            record.ParseFromString(pending)
            found.append(record)
            pending = b""
    return found


@pytest.fixture(scope="module")
def offline(mirrored: tuple[RunConfig, Path, list]) -> list[Any]:
    config, _, _ = mirrored
    (file,) = (run_directory(config) / "attempts" / "0001").glob("wandb/offline-run-*/run-*.wandb")
    return records(file)


def test_nobody_looked_at_the_network(mirrored: tuple[RunConfig, Path, list]) -> None:
    assert mirrored[2] == []


def test_it_is_grouped_by_sweep_and_named_by_run_id(mirrored: tuple[RunConfig, Path, list], offline: list[Any]) -> None:
    run = next(record.run for record in offline if record.WhichOneof("record_type") == "run")
    name = run_id(mirrored[0])
    assert (run.run_id, run.display_name, run.run_group, run.project) == (name, name, "a-sweep", "a-project")


def test_it_mirrors_every_row_of_metrics(mirrored: tuple[RunConfig, Path, list], offline: list[Any]) -> None:
    """wandb keeps one row a step: the rows of one step of metrics.jsonl together are that row."""
    expected: dict[int, dict[str, Any]] = {}
    for line in (run_directory(mirrored[0]) / "attempts/0001/metrics.jsonl").read_text().splitlines():
        row = json.loads(line)
        expected.setdefault(row["step"], {}).update(row)
    found: dict[int, dict[str, Any]] = {}
    for record in offline:
        if record.WhichOneof("record_type") == "history":
            row = {(item.key or item.nested_key[0]): json.loads(item.value_json) for item in record.history.item}
            found[row["_step"]] = {key: value for key, value in row.items() if not key.startswith("_")}
    assert found == expected
    assert sorted(found) == [2, 4, 6, 8, 10, 12]
    assert {"loss_mixture", "train_loss"} <= set(found[6]) & set(found[12])


def test_it_writes_under_its_attempt_only(mirrored: tuple[RunConfig, Path, list]) -> None:
    config, folder, _ = mirrored
    attempt = run_directory(config) / "attempts" / "0001"
    strays = [p for p in folder.rglob("*wandb*") if not p.is_relative_to(attempt)]
    assert strays == []
    assert sorted(p.name for p in folder.iterdir()) == ["home", "runs", "site"]
