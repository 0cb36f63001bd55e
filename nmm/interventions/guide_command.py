"""`nmm guide`: a large run guided by two small ones; what it says, beside what it says alone."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from nmm.config import ConfigError, RunConfig
from nmm.data.indexed import IndexedSources
from nmm.data.manifest import Shards
from nmm.data.tokenizer import TextTokenizer
from nmm.generate_command import Beginning, beginnings, in_lines, in_words, settings_of, shards_of
from nmm.interventions.guide_cost import token_ratio
from nmm.interventions.guide_options import GuideOptions, guide_options
from nmm.interventions.guide_vocab import Speaker, Vocabulary, align
from nmm.record import status, write_json

if TYPE_CHECKING:
    from nmm.interventions.guide_session import Outcome

HELP = """usage: nmm guide base=RUN expert=RUN amateur=RUN [KEY=VALUE ...]

Guide a large run by two small ones: at every step its logits become base + alpha (expert - amateur), where the expert
was tuned from the amateur and the base never was (ProxyThinker, arXiv 2505.24872). Printed is what it says to held-out
documents, guided and alone. Runs are run directories (their newest checkpoint) or exports.

  base=RUN expert=RUN amateur=RUN     a guide that is left out is left out of the sum
  alpha=0.5                           0 is the base alone
  source=NAME split=val count=4       documents to continue (default: caption, if there are any)
  prompt="WORDS"                      words that follow, or are all without a source
  max_new_tokens=N temperature=0 top_p=1 seed=0 batch_rows=64     as in nmm generate
  control=none                        random | permuted: that in place of expert - amateur, as long as it;
                                      other_pictures: the guides are shown the pictures of other documents
  ids=FILE                            {"ids": {"BASE ID": GUIDE ID}, "others": GUIDE ID} where vocabularies differ
  shards=DIR                          the shards of the base, if they were moved
  parallel=none                       threads: guides compute beside the base (on a GPU: on streams of their own);
                                      processes: each in a process of its own (processes=2: both guides in one)
  device=cpu timeout=600              where, and seconds in which a process must answer
  nll=[0,0.25,0.5,1] nll_rows=64      also the held-out loss at these alphas; count=0 for that alone
  stats=yes                           also what guidance did, step by step
  logits=FILE                         keep the logits of every model at every step (safetensors)
  json=FILE                           keep all of it

examples:
  nmm guide base=outputs/big expert=outputs/small_tuned amateur=outputs/small alpha=0.5 stats=yes
  nmm guide base=BIG expert=TUNED amateur=SMALL count=0 nll=[0,0.1,0.25,0.5,0.75,1,1.5]
  nmm guide base=BIG expert=TUNED amateur=SMALL source=caption prompt="Q colour topleft A" temperature=0.8
  srun --ntasks=3 --kill-on-bad-exit=1 nmm guide base=BIG expert=TUNED amateur=SMALL parallel=processes
"""


@dataclass(frozen=True)
class Prepared:
    """Everything that is known before a weight is read. ``configs``: of base, expert and amateur, where there are such.

    ``begun``: what each model reads, as many for all.
    """

    options: GuideOptions
    arguments: Sequence[str]
    configs: dict[str, RunConfig]
    shards: Shards | IndexedSources
    begun: dict[str, list[Beginning]]
    vocabulary: Vocabulary

    @property
    def max_new_tokens(self) -> int:
        """As many as the base's context holds, unless the options say."""
        given = self.options.max_new_tokens
        return self.configs["base"].data.context_length if given is None else given


def guide_main(argv: list[str]) -> int:
    """Parse the command line, generate, print."""
    if any(argument in ("-h", "--help") for argument in argv):
        print(HELP, end="")
        return 0
    prepared = prepare(guide_options(argv), argv)
    from nmm.interventions.guide_session import run_session  # torch only once everything else is known to be right

    outcome = run_session(prepared)
    if outcome is not None:  # else this process was one of the guides
        _print(prepared, outcome)
    return 0


def prepare(options: GuideOptions, arguments: Sequence[str] = ()) -> Prepared:
    """Read settings, shards and prompts. Raises ConfigError for runs that do not go together."""
    runs = {"base": Path(options.base), **options.guides}
    configs = {name: settings_of(path) for name, path in runs.items()}
    shards = shards_of(configs["base"], Path(options.shards) if options.shards else None, "shards=DIR")
    speakers = {
        name: Speaker(name, config.data.vocab_size, _tokenizer(name, config, configs["base"], shards))
        for name, config in configs.items()
    }
    ids = Path(options.ids) if options.ids else None
    vocabulary = align(speakers["base"], [speakers[name] for name in options.guides], ids)
    begun = {name: _begun(name, config, shards, options) for name, config in configs.items()}
    for name in options.guides:
        _check_same_documents(name, begun["base"], begun[name])
    return Prepared(options, arguments, configs, shards, begun, vocabulary)


def _tokenizer(name: str, config: RunConfig, base: RunConfig, shards: Shards | IndexedSources) -> TextTokenizer:
    """Of a run's data, which for most are the base's."""
    if config.data.fingerprint == base.data.fingerprint:
        return shards.tokenizer
    try:
        return shards_of(config, None, "").tokenizer
    except (ConfigError, ValueError, FileNotFoundError) as error:
        raise ConfigError(
            f"{name}={config.data.path}: its words have to be compared with the base's, but its shards cannot be "
            f"opened: {error}"
        ) from error


def _begun(name: str, config: RunConfig, shards: Shards | IndexedSources, options: GuideOptions) -> list[Beginning]:
    """The documents as this model reads them: its patches may be of another size than the base's."""
    if not options.count:
        return []
    found = beginnings(shards, config, options.source or None, options.split, options.count, options.prompt)
    if len(found) < options.count and found[0].name != "words":
        raise ConfigError(f"count={options.count}, but {options.source or 'the source'} has {len(found)} documents")
    return found


def _check_same_documents(name: str, base: list[Beginning], guide: list[Beginning]) -> None:
    """A guide with a shorter context might be shown less of a document."""
    for one, two in zip(base, guide, strict=True):
        words = [[token for token in each.tokens if token > 2] for each in (one, two)]
        if words[0] != words[1]:
            raise ConfigError(
                f"{one.name} is longer than the {name}'s context holds, so that it would read less of it than the "
                "base; take shorter documents or a model with a longer context"
            )


# ---------------------------------------------------------------------------------------------------------------------
# what is printed


def _print(prepared: Prepared, outcome: Outcome) -> None:
    options, configs = prepared.options, prepared.configs
    for path in (Path(options.base), *options.guides.values()):
        if (path / "attempts").is_dir() and status(path) != "done":
            print(f"nmm guide: {path} is {status(path)}; this is its newest checkpoint", file=sys.stderr)
    shown = _documents(prepared, outcome)
    if shown:
        print("\n".join(map(in_lines, shown)))
    slots = configs["base"].data.context_length / 2
    ratio = token_ratio(configs["base"], [configs[name] for name in options.guides], slots)
    guides = " - ".join(options.guides) if options.expert else "-amateur"
    print(f"alpha={options.alpha:g} ({guides}); {ratio:.2f}x the FLOPs of the base a token")
    for line in (*outcome.summary, *_losses(outcome)):
        print(f"  {line}")
    if options.logits:
        print(f"logits of {outcome.steps} steps: {options.logits}")
    if options.json:
        write_json(Path(options.json), _content(prepared, outcome, shown, ratio))
        print(f"all of it: {options.json}")


def _documents(prepared: Prepared, outcome: Outcome) -> list[dict[str, str]]:
    config, shards = prepared.configs["base"], prepared.shards
    rows = zip(prepared.begun["base"], outcome.guided, outcome.base, strict=True)
    return [in_words(one, {"guided": new, "base": alone}, shards, config) for one, new, alone in rows]


def _losses(outcome: Outcome) -> list[str]:
    """Held-out loss by alpha, the best one marked."""
    if not outcome.nll:
        return []
    best = min(each["loss"]["avg"] for each in outcome.nll)
    sources = [name for name in outcome.nll[0]["loss"]]
    lines = [
        f"held-out loss, {outcome.nll[0]['targets']:,} tokens",
        f"{'alpha':>7}  " + "".join(f"{s:>13}" for s in sources),
    ]
    for each in outcome.nll:
        numbers = "".join(f"{each['loss'][source]:13.4f}" for source in sources)
        lines.append(f"{each['alpha']:7g}  {numbers}" + ("  <- least" if each["loss"]["avg"] == best else ""))
    return lines


def _content(prepared: Prepared, outcome: Outcome, shown: list[dict[str, str]], ratio: float) -> dict[str, Any]:
    options = prepared.options
    return {
        "schema": 1,
        "runs": {"base": options.base, **{name: str(path) for name, path in options.guides.items()}},
        "alpha": options.alpha,
        "control": options.control,
        "sampling": {"temperature": options.temperature, "top_p": options.top_p, "seed": options.seed},
        "flops_ratio": ratio,
        "documents": shown,
        "statistics": outcome.statistics,
        "base_lengths": outcome.base_lengths,
        "nll": outcome.nll,
    }
