"""What guided decoding costs: against the naive way, and against the base alone.

    python benchmarks/guide_speed.py [--base 512x8] [--small 256x8 128x4] [--rows 1 8 32] [--new 64]

Two questions, answered on the same models in one process, ways taking turns, median over turns of the ratio:

  speed   tokens a second of base + alpha (expert - amateur) with caches and batches, against the naive way: one prompt
          at a time, no cache, the three models one after the other
  cost    time of guided generation over that of the base alone (same batch, cached), against the ratio of their FLOPs,
          about 1 + 2 N_small / N_large; and over the three models generating alone, one after the other

Models are early fusion of given width x depth, with random weights, which changes no time; prompts are pictures with 1
to 8 words; nothing ends early. On a CPU: processor time, so that neighbours count less, and wall
time; one thread a model.
"""

from __future__ import annotations

import argparse
import dataclasses
import time
from collections.abc import Callable
from statistics import median

import torch

from nmm.batch import IMAGE_ID
from nmm.compose import compose
from nmm.config import RunConfig, from_dict, to_dict
from nmm.flops import count_params
from nmm.generate import Prompt, generate
from nmm.interventions.guide import guided
from nmm.interventions.guide_cost import generation_flops, guided_flops
from nmm.model.build import build
from nmm.model.fusion import NativeMultimodalModel

WORDS = 200
ALPHA = 0.5
Turn = tuple[float, float]  # processor seconds, wall seconds


def model_of(shape: str, new: int, seed: int, device: str) -> NativeMultimodalModel:
    """A model of WIDTHxDEPTH with heads of 64 and loud random logits, whose context holds prompt and new tokens."""
    width, depth = map(int, shape.split("x"))
    config = compose(["arch=early", "size=d64", "budget.steps=1"])
    values = to_dict(config)
    values["size"] |= {"name": shape, "width": width, "depth": depth, "num_heads": max(width // 64, 1)}
    values["data"] |= {"vocab_size": WORDS, "context_length": config.tokens_per_image + 8 + new}
    model = build(dataclasses.replace(from_dict(values), seed=seed)).to(device).eval()
    torch.nn.init.normal_(model.head.weight, std=0.1, generator=torch.Generator(device).manual_seed(seed))
    return model


def prompts_of(config: RunConfig, rows: int) -> list[Prompt]:
    """Random pictures, each followed by random words."""
    generator = torch.Generator().manual_seed(0)
    shape = (1, config.tokens_per_image, config.data.channels * config.data.patch_size**2)
    result = []
    for row in range(rows):
        words = torch.randint(3, WORDS, (1 + row % 8,), generator=generator).tolist()
        pixels = torch.randint(0, 256, shape, dtype=torch.uint8, generator=generator)
        result.append(Prompt([IMAGE_ID] * config.tokens_per_image + words, pixels))
    return result


def turns(ways: dict[str, Callable[[], object]], count: int) -> dict[str, list[Turn]]:
    """Processor and wall time of every way in every turn; each is warmed up once, then they take turns."""
    spent: dict[str, list[Turn]] = {name: [] for name in ways}
    for turn in range(count + 1):
        for name, act in ways.items():
            started, wall = time.process_time(), time.perf_counter()
            act()  # ends by fetching tokens, so a GPU has finished too
            if turn:
                spent[name].append((time.process_time() - started, time.perf_counter() - wall))
    return spent


def ratio_of(spent: dict[str, list[Turn]], one: str, other: str, clock: int) -> float:
    """Median over turns of one way's time over the other's in the same turn: what slows both down falls out."""
    return median(a[clock] / b[clock] for a, b in zip(spent[one], spent[other], strict=True))


def cost(trio: list[NativeMultimodalModel], rows: int, new: int, count: int, parallel: str) -> None:
    """One line: guided against the base alone and against three generations."""
    base, expert, amateur = trio
    some = prompts_of(base.config, rows)

    def all_alone() -> None:
        for model in trio:
            generate(model, some, new, stop_ids=(), batch_rows=rows)

    spent = turns(
        {
            "base": lambda: generate(base, some, new, stop_ids=(), batch_rows=rows),
            "guided": lambda: guided(
                base, expert, amateur, some, ALPHA, new, stop_ids=(), batch_rows=rows, parallel=parallel
            ),
            "three": all_alone,
        },
        count,
    )
    configs = [model.config for model in trio]
    length = sum(len(prompt.tokens) for prompt in some) // rows
    ratio = guided_flops(configs, length, new, 1) / generation_flops(base.config, length, new, 1)
    cpu, wall = (ratio_of(spent, "guided", "base", clock) for clock in (0, 1))
    above, above_wall = cpu / ratio - 1, wall / ratio - 1
    speed = rows * new / median(t[1] for t in spent["guided"])
    print(
        f"{rows:5} {speed:11,.0f} t/s {ratio:11.3f} {cpu:14.3f} {wall:10.3f} "
        f"{above:+12.1%} {above_wall:+10.1%} {ratio_of(spent, 'guided', 'three', 0):12.3f}",
        flush=True,
    )


def naive(trio: list[NativeMultimodalModel], rows: int, new: int, count: int) -> None:
    """One line: tokens a second of ours over those of the naive way, and whether they say the same."""
    base, expert, amateur = trio
    some = prompts_of(base.config, rows)
    said = {}

    def ours() -> None:
        said["ours"] = guided(base, expert, amateur, some, ALPHA, new, stop_ids=(), batch_rows=rows)

    def theirs() -> None:
        said["naive"] = guided(base, expert, amateur, some[:1], ALPHA, new, stop_ids=(), batch_rows=1, use_cache=False)

    spent = turns({"ours": ours, "naive": theirs}, count)
    cpu, wall = (rows * ratio_of(spent, "naive", "ours", clock) for clock in (0, 1))
    ours_s, naive_s = (median(t[1] for t in spent[name]) for name in ("ours", "naive"))
    same = "yes" if said["ours"][0] == said["naive"][0] else "NO"
    print(
        f"{rows:5} {rows * new / ours_s:11,.0f} t/s {new / naive_s:11,.1f} t/s {cpu:10.1f}x processor {wall:8.1f}x "
        f"wall   same tokens: {same}",
        flush=True,
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--base", default="512x8", metavar="WIDTHxDEPTH")
    parser.add_argument("--small", nargs="+", default=["256x8", "128x4"], metavar="WIDTHxDEPTH")
    parser.add_argument("--rows", nargs="+", type=int, default=[1, 8, 32])
    parser.add_argument("--new", type=int, default=64, help="new tokens of every row")
    parser.add_argument("--turns", type=int, default=5, help="of the cost; 0: leave it out")
    parser.add_argument("--naive-turns", type=int, default=2, help="of the naive way; 0: leave it out")
    parser.add_argument("--parallel", default="none", choices=["none", "threads"], help="of the cost: guides beside")
    parser.add_argument("--device", default="cpu")
    args = parser.parse_args()
    torch.set_num_threads(1)
    base = model_of(args.base, args.new, 0, args.device)
    large = count_params(base.config).non_embedding
    for shape in args.small:
        trio = [base, *(model_of(shape, args.new, seed, args.device) for seed in (1, 2))]
        small = count_params(trio[1].config).non_embedding
        print(
            f"\nbase {args.base} ({large:,} parameters without embedding and head), guides {shape} ({small:,} each): "
            f"1 + 2 N_small / N_large = {1 + 2 * small / large:.3f}; prompts of {base.config.tokens_per_image} patches "
            f"and 1 to 8 words, {args.new} new tokens, {args.device}, torch {torch.__version__}"
        )
        if args.turns:
            print(f"cost over the base alone, same batch, both cached, parallel={args.parallel}")
            print(" rows      guided   FLOPs ratio   processor x   wall x    above FLOPs  (wall)  of three alone")
            for rows in args.rows:
                cost(trio, rows, args.new, args.turns, args.parallel)
        if args.naive_turns:
            print("speed over the naive way (one row, no cache, three models in sequence)")
            for rows in args.rows:
                naive(trio, rows, args.new, args.naive_turns)


if __name__ == "__main__":
    main()
