"""Coordinate check of muP (arXiv 2203.03466, appendix D.1): how activations grow with the width after a few updates.

    python benchmarks/mup_check.py [--shards DIR] [--widths 32 64 128 256] [--steps 5] [--seeds 3] [--lr 0.01]
                                   [--heads grow] [--picture FILE] [KEY=VALUE ...]

For every width: mean |x| of each block's output, of the attention's q . k and of the logits, after ``--steps`` updates
at one constant learning rate, with muP and in the standard parametrisation. Printed are the slopes of log |x| over log
width: near 0 is what muP promises; the standard parametrisation grows. ``--heads grow``: two heads at any width
instead of heads of 16; the scores then start at 1 / sqrt(head_dim) and rise as queries and keys align. KEY=VALUE are
fields of a config, e.g. arch=moe block.qk_norm=none. Without --shards a small world is rendered.
"""

from __future__ import annotations

import argparse
import math
import tempfile
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from _steps import bare_module
from torch import Tensor, nn

from nmm.batch import Batch
from nmm.compose import compose
from nmm.config import RunConfig
from nmm.data.loader import to_torch
from nmm.data.shards import write_shards
from nmm.data.world import WorldConfig
from nmm.resolve import finalize
from nmm.training.module import TrainingModule
from nmm.training.numerics import Numerics, prepare_process
from nmm.training.run import rows_of, shards_of

BASE_WIDTH = 32
Scales = dict[str, list[float]]  # what is measured -> its mean |x| after 0, 1, 2, ... updates


def make_config(shards: Path, width: int, is_mup: bool, lr: float, heads: str, overrides: Sequence[str]) -> RunConfig:
    """A model of two blocks of ``width``, trained at a constant rate."""
    num_heads = 2 if heads == "grow" else width // 16
    shape = [f"size.width={width}", "size.depth=2", f"size.num_heads={num_heads}"]
    shape += [f"size.vision_width={width // 2}", "size.vision_heads=1", "arch.pairing=none"]
    rates = [f"optim.lr={lr}", f"optim.mup={str(is_mup).lower()}", f"optim.mup_width={BASE_WIDTH}"]
    rates += [f"optim.mup_head_dim={BASE_WIDTH // 2 if heads == 'grow' else 0}", "optim.grad_clip=1e9"]
    constant = ["schedule.warmup_steps=0", "schedule.cooldown_fraction=0", "budget.steps=1000"]
    return finalize(compose([f"data.path={shards}", *shape, *rates, *constant, *overrides]))


def first_batches(config: RunConfig, count: int) -> list[Batch]:
    """The first training batches."""
    rows, n = rows_of(shards_of(config), config), config.trainer.rows_per_step
    return [to_torch(rows.rows_at(step * n, n)) for step in range(count)]


def alone(config: RunConfig) -> TrainingModule:
    """A module without Lightning's loop around it, eager."""
    return bare_module(config, torch.device("cpu"), Numerics("fp32", False))


def activation_scales(config: RunConfig, steps: int) -> Scales:
    """Mean |x| on the first batch after 0..``steps`` updates, each from a batch of its own."""
    probe, *batches = first_batches(config, steps + 1)
    module, found = alone(config), defaultdict(list)
    for batch in [*batches, None]:
        with torch.no_grad(), recorded(module.model.trunk) as tensors:
            tensors["logits"] = module.model(probe).logits
        for name, tensor in tensors.items():
            found[name].append(tensor.abs().mean().item())
        if batch is not None:
            module.training_step(batch, 0)
    return dict(found)


@contextmanager
def recorded(trunk: nn.Module) -> Iterator[dict[str, Tensor]]:
    """Fill a dict with every block's output and attention scores q . k * scale while the trunk runs."""
    tensors: dict[str, Tensor] = {}
    handles = []
    for i, block in enumerate(trunk.blocks):
        handles.append(block.register_forward_hook(keep(tensors, f"block {i + 1}", lambda out: out[0])))
        attention = block.attention
        handles.append(attention.query_norm.register_forward_hook(keep(tensors, "q", lambda out: out)))
        handles.append(attention.key_norm.register_forward_hook(keep(tensors, "k", lambda out: out)))
        handles.append(attention.register_forward_hook(scores(tensors, f"attention {i + 1}")))
    yield tensors
    for handle in handles:
        handle.remove()


def keep(tensors: dict[str, Tensor], name: str, pick: Callable[[Any], Tensor]) -> Callable[..., None]:
    """A hook that stores a module's output."""

    def hook(module: nn.Module, inputs: Any, output: Any) -> None:
        tensors[name] = pick(output)

    return hook


def scores(tensors: dict[str, Tensor], name: str) -> Callable[..., None]:
    """A hook of Attention: q . k * scale from what its norms gave; rotations do not change the scale."""

    def hook(attention: Any, inputs: Any, output: Any) -> None:
        q, k = tensors.pop("q"), tensors.pop("k")
        tensors[name] = q @ k.transpose(-1, -2) * (attention.scale or attention.head_dim**-0.5)

    return hook


def slope(widths: Sequence[int], values: Sequence[float]) -> float:
    """Least-squares slope of log value over log width."""
    x, y = [math.log(w) for w in widths], [math.log(v) for v in values]
    mx, my = sum(x) / len(x), sum(y) / len(y)
    return sum((a - mx) * (b - my) for a, b in zip(x, y, strict=True)) / sum((a - mx) ** 2 for a in x)


def check(
    shards: Path, widths: Sequence[int], steps: int, seeds: int, lr: float, heads: str, overrides: Sequence[str]
) -> dict[bool, dict[str, list[float]]]:
    """muP or not -> what is measured -> its scale at every width after ``steps`` updates, geometric mean over seeds."""
    found: dict[bool, dict[str, list[float]]] = {}
    for is_mup in (True, False):
        found[is_mup] = defaultdict(list)
        for width in widths:
            logs = defaultdict(list)
            for seed in range(seeds):
                config = make_config(shards, width, is_mup, lr, heads, [*overrides, f"seed={seed}"])
                for name, values in activation_scales(config, steps).items():
                    logs[name].append(math.log(values[-1]))
            for name, values in logs.items():
                found[is_mup][name].append(math.exp(sum(values) / seeds))
    return found


def draw(found: dict[bool, dict[str, list[float]]], widths: Sequence[int], steps: int, file: Path) -> None:
    """Two panels side by side: muP, standard."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(1, 2, figsize=(9, 4), sharey=True, layout="constrained")
    for axis, is_mup in zip(axes, (True, False), strict=True):
        for name, values in found[is_mup].items():
            axis.plot(widths, values, marker="o", label=f"{name}: slope {slope(widths, values):+.2f}")
        axis.set(xscale="log", yscale="log", xlabel="width", title="muP" if is_mup else "standard, one rate")
        axis.set_xticks(widths, [str(w) for w in widths])
        axis.minorticks_off()
        axis.legend(fontsize=8)
    axes[0].set_ylabel(f"mean |x| after {steps} updates")
    figure.savefig(file, dpi=150)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shards", type=Path)
    parser.add_argument("--widths", type=int, nargs="+", default=[32, 64, 128, 256])
    parser.add_argument("--steps", type=int, default=5)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--lr", type=float, default=0.01)
    parser.add_argument("--heads", choices=("same", "grow"), default="same")
    parser.add_argument("--picture", type=Path)
    arguments, overrides = parser.parse_known_args()
    prepare_process(1)
    with tempfile.TemporaryDirectory() as folder:
        shards = arguments.shards or Path(folder) / "shards"
        if not arguments.shards:
            counts = {"caption": {"train": 200}, "interleaved": {"train": 100}, "text": {"train": 60}}
            write_shards(WorldConfig(), shards, counts, progress=False)
        settings = (arguments.widths, arguments.steps, arguments.seeds, arguments.lr, arguments.heads, overrides)
        found = check(shards, *settings)
    print(f"mean |x| after {arguments.steps} updates at rate {arguments.lr:g}; widths {arguments.widths}")
    columns = 9 * len(arguments.widths)
    print(f"{'':14}{'muP':>{columns}} {'slope':>7}{'standard':>{columns}} {'slope':>7}")
    for name in found[True]:
        cells = ""
        for values in (found[True][name], found[False][name]):
            cells += "".join(f"{v:9.3g}" for v in values) + f" {slope(arguments.widths, values):+7.2f}"
        print(f"{name:14}{cells}")
    if arguments.picture:
        draw(found, arguments.widths, arguments.steps, arguments.picture)


if __name__ == "__main__":
    main()
