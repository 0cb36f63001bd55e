"""One call of `nmm guide` once everything is known: models are loaded, here or in processes of their own, and speak."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch

from nmm.batch import END_ID
from nmm.config import ConfigError, RunConfig
from nmm.data.late_bar import LateBar
from nmm.data.loader import val_batches
from nmm.generate import Sampling, evaluating, generate, room_after
from nmm.interventions.guide import Change, Guided, Step, continue_guided, guided
from nmm.interventions.guide_command import Prepared
from nmm.interventions.guide_controls import other_pictures, permuted_delta, random_delta
from nmm.interventions.guide_nll import guided_nll
from nmm.interventions.guide_options import GuideOptions
from nmm.interventions.guide_ranks import Meeting, meeting, serve
from nmm.interventions.guide_seats import rank_of, seat
from nmm.interventions.guide_stats import KeptLogits, StepStatistics, lengths, summary
from nmm.model.decode import Cached, Prompt
from nmm.model.fusion import NativeMultimodalModel
from nmm.start import load_run

STOPS = (END_ID,)
NLL_BATCH_ROWS = 16


@dataclass
class Outcome:
    """What the base says guided and alone, token by token, and what was asked for beside."""

    guided: list[list[int]]
    base: list[list[int]]
    statistics: dict[str, Any] | None = None
    summary: list[str] = field(default_factory=list)
    base_lengths: dict[str, float] = field(default_factory=dict)
    nll: list[dict[str, Any]] = field(default_factory=list)
    steps: int = 0


class Listener:
    """A progress bar, and statistics and kept logits as far as they were asked for.

    The bar counts tokens; those that a continuation could still have had when it ended count as done.
    """

    def __init__(self, options: GuideOptions, most: Sequence[int]) -> None:
        self.statistics = StepStatistics() if options.stats else None
        self.kept = KeptLogits() if options.logits else None
        self.most = most
        self.bar = LateBar("tokens at most", sum(most))

    def __call__(self, step: Step, at: Sequence[int], numbers: Sequence[int], tokens: Sequence[int]) -> None:
        for part in (self.statistics, self.kept):
            if part is not None:
                part(step, at, numbers, tokens)
        for number, token in zip(numbers, tokens, strict=True):
            left = self.most[number] - step.number if token in STOPS else 1
            for _ in range(left):
                self.bar.advance()


def run_session(prepared: Prepared) -> Outcome | None:
    """Load, generate, measure. None in a process that only holds guides."""
    if prepared.options.parallel == "processes":
        return _in_processes(prepared)
    options = prepared.options
    device = device_of(options.device, 0)
    models = {name: _loaded(name, prepared, device) for name in prepared.configs}
    prompts = prompts_of(prepared)
    listener = Listener(options, _most(prepared, prompts))
    said = guided(
        models["base"],
        models.get("expert"),
        models.get("amateur"),
        prompts["base"],
        options.alpha,
        prepared.max_new_tokens,
        STOPS,
        options.temperature,
        options.top_p,
        options.seed,
        options.batch_rows,
        expert_prompts=prompts.get("expert"),
        amateur_prompts=prompts.get("amateur"),
        vocabulary=prepared.vocabulary,
        change=change_of(options.control, options.seed),
        parallel=options.parallel,
        listen=listener,
    )
    outcome = _outcome(prepared, said, models["base"], prompts["base"], listener)
    if options.nll:
        outcome.nll = _nll(prepared, models, device)
    return outcome


def _outcome(
    prepared: Prepared,
    said: list[list[int]],
    base: NativeMultimodalModel,
    prompts: Sequence[Prompt],
    listener: Listener,
) -> Outcome:
    """With what the base says alone, and what the listener has heard."""
    options = prepared.options
    listener.bar.close()
    alone = generate(
        base,
        prompts,
        prepared.max_new_tokens,
        STOPS,
        options.temperature,
        options.top_p,
        options.seed,
        options.batch_rows,
    )
    outcome = Outcome(said, alone, base_lengths=lengths(alone, STOPS), steps=sum(map(len, said)))
    if listener.statistics is not None and said:
        tokenizer = prepared.shards.tokenizer
        outcome.statistics = listener.statistics.report(said, STOPS, lambda token: tokenizer.decode([token]))
        outcome.summary = summary(outcome.statistics)
    if listener.kept is not None and said:
        listener.kept.save(Path(options.logits))
    return outcome


def prompts_of(prepared: Prepared) -> dict[str, list[Prompt]]:
    """What each model reads: the guides in their own ids, and with control=other_pictures, other pictures."""
    prompts = {}
    for name, begun in prepared.begun.items():
        shown = [Prompt(one.tokens, one.patches) for one in begun]
        if name != "base":
            shown = [Prompt([prepared.vocabulary.shown(token) for token in p.tokens], p.patches) for p in shown]
            if prepared.options.control == "other_pictures":
                shown = other_pictures(shown)
        prompts[name] = shown
    return prompts


def _most(prepared: Prepared, prompts: Mapping[str, Sequence[Prompt]]) -> list[int]:
    """How many tokens every continuation can have: as asked for, and as every model's context holds.

    Raises ValueError for a prompt that its model cannot read.
    """
    rooms = [room_after(_Shape(prepared.configs[name]), several) for name, several in prompts.items()]
    return [min(prepared.max_new_tokens, *each) for each in zip(*rooms, strict=True)]


@dataclass(frozen=True)
class _Shape:
    """As much of a model as a prompt has to fit."""

    config: RunConfig


def change_of(control: str, seed: int) -> Change | None:
    """What is added in place of expert - amateur."""
    match control:
        case "random":
            return random_delta(seed)
        case "permuted":
            return permuted_delta(seed)
        case _:
            return None


def device_of(name: str, local_rank: int) -> torch.device:
    """``cuda`` is the GPU of this process on its node. Raises ConfigError for a device that is not there."""
    try:
        device = torch.device(name)
        if device.type == "cuda" and device.index is None:
            device = torch.device("cuda", local_rank % max(torch.cuda.device_count(), 1))
        torch.empty(1, device=device)
    except (RuntimeError, AssertionError) as error:
        raise ConfigError(f"device={name} cannot be used here: {str(error).splitlines()[0]}") from error
    return device


def _loaded(name: str, prepared: Prepared, device: torch.device) -> NativeMultimodalModel:
    runs: Mapping[str, Path] = {"base": Path(prepared.options.base), **prepared.options.guides}
    return load_run(runs[name]).to(device)


def _nll(prepared: Prepared, models: Mapping[str, NativeMultimodalModel], device: torch.device) -> list[dict[str, Any]]:
    """Held-out loss at every alpha, on the sources the base was trained on."""
    config, options = prepared.configs["base"], prepared.options
    for name in options.guides:
        check_same_rows(name, config, prepared.configs[name])
    batches = {
        source: [
            batch.to(device)
            for batch in val_batches(
                prepared.shards,
                source,
                options.split,
                options.nll_rows,
                NLL_BATCH_ROWS,
                config.data.context_length,
                config.position_size,
            )
        ]
        for source, share in config.data.mixture.items()
        if share > 0
    }
    found = guided_nll(
        models["base"], models.get("expert"), models.get("amateur"), batches, options.nll, prepared.vocabulary
    )
    return [asdict(each) for each in found]


def check_same_rows(name: str, base: RunConfig, guide: RunConfig) -> None:
    """Raise ConfigError for a guide that was trained on pictures cut in another way, whose rows would be others."""
    seen = [
        {"data.image_size": c.data.image_size, "data.picture_size": c.data.picture_size, "data.tiles": c.data.tiles,
         "the side of a position": c.position_size}
        for c in (base, guide)
    ]  # fmt: skip
    differing = [f"{key} {seen[1][key]} (the base: {value})" for key, value in seen[0].items() if seen[1][key] != value]
    if differing:
        raise ConfigError(
            f"nll= reads rows once, as the base does, but {name} sees pictures in another way: {', '.join(differing)}. "
            "Leave out nll=, or take a guide trained on the same pictures"
        )


# ---------------------------------------------------------------------------------------------------------------------
# processes


def _in_processes(prepared: Prepared) -> Outcome | None:
    """The base in rank 0, each guide where ``rank_of`` has it."""
    options = prepared.options
    here = seat(options.processes)
    device = device_of(options.device, here.local_rank)
    with meeting(here, prepared.arguments, options.timeout) as met:
        if here.rank == 0:
            return _speak(prepared, met, device)
        prompts = prompts_of(prepared)
        roles = [role for role in options.guides if rank_of(role, here.world) == here.rank]
        models = {role: (_loaded(role, prepared, device), prompts[role]) for role in roles}
        met.connect(device)
        serve(models, met.group)
    return None


def _speak(prepared: Prepared, met: Meeting, device: torch.device) -> Outcome:
    """Rank 0: generate with the guides of the other ranks, let them go, then alone."""
    options, prompts = prepared.options, prompts_of(prepared)
    sampling = Sampling(
        prepared.max_new_tokens, STOPS, options.temperature, options.top_p, options.seed, options.batch_rows
    )
    base = _loaded("base", prepared, device)
    met.connect(device)
    guides = {role: met.away(role, prepared.configs[role], device) for role in options.guides}
    most, change = _most(prepared, prompts), change_of(options.control, options.seed)
    listener = Listener(options, most)

    def make(chosen: Sequence[int], steps: int) -> Guided:
        begun = {role: guide.begin(chosen, steps) for role, guide in guides.items()}
        decoder = Cached(base, [prompts["base"][i] for i in chosen], steps)
        return Guided(decoder, begun, options.alpha, prepared.vocabulary, chosen, change)

    with evaluating(base):
        said = continue_guided(make, most, sampling, listener)
    met.release()
    return _outcome(prepared, said, base, prompts["base"], listener)
