"""Why a sample is left out: the one list that indexing, loading and the record share."""

from __future__ import annotations

# What the index finds comes first, what only decoding finds last. New reasons go to the end: indexes hold the places.
REASONS = (
    "no_text",  # an image without a caption
    "no_image",  # a caption or document whose image member is missing
    "empty_text",  # nothing but white space
    "bad_text",  # not UTF-8, not JSON, or a field of another type than expected
    "reserved_token",  # text that the tokenizer turns into <pad>, <image> or <end>
    "bad_image_header",
    "too_many_pixels",
    "aspect_ratio",
    "too_long",  # more images or text than an index can count
    "bad_image",  # pixels that cannot be decoded
)


class BadSample(ValueError):
    """A sample that cannot be used, for one of ``REASONS``; the message says what was found."""

    def __init__(self, reason: str, message: str) -> None:
        assert reason in REASONS
        super().__init__(message)
        self.reason = reason

    def __reduce__(self) -> tuple[type[BadSample], tuple[str, str]]:
        return BadSample, (self.reason, str(self))
