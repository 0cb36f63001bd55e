"""The facts of ``nmm.describe`` as tables for a person."""

from __future__ import annotations

from typing import Any

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table

GROUPS = "embedding head attention ffn experts router norm patch vision connector"
BYTES = {
    "weights": "weights",
    "copies": "their bf16 copies",
    "gradients": "gradients",
    "optimizer": "two moments",
    "activations": "activations",
    "logits": "logits",
    "total": "total",
}
UNITS = (("E", 1e18), ("P", 1e15), ("T", 1e12), ("B", 1e9), ("M", 1e6), ("k", 1e3))
MEMORY = {
    "ddp_kept": "ddp",
    "ddp_checkpointed": "ddp, checkpointing",
    "fsdp2_kept": "fsdp2",
    "fsdp2_checkpointed": "fsdp2, checkpointing",
}


def si(number: float, space: str = "") -> str:
    """Four digits and a unit: 274_756_000 -> '274.8M', 1_626_800_000 -> '1.627B', 512 -> '512'."""
    for unit, size in UNITS:
        if number >= size * 0.99995:
            return f"{_digits(number / size)}{space}{unit}"
    return f"{number:g}" if float(number).is_integer() else _digits(number)


def _digits(number: float) -> str:
    whole = len(str(int(number)))
    return f"{number:.{max(0, 4 - whole)}f}"


def scientific(number: float) -> str:
    """1.7e21 style, for FLOPs of whole runs."""
    return f"{number:.3e}".replace("e+", "e")


def gib(number: float) -> str:
    """Bytes in GiB, or MiB below one."""
    return f"{number / 2**30:,.1f} GiB" if number >= 2**30 else f"{number / 2**20:,.1f} MiB"


def show(facts: dict[str, Any], console: Console | None = None) -> None:
    """Print everything ``nmm.describe.describe`` found."""
    console = console or Console()
    run, params, flops = facts["run"], facts["parameters"], facts["flops_per_token"]
    shares = flops["shares"]
    console.print(f"[bold]{run['arch']} {run['size']}[/]: {_shape(run)}", highlight=False)
    console.print(_headline(params), highlight=False)
    titles = (
        "parameters",
        f"FLOPs a token, {shares['image']:.1%} of the tokens being patches and {shares['target']:.1%} scored",
        _memory_title(facts["memory"]),
    )
    for title, table in zip(titles, (_parameters(params), _flops(flops), _memory(facts["memory"])), strict=True):
        console.print(f"\n[bold]{title}[/]", highlight=False)
        console.print(table)
    console.print("\n[bold]budget[/]")
    for line in _budget(facts["budget"], run):
        console.print(f"  {line}", highlight=False)
    for note in facts["notes"]:
        console.print(f"  {note}", style="dim", highlight=False)


def _shape(run: dict[str, Any]) -> str:
    heads = f"{run['num_heads']} heads of {run['head_dim']}"
    if run["num_kv_heads"] != run["num_heads"]:
        heads += f" ({run['num_kv_heads']} of keys and values)"
    hidden = f"{run['expert_hidden']} an expert" if run["expert_hidden"] else f"{run['ffn_hidden']}"
    return f"width {run['width']}, depth {run['depth']}, {heads}, hidden {hidden}, vocabulary {run['vocab_size']:,}"


def _headline(params: dict[str, int]) -> str:
    encoder = f" + {si(params['vision_matrices'])} of the encoder" if params["vision_matrices"] else ""
    experts = f" ({si(params['paper_stored'])} with all experts)" if params["experts"] else ""
    return (
        f"N {si(params['paper'])}{encoder}{experts}: matrices, embedding and head, as arXiv 2504.07951 counts\n"
        f"stored in all: {si(params['total'])}"
    )


def _table(*columns: str) -> Table:
    table = Table(box=SIMPLE_HEAD, show_edge=False)
    for at, name in enumerate(columns):
        table.add_column(name, justify="right" if at else "left")
    return table


def _parameters(params: dict[str, int]) -> Table:
    table = _table("group", "stored", "active", "of stored")
    for name in GROUPS.split():
        active = params["experts_active"] if name == "experts" else params[name]
        if params[name]:
            table.add_row(name, si(params[name]), si(active), f"{params[name] / params['total']:.1%}")
    table.add_section()
    table.add_row("total", si(params["total"]), si(params["active"]), "")
    table.add_row("non-embedding", si(params["non_embedding"]), si(params["active_non_embedding"]), "")
    table.add_row("N of the paper", si(params["paper_stored"]), si(params["paper"]), "")
    table.add_row("N non-embedding", "", si(params["paper_non_embedding"]), "")
    if params["vision_matrices"]:
        table.add_row("N_v of the paper", si(params["vision_matrices"]), si(params["vision_matrices"]), "")
    return table


def _flops(flops: dict[str, dict[str, float]]) -> Table:
    forward, training = flops["forward"], flops["training"]
    table = _table("component", "forward", "training", "of training")
    for name, value in forward.items():
        if name != "total" and value:
            share = f"{training[name] / training['total']:.1%}"
            table.add_row(name.replace("_", " "), si(value), si(training[name]), share)
    table.add_section()
    table.add_row("exact", si(forward["total"]), si(training["total"]), "")
    six = "6 (N_v D_v + N D)" if forward["vision"] else "6 N D"
    table.add_row(six, "", si(training["6nd"]), f"{training['6nd'] / training['total']:.1%}")
    return table


def _memory_title(memory: dict[str, Any]) -> str:
    rows = f"{memory['rows_in_flight']:,} row{'s' if memory['rows_in_flight'] > 1 else ''}"
    where = f"one of {memory['ranks']} ranks" if memory["ranks"] > 1 else "one device"
    return f"memory of {where}, {rows} in flight, {memory['precision']} on a {memory['accelerator']} (estimate)"


def _memory(memory: dict[str, Any]) -> Table:
    shown = {key: label for key, label in MEMORY.items() if memory["ranks"] > 1 or key.startswith("ddp")}
    if memory["ranks"] == 1:
        shown = {key: label.replace("ddp, ", "").replace("ddp", "all kept") for key, label in shown.items()}
    table = _table("", *shown.values())
    for key, label in BYTES.items():
        if key == "total":
            table.add_section()
        if memory["ddp_kept"][key]:
            table.add_row(label, *(gib(memory[column][key]) for column in shown))
    return table


def _budget(budget: dict[str, float], run: dict[str, Any]) -> list[str]:
    devices = f"{budget['devices']:.0f} device{'s' if budget['devices'] > 1 else ''}"
    return [
        f"{si(run['tokens_per_step'])} tokens a step, {run['tokens_per_image']} tokens an image, learning rate "
        f"{run['learning_rate']:.3g}",
        f"{budget['steps']:,} steps, {si(budget['tokens'])} tokens, {si(budget['tokens_per_parameter'])} a parameter",
        f"{scientific(budget['flops'])} FLOPs, {scientific(budget['flops_6nd'])} by 6 N D",
        f"{_hours(budget['hours'])} on {devices} at {budget['mfu']:.0%} of {si(budget['peak_flops'], ' ')}FLOP/s each "
        "(--devices, --mfu, --peak)",
    ]


def _hours(hours: float) -> str:
    return f"{hours:,.1f} hours" if hours >= 1 else f"{hours * 3600:,.3g} seconds"
