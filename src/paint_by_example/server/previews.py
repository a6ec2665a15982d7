"""What an edit looks like while it is being made."""

from __future__ import annotations

import base64
import io
import time
from dataclasses import dataclass
from typing import Literal

from PIL import Image

from ..images import Box
from .painting import Pixels, Progress

SHARE = 10  # previews take one part in so many of an edit's time
SECONDS = 0.2  # between two of them, at least
QUALITY = 80


@dataclass(frozen=True)
class Preview:
    """What an edit looks like by now."""

    step: int
    region: int
    box: Box
    pictures: list[str]
    """JPEG files as data URLs."""


def make_preview(progress: Progress) -> tuple[Preview, float]:
    """Decode what there is by now.

    Args:
        progress: of a model that can.

    Returns:
        The preview, and when the next one is due, by the monotonic clock.
    """
    assert progress.pictures is not None
    started = time.monotonic()
    pictures = [data_url(pixels) for pixels in progress.pictures()]
    preview = Preview(progress.step, progress.region, progress.box, pictures)
    ended = time.monotonic()
    return preview, ended + max(SHARE * (ended - started), SECONDS)


def data_url(pixels: Pixels, format: Literal["JPEG", "PNG"] = "JPEG") -> str:
    """A picture (H, W, 3) as a file within a URL."""
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, format, quality=QUALITY)
    return f"data:image/{format.lower()};base64," + base64.b64encode(file.getvalue()).decode()
