"""The part of a model that a library depends on: the encoder's frozen part, and how pictures are handed to it."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image

from ..errors import ModelError
from ..fingerprint import fingerprint
from ..painter import Painter

FROZEN = (
    "backbone.",
    "matte.",
    "latents.",
    "components.",
    "model.",
)  # what does not learn


@dataclass(frozen=True)
class Encoder:
    """What encoded the pictures of a library. Models that differ in the U-Net or the learned layers share one."""

    sha256: str
    """Of the frozen part's weights, the normalisation, the exemplar's size and how it is fitted to it."""
    size: int
    """F, numbers it makes of a picture."""
    model: str
    """Name or path of a model that has it."""
    compat: str | None

    @classmethod
    def of(cls, painter: Painter) -> Encoder:
        """The encoder of a model.

        Of each tensor some values count, in float16: a model in float32 and in float16 has one encoder.

        Raises:
            ModelError: the model has none whose features a library could keep.
        """
        module, extractor = painter.image_encoder, painter.feature_extractor
        frozen = {name: value for name, value in sorted(module.state_dict().items()) if name.startswith(FROZEN)}
        if not frozen or any(value.device.type == "meta" for value in frozen.values()):
            raise ModelError("the model's exemplar encoder is not in memory; load the model without offload")
        features = encode(painter, Image.new("RGB", (64, 64)))
        handed = [list(map(float, values)) for values in (extractor.image_mean, extractor.image_std)]
        model = painter.model_name or painter.name_or_path or "embedded"
        rest = f"{handed} {module.image_size} {painter.exemplar_fit}"
        return cls(fingerprint(frozen.items(), rest), len(features), model, painter.compat)


@torch.no_grad()
def encode(painter: Painter, picture: Image.Image) -> NDArray[np.float32]:
    """What the encoder's frozen part says of a picture, (F,).

    Pictures are encoded one at a time, so that decoding it gives the condition of the picture to the last bit.

    Raises:
        ModelError: the encoder makes several vectors of a picture.
    """
    encoder = painter.image_encoder
    x = painter.exemplar_tensor([picture]).to(encoder.uncond_vector.device, painter.unet.dtype)
    features = encoder.features(x)
    if features.ndim != 2:
        raise ModelError("the model's encoder makes several vectors of a picture; a library keeps one")
    kept: NDArray[np.float32] = features[0].float().cpu().numpy()
    return kept
