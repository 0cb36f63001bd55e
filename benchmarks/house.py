"""The tree as a person would read it: function and file lengths, and which room imports which.

python benchmarks/house.py
"""

from __future__ import annotations

import ast
import statistics
from collections import Counter
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
ROOMS = ("nmm", "sweeps", "analysis")


def room(module: str) -> str:
    """nmm.data.world -> nmm/data; nmm.config -> nmm/config; sweeps.plan -> sweeps."""
    parts = module.split(".")
    return "/".join(parts[:2]) if parts[0] == "nmm" and len(parts) > 1 else parts[0]


def main() -> None:
    files = sorted(path for name in ROOMS for path in (ROOT / name).rglob("*.py"))
    lengths, arrows, functions = {}, Counter(), {}
    for path in files:
        tree = ast.parse(path.read_text(encoding="utf-8"))
        name = str(path.relative_to(ROOT))
        lengths[name] = len(path.read_text(encoding="utf-8").splitlines())
        here = room(name.removesuffix(".py").replace("/", "."))
        for node in ast.walk(tree):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                functions[f"{name}:{node.name}"] = (node.end_lineno or node.lineno) - node.lineno + 1
            targets = [a.name for a in node.names] if isinstance(node, ast.Import) else []
            targets += [node.module] if isinstance(node, ast.ImportFrom) and node.module else []
            for target in targets:
                if target.split(".")[0] in ROOMS and room(target) != here:
                    arrows[here, room(target)] += 1
    longest_file = max(lengths, key=lambda f: lengths[f])
    longest = max(functions, key=lambda f: functions[f])
    ninetieth = sorted(functions.values())[int(0.9 * len(functions))]
    median_file, median = statistics.median(lengths.values()), statistics.median(functions.values())
    print(f"{len(files)} files, {sum(lengths.values()):,} lines; median file {median_file:.0f}, ", end="")
    print(f"longest {lengths[longest_file]} ({longest_file})")
    print(f"{len(functions)} functions; median {median:.0f} lines, 90 % up to {ninetieth}, ", end="")
    print(f"longest {functions[longest]} ({longest})")
    for here in sorted({a for a, _ in arrows}):
        print(f"  {here:18} -> {', '.join(sorted(b for a, b in arrows if a == here))}")


if __name__ == "__main__":
    main()
