"""Names and shapes of the released checkpoint's tensors; no weights."""

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Literal

DATA = Path(__file__).parent / "data"

IMAGE_ENCODER = {  # image_encoder/config.json of the released model
    "hidden_size": 1024,
    "intermediate_size": 4096,
    "num_hidden_layers": 24,
    "num_attention_heads": 16,
    "image_size": 224,
    "patch_size": 14,
    "projection_dim": 768,
}


def tensors(layout: Literal["diffusers", "ldm"]) -> dict[str, tuple[int, ...]]:
    """Shapes by name; in diffusers' layout by part/name."""
    return dict(_rows(DATA / f"keys_{layout}.tsv"))


def _rows(file: Path) -> Iterator[tuple[str, tuple[int, ...]]]:
    for line in file.read_text(encoding="utf-8").splitlines():
        if line.startswith("#"):
            continue
        name, shape = line.split("\t")
        sizes = tuple(int(size) for size in shape.split())
        numbers = re.search(r"\{(\d+)\.\.(\d+)\}", name)
        if numbers is None:
            yield name, sizes
        else:
            for number in range(int(numbers[1]), int(numbers[2]) + 1):
                yield name.replace(numbers[0], str(number)), sizes
