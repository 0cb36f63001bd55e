"""Training steps of ours against `transformers`' LlamaForCausalLM of the same size, on one core.

    python benchmarks/train_speed.py [--widths 64 256] [--vocabularies 600 4096] [--lengths 128 256] [--turns 9]

The same depth, width, heads, SwiGLU hidden width, vocabulary, rows, length and fp32 on both sides; text only, one
document a row. Ours is ``TrainingModule.training_step`` as a run calls it (with QK-norm, which Llama has not); theirs
is the loop its users write: loss from ``labels``, backward, clipping, AdamW, zero_grad. Every variant has a process of
its own, so that nobody's settings help or hurt the others; they take turns, a turn gives one ratio, and the table has
the median and the range over the turns. Processor time, which a busy machine stretches less than wall time, decides;
the ratio of wall times stands beside it.
"""

from __future__ import annotations

import argparse
import dataclasses
import itertools
import multiprocessing
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass
from multiprocessing.connection import Connection
from types import SimpleNamespace
from typing import Any

import torch

from nmm.batch import Batch
from nmm.compose import compose
from nmm.config import RunConfig
from nmm.model.build import build
from nmm.training.module import TrainingModule
from nmm.training.numerics import Numerics, compile_blocks, prepare_process

HIDDEN = {64: 192, 128: 384, 256: 704}  # 8/3 of the width, rounded up to a multiple of 64
DEPTH, STEPS_A_TURN = 4, 6
OURS, THEIRS = ("eager", "compiled"), ("llama eager", "llama eager, fused AdamW", "llama compiled")
Step = Callable[[int], None]
Seconds = tuple[float, float]  # wall, processor


@dataclass(frozen=True)
class Shape:
    """One comparison."""

    width: int
    vocabulary: int
    rows: int
    length: int
    documents: int  # in a row

    @property
    def heads(self) -> int:
        """Of 16 at width 64, of 32 at width 256."""
        return 4 if self.width == 64 else 8


def our_config(shape: Shape) -> RunConfig:
    """The config a user would compose, but for the vocabulary, which is read from shards otherwise."""
    size = [f"size.width={shape.width}", f"size.depth={DEPTH}", f"size.num_heads={shape.heads}"]
    rest = [
        f"size.hidden={HIDDEN[shape.width]}",
        f"size.mlp_ratio={HIDDEN[shape.width] / shape.width}",
        f"data.context_length={shape.length}",
        "budget.steps=100000",
    ]
    config = compose(["block=paper", *size, *rest, f"trainer.rows_per_step={shape.rows}"])
    return dataclasses.replace(config, data=dataclasses.replace(config.data, vocab_size=shape.vocabulary))


def text_batches(shape: Shape, config: RunConfig, count: int) -> list[Batch]:
    """Random tokens without images; every row ``documents`` documents of equal length."""
    generator = torch.Generator().manual_seed(0)
    B, T = shape.rows, shape.length
    at = torch.arange(T)
    document = (at * shape.documents // T).to(torch.int32).expand(B, T).contiguous()
    starts = torch.cat((torch.tensor([True]), document[0, 1:] != document[0, :-1]))
    position = at - at.where(starts, torch.zeros(())).cummax(0).values.long()
    last = torch.cat((starts[1:], torch.tensor([True])))
    M, P = config.tokens_per_image, config.data.channels * config.data.patch_size**2
    batches = []
    for _ in range(count):
        tokens = torch.randint(3, shape.vocabulary, (B, T), generator=generator)
        batches.append(
            Batch(
                tokens=tokens,
                patches=torch.zeros(0, M, P, dtype=torch.uint8),
                patch_at=torch.zeros(0, M, dtype=torch.int64),
                document=document,
                image=torch.full((B, T), -1, dtype=torch.int32),
                position=position.expand(B, T).contiguous(),
                targets=tokens.roll(-1, dims=1).masked_fill(last, 0),
                weights=(~last).float().expand(B, T).contiguous(),
                source=torch.full((B, T), 2, dtype=torch.int8),
                logprobs=torch.full((B, T), float("nan")),
                classes=torch.zeros(B, T, dtype=torch.uint8),
                row_ids=torch.zeros(B, dtype=torch.int64),
            )
        )
    return batches


def our_step(shape: Shape, compiled: bool) -> Step:
    """One update by the module that a run trains, outside Lightning's loop."""
    prepare_process(1)
    config = our_config(shape)
    batches = text_batches(shape, config, 4)
    module = TrainingModule(config, build(config), Numerics("fp32", compiled))
    trainer: Any = SimpleNamespace(world_size=1)
    module._trainer = trainer
    module.manual_backward = lambda loss: loss.backward()  # type: ignore[method-assign, misc]
    if compiled:
        compile_blocks(module.model)
    return lambda i: module.training_step(batches[i % len(batches)], i)


def their_step(shape: Shape, compiled: bool, fused: bool) -> Step:
    """The plain loop around LlamaForCausalLM. Rows hold one document each, so causal attention is all it needs."""
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.set_num_threads(1)
    llama = LlamaConfig(
        vocab_size=shape.vocabulary,
        hidden_size=shape.width,
        intermediate_size=HIDDEN[shape.width],
        num_hidden_layers=DEPTH,
        num_attention_heads=shape.heads,
        max_position_embeddings=shape.length,
        rms_norm_eps=1e-5,
        tie_word_embeddings=False,
        use_cache=False,
    )
    model: Any = LlamaForCausalLM(llama)
    model.train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3, fused=True if fused else None)
    forward = torch.compile(model) if compiled else model
    tokens = [batch.tokens for batch in text_batches(shape, our_config(shape), 4)]

    def step(i: int) -> None:
        ids = tokens[i % len(tokens)]
        loss = forward(input_ids=ids, labels=ids).loss
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
        loss.item()  # as ours reports it

    return step


def make_step(variant: str, shape: Shape) -> Step:
    """The step of a variant, everything before it done."""
    if variant in OURS:
        return our_step(shape, compiled=variant == "compiled")
    return their_step(shape, compiled="compiled" in variant, fused="fused" in variant)


def work(variant: str, shape: Shape, pipe: Connection) -> None:
    """A process of one variant: makes as many steps as it is told, answers with (wall, processor) seconds a step."""
    step = make_step(variant, shape)
    for i in range(8):
        step(i)
    pipe.send(None)
    while count := pipe.recv():
        wall, processor = time.perf_counter(), time.process_time()
        for i in range(count):
            step(i)
        pipe.send(((time.perf_counter() - wall) / count, (time.process_time() - processor) / count))


def seconds_by_variant(shape: Shape, variants: list[str], turns: int) -> dict[str, list[Seconds]]:
    """(wall, processor) seconds a step of every turn."""
    spawn = multiprocessing.get_context("spawn")
    pipes, processes = {}, []
    for variant in variants:  # one after the other: compiling is heavy
        pipes[variant], end = spawn.Pipe()
        processes.append(spawn.Process(target=work, args=(variant, shape, end), daemon=True))
        processes[-1].start()
        pipes[variant].recv()
    seconds: dict[str, list[Seconds]] = {variant: [] for variant in variants}
    for turn in range(turns):
        for variant in variants if turn % 2 else variants[::-1]:
            pipes[variant].send(STEPS_A_TURN)
            seconds[variant].append(pipes[variant].recv())
    for pipe, process in zip(pipes.values(), processes, strict=True):
        pipe.send(0)
        process.join()
    return seconds


def ratio(above: list[Seconds], below: list[Seconds], clock: int) -> str:
    """Median and range over the turns."""
    ratios = sorted(a[clock] / b[clock] for a, b in zip(above, below, strict=True))
    return f"{statistics.median(ratios):5.2f}x ({ratios[0]:.2f} to {ratios[-1]:.2f})"


def compare(shape: Shape, variants: list[str], turns: int) -> None:
    """Print tokens/s of every variant, and the ratios of ours over theirs."""
    seconds = seconds_by_variant(shape, variants, turns)
    tokens = shape.rows * shape.length
    print(f"width {shape.width}, vocabulary {shape.vocabulary}, {shape.rows} x {shape.length}")
    for variant, values in seconds.items():
        rates = [tokens / statistics.median(v) for v in zip(*values, strict=True)]
        print(f"    {variant:26} {rates[1]:8,.0f} tokens/s of processor time, {rates[0]:8,.0f} of wall time")
    for ours, theirs in itertools.product(OURS, THEIRS):
        if ours in seconds and theirs in seconds:
            by_clock = [ratio(seconds[theirs], seconds[ours], clock) for clock in (1, 0)]
            print(f"    {ours:8} over {theirs:26} {by_clock[0]}   wall {by_clock[1]}", flush=True)


def main() -> None:
    """Every combination of widths, vocabularies and lengths."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--widths", nargs="+", type=int, default=[64, 256])
    parser.add_argument("--vocabularies", nargs="+", type=int, default=[600, 4096])
    parser.add_argument("--lengths", nargs="+", type=int, default=[128, 256])
    parser.add_argument("--rows", type=int, default=8)
    parser.add_argument(
        "--documents", type=int, default=1, help="in a row; more than one costs ours a mask, not theirs"
    )
    parser.add_argument("--turns", type=int, default=9)
    parser.add_argument("--variants", nargs="+", default=[*OURS, *THEIRS])
    arguments = parser.parse_args()
    for width, vocabulary, length in itertools.product(arguments.widths, arguments.vocabularies, arguments.lengths):
        shape = Shape(width, vocabulary, arguments.rows, length, arguments.documents)
        compare(shape, arguments.variants, arguments.turns)


if __name__ == "__main__":
    main()
