"""λ as what a distilled U-Net is told (arXiv 2210.03142, section 3): the embedding of a number, as of a time step."""

from __future__ import annotations

from typing import cast

import torch
from diffusers.models.embeddings import get_timestep_embedding
from torch import Tensor

SPREAD = 100.0  # the fastest wave turns by one radian where λ grows by 0.01


def embed_scale(scale: float | Tensor, size: int) -> Tensor:
    """Sines and cosines of λ, of wavelengths that rise in even ratios.

    Args:
        scale: λ, one or (B,).
        size: W, even.

    Returns:
        (1, W) or (B, W), float32 in [-1, 1].
    """
    values = torch.as_tensor(scale, dtype=torch.float32).reshape(-1) * SPREAD
    return cast(Tensor, get_timestep_embedding(values, size, flip_sin_to_cos=False, downscale_freq_shift=1))
