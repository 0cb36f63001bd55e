"""Time and peak memory of early, late and MoE at matched FLOPs a token (arXiv 2504.07951, figure 4).

    python benchmarks/efficiency.py                                                    tiny sizes, this CPU
    python benchmarks/efficiency.py --accelerator gpu --sizes 275m 932m --rows 16      one GPU, bf16, compiled

Late fusion is paired with early of the same size (``arch.pairing=flops``), MoE has its active size. Every measurement
has a process of its own, so that peak memory is its own; the architectures take turns, and medians are over the turns.
Peak memory is what the process grew by (CPU), or what the allocator reached (GPU); on a CPU the compiler's own memory
would be in it, so steps are eager there unless --compile is given. ``masks`` is what building the mask once a batch
takes of a step. MFU is from the exact formula, against the best of a few large products of the same precision.
"""

from __future__ import annotations

import argparse
import json
import platform
import resource
import statistics
import subprocess
import sys
from pathlib import Path
from typing import Any

import torch
from _steps import bare_module, checked, clocks, made_up_rows, since

from nmm.compose import compose
from nmm.config import RunConfig
from nmm.flops import count_params, training_flops
from nmm.training.numerics import prepare_process
from nmm.training.outcome import peak_flops

VOCABULARY = 600  # of a CPU size; the paper's sizes bring their own


def config_of(options: argparse.Namespace, arch: str, size: str) -> RunConfig:
    """The run whose steps are timed."""
    compiled = "on" if options.compile or options.accelerator == "gpu" else "off"
    settings = [f"arch={arch}", f"size={size}", f"trainer={'gpu' if options.accelerator == 'gpu' else 'cpu'}"]
    settings += [f"trainer.rows_per_step={options.rows}", f"trainer.micro_batches={options.micro_batches}"]
    settings += [f"trainer.compile={compiled}", "budget.steps=100000", "schedule.warmup_rule=fixed"]
    settings += [f"trainer.precision={options.precision}"] if options.precision else []
    config = compose([*settings, *options.set])
    if not config.data.vocab_size:
        config = compose([*settings, *options.set, f"data.vocab_size={VOCABULARY}"])
    return checked(config)


def measure(options: argparse.Namespace, arch: str, size: str) -> dict[str, Any]:
    """One process: seconds a step (wall, processor), peak bytes, share of the masks, MFU."""
    config = config_of(options, arch, size)
    prepare_process(options.threads)
    on_gpu = config.trainer.accelerator == "gpu"
    device = torch.device("cuda" if on_gpu else "cpu")
    batch = made_up_rows(config, options.rows).to(device)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    module = bare_module(config, device)
    for step in range(options.warm):
        module.training_step(batch, step)
    start = clocks()
    for step in range(options.steps):
        module.training_step(batch, step)
    wall, processor = (value / options.steps for value in since(start))
    if on_gpu:
        memory = torch.cuda.max_memory_allocated()
    else:
        memory = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) * 1024
    positions = batch.tokens.numel()
    image, target = float((batch.image >= 0).float().mean()), float(batch.weights.mean())
    flops = training_flops(config, 1.0, image, target)["total"]
    peak = peak_flops(config.trainer.accelerator, options.threads, module.numerics.precision)
    return {
        "arch": arch,
        "size": size,
        "params": count_params(config).total,
        "active": count_params(config).active,
        "flops_per_token": flops,
        "seconds": wall,
        "processor_seconds": processor,
        "tokens_per_second": positions / wall,
        "peak_bytes": memory,
        "masks": seconds_of_masks(module, batch) / wall,
        "mfu": flops * positions / wall / peak,
        "measured_peak_flops": peak,
        "precision": module.numerics.precision,
        "compiled": module.numerics.compiled,
    }


def seconds_of_masks(module: Any, batch: Any, repeats: int = 10) -> float:
    """Wall seconds of building mask, angles and modality of a whole step's rows."""
    module.model.context(batch)
    start = clocks()
    for _ in range(repeats):
        module.model.context(batch)
    return since(start)[0] / repeats


def in_a_process(arch: str, size: str) -> dict[str, Any]:
    """``measure`` in a process of its own, with this command's other arguments."""
    command = [sys.executable, __file__, *sys.argv[1:], "--only", arch, size]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        raise SystemExit(f"{arch} {size} failed:\n{done.stderr[-2000:]}")
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return found


def medians(turns: list[dict[str, Any]]) -> dict[str, Any]:
    """The median of every number over the turns."""
    numbers = [key for key, value in turns[0].items() if isinstance(value, float | int) and not isinstance(value, bool)]
    return {**turns[0], **{key: statistics.median(turn[key] for turn in turns) for key in numbers}}


def table(found: list[dict[str, Any]]) -> list[str]:
    """A line each, with ratios to early of the same size."""
    lines = ["arch                 size   stored   FLOPs/token  tokens/s  time a FLOP   memory          MFU   masks"]
    clock = "seconds" if torch.cuda.is_available() else "processor_seconds"
    early = {entry["size"]: entry for entry in found if entry["arch"] == "early"}
    for entry in found:
        base = early.get(entry["size"], entry)
        time, reference = (e[clock] / e["flops_per_token"] for e in (entry, base))
        lines.append(
            f"{entry['arch']:20} {entry['size']:5} {entry['params'] / 1e6:7.2f}M  {entry['flops_per_token']:11.4g} "
            f"{entry['tokens_per_second']:9,.0f}  {time / reference:9.2f} x {entry['peak_bytes'] / 2**20:8.0f} MiB "
            f"{entry['peak_bytes'] / base['peak_bytes']:4.2f} x {entry['mfu']:6.1%}  {entry['masks']:6.2%}"
        )
    return lines


def main() -> None:
    """Measure in turns; print the table; write it as JSON if asked."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--archs", nargs="+", default=["early", "late", "moe"])
    parser.add_argument("--sizes", nargs="+", default=["d32", "d64", "d128"])
    parser.add_argument("--accelerator", default="cpu", choices=["cpu", "gpu"])
    parser.add_argument("--precision", default="", help="fp32 or bf16 (default: the rule of a run)")
    parser.add_argument("--rows", type=int, default=8)
    parser.add_argument("--micro-batches", type=int, default=1)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--warm", type=int, default=3)
    parser.add_argument("--steps", type=int, default=10)
    parser.add_argument("--turns", type=int, default=3)
    parser.add_argument("--compile", action="store_true")
    parser.add_argument("--set", nargs="*", default=[], metavar="KEY=VALUE", help="anything else of the config")
    parser.add_argument("--out", type=Path, help="folder for efficiency.json")
    parser.add_argument("--only", nargs=2, metavar=("ARCH", "SIZE"), help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.only:
        print(json.dumps(measure(options, *options.only)))
        return
    cells = [(arch, size) for size in options.sizes for arch in options.archs]
    turns = [[in_a_process(arch, size) for arch, size in cells] for _ in range(options.turns)]
    found = [medians([turn[i] for turn in turns]) for i in range(len(cells))]
    device = torch.cuda.get_device_name() if options.accelerator == "gpu" else f"{platform.machine()} CPU"
    print(
        f"{device}, torch {torch.__version__}, {found[0]['precision']}, {options.threads} threads, {options.rows} rows"
    )
    print(f"medians of {options.turns} processes; time and memory relative to early of the same size")
    print("\n".join(table(found)))
    if options.out:
        options.out.mkdir(parents=True, exist_ok=True)
        content = {"device": device, "torch": torch.__version__, "command": sys.argv[1:], "results": found}
        (options.out / "efficiency.json").write_text(json.dumps(content, indent=1) + "\n")
        print(f"wrote {options.out / 'efficiency.json'}")


if __name__ == "__main__":
    main()
