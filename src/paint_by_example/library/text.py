"""Pictures found by words: CLIP puts both into one space (Radford et al., arXiv 2103.00020)."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from transformers import AutoTokenizer, CLIPModel
from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil

from ..errors import ModelError
from ..fingerprint import fingerprint
from ..network import quiet
from .encoder import Encoder
from .store import Library


class TextEncoder:
    """A CLIP model of transformers, in float32 on the CPU.

    Args:
        model: a folder, or a name on the hub.
        offline: take one on the hub from what was downloaded before, or not at all.

    Raises:
        ModelError: it cannot be had, or is no CLIP model.
    """

    def __init__(self, model: str, offline: bool = False) -> None:
        try:
            with quiet():
                self.network = CLIPModel.from_pretrained(model, local_files_only=offline).eval()
                self.tokenizer = AutoTokenizer.from_pretrained(model, local_files_only=offline)
                self.processor = CLIPImageProcessorPil.from_pretrained(model, local_files_only=offline)
        except Exception as error:  # hub, file and library raise whatever they like
            reason = str(error).strip().partition("\n")[0].rstrip(".") or type(error).__name__
            hint = "; offline, only what was downloaded before can be had" if offline else ""
            raise ModelError(
                f"cannot use {model} as a text encoder: {reason}{hint}; give a folder or hub name of a CLIP model"
            ) from error
        if Path(model).is_dir():
            model = os.path.abspath(model)
        self.length = int(self.network.config.text_config.max_position_embeddings)
        size = int(self.network.config.projection_dim)
        self.encoder = Encoder(fingerprint(self.network.state_dict().items()), size, model, None)

    @torch.no_grad()
    def picture(self, picture: Image.Image) -> NDArray[np.float32]:
        """Where a picture lies, (T,), of length 1."""
        pixels = self.processor(images=[picture.convert("RGB")], return_tensors="pt")["pixel_values"]
        return self._unit(self.network.visual_projection(self.network.vision_model(pixels).pooler_output))

    @torch.no_grad()
    def words(self, text: str) -> NDArray[np.float32]:
        """Where words lie, (T,), of length 1; what CLIP has no room for is left out.

        Raises:
            ModelError: there are none.
        """
        if not text.strip():
            raise ModelError("the text is empty; say what to look for")
        tokens = self.tokenizer([text], truncation=True, max_length=self.length, return_tensors="pt")
        hidden = self.network.text_model(input_ids=tokens["input_ids"], attention_mask=tokens["attention_mask"])
        return self._unit(self.network.text_projection(hidden.pooler_output))

    @staticmethod
    def _unit(x: torch.Tensor) -> NDArray[np.float32]:
        found: NDArray[np.float32] = torch.nn.functional.normalize(x[0], dim=0).numpy()
        return found


def find_words(library: Library, text: str, encoder: TextEncoder) -> NDArray[np.float32]:
    """Where words lie among the pictures of a library, (T,).

    Raises:
        ModelError: the library was made with another text encoder, or the text is empty.
    """
    library.check_text(encoder.encoder)
    return encoder.words(text)
