"""The real img2dataset, in an environment of its own: it wants another webdataset and another pandas than NMM."""

from __future__ import annotations

import fcntl
import hashlib
import os
import shutil
import subprocess
import sys
import venv
from pathlib import Path

from lab import ROOT

REQUIREMENTS = ("img2dataset==1.47.0", "webdataset<0.3", "pandas<3", "albumentations<2", "opencv-python-headless<5")
CACHE = ROOT / ".cache"


class NotInstalled(RuntimeError):
    """pip could not install it; the message is what pip said last."""


def installed() -> Path:
    """The command ``img2dataset``. Made once for these requirements and this Python, however many processes ask.

    Raises NotInstalled.
    """
    wanted = "\n".join((*REQUIREMENTS, sys.version)).encode()
    folder = CACHE / f"img2dataset-{hashlib.sha256(wanted).hexdigest()[:8]}"
    complete = folder / "complete"
    CACHE.mkdir(exist_ok=True)
    with open(folder.with_suffix(".lock"), "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not complete.exists():
            _install(folder)
            complete.touch()
    return folder / "bin" / "img2dataset"


def _install(folder: Path) -> None:
    shutil.rmtree(folder, ignore_errors=True)  # what an interrupted attempt left
    venv.create(folder, with_pip=True, symlinks=True)
    options = ("--quiet", "--disable-pip-version-check", "--retries=1")
    pip = [str(folder / "bin" / "python"), "-m", "pip", "install", *options, *REQUIREMENTS]
    done = subprocess.run(pip, env=_outside(), capture_output=True, text=True)
    if done.returncode:
        said = done.stderr.strip().splitlines()
        errors = [line for line in said if line.startswith("ERROR")] or said
        raise NotInstalled(f"pip cannot install {', '.join(REQUIREMENTS)}: {' '.join(errors[-3:])}")


def environment() -> dict[str, str]:
    """What it runs with: no proxy before the loopback, no look for updates."""
    quiet = {"NO_ALBUMENTATIONS_UPDATE": "1", "WANDB_MODE": "disabled", "OMP_NUM_THREADS": "1"}
    return _outside() | quiet | {"NO_PROXY": "127.0.0.1", "no_proxy": "127.0.0.1"}


def _outside() -> dict[str, str]:
    """This process's environment without what points Python to this checkout."""
    return {name: value for name, value in os.environ.items() if not name.startswith("PYTHON")}
