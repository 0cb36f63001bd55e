"""What a sample of somebody else's shards means: which of its members are read, and the document they make.

    jpg|jpeg|png|webp + txt [+ json]      a caption, as img2dataset writes it
    jpg|jpeg|png|webp + json              a caption in a field of the json, or an interleaved document of one image
    0.jpg, 1.jpg, ... + json              an interleaved document: "segments", or "texts" beside "images" as in OBELICS
    txt [+ json] | json                   text; in the json, the field "text"
    jsonl | jsonl.gz | jsonl.zst          a text a line, {"text": ...}, as DCLM ships them

The indexer and the training reader call ``used_members`` and ``parse`` on the same bytes, so both see one document.
"""

from __future__ import annotations

import json
import re
import reprlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, TypeAlias

from nmm.data.reasons import BadSample

RULES = 1  # counts up when the same bytes would make another document: indexes of other rules are made again
IMAGES = ("jpg", "jpeg", "png", "webp")
LINES = ("jsonl", "jsonl.gz", "jsonl.zst")
SHARD_SUFFIXES = (".tar", *(f".{form}" for form in LINES))
EXPECTED = (
    "an image (jpg, jpeg, png, webp) with txt or json; numbered images (0.jpg, 1.jpg, ...) with json; txt; json; "
    "or jsonl, jsonl.gz, jsonl.zst"
)
# Left beside a text by img2dataset, which only writes samples whose image it has: without one, the image was lost.
_IMAGE_RECORD = ("url", "width", "height", "status")


@dataclass(frozen=True)
class Picture:
    """An image as it lies in the shard, still encoded; ``extension`` is what its file was called, lower case."""

    extension: str
    data: bytes


Segment: TypeAlias = str | Picture


@dataclass(frozen=True)
class Parsed:
    """A document: ``kind`` is "caption", "interleaved" or "text"; no segment of text is blank."""

    kind: str
    segments: tuple[Segment, ...]


class UnknownFormat(ValueError):
    """Members that make no sample we know: the message says what was found and what is expected."""


def used_members(names: Sequence[str]) -> list[str]:
    """Which members of a sample are read, in the order the index lists them; all of a sample of jsonl members.

    ``names`` are the members' names after the key: "jpg", "0.png", "json". Raises UnknownFormat.
    """
    lines = [name for name in names if line_format(name)]
    if lines:
        if len(lines) < len(names):
            raise _unknown(names, "a jsonl member stands alone")
        return lines
    images = sorted(filter(is_image, names), key=_natural)
    texts = [name for name in ("txt", "json") if name in names]
    if not images:
        if not texts or len(texts) < len(names):
            raise _unknown(names, "none of them is an image")
        return texts
    if len(images) == 1 and not _numbered(images[0]):
        return [*images, *texts[:1]]
    if "json" in texts:
        return ["json", *images]
    if len(images) == 1:
        return [*images, *texts]
    raise _unknown(names, f"{len(images)} images and no json that gives their order")


def line_format(name: str) -> str:
    """Which of LINES a member or file is; empty for anything else."""
    lowered = name.lower()
    return next((form for form in LINES if lowered == form or lowered.endswith("." + form)), "")


def parse(parts: Mapping[str, bytes], caption_field: str) -> Parsed:
    """The document that the used members of a sample make.

    Args:
        parts: Exactly the used members, name -> bytes; of a line of a jsonl member, ``{"jsonl": line}``.
        caption_field: The field of the json that holds the caption of an image without txt.

    Raises BadSample with the reason why there is none.
    """
    images = list(filter(is_image, parts))
    if "jsonl" in parts:
        return _text_field(_object(parts["jsonl"], "the line"))
    if not images:
        return _text(parts)
    if "txt" in parts:
        return _caption(parts, images[0], _decoded(parts["txt"]))
    if "json" not in parts:
        raise BadSample("no_text", f"image {images[0]!r} has neither txt nor json beside it")
    record = _object(parts["json"], "json")
    if "segments" in record:
        return _document(_listed(record["segments"], parts))
    if "texts" in record and "images" in record:
        return _document(_parallel(record["texts"], record["images"], parts, images))
    if len(images) > 1:
        raise BadSample("bad_text", f"{len(images)} images whose json has {_fields(record)}, {_NO_DOCUMENT}")
    return _caption(parts, images[0], _field(record, caption_field))


_BRIEF = reprlib.Repr()  # bounded in depth too: what it shows was sent by strangers
_BRIEF.maxlist = _BRIEF.maxdict = 8
_BRIEF.maxstring = 60
_NO_DOCUMENT = 'neither "segments" nor "texts" and "images"'


def _text(parts: Mapping[str, bytes]) -> Parsed:
    """A sample without an image member, which may have lost it."""
    record = _object(parts["json"], "json") if "json" in parts else {}
    if "txt" not in parts:
        return _text_of_record(record, parts)
    if all(name in record for name in _IMAGE_RECORD):
        raise BadSample("no_image", "the json describes a downloaded image, and there is none")
    for segment in record["segments"] if isinstance(record.get("segments"), list) else ():
        if isinstance(segment, dict) and "image" in segment:
            raise BadSample("no_image", f"the json names image {segment['image']!r}, and there is none")
    return _document([_decoded(parts["txt"])])


def _text_of_record(record: Mapping[str, Any], parts: Mapping[str, bytes]) -> Parsed:
    if "segments" in record:
        return _document(_listed(record["segments"], parts))
    if "texts" in record and "images" in record:
        return _document(_parallel(record["texts"], record["images"], parts, []))
    if all(name in record for name in _IMAGE_RECORD):
        raise BadSample("no_image", "the json describes a downloaded image, and there is none")
    return _text_field(record)


def _text_field(record: Mapping[str, Any]) -> Parsed:
    if "text" not in record:
        raise BadSample("no_text", f'there is no field "text", only {_fields(record)}')
    if not isinstance(record["text"], str):
        raise BadSample("bad_text", f'"text" is a {type(record["text"]).__name__}, expected a string')
    return _document([record["text"]])


def _caption(parts: Mapping[str, bytes], image: str, caption: str) -> Parsed:
    if not caption.strip():
        raise BadSample("empty_text", f"the caption of image {image!r} is blank")
    return Parsed("caption", (_picture(parts, image), _checked(caption)))


def _field(record: Mapping[str, Any], caption_field: str) -> str:
    value = record.get(caption_field)
    if value is None:
        raise BadSample(
            "no_text",
            f"the json has no caption in {caption_field!r} but {_fields(record)}; name the field with --caption-field",
        )
    if not isinstance(value, str):
        raise BadSample("bad_text", f"{caption_field!r} is a {type(value).__name__}, expected a string")
    return value


def _listed(items: Any, parts: Mapping[str, bytes]) -> list[Segment]:
    """Segments of {"text": ...} and {"image": member name}, in their order."""
    if not isinstance(items, list):
        raise BadSample("bad_text", f'"segments" is a {type(items).__name__}, expected a list')
    found: list[Segment] = []
    for item in items:
        match item:
            case {"image": str(name), **others} if "text" not in others:
                found.append(_picture(parts, name))
            case {"text": str(text), **others} if "image" not in others:
                found.append(text)
            case _:
                raise BadSample("bad_text", f'segment {_short(item)} is neither {{"text": ...}} nor {{"image": ...}}')
    return found


def _parallel(texts: Any, images: Any, parts: Mapping[str, bytes], members: Sequence[str]) -> list[Segment]:
    """Two lists of one length, at each place a text or an image: a member's name, or anything, the k-th of them all."""
    if not (isinstance(texts, list) and isinstance(images, list) and len(texts) == len(images)):
        raise BadSample("bad_text", '"texts" and "images" must be lists of one length')
    for place, (text, image) in enumerate(zip(texts, images, strict=True)):
        if (text is None) == (image is None) or not isinstance(text if image is None else image, str):
            raise BadSample("bad_text", f"place {place} must hold one text or one image, found {_short([text, image])}")
    entries = [image for image in images if image is not None]
    if not all(entry in members for entry in entries):
        if len(entries) > len(members):
            raise BadSample("no_image", f"the json refers to {len(entries)} images, {len(members)} are there")
        if len(entries) < len(members):
            raise BadSample(
                "bad_text",
                f"the json refers to {len(entries)} images by names that are not theirs, and {len(members)} are there",
            )
        entries = list(members)
    names = iter(entries)
    return [_picture(parts, next(names)) if text is None else text for text in texts]


def _document(segments: Sequence[Segment]) -> Parsed:
    kept = tuple(
        segment if isinstance(segment, Picture) else _checked(segment)
        for segment in segments
        if isinstance(segment, Picture) or segment.strip()
    )
    if not any(isinstance(segment, str) for segment in kept):
        raise BadSample("empty_text", "the document has no text, or only white space")
    return Parsed("interleaved" if any(isinstance(segment, Picture) for segment in kept) else "text", kept)


def _picture(parts: Mapping[str, bytes], name: str) -> Picture:
    if name not in parts or not is_image(name):
        there = ", ".join(filter(is_image, parts))
        raise BadSample("no_image", f"the json names image {name[:60]!r}, there is {there or 'none'}")
    return Picture(_extension(name), parts[name])


def _decoded(data: bytes) -> str:
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise BadSample("bad_text", f"the text is not UTF-8: {error.reason} at byte {error.start}") from None


def _checked(text: str) -> str:
    """JSON can spell half a surrogate pair, which no UTF-8 holds."""
    if not text.isascii():
        try:
            text.encode()
        except UnicodeEncodeError:
            raise BadSample("bad_text", "the text holds a lone surrogate, which is no character") from None
    return text


def _object(data: bytes, where: str) -> Mapping[str, Any]:
    text = _decoded(data)
    try:
        record = json.loads(text)
    except RecursionError:
        raise BadSample("bad_text", f"{where} is nested too deep") from None
    except ValueError as error:
        raise BadSample("bad_text", f"{where} is not JSON: {error}") from None
    if not isinstance(record, dict):
        raise BadSample("bad_text", f"{where} is a {type(record).__name__}, expected an object")
    return record


@lru_cache(maxsize=1 << 12)
def is_image(name: str) -> bool:
    """Whether a member's name is an image's."""
    return _extension(name) in IMAGES


@lru_cache(maxsize=1 << 12)
def _extension(name: str) -> str:
    return name.rpartition(".")[2].lower()


def _numbered(name: str) -> bool:
    return name.rpartition(".")[0][-1:].isdigit()


def _natural(name: str) -> list[tuple[int, str]]:
    """Sorts "2.png" before "10.png"."""
    pieces = re.split(r"([0-9]+)", name)
    return [(-1, piece) if place % 2 == 0 else _number(piece) for place, piece in enumerate(pieces)]


def _number(digits: str) -> tuple[int, str]:
    """In the order of the numbers, without reading them: a name may hold thousands of digits."""
    plain = digits.lstrip("0")
    return len(plain), plain


def _fields(record: Mapping[str, Any]) -> str:
    return "the fields " + (_short(sorted(record)) if record else "of an empty object")


def _short(value: Any) -> str:
    return _BRIEF.repr(value)


def _unknown(names: Sequence[str], why: str) -> UnknownFormat:
    return UnknownFormat(f"members {_short(sorted(names))} make no sample: {why}. Expected: {EXPECTED}")
