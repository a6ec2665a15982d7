"""Pictures in rows and columns with words beside, above and under them, as one picture."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from .benchmark import Pixels

TILE = 160  # pixels, side of the square that a picture is fitted into
GAP = 8
FONT = 13


def picture_sheet(
    cells: Sequence[Sequence[tuple[Pixels, str]]],
    columns: Sequence[str],
    rows: Sequence[str],
    foot: Sequence[str] = (),
    tile: int = TILE,
) -> Pixels:
    """Lay pictures out on white.

    Args:
        cells: rows of pictures, (h, w, 3) each, with a line under each; "" for none.
        columns: a heading for each column.
        rows: a word for each row.
        foot: lines under the whole.
        tile: side of the square that each picture is fitted into, pixels.

    Returns:
        (H, W, 3).

    Raises:
        ValueError: headings and pictures are not equally many.
    """
    font = ImageFont.load_default(FONT)
    line = FONT + 6
    margin = GAP + max((math.ceil(font.getlength(row)) for row in rows), default=0)
    wide = [
        max(tile, *(math.ceil(font.getlength(text)) for text in (heading, *captions)))
        for heading, captions in zip(
            columns, ([row[at][1] for row in cells] for at in range(len(columns))), strict=True
        )
    ]
    captioned = line if any(caption for row in cells for _, caption in row) else 0
    width = margin + sum(GAP + one for one in wide) + GAP
    width = max(width, 2 * GAP + max((math.ceil(font.getlength(text)) for text in foot), default=0))
    height = GAP + line + len(cells) * (tile + captioned + GAP) + len(foot) * line
    sheet = Image.new("RGB", (width, height), "white")
    draw = ImageDraw.Draw(sheet)
    y = GAP + line
    for row, word in zip(cells, rows, strict=True):
        draw.text((GAP, y + tile // 2 - FONT // 2), word, fill="black", font=font)
        x = margin + GAP
        for (pixels, caption), space, heading in zip(row, wide, columns, strict=True):
            if y == GAP + line:
                draw.text((x, GAP), heading, fill="black", font=font)
            picture = Image.fromarray(pixels)
            scale = tile / max(picture.size)
            size = (max(1, round(picture.width * scale)), max(1, round(picture.height * scale)))
            sheet.paste(picture.resize(size, Image.Resampling.LANCZOS), (x, y))
            draw.text((x, y + tile + 1), caption, fill="black", font=font)
            x += space + GAP
        y += tile + captioned + GAP
    for text in foot:
        draw.text((GAP, y), text, fill="black", font=font)
        y += line
    return np.asarray(sheet)
