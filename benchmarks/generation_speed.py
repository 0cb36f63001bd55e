"""What the cache saves: tokens a second of generation with and without it, the same tokens from the same prompts.

    python benchmarks/generation_speed.py [--archs early late moe] [--sizes d64 d128] [--rows 1 8 32] [--new 256]

Prompts are pictures with 1 to 8 words, so that they have to be padded. Both ways are timed in turn in one process,
prompts included, and the fastest call of each counts; on a CPU in processor time of the one thread, so that neighbours
count less. Weights are random, which changes no time.
"""

from __future__ import annotations

import argparse
import time

import torch

from nmm.batch import IMAGE_ID
from nmm.compose import compose
from nmm.config import RunConfig, from_dict, to_dict
from nmm.generate import Prompt, generate
from nmm.model.build import build
from nmm.model.fusion import NativeMultimodalModel

WORDS = 200


def prompts(config: RunConfig, rows: int) -> list[Prompt]:
    """Random pictures, each followed by random words."""
    generator = torch.Generator().manual_seed(0)
    shape = (1, config.tokens_per_image, config.data.channels * config.data.patch_size**2)
    result = []
    for row in range(rows):
        words = torch.randint(3, WORDS, (1 + row % 8,), generator=generator).tolist()
        pixels = torch.randint(0, 256, shape, dtype=torch.uint8, generator=generator)
        result.append(Prompt([IMAGE_ID] * config.tokens_per_image + words, pixels))
    return result


def seconds(
    model: NativeMultimodalModel, some: list[Prompt], new: int, use_cache: bool
) -> tuple[float, list[list[int]]]:
    """Time of one call, and what it generated; its last act is to fetch the tokens, so a GPU has finished too."""
    clock = time.perf_counter if model.embedding.weight.is_cuda else time.process_time
    start = clock()
    tokens = generate(model, some, new, stop_ids=(), use_cache=use_cache)
    return clock() - start, tokens


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--archs", nargs="+", default=["early", "late", "moe"])
    parser.add_argument("--sizes", nargs="+", default=["d64", "d128"])
    parser.add_argument("--rows", nargs="+", type=int, default=[1, 8, 32])
    parser.add_argument("--new", type=int, default=256, help="new tokens of every row")
    parser.add_argument("--repeats", type=int, default=2)
    parser.add_argument("--device", default="cpu")
    args = parser.parse_args()
    torch.set_num_threads(1)
    print(f"{args.new} new tokens a row, {args.device}, torch {torch.__version__}")
    print(f"{'arch':6} {'size':6} {'rows':>4} {'with cache':>14} {'without':>14} {'ratio':>7}  same tokens")
    for arch in args.archs:
        for size in args.sizes:
            config = compose([f"arch={arch}", f"size={size}", "budget.steps=1"])
            data = {"vocab_size": WORDS, "context_length": config.tokens_per_image + 8 + args.new}
            config = from_dict({**to_dict(config), "data": {**to_dict(config)["data"], **data}})
            model = build(config).to(args.device)
            torch.nn.init.normal_(model.head.weight, std=0.5)
            for rows in args.rows:
                some, times, said = prompts(config, rows), {True: [], False: []}, {}
                for _ in range(args.repeats):
                    for use_cache in (True, True, False):
                        spent, said[use_cache] = seconds(model, some, args.new, use_cache)
                        times[use_cache].append(spent)
                speed = {way: rows * args.new / min(spent) for way, spent in times.items()}
                print(
                    f"{arch:6} {size:6} {rows:4} {speed[True]:10.0f} t/s {speed[False]:10.0f} t/s "
                    f"{speed[True] / speed[False]:6.1f}x  {'yes' if said[True] == said[False] else 'NO'}",
                    flush=True,
                )


if __name__ == "__main__":
    main()
