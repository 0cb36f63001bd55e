"""`nmm rft`: a run whose answers are tuned by rewards, as a run of its own. No torch.

Every field of ``Options`` is explained in conf/rft.yaml.
"""

from __future__ import annotations

import dataclasses
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from nmm.config import (
    Budget,
    ConfigError,
    Parent,
    Rft,
    RunConfig,
    Schedule,
    Stage,
    Start,
    Trainer,
    group_from_dict,
    identity,
)
from nmm.interventions.options import read_options
from nmm.origin import run_digest, run_settings
from nmm.record import read_json, read_record
from nmm.resolve import finalize

USAGE = """\
usage: nmm rft run=RUN out=DIR [KEY=VALUE ...]
       nmm rft plan=PLAN.json [KEY=VALUE ...]

Tunes what a run answers to questions: answers are drawn, checked by a program, and made likelier where they are right
(group-normalised policy gradient with a divergence from the start). DIR becomes a run directory like any other: read it
with nmm generate, start from it (start=run), guide with it (nmm guide). Stopped, the same command goes on.

  run=RUN          a finished run or an export, trained on shards that ask questions
  steps=200        updates; prompts=32 questions each, samples=8 answers to each of them
  kinds=[sum]      of questions; empty: all
  temperature=1    of drawing;  kl_coef=0.01 weight of the divergence;  max_new_tokens=32 of an answer
  lr_scale=0.1     times the peak learning rate of the run; or lr=1e-3
  reward=answer    1 for a right final answer; opposite and coin are controls
  plan=FILE        several runs, one after another: {"runs": [{"run": RUN, "out": DIR, "steps": 40, ...}, ...]}
  All options: conf/rft.yaml

example: nmm rft run=outputs/runs/early-d16-run-s0-2000-0123456789 out=outputs/rft/d16 steps=200 kinds=[sum]
"""


@dataclass(frozen=True)
class Options:
    """One `nmm rft` command; the fields are those of conf/rft.yaml."""

    plan: str
    run: str
    out: str
    steps: int
    seed: int
    shards: str
    kinds: tuple[str, ...]
    pool: int
    prompts: int
    samples: int
    max_new_tokens: int
    temperature: float
    kl_coef: float
    reward: str
    lr_scale: float
    lr: float | None
    warmup_steps: int
    eval_questions: int
    micro_batches: int
    accelerator: str
    precision: str
    threads: int
    checkpoint_every_seconds: float
    checkpoint_every_steps: int
    log_every_steps: int
    progress: bool
    changed_code: str


def rft_main(argv: Sequence[str]) -> int:
    """Run one command; returns the exit status: 0 done, 3 diverged."""
    if not argv or any(a in ("-h", "--help") for a in argv):
        print(USAGE, end="")
        return 0 if argv else 2
    options = read_options(Options, "rft", argv, runs=("run",))
    several = read_plan(options) if options.plan else [options]
    status = 0
    for number, one in enumerate(several, start=1):
        record = tune(one)
        place = f"{number}/{len(several)} " if len(several) > 1 else ""
        print(place + closing_line(record, Path(one.out).absolute()), flush=True)
        if record["status"] != "done":
            status = 3
    return status


def read_plan(options: Options) -> list[Options]:
    """The options of every run of a plan: those of the command line with what the plan says of it.

    Raises ``ConfigError`` for a run or field that is wrong.
    """
    path = Path(options.plan)
    if options.run or options.out:
        raise ConfigError(f"plan={options.plan} with run= or out=: a plan names the runs and where they go")
    if not path.is_file():
        raise ConfigError(f"plan={options.plan} is not a file")
    content = read_json(path)
    if not isinstance(content, dict) or not content.get("runs"):
        raise ConfigError(f'plan={path} must hold {{"runs": [...]}} with at least one run')
    common = {**dataclasses.asdict(options), "plan": ""}
    try:
        return [group_from_dict(Options, {**common, **values}) for values in content["runs"]]
    except (ConfigError, TypeError) as error:
        raise ConfigError(f"plan={path}: {error}") from error


def tune(options: Options) -> dict[str, Any]:
    """The record of one run, made now or before. Raises ``Interrupted`` when a signal stops it."""
    config, directory = tuned_config(options), Path(options.out).absolute()
    record = _finished(directory, config)
    if record is not None:
        return record
    from nmm.interventions.rft_run import reinforce  # torch only once there is something to do
    from nmm.training.run import execute
    from nmm.training.stopping import Interrupted

    try:
        return execute(config, directory, reinforce)
    except Interrupted as stopped:
        print(f"nmm rft: {stopped}", file=sys.stderr)
        raise


def tuned_config(options: Options) -> RunConfig:
    """The finalized config of the tuned run: the model and data of the run, the rest from the options.

    Raises ``ConfigError`` for a run that is none or not finished, for shards that changed, and for impossible options.
    """
    run = Path(options.run)
    for name in ("run", "out"):
        if not getattr(options, name):
            raise ConfigError(f"{name}= is missing: nmm rft run=RUN out=DIR")
    if not (run / "config.json").is_file():
        raise ConfigError(f"run={options.run} holds no config.json; give a run directory or what `nmm export` wrote")
    run_digest(run, "run")  # else the message were about start.path, which nobody gave
    origin = run_settings(run)
    if options.lr is None and not options.lr_scale > 0:
        raise ConfigError(f"lr_scale={options.lr_scale} must be greater than 0")
    lr = options.lr_scale * origin.learning_rate if options.lr is None else options.lr
    data = dataclasses.replace(origin.data, path=options.shards or origin.data.path)
    if not data.sources and not (Path(data.path) / "manifest.json").is_file():
        raise ConfigError(f"the shards of run={run} are not at {data.path}; say where they are with shards=DIR")
    trainer = Trainer(
        rows_per_step=options.prompts * options.samples,
        compile="off",
        **{name: getattr(options, name) for name in _TRAINER},
    )
    config = dataclasses.replace(
        origin,
        sweep="rft",
        out=str(Path(options.out).absolute().parent),
        seed=options.seed,
        role="run",
        keep_steps=(),
        parent=Parent(),
        start=Start(kind="run", path=str(run)),
        stage=Stage(name="rft", eval_questions=options.eval_questions),
        data=data,
        optim=dataclasses.replace(origin.optim, lr=lr, spike_factor=0.0),  # of a loss around 0 no ratio has a meaning
        schedule=Schedule(warmup_steps=min(options.warmup_steps, options.steps), cooldown_fraction=0.0),
        budget=Budget(steps=options.steps),
        trainer=trainer,
        rft=Rft(**{field.name: getattr(options, field.name) for field in dataclasses.fields(Rft)}),
    )
    return finalize(config)


_TRAINER = (
    "micro_batches", "accelerator", "precision", "threads", "checkpoint_every_seconds", "checkpoint_every_steps",
    "log_every_steps", "progress", "changed_code",
)  # fmt: skip


def _finished(directory: Path, config: RunConfig) -> dict[str, Any] | None:
    """The record of this very run, if it has one. Raises ``ConfigError`` when the directory holds another run."""
    path = directory / "config.json"
    if path.exists() and read_json(path)["identity"] != identity(config):
        raise ConfigError(f"out={directory} holds another run than this command would make; give another directory")
    return read_record(directory)


def closing_line(record: dict[str, Any], directory: Path) -> str:
    """What was reached, and where it is."""
    result = record["result"]
    if record["status"] != "done":
        return f"{record['status']}: {result['error']} -> {directory / 'record.json'}"
    before, after, last = result["rft"]["before"], result["rft"]["after"], result["rft"]["curve"][-1]
    return (
        f"done: {record['steps']} steps, held-out answers right {before['accuracy']['avg']:.3f} -> "
        f"{after['accuracy']['avg']:.3f} (greedy), words an answer {before['length']:.1f} -> {after['length']:.1f}, "
        f"reward {last['reward']:.2f}, divergence {last['kl']:.3f} nats a token -> {directory / 'record.json'}"
    )
