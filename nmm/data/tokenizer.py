"""Text to ids and back. Ids 0, 1 and 2 are <pad>, <image> and <end> for every tokenizer.

Three kinds are read, see ``open_tokenizer``: bytes; the word lists of rendered shards (``load_tokenizer``, the
``tokenizer.json`` beside them); and any other ``tokenizer.json`` of Hugging Face `tokenizers`, whose ids are shifted by
three unless it has our special words in their places.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from nmm.batch import END_ID, IMAGE_ID, PAD_ID
from nmm.config import canonical_json
from nmm.data.reasons import BadSample

if TYPE_CHECKING:
    import tokenizers

SPECIAL = {"<pad>": PAD_ID, "<image>": IMAGE_ID, "<end>": END_ID}

SPECIAL_WORDS = tuple(SPECIAL)
BYTES = "bytes"


class TextTokenizer(Protocol):
    """What indexing, training and viewing need of a tokenizer; pickled, it is the same in another process."""

    @property
    def fingerprint(self) -> str:
        """64 hex digits of what decides the ids, wherever the file lies."""

    @property
    def vocab_size(self) -> int:
        """Every id is smaller."""

    def encode(self, text: str) -> list[int]:
        """The ids of ``text`` alone, nothing added or cut.

        An id below 3 means that the text spells a special word: the caller decides what becomes of it. Raises
        BadSample("bad_text") for text that the tokenizer has no ids for: none of it vanishes silently.
        """

    def decode(self, ids: Iterable[int]) -> str:
        """The text of ``ids``, special words spelled out."""


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
        """One id per whitespace-separated word. Raises BadSample, a ValueError, naming the first unknown word."""
        ids = self.ids
        try:
            return [ids[word] for word in text.split()]
        except KeyError as error:
            message = f"word {error.args[0]!r} of {text[:60]!r} is not in the vocabulary"
            raise BadSample("bad_text", message) from None

    def decode(self, ids: Iterable[int]) -> str:
        """The words of ``ids`` joined by single spaces."""
        return " ".join(self.words[i] for i in ids)


@dataclass(frozen=True)
class ByteTokenizer:
    """Text is its UTF-8 bytes, each byte's id being 3 more than its value."""

    @property
    def fingerprint(self) -> str:
        return hashlib.sha256(b"bytes of UTF-8, ids from 3").hexdigest()

    @property
    def vocab_size(self) -> int:
        return len(SPECIAL) + 256

    def encode(self, text: str) -> list[int]:
        """One id per byte. Raises BadSample for a lone surrogate, which UTF-8 cannot write."""
        values = np.frombuffer(_utf8(text), np.uint8)
        ids: list[int] = np.add(values, len(SPECIAL), dtype=np.int32).tolist()
        return ids

    def decode(self, ids: Iterable[int]) -> str:
        """The bytes as text, what is no UTF-8 replaced by U+FFFD. Raises ValueError for ids that are none."""
        pieces = []
        for i in ids:
            if not 0 <= i < self.vocab_size:
                raise ValueError(f"id {i} is outside 0..{self.vocab_size - 1}")
            pieces.append(bytes([i - len(SPECIAL)]) if i >= len(SPECIAL) else SPECIAL_WORDS[i].encode())
        return b"".join(pieces).decode("utf-8", errors="replace")


@dataclass(frozen=True)
class HuggingFaceTokenizer:
    """A ``tokenizer.json`` as it is, but for truncation, padding, dropout and added special tokens, which are off.

    ``shift``: 3 added to every id, 0 where the file has our special words. ``drops``: its model leaves out characters
    that it does not know, so every text is checked for them. A tokenizer with an unknown-token keeps that: the loss
    is then visible as that token.
    """

    inner: tokenizers.Tokenizer
    shift: int
    vocab_size: int
    fingerprint: str
    drops: bool

    def encode(self, text: str) -> list[int]:
        """See TextTokenizer. Raises BadSample for lone surrogates, and for characters that have no token."""
        _utf8(text)
        try:
            encoding = self.inner.encode(text, add_special_tokens=False)
        except Exception as error:  # the library raises nothing narrower when a model has no token for something
            raise BadSample("bad_text", f"the tokenizer refuses {text[:60]!r}: {error}") from error
        ids: list[int] = encoding.ids
        if self.drops or not ids:
            _refuse_loss(text, encoding.offsets)
        return [i + self.shift for i in ids] if self.shift else ids

    def decode(self, ids: Iterable[int]) -> str:
        """The text of every stretch between special words. Raises ValueError for ids that are none."""
        pieces: list[str] = []
        stretch: list[int] = []
        for i in ids:
            if not 0 <= i < self.vocab_size:
                raise ValueError(f"id {i} is outside 0..{self.vocab_size - 1}")
            if i < len(SPECIAL):
                pieces += [self.inner.decode(stretch, skip_special_tokens=False), SPECIAL_WORDS[i]]
                stretch = []
            else:
                stretch.append(int(i) - self.shift)
        return "".join([*pieces, self.inner.decode(stretch, skip_special_tokens=False)])


def _utf8(text: str) -> bytes:
    try:
        return text.encode()
    except UnicodeEncodeError as error:
        raise BadSample("bad_text", f"{text[:60]!r} holds half of a surrogate pair: no UTF-8 can write it") from error


def _refuse_loss(text: str, offsets: list[tuple[int, int]]) -> None:
    """Raise BadSample if a character other than white space lies in no token; tokens cover ``offsets`` of the text."""
    at = 0
    for start, end in [*offsets, (len(text), len(text))]:
        if lost := text[at:start].strip():
            raise BadSample("bad_text", f"the tokenizer has no token for {lost[:20]!r} of {text[:60]!r}")
        at = max(at, end)


def open_tokenizer(spec: str) -> TextTokenizer:
    """The tokenizer that ``spec`` names: "bytes", a ``tokenizer.json`` or a folder that holds one.

    Opened once per process and file. Raises FileNotFoundError, and ValueError for a file of another kind.
    """
    if spec == BYTES:
        return ByteTokenizer()
    file = Path(spec).expanduser()
    if spec and file.is_dir():
        file = file / "tokenizer.json"
    if not spec or not file.is_file():
        raise FileNotFoundError(
            f"tokenizer {spec!r}: expected {BYTES!r}, a tokenizer.json of Hugging Face tokenizers, or a folder that "
            f"holds one; there is no file {file}. Names of a hub are not looked up: download its tokenizer.json."
        )
    state = file.stat()
    return _open(file.resolve(), state.st_mtime_ns, state.st_size)


@lru_cache(maxsize=8)
def _open(file: Path, mtime_ns: int, size: int) -> TextTokenizer:
    try:
        content = json.loads(file.read_bytes())
        model = content["model"]
        content |= {
            "truncation": None,
            "padding": None,
            "model": model | ({"dropout": None} if "dropout" in model else {}),
        }
    except (ValueError, KeyError, TypeError) as error:
        raise ValueError(
            f"{file} is no tokenizer.json of Hugging Face tokenizers ({type(error).__name__}: {error}); other formats, "
            "as vocab.json or a sentencepiece .model, have to be converted (transformers' fast tokenizers save one)."
        ) from error
    if _is_word_list(content):
        return load_tokenizer(file)
    return _hugging_face(content, str(file))


def _is_word_list(content: Mapping[str, Any]) -> bool:
    """Whether a file is such as rendered shards have: words between white space, special ones first, no unknown one."""
    model = content["model"]
    vocab = model.get("vocab", {})
    plain = not any(content.get(part) for part in ("normalizer", "added_tokens", "post_processor"))
    return (
        plain
        and model.get("type") == "WordLevel"
        and (content.get("pre_tokenizer") or {}).get("type") == "WhitespaceSplit"
        and all(vocab.get(word) == i for word, i in SPECIAL.items())
        and model.get("unk_token") not in vocab
    )


def _hugging_face(content: Mapping[str, Any], name: str) -> HuggingFaceTokenizer:
    import tokenizers

    try:
        canonical = canonical_json(content)
        inner = tokenizers.Tokenizer.from_str(canonical)
    except Exception as error:  # the library raises nothing narrower
        raise ValueError(f"{name} is no tokenizer that tokenizers {tokenizers.__version__} reads: {error}") from error
    ids = inner.get_vocab(with_added_tokens=True)
    if not ids:
        raise ValueError(f"{name}: the vocabulary is empty")
    shift = 0 if all(ids.get(word) == i for word, i in SPECIAL.items()) else len(SPECIAL)
    digest = hashlib.sha256(canonical.encode()).hexdigest()
    return HuggingFaceTokenizer(inner, shift, shift + max(ids.values()) + 1, digest, _drops(content, ids))


def _drops(content: Mapping[str, Any], ids: Mapping[str, int]) -> bool:
    """Whether the model leaves out what it does not know: byte pairs without bytes to fall back on or unknown-token.

    Every other model of the library has a token for it or refuses the text.
    """
    from tokenizers import pre_tokenizers

    model = content["model"]
    if model.get("type") != "BPE" or model.get("unk_token") is not None:
        return False
    if model.get("byte_fallback"):
        return not all(f"<0x{byte:02X}>" in ids for byte in range(256))
    to_bytes = any(
        '"type":"ByteLevel"' in canonical_json(content.get(part)) for part in ("pre_tokenizer", "normalizer")
    )
    return not (to_bytes and all(letter in ids for letter in pre_tokenizers.ByteLevel.alphabet()))


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
