"""Has the kernel killed processes beside us for want of memory? A process killed so cannot say it."""

from __future__ import annotations

import re
from pathlib import Path

MEMBERSHIP = Path("/proc/self/cgroup")
ROOT = Path("/sys/fs/cgroup")


def oom_kills(membership: Path = MEMBERSHIP, root: Path = ROOT) -> int:
    """How often, in the control group of this process, since the group was made; 0 where nobody counts it.

    Children share the group: a worker that ended by SIGKILL while the number grew was, most likely, killed for memory.
    """
    try:
        lines = membership.read_text(encoding="utf-8").splitlines()
    except OSError:
        return 0
    for line in lines:
        _, controllers, group = line.split(":", 2)
        if controllers == "":  # version 2
            files = [root / group.lstrip("/") / "memory.events"]
        elif "memory" in controllers.split(","):
            files = [root / "memory" / group.lstrip("/") / "memory.oom_control", root / "memory" / "memory.oom_control"]
        else:
            continue
        for file in files:
            if found := _count(file):
                return found
    return 0


def _count(file: Path) -> int:
    try:
        found = re.search(r"^oom_kill (\d+)$", file.read_text(encoding="utf-8"), re.MULTILINE)
    except OSError:
        return 0
    return int(found[1]) if found else 0
