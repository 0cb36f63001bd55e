"""Whether models speak of the same tokens: vocabularies of base and guides compared, cut to a common width, or mapped.

Heads of one family of models differ in their last rows, which are padding and stand for nothing. Such rows are cut off;
any other difference is refused, because logits of unlike tokens would be added up without an error. No torch.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

from nmm.config import ConfigError
from nmm.data.tokenizer import SPECIAL_WORDS, HuggingFaceTokenizer, TextTokenizer, Tokenizer

NONE = -1  # of a base token that the guides do not have


@dataclass(frozen=True)
class Speaker:
    """What is compared of a model: its name in errors, the width of its head, the tokenizer of its data."""

    name: str
    width: int
    tokenizer: TextTokenizer


@dataclass(frozen=True)
class Vocabulary:
    """How tokens of the base (``base_width`` ids) and of the guides correspond.

    The first ``width`` ids of the base can be chosen. ``counterpart`` holds the guides' id of each of these, ``NONE``
    where they have none (the base decides alone); None: the same id. ``others``: what the guides are shown in place of
    a token they do not have.
    """

    base_width: int
    width: int
    counterpart: tuple[int, ...] | None = None
    others: int = NONE

    def shown(self, token: int) -> int:
        """The guides' id of a base token."""
        if self.counterpart is None:
            return token
        return self.counterpart[token] if self.counterpart[token] != NONE else self.others


def same_vocabulary(width: int) -> Vocabulary:
    """Of models whose tokens are all the same."""
    return Vocabulary(width, width)


def align(base: Speaker, guides: list[Speaker], id_map: Path | None = None) -> Vocabulary:
    """How the guides' tokens correspond to the base's: id by id, or by a file (see ``read_map``).

    Raises ConfigError for an id that is one word here and another there, naming the first, and for a bad map.
    """
    if id_map is not None and guides:
        _check_same(guides[0], guides[1:], min(guide.width for guide in guides))
        return read_map(id_map, base, guides)
    width = min(speaker.width for speaker in (base, *guides))
    _check_same(base, guides, width)
    return Vocabulary(base.width, width)


def _check_same(one: Speaker, others: list[Speaker], width: int) -> None:
    for other in others:
        if one.tokenizer.fingerprint == other.tokenizer.fingerprint:
            continue
        for i in range(width):
            here, there = spelling(one.tokenizer, i), spelling(other.tokenizer, i)
            if here != there:
                raise ConfigError(
                    f"{one.name} and {other.name} have other vocabularies: id {i} is {_said(here)} for {one.name} and "
                    f"{_said(there)} for {other.name}, and their logits cannot be added up. Take models trained on "
                    "shards with one tokenizer, or say which ids correspond with ids=FILE"
                )


def _said(word: str | None) -> str:
    return "no word" if word is None else repr(word)


def spelling(tokenizer: TextTokenizer, i: int) -> str | None:
    """The string of one id; None beyond the tokenizer's words, where a head may have rows of padding."""
    if i >= tokenizer.vocab_size:
        return None
    if isinstance(tokenizer, Tokenizer):
        return tokenizer.words[i]
    if isinstance(tokenizer, HuggingFaceTokenizer):
        if i < tokenizer.shift:
            return SPECIAL_WORDS[i]
        word: str | None = tokenizer.inner.id_to_token(i - tokenizer.shift)
        return word
    return tokenizer.decode([i])


def read_map(file: Path, base: Speaker, guides: list[Speaker]) -> Vocabulary:
    """A JSON file {"ids": {"BASE ID": GUIDE ID, ...}, "others": GUIDE ID}.

    Special ids 0, 1 and 2 correspond to themselves. A base token that is not named has no counterpart: the guides have
    no say about it, and are shown ``others`` where it stands. Raises ConfigError naming the entry that is wrong.
    """
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
        named = {int(key): int(value) for key, value in content["ids"].items()}
        others = int(content["others"])
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise ConfigError(
            f'ids={file} must be a JSON file like {{"ids": {{"17": 12}}, "others": 3}}, base ids to guide ids '
            f"({type(error).__name__}: {error})"
        ) from error
    limit = min(guide.width for guide in guides)
    for key, value in (*named.items(), ("others", others)):
        if not 3 <= value < limit:
            raise ConfigError(f"ids={file}: {key} maps to {value}, which is no text id of the guides (3..{limit - 1})")
    wrong = [key for key in named if not 3 <= key < base.width]
    if wrong:
        raise ConfigError(f"ids={file}: {wrong[0]} is no text id of {base.name} (3..{base.width - 1})")
    counterpart = (0, 1, 2, *(named.get(i, NONE) for i in range(3, base.width)))
    return Vocabulary(base.width, base.width, counterpart, others)
