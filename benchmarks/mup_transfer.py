"""Which learning rate is best at every width: standard parametrisation, our rule lr_width / width, and muP.

    python benchmarks/mup_transfer.py --out DIR [--shards DIR] [--widths 24 48 96] [--steps 200] [--seeds 3]
                                      [--log2-lr -9 -8 -7 -6 -5 -4 -3] [KEY=VALUE ...]

Short runs on the world, two blocks at every width, heads of 12, warmup over a tenth and cooldown over a quarter of it.
The rule is the standard parametrisation with another axis (rate times width), so two sets of runs make three panels; at
the narrowest width, the base of muP, all three agree. Best is the vertex of a parabola in log rate through the lowest
point of the mean over seeds and its two neighbours; its range is that over single seeds. Writes mup_transfer.json and
mup_transfer.png into --out, where the runs are as well: started again, it goes on where it was.

What it cannot show: these runs are short and narrow, and the best rate also depends on their length.
"""

from __future__ import annotations

import argparse
import json
import math
import statistics
from pathlib import Path
from typing import Any

from nmm.compose import compose
from nmm.config import RunConfig, run_id
from nmm.data.shards import samples_for_tokens, write_shards
from nmm.data.world import WorldConfig
from nmm.resolve import finalize

PANELS = {"standard": "standard, one rate", "rule": "standard, rate by 1 / width", "mup": "muP"}
Curve = dict[float, list[float]]  # learning rate -> held-out loss of every seed


def make_config(options: argparse.Namespace, width: int, lr: float, is_mup: bool, seed: int) -> RunConfig:
    """One short run."""
    base, steps = options.widths[0], options.steps
    size = [f"size.name=w{width}", f"size.width={width}", "size.depth=2", f"size.num_heads={width // 12}"]
    rates = [f"optim.lr={lr}", f"optim.mup={str(is_mup and width != base).lower()}", f"optim.mup_width={base}"]
    length = [f"budget.steps={steps}", f"schedule.warmup_steps={steps // 10}", "schedule.cooldown_fraction=0.25"]
    quiet = ["trainer.compile=off", "trainer.progress=false", "data.eval_rows=64", f"seed={seed}"]
    paths = [f"out={options.out / 'runs'}", f"data.path={options.shards}"]
    return finalize(compose([*size, *rates, *length, *quiet, *paths, *options.overrides]))


def loss_of(config: RunConfig) -> float:
    """Held-out loss in nats a token, sources by their weights; infinity when the run diverged."""
    from nmm.training.run import execute

    record = execute(config, Path(config.out) / run_id(config))
    return record["result"]["loss"]["mixture"] if record["status"] == "done" else math.inf


def measure(options: argparse.Namespace) -> dict[str, dict[int, Curve]]:
    """Panel -> width -> curve. ``rule`` has the rate of the base width on its axis: rate * width / base."""
    found: dict[str, dict[int, Curve]] = {name: {w: {} for w in options.widths} for name in PANELS}
    for seed in range(options.seeds):
        for width in options.widths:
            for is_mup in (False, True):
                for exponent in options.log2_lr:
                    lr = 2.0**exponent
                    loss = loss_of(make_config(options, width, lr, is_mup, seed))
                    found["mup" if is_mup else "standard"][width].setdefault(lr, []).append(loss)
                    if not is_mup:
                        found["rule"][width].setdefault(lr * width / options.widths[0], []).append(loss)
            print(f"seed {seed}, width {width} done", flush=True)
    return found


def vertex(curve: dict[float, float]) -> float | None:
    """Rate of the parabola's vertex through the lowest point and its neighbours; None at the edge of the grid."""
    points = sorted((math.log2(lr), loss) for lr, loss in curve.items() if math.isfinite(loss))
    at = min(range(len(points)), key=lambda i: points[i][1])
    if at in (0, len(points) - 1):
        return None
    (x0, y0), (x1, y1), (x2, y2) = points[at - 1 : at + 2]
    left, right = (y1 - y0) / (x1 - x0), (y2 - y1) / (x2 - x1)
    curvature = (right - left) / (x2 - x0)
    return 2 ** ((x0 + x1) / 2 - left / (2 * curvature))


def best_rate(curve: Curve) -> dict[str, Any]:
    """The best rate of the mean over seeds, its range over seeds, and the least mean loss."""
    means = {lr: statistics.fmean(losses) for lr, losses in curve.items()}
    seeds = len(next(iter(curve.values())))
    single = [vertex({lr: losses[seed] for lr, losses in curve.items()}) for seed in range(seeds)]
    inside = [lr for lr in single if lr is not None]
    span = [min(inside), max(inside)] if len(inside) == seeds else None
    return {"lr": vertex(means), "range": span, "loss": min(means.values())}


def report(best: dict[str, dict[int, dict[str, Any]]]) -> None:
    """A line a panel and width, and by how much the best rate moves when the width doubles."""
    for name, title in PANELS.items():
        print(title)
        for width, row in best[name].items():
            span = "" if row["range"] is None else f"  seeds {row['range'][0]:.2g} .. {row['range'][1]:.2g}"
            lr = "at the edge of the grid" if row["lr"] is None else f"{row['lr']:.2g}"
            print(f"  width {width:4}  best rate {lr}{span}  loss {row['loss']:.4f}")
        rates = {w: row["lr"] for w, row in best[name].items() if row["lr"] is not None}
        first, last = min(rates), max(rates)
        drift = math.log2(rates[last] / rates[first]) / math.log2(last / first)
        print(f"  best rate from width {first} to {last}: x {2**drift:.2f} for every doubling")


def draw(found: dict[str, dict[int, Curve]], best: dict[str, dict[int, dict[str, Any]]], file: Path) -> None:
    """Three panels, one curve a width, a star at its best rate."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(1, 3, figsize=(11, 4), sharey=True, layout="constrained")
    base = min(found["mup"])
    for axis, (name, title) in zip(axes, PANELS.items(), strict=True):
        for width, curve in found[name].items():
            rates = [lr for lr in sorted(curve) if all(map(math.isfinite, curve[lr]))]
            means = [statistics.fmean(curve[lr]) for lr in rates]
            low, high = ([pick(curve[lr]) for lr in rates] for pick in (min, max))
            (line,) = axis.plot(rates, means, marker="o", markersize=4, label=f"width {width}")
            axis.fill_between(rates, low, high, color=line.get_color(), alpha=0.15, linewidth=0)
            if best[name][width]["lr"] is not None:
                axis.axvline(best[name][width]["lr"], color=line.get_color(), linestyle=":", linewidth=1)
                axis.plot(
                    best[name][width]["lr"], best[name][width]["loss"], "*", color=line.get_color(), markersize=13
                )
        axis.set(xscale="log", title=title, xlabel="peak learning rate")
        if name != "standard":
            axis.set_xlabel(f"peak learning rate at width {base}")
        axis.grid(alpha=0.3)
    lowest = min(row["loss"] for rows in best.values() for row in rows.values())
    axes[0].set(ylabel="held-out loss (nats / token)", ylim=(lowest - 0.05, lowest + 1.2))
    axes[0].legend(framealpha=1, title="shaded: range over seeds", title_fontsize=8)
    figure.savefig(file, dpi=110)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--shards", type=Path)
    parser.add_argument("--widths", type=int, nargs="+", default=[24, 48, 96])
    parser.add_argument("--steps", type=int, default=200)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--log2-lr", type=float, nargs="+", default=[-9, -8, -7, -6, -5, -4, -3])
    options, options.overrides = parser.parse_known_args()
    options.widths.sort()
    if options.shards is None:
        options.shards = options.out / "shards"
        render(options.shards, 512 * options.steps)
    found = measure(options)
    best = {name: {width: best_rate(curve) for width, curve in rows.items()} for name, rows in found.items()}
    report(best)
    (options.out / "mup_transfer.json").write_text(json.dumps({"losses": found, "best": best}, indent=1))
    draw(found, best, options.out / "mup_transfer.png")


def render(folder: Path, tokens: int) -> None:
    """A small world with enough training tokens for one run; finished shards are left as they are."""
    world = WorldConfig()
    train = samples_for_tokens(world, tokens, {"caption": 0.45, "interleaved": 0.45, "text": 0.10})
    write_shards(world, folder, {source: {"train": count, "val": 1000} for source, count in train.items()})


if __name__ == "__main__":
    main()
