"""What kind of file it is, by its name and its first bytes."""

from __future__ import annotations

import functools
import io
import mimetypes

from protocol.messages.files import ImageSize

_IMAGE_HEAD_BYTES = 256 * 1024
"""A JPEG tells its size after its metadata, which may hold a thumbnail."""


def media_type(path: str, is_text: bool) -> str:
    """By the name, as far as it is known and fits the content.

    >>> media_type("a.png", False), media_type("a.unknown", True), media_type("a.mp4", True)
    ('image/png', 'text/plain', 'text/plain')
    """
    name = path.rpartition("/")[2].lstrip(".")
    kind, packed = _guessed(name[name.find(".") :] if "." in name else "")
    if kind is None or packed or (is_text and kind.partition("/")[0] in ("video", "audio")):
        return "text/plain" if is_text else "application/octet-stream"
    return kind


@functools.lru_cache(maxsize=256)
def _guessed(suffixes: str) -> tuple[str | None, str | None]:
    """Kind and packing of a file with these at the end of its name."""
    return mimetypes.guess_type(f"name{suffixes}")


def image_size(data: bytes) -> ImageSize | None:
    """None for what is no image whose head is understood.

    >>> image_size(b"GIF89a\\x02\\x00\\x03\\x00")
    ImageSize(width=2, height=3)
    """
    import imagesize  # for those who read images alone

    try:
        width, height = imagesize.get(io.BytesIO(data[:_IMAGE_HEAD_BYTES]))
    except (ValueError, IndexError, KeyError, OverflowError):
        return None
    return ImageSize(width=width, height=height) if width > 0 and height > 0 else None
