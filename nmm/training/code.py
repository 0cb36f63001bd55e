"""Which code a training process runs: a digest of the modules that decide numbers, and of torch's version.

A run that was stopped and went on under other code would be no one's result. So every checkpoint says which code made
it, file by file. Comments, docstrings and layout do not count.
"""

from __future__ import annotations

import ast
import dataclasses
import functools
import hashlib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch

from nmm.record import CheckpointError

ROOT = Path(__file__).resolve().parents[2]
BEGINS = "nmm.training.run"  # everything of ours that it imports, directly or not, runs in a training process

# imported, but without a say in any number: how a run is watched, recorded, refused and described
SILENT = (
    "nmm.record",
    "nmm.validation",
    "nmm.memory",
    "nmm.origin",
    "nmm.training.code",
    "nmm.training.failure",
    "nmm.training.preflight",
    "nmm.training.progress",
    "nmm.training.stopping",
)


class ChangedCode(CheckpointError):
    """A checkpoint was made by other code than is here now."""


@dataclasses.dataclass(frozen=True)
class Code:
    """``torch``: its version; ``files``: module -> digest of what it says."""

    torch: str
    files: Mapping[str, str]

    @property
    def digest(self) -> str:
        """One name for all of it, 16 hex digits."""
        whole = self.torch + "".join(f"\n{name} {digest}" for name, digest in sorted(self.files.items()))
        return hashlib.sha256(whole.encode()).hexdigest()[:16]


def differences(old: Code, new: Code) -> list[str]:
    """What changed from ``old`` to ``new``, for a person: torch's version, then modules."""
    found = [f"torch {old.torch} -> {new.torch}"] if old.torch != new.torch else []
    for name in sorted(old.files.keys() | new.files.keys()):
        if old.files.get(name) != new.files.get(name):
            how = "" if name in old.files and name in new.files else " (new)" if name in new.files else " (gone)"
            found.append(name + how)
    return found


@functools.cache
def this_code() -> Code:
    """Of this process, as its files were when it was first asked; about 0.2 s, once a process."""
    return Code(str(torch.__version__), file_digests(ROOT))


def code_fingerprint() -> str:
    """The digest of ``this_code()``."""
    return this_code().digest


def file_digests(root: Path, begins: str = BEGINS) -> dict[str, str]:
    """Module -> digest, of ``begins`` and all of ours under ``root`` that it imports and that decides numbers."""
    found: dict[str, str] = {}
    seen, waiting = {begins}, [begins]
    while waiting:
        module = waiting.pop()
        path = _file(root, module)
        if path is None or _is_silent(module):
            continue
        tree = ast.parse(path.read_bytes())
        parts: list[str] = []
        imported: set[str] = set()
        _spell(tree, parts, imported)
        found[module] = hashlib.sha256("\0".join(parts).encode()).hexdigest()[:12]
        new = {name for target in imported for name in _with_parents(target)} - seen
        seen |= new
        waiting += new
    return found


def _file(root: Path, module: str) -> Path | None:
    base = root.joinpath(*module.split("."))
    return next((p for p in (base.with_suffix(".py"), base / "__init__.py") if p.is_file()), None)


def _is_silent(module: str) -> bool:
    return module == "nmm" or any(module == name or module.startswith(name + ".") for name in SILENT)


def _with_parents(module: str) -> Iterator[str]:
    parts = module.split(".")
    if parts[0] == "nmm":
        yield from (".".join(parts[:count]) for count in range(1, len(parts) + 1))


def _spell(node: ast.AST, parts: list[str], imported: set[str]) -> None:
    """Append what the tree says to ``parts``, without docstrings, and what it imports to ``imported``.

    Empty fields are left out: later versions of Python have more of them.
    """
    if isinstance(node, ast.ImportFrom) and node.module:
        imported.update((node.module, *(f"{node.module}.{alias.name}" for alias in node.names)))
    elif isinstance(node, ast.Import):
        imported.update(alias.name for alias in node.names)
    parts.append(type(node).__name__)
    for name in node._fields:
        value: Any = getattr(node, name, None)
        if isinstance(value, ast.AST):
            _spell(value, parts, imported)
        elif isinstance(value, list):
            if name == "body" and _is_docstring(value):
                value = value[1:]
            if value:
                parts.append(f"{name}[")
                for one in value:
                    if isinstance(one, ast.AST):
                        _spell(one, parts, imported)
                    else:
                        parts.append(repr(one))
                parts.append("]")
        elif value is not None:
            parts.append(repr(value))


def _is_docstring(body: list[Any]) -> bool:
    first = body[0] if body else None
    return isinstance(first, ast.Expr) and isinstance(first.value, ast.Constant) and isinstance(first.value.value, str)
