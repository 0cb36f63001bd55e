"""`nmm generate`: let a run continue held-out documents, or words of yours, and see what it says."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path
from typing import TypeAlias

import numpy as np

from nmm.batch import IMAGE_ID, SOURCES, Skipped
from nmm.config import ConfigError, RunConfig
from nmm.data.decoded import open_decoded
from nmm.data.indexed import IndexedCorpus, IndexedSources
from nmm.data.manifest import Shards
from nmm.data.opening import open_data
from nmm.data.window import gather_documents
from nmm.origin import only_one, run_settings
from nmm.record import status

Content: TypeAlias = tuple[list[int], np.ndarray]
OPENING = 3  # words shown of a document without images

EXAMPLES = """\
A document is shown up to its last image, or its first 3 words if it has none; the run says the rest.

examples:
  nmm generate RUN                                                    captions of 4 held-out pictures
  nmm generate RUN --source interleaved --count 2 --temperature 0.8   with draws instead of the likeliest words
  nmm generate RUN --source caption --prompt "Q colour topleft A"     a question about each picture
  nmm generate RUN --prompt "one object : topleft"                    words alone
"""


@dataclass(frozen=True)
class Beginning:
    """What the run is shown and, for a document, how it goes on. ``patches`` (I, M, P) uint8."""

    name: str
    tokens: list[int]
    patches: np.ndarray | None
    truth: list[int]


def generate_main(argv: list[str]) -> int:
    """Parse the command line, generate, print."""
    options = _parser().parse_args(argv)
    options.run = only_one(options.run)
    config = settings_of(options.run)
    shards = shards_of(config, options.shards)
    if options.count < 1:
        raise ConfigError(f"--count {options.count} must be at least 1")
    begun = beginnings(shards, config, options.source, options.split, options.count, options.prompt)
    from nmm.generate import Prompt, generate  # torch only once everything else is known to be right
    from nmm.start import load_run

    model = load_run(options.run)
    said = generate(
        model,
        [Prompt(one.tokens, one.patches) for one in begun],
        config.data.context_length if options.max_new_tokens is None else options.max_new_tokens,
        temperature=options.temperature,
        top_p=options.top_p,
        seed=options.seed,
    )
    shown = [in_words(one, {"generated": new}, shards, config) for one, new in zip(begun, said, strict=True)]
    if (options.run / "attempts").is_dir() and status(options.run) != "done":
        print(f"nmm generate: {options.run} is {status(options.run)}; this is its newest checkpoint", file=sys.stderr)
    print(json.dumps(shown, indent=1) if options.json else "\n".join(map(in_lines, shown)))
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="nmm generate",
        description=__doc__,
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("run", type=Path, metavar="RUN", help="a run directory (its newest checkpoint) or an export")
    parser.add_argument("--source", metavar="NAME", help="documents to continue (default: caption, if there are any)")
    parser.add_argument("--split", default="val", help="train or val; rendered shards have test too (default: val)")
    parser.add_argument("--count", type=int, default=4, help="documents, the first ones of the split (default: 4)")
    parser.add_argument("--prompt", default="", metavar="WORDS", help="words that follow, or are all without --source")
    parser.add_argument("--max-new-tokens", type=int, metavar="N", help="default: as many as the context length holds")
    parser.add_argument("--temperature", type=float, default=0.0, help="0 takes the likeliest word (default)")
    parser.add_argument("--top-p", type=float, default=1.0, help="draw from the words that reach this probability")
    parser.add_argument("--seed", type=int, default=0, help="of the draws")
    parser.add_argument("--shards", type=Path, metavar="DIR", help="data.path now, if the run's shards were moved")
    parser.add_argument("--json", action="store_true", help="print a JSON list")
    return parser


def settings_of(run: Path) -> RunConfig:
    """The config of a run or an export. Raises ``ConfigError`` for a directory that is neither."""
    if not (run / "config.json").is_file():
        raise ConfigError(
            f"{run} holds no config.json; give a run directory (outputs/runs/RUN_ID) or what `nmm export` wrote"
        )
    return run_settings(run)


def shards_of(config: RunConfig, moved_to: Path | None, option: str = "--shards DIR") -> Shards | IndexedSources:
    """The shards the run was trained on: its vocabulary is theirs.

    Raises ``ConfigError`` when they are not there any more, or are others; ``option`` is where a user says where they
    are, empty for a command that has none.
    """
    fix = f"say where those are with {option}" if option else "put those back"
    path = moved_to or Path(config.data.path)
    if moved_to is None and not config.data.sources and not (path / "manifest.json").is_file():
        raise ConfigError(f"the run's shards are not at {path} any more; {fix}")
    shards = open_data(replace(config.data, path=str(path)))
    if shards.fingerprint != config.data.fingerprint:
        raise ConfigError(
            f"{path} holds shards {shards.fingerprint[:12]}, the run was trained on {config.data.fingerprint[:12]}, "
            f"whose words may have other ids; {fix}"
        )
    return shards


def beginnings(
    shards: Shards | IndexedSources, config: RunConfig, source: str | None, split: str, count: int, prompt: str
) -> list[Beginning]:
    """What was asked for: ``count`` documents, documents with the words of ``prompt`` after them, or words alone."""
    words = shards.tokenizer.encode(prompt)
    if words and source is None:
        return [Beginning("words", words, None, [])]
    source = source or ("caption" if "caption" in shards.names else shards.names[0])
    if source not in shards.names:
        raise ConfigError(f"source {source} is none of the run's: {', '.join(shards.names)}")
    found = islice(documents(shards, config, source, split), count)
    return [replace(one, tokens=one.tokens + words, truth=[]) if words else one for one in found]


def documents(shards: Shards | IndexedSources, config: RunConfig, source: str, split: str) -> Iterator[Beginning]:
    """The documents of one source and split in order, cut to the run's context length, as beginning and truth."""
    contents = (
        _read(shards, config, source, split)
        if isinstance(shards, IndexedSources)
        else _decoded(shards, config, source, split)
    )
    for number, (tokens, images) in enumerate(contents):
        shown = len(tokens) - tokens[::-1].index(IMAGE_ID) if len(images) else OPENING
        yield Beginning(f"{source} {split} {number}", tokens[:shown], images, tokens[shown:])


def _read(shards: IndexedSources, config: RunConfig, source: str, split: str) -> Iterator[Content]:
    """Tokens and images of indexed documents; what cannot be read is left out."""
    data = config.row_data
    corpus = IndexedCorpus(shards, source, split, data.context_length, data.patch_size, None)
    for number in range(int(corpus.units.sum())):
        content = corpus.read(corpus.records(np.array([number]))[0])
        if not isinstance(content, Skipped):
            yield content.tokens.tolist(), content.patches


def _decoded(shards: Shards, config: RunConfig, source: str, split: str) -> Iterator[Content]:
    """Tokens and images of rendered documents."""
    m = config.tokens_per_image
    bounds = (SOURCES.index(source), 0, config.data.context_length, m, shards.images_per_picture)
    for shard in open_decoded(shards, source, split, config.position_size):
        for document in gather_documents([shard], *bounds):
            first, start = int(document["first_image"]), int(document["start"])
            tokens = shard.positions["token"][start : start + int(document["length"])].tolist()
            patches = np.array(shard.patches[first * m : (first + int(document["images"])) * m])
            yield tokens, patches.reshape(int(document["images"]), m, patches.shape[1])


def in_words(
    one: Beginning, said: Mapping[str, list[int]], shards: Shards | IndexedSources, config: RunConfig
) -> dict[str, str]:
    """Document, prompt, what was ``said`` (by name) and truth, an image being one "<image>"."""
    m, seen, prompt = config.tokens_per_image, 0, []
    for token in one.tokens:
        if token != IMAGE_ID or seen % m == 0:
            prompt.append(token)
        seen += token == IMAGE_ID
    texts = {"prompt": prompt, **said, "truth": one.truth}
    return {"document": one.name} | {name: shards.tokenizer.decode(ids) for name, ids in texts.items()}


def in_lines(shown: Mapping[str, str]) -> str:
    """For a person to read; what is empty is left out."""
    return "\n".join([shown["document"], *(f"  {k:10} {v}" for k, v in shown.items() if v and k != "document")])
