"""Boxes for pictures without any, from an object detector of transformers that the user names.

Any model that `AutoModelForObjectDetection` knows will do: DETR and its kin (RT-DETR, YOLOS, ...). Its weights are read
from safetensors only, and no code that came with them is run.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from ..errors import DataError
from ..images import Size, load_image
from .sources import Edges, Found

SCORE = 0.5  # a box is kept from this confidence on
SIDE = (
    1024  # pixels: a JPEG file is decoded at a part of its size as long as its longer side stays above; models see less
)


class Detector:
    """An object detector.

    Args:
        name: a folder, or a name on the hub.

    Raises:
        DataError: if it cannot be had, has no safetensors, or is no object detector.
    """

    def __init__(self, name: str) -> None:
        from transformers import AutoImageProcessor, AutoModelForObjectDetection

        self.device = "cuda" if torch.cuda.is_available() else "cpu"
        try:
            self.processor: Any = AutoImageProcessor.from_pretrained(name, backend="pil")
            model, report = AutoModelForObjectDetection.from_pretrained(
                name, use_safetensors=True, output_loading_info=True
            )
        except Exception as error:  # the hub, the files and each kind of model have errors of their own
            problem = str(error).split("\n")[0] or type(error).__name__
            expected = "expected a folder or a name on the hub with an object detector of transformers, in safetensors"
            raise DataError(f"cannot load the detector {name}: {problem}; {expected}") from error
        if missing := sorted(report["missing_keys"]):
            raise DataError(f"the detector {name} lacks weights, {missing[0]} is one of {len(missing)}; choose another")
        self.model: Any = model.eval().to(self.device)

    def found(self, picture: Path) -> Found:
        """A picture with the boxes that the detector will find in it once it is asked for them."""
        return Found(picture, lambda size: self.boxes(picture, size))

    @torch.no_grad()
    def boxes(self, picture: Path, size: Size) -> list[Edges]:
        """Find objects, whatever they are.

        Args:
            picture: the file.
            size: its width and height.

        Returns:
            Boxes in pixels of a picture of that size, the surest first; they may reach outside.

        Raises:
            PictureError: if it cannot be read.
        """
        reduce = next((factor for factor in (8, 4, 2) if max(size) >= factor * SIDE), 1)
        image = load_image(picture, "picture", reduce).convert("RGB")
        inputs = self.processor(images=image, return_tensors="pt").to(self.device)
        outputs = self.model(**inputs)
        sizes = [(size[1], size[0])]
        (found,) = self.processor.post_process_object_detection(outputs, threshold=SCORE, target_sizes=sizes)
        order = found["scores"].argsort(descending=True, stable=True)
        return [(left, top, right, bottom) for left, top, right, bottom in found["boxes"][order].tolist()]
