"""The image prior: what of a Stable Diffusion 1.x model a Paint by Example model starts its training from.

The U-Net with its first convolution made to take nine channels, and the autoencoder as it is. The text model is left
out; CLIP's vision model takes its place, and what stands between it and the U-Net starts at random (arXiv 2211.13227,
section 3.2, "image prior").
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn
from transformers import CLIPVisionConfig

from .conditioning import Mapper
from .errors import ModelError


def nine_channels(weight: Tensor, bias: Tensor) -> tuple[Tensor, Tensor]:
    """The U-Net's first convolution made to take [noisy latent (4), masked latent (4), 1 = keep (1)].

    That of a text-to-image model gets zeros for the five channels it does not know, so that at first it paints as if
    they were not there.

    That of the inpainting model knows them as [noisy latent, 1 = repaint, masked latent]. With keep = 1 - mask,

        W * mask = W * (1 - keep) = W * 1 - W * keep,

    so the mask's weights change their sign and their sum goes to the bias. Convolutions pad with zeros: around the
    picture the mask was 0, "keep", and with us it is "repaint". A bias cannot know where the picture ends, so in the
    outermost ring of latent cells the result differs by the weights that reach over the edge; everywhere else it is
    the same. The outermost ring is for training to mend.

    Args:
        weight: (C, 4 or 9, 3, 3).
        bias: (C,).

    Returns:
        Weight (C, 9, 3, 3) and bias (C,), of the same type.

    Raises:
        ModelError: if there are other than 4 or 9 channels.
    """
    channels = weight.shape[1]
    if channels == 4:
        return torch.cat([weight, weight.new_zeros(weight.shape[0], 5, *weight.shape[2:])], dim=1), bias
    if channels != 9:
        raise ModelError(
            f"the U-Net takes {channels} channels; 4 (Stable Diffusion 1.x) or 9 (its inpainting model) are expected"
        )
    noisy, mask, masked = weight.split((4, 1, 4), dim=1)
    constant = mask.double().sum(dim=(1, 2, 3))
    return torch.cat([noisy, masked, -mask], dim=1), (bias.double() + constant).to(bias.dtype)


def vision_names(names: Mapping[str, Any]) -> dict[str, str]:
    """Names of CLIP's vision tensors without prefix, by their names in a file; of anything else in it, nothing.

    transformers has put the same model under ``vision_model.``, ``model.vision_model.`` and under nothing.
    """
    anchor = "embeddings.class_embedding"
    prefix = next((name.removesuffix(anchor) for name in names if name.endswith(anchor)), None)
    if prefix is None:
        return {}
    starts = tuple(prefix + part for part in ("embeddings.", "pre_layrnorm.", "encoder.", "post_layernorm."))
    return {
        name: name.removeprefix(prefix)
        for name in names
        if name.startswith(starts) and not name.endswith(".position_ids")
    }


def fresh_layers(config: CLIPVisionConfig, seed: int) -> dict[str, Tensor]:
    """Mapper, last norm, projection and null token as they are before training, by their names in the encoder.

    Args:
        config: of the encoder: CLIP's, with ``projection_dim`` D.
        seed: of the random numbers.

    Returns:
        Tensors in float32; the null token is (1, 1, D).
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        layers = nn.ModuleDict(
            {
                "mapper": Mapper(config),
                "final_layer_norm": nn.LayerNorm(config.hidden_size),
                "proj_out": nn.Linear(config.hidden_size, config.projection_dim),
            }
        )
        return {**layers.state_dict(), "uncond_vector": torch.randn(1, 1, config.projection_dim)}
