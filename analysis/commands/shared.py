"""What the commands share: parsers with an example, errors as one line, bars, lists and pairs from arguments."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Sequence

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, ProgressColumn, TextColumn, TimeRemainingColumn

_FILE_WIDTH = 140


def parser(program: str, description: str, examples: str) -> argparse.ArgumentParser:
    """A parser whose help ends with ``examples`` as they are."""
    return argparse.ArgumentParser(
        prog=program, description=description, epilog=examples, formatter_class=argparse.RawDescriptionHelpFormatter
    )


def guarded(work: Callable[[Console], None]) -> int:
    """Run ``work``; a mistake of the user (ValueError, a missing file) is one line on stderr and status 2."""
    try:
        console = Console()
        work(console if console.is_terminal else Console(width=_FILE_WIDTH))
    except (ValueError, OSError) as error:
        Console(stderr=True).print(f"error: {error}", style="bold red", markup=False, highlight=False)
        return 2
    return 0


def bar(console: Console, *parts: ProgressColumn | str) -> Progress:
    """A progress bar that leaves no trace: what, bar, count, ``parts``, time left."""
    whole = (*parts[:1], BarColumn(), MofNCompleteColumn(), *parts[1:], TimeRemainingColumn())
    return Progress(*whole, console=console, transient=True)


def text(template: str) -> TextColumn:
    """A column of a bar."""
    return TextColumn(template)


def words(given: str) -> tuple[str, ...]:
    """ "a, b" as ("a", "b")."""
    return tuple(word.strip() for word in given.split(",") if word.strip())


def numbers(flag: str, given: str) -> list[float]:
    """ "1e21,1e22" as numbers. Raises ``ValueError`` naming ``flag`` for anything else or a number that is not > 0."""
    found = []
    for word in words(given):
        try:
            found.append(float(word))
        except ValueError:
            raise ValueError(
                f"{flag} has {word!r}; give positive numbers separated by commas, as in 1e21,1e22"
            ) from None
    if not found or not all(0 < value < float("inf") for value in found):
        raise ValueError(f"{flag} is {given!r}; give positive numbers separated by commas, as in 1e21,1e22")
    return found


def pairs(flag: str, given: Sequence[str]) -> dict[str, str]:
    """["S=sparsity"] as {"S": "sparsity"}. Raises ``ValueError`` naming ``flag`` for an item without '='."""
    found = {}
    for item in given:
        name, sign, value = item.partition("=")
        if not (name and sign and value):
            raise ValueError(f"{flag} has {item!r}; write it as NAME=VALUE")
        if name in found:
            raise ValueError(f"{flag} names {name} twice")
        found[name] = value
    return found


def values(flag: str, given: Sequence[str]) -> dict[str, float]:
    """["E=1.69"] as {"E": 1.69}. Raises ``ValueError`` naming ``flag`` for a value that is not a number."""
    found = {}
    for name, value in pairs(flag, given).items():
        try:
            found[name] = float(value)
        except ValueError:
            raise ValueError(f"{flag} has {name}={value}; the value must be a number") from None
    return found
