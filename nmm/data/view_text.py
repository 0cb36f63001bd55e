"""Token ids as text for the eye: one piece a token, with what cannot be seen made visible."""

from __future__ import annotations

import unicodedata
from collections.abc import Sequence
from html import escape
from typing import Protocol

from nmm.batch import END_ID, IMAGE_ID, PAD_ID
from nmm.data.tokenizer import Tokenizer

SPECIAL = {PAD_ID: "<pad>", IMAGE_ID: "<image>", END_ID: "<end>"}
SPACES = {" ": "\N{OPEN BOX}", "\n": "\N{DOWNWARDS ARROW WITH CORNER LEFTWARDS}", "\t": "\N{RIGHTWARDS ARROW TO BAR}"}
BROKEN = "\N{REPLACEMENT CHARACTER}"


class Decoder(Protocol):
    """What is needed of a tokenizer here."""

    def decode(self, ids: Sequence[int]) -> str: ...


def pieces(tokenizer: Decoder, ids: Sequence[int]) -> list[str]:
    """The text of every token of ``ids``; "" where a token alone is no text (part of a character).

    Many tokenizers drop the space before a first word, so a token is decoded together with the one before it.
    """
    found, before = [], PAD_ID
    for token in ids:
        found.append(_piece(tokenizer, before, token))
        before = token
    return found


def _piece(tokenizer: Decoder, before: int, token: int) -> str:
    if token in SPECIAL:
        return SPECIAL[token]
    alone = tokenizer.decode([token])
    if before not in SPECIAL and not isinstance(tokenizer, Tokenizer):  # whose words have no spaces of their own
        first, both = tokenizer.decode([before]), tokenizer.decode([before, token])
        if BROKEN not in first and both.startswith(first):
            alone = both[len(first) :]
    return "" if BROKEN in alone else alone


def shown(piece: str, token: int) -> str:
    """A piece as HTML: escaped; spaces, line ends and characters without a shape as faint signs."""
    if not piece:
        return f"<s>#{token}</s>"
    return "".join(_character(c) for c in piece)


def plain(piece: str, token: int) -> str:
    """The same as text, for a line that explains a token; not escaped."""
    signs = "".join(SPACES.get(c, _sign(c) or c) for c in piece)
    return f"\N{LEFT DOUBLE QUOTATION MARK}{signs}\N{RIGHT DOUBLE QUOTATION MARK} ({token})" if piece else f"#{token}"


def _character(character: str) -> str:
    sign = SPACES.get(character) or _sign(character)
    return f"<s>{sign}</s>" if sign else escape(character)


def _sign(character: str) -> str:
    """What stands for a character that shows nothing or turns the line around, else ""."""
    invisible = unicodedata.category(character) in ("Cc", "Cf", "Cs", "Cn", "Zl", "Zp")
    return f"U+{ord(character):04X}" if invisible else ""
