"""Pictures side by side, for a look at several at once."""

from __future__ import annotations

import math
from collections.abc import Sequence

from PIL import Image, ImageDraw, ImageFont

from .images import load_image, over


def picture_strip(
    images: Sequence[Image.Image], height: int = 256, gap: int = 8, labels: Sequence[str] | None = None
) -> Image.Image:
    """Lays pictures side by side on white, for a look at several results at once.

    Args:
        images: At least one picture, of any size and mode.
        height: Height in pixels that each picture is scaled to.
        gap: White pixels between the pictures and around them.
        labels: One text for each picture, written under it.

    Returns:
        A picture of mode RGB.

    Raises:
        ValueError: There are not as many labels as pictures.
        PictureError: See `load_image`.
    """
    font = ImageFont.load_default(14)
    caption = 20 if labels is not None else 0  # pixels
    tiles = []
    for image, label in zip(images, labels if labels is not None else [""] * len(images), strict=True):
        picture = over(load_image(image, "picture"), "white")
        width = max(1, round(picture.width * height / picture.height))
        picture = picture.resize((width, height), Image.Resampling.LANCZOS)
        tile = Image.new("RGB", (max(width, math.ceil(font.getlength(label))), height + caption), "white")
        tile.paste(picture)
        ImageDraw.Draw(tile).text((0, height + 2), label, fill="black", font=font)
        tiles.append(tile)
    strip = Image.new("RGB", (gap + sum(tile.width + gap for tile in tiles), tiles[0].height + 2 * gap), "white")
    x = gap
    for tile in tiles:
        strip.paste(tile, (x, gap))
        x += tile.width + gap
    return strip
