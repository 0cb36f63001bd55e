"""Words to ids and back, from the ``tokenizer.json`` beside the shards (Hugging Face WordLevel format)."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from nmm.batch import END_ID, IMAGE_ID, PAD_ID

SPECIAL = {"<pad>": PAD_ID, "<image>": IMAGE_ID, "<end>": END_ID}


@dataclass(frozen=True)
class Tokenizer:
    """Text split at whitespace is the token sequence; ``fingerprint`` is the sha256 of the vocabulary."""

    ids: Mapping[str, int]
    words: tuple[str, ...]
    fingerprint: str

    @property
    def vocab_size(self) -> int:
        return len(self.words)

    def encode(self, text: str) -> list[int]:
        """One id per whitespace-separated word. Raises ValueError naming the first unknown word."""
        ids = self.ids
        try:
            return [ids[word] for word in text.split()]
        except KeyError as error:
            raise ValueError(f"word {error.args[0]!r} of {text[:60]!r} is not in the vocabulary") from None

    def decode(self, ids: Iterable[int]) -> str:
        """The words of ``ids`` joined by single spaces."""
        return " ".join(self.words[i] for i in ids)


def load_tokenizer(file: Path) -> Tokenizer:
    """Read a WordLevel tokenizer with a WhitespaceSplit pre-tokenizer.

    Raises FileNotFoundError, and ValueError for another kind of tokenizer, ids with gaps or misplaced special words.
    """
    if not file.is_file():
        raise FileNotFoundError(f"{file} is missing: every shard folder holds its tokenizer. Render the shards again.")
    content = json.loads(file.read_text(encoding="utf-8"))
    model, split = content.get("model", {}), content.get("pre_tokenizer") or {}
    if model.get("type") != "WordLevel" or split.get("type") != "WhitespaceSplit" or content.get("normalizer"):
        raise ValueError(
            f"{file} is a {model.get('type')!r} tokenizer with pre-tokenizer {split.get('type')!r}; "
            "only WordLevel with WhitespaceSplit and no normalizer is read."
        )
    return make_tokenizer(model["vocab"], str(file))


def make_tokenizer(vocab: Mapping[str, int], name: str = "vocabulary") -> Tokenizer:
    """A Tokenizer from word -> id. ``name`` is used in errors."""
    words = tuple(sorted(vocab, key=vocab.__getitem__))
    if [vocab[word] for word in words] != list(range(len(words))):
        raise ValueError(f"{name}: ids must be 0..{len(words) - 1}, each once.")
    wrong = [word for word, i in SPECIAL.items() if vocab.get(word) != i]
    if wrong:
        raise ValueError(f"{name}: special words must be {SPECIAL}; wrong or missing: {wrong}.")
    digest = hashlib.sha256("\n".join(words).encode()).hexdigest()
    return Tokenizer(dict(vocab), words, digest)
