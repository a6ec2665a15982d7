"""Published networks that tell a U-Net of a structure: ControlNet and T2I-Adapter for Stable Diffusion 1.x.

Paint by Example's U-Net has Stable Diffusion's layers behind its first convolution, so what these two add fits by
shape: ControlNet to the skips and the middle block (arXiv 2302.05543), T2I-Adapter to the ends of the levels of the
descending half (arXiv 2302.08453). They were trained beside another U-Net that was told a text. Here ControlNet sees
the noisy latent, the exemplar's token in the text's place, and the map.
"""

from __future__ import annotations

import itertools
import os
import textwrap
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeAlias

import torch
from diffusers import ControlNetModel, T2IAdapter
from torch import Tensor

from .errors import ModelError
from .fingerprint import fingerprint

Hints: TypeAlias = Callable[[Tensor, Tensor, Tensor, tuple[bool, ...]], dict[str, Any]]
"""``hints(z_t, t, condition, told)``: latents (n B, C, h, w), the timestep, conditions (n B, 1, D), and of each of
the n parts whether it is told the structure -> arguments for the U-Net's call."""


class Control:
    """A ControlNet or T2I-Adapter, beside a U-Net.

    Args:
        network: the one or the other.
        name: the path or name it was loaded by.
    """

    def __init__(self, network: Any, name: str) -> None:
        self.network, self.name = network, name

    def fingerprint(self) -> str:
        """A hash of the weights."""
        return fingerprint(sorted(self.network.state_dict().items()))

    @torch.no_grad()
    def hints(self, maps: Tensor) -> Hints:
        """What the U-Net is told of structure maps, (B, 3, H, W) in [0, 1], in every step."""
        if self.network.device != maps.device or self.network.dtype != maps.dtype:
            self.network.to(maps.device, maps.dtype)
        if isinstance(self.network, ControlNetModel):
            return lambda z_t, t, condition, told: self._residuals(maps, z_t, t, condition, told)
        channels = int(self.network.config["in_channels"])  # 1 for edges and sketches
        features = self.network(maps[:, :channels])

        def from_features(z_t: Tensor, t: Tensor, condition: Tensor, told: tuple[bool, ...]) -> dict[str, Any]:
            if not any(told):
                return {}
            return {"down_intrablock_additional_residuals": [_spread(x, told, len(z_t)) for x in features]}

        return from_features

    @torch.no_grad()
    def _residuals(
        self, maps: Tensor, z_t: Tensor, t: Tensor, condition: Tensor, told: tuple[bool, ...]
    ) -> dict[str, Any]:
        if not any(told):
            return {}
        count = len(z_t)
        picture, token = maps.repeat(len(z_t) // len(maps), 1, 1, 1), condition.expand(len(z_t), -1, -1)
        z_t, picture, token = (_chosen(x, told) for x in (z_t, picture, token))
        t = _chosen(t, told) if t.ndim else t
        skips, middle = self.network(z_t, t, encoder_hidden_states=token, controlnet_cond=picture, return_dict=False)
        return {
            "down_block_additional_residuals": [_spread(x, told, count) for x in skips],
            "mid_block_additional_residual": _spread(middle, told, count),
        }


def _chosen(x: Tensor, told: tuple[bool, ...]) -> Tensor:
    """Of a batch of equal parts those that are told."""
    return torch.cat([part for part, one in zip(x.chunk(len(told)), told, strict=True) if one])


def _spread(x: Tensor, told: tuple[bool, ...], count: int) -> Tensor:
    """What is told to parts of a batch of `count`, or the same to each of them, with zeros for those that are not."""
    size = count // len(told)
    x = x.repeat(max(size // len(x), 1), 1, 1, 1)
    parts = itertools.cycle(x.split(size))
    return torch.cat([next(parts) if one else torch.zeros_like(x[:size]) for one in told])


def load_control(name: str | os.PathLike[str], unet: Any, latent_factor: int) -> Control:
    """Load a ControlNet or T2I-Adapter for a U-Net.

    Args:
        name: a folder in diffusers' layout, or a repository of the Hugging Face hub.
        unet: that is to be told.
        latent_factor: pixels of the picture to one of the latent, per side.

    Raises:
        ModelError: it cannot be loaded, is neither, or was made for another U-Net.
    """
    text = os.fspath(name)
    if Path(text).is_file():
        raise ModelError(f"{text} is a file; give the folder of a ControlNet or T2I-Adapter, in diffusers' layout")
    try:
        config: Any = ControlNetModel.load_config(text)
        kind = {"ControlNetModel": ControlNetModel, "T2IAdapter": T2IAdapter}.get(config.get("_class_name"))
        if kind is None:
            raise ModelError(
                f"{text} holds a {config.get('_class_name')}, which is neither a ControlNet nor a T2I-Adapter"
            )
        network, loading = kind.from_pretrained(text, torch_dtype=unet.dtype, output_loading_info=True)
    except ModelError:
        raise
    except Exception as error:  # diffusers, the hub and safetensors raise kinds of their own
        reason = textwrap.shorten(f"{error}", 200, placeholder=" ...") or type(error).__name__
        raise ModelError(f"cannot load the ControlNet or T2I-Adapter {text}: {reason}") from error
    if missing := loading["missing_keys"]:
        raise ModelError(f"{text} lacks {len(missing)} of its tensors, {sorted(missing)[0]} among them")
    check_fit(network, unet, latent_factor, text)
    return Control(network.eval(), text)


def check_fit(network: Any, unet: Any, latent_factor: int, name: str) -> None:
    """Compare sizes.

    Raises:
        ModelError: the network was made for another U-Net.
    """
    theirs, ours = network.config, unet.config
    if isinstance(network, ControlNetModel):
        shared = ("block_out_channels", "layers_per_block", "cross_attention_dim")
        pairs = {key: (theirs[key], ours[key]) for key in shared}
        pairs["latent channels"] = (theirs["in_channels"], ours["out_channels"])
        factor = 2 ** (len(theirs["conditioning_embedding_out_channels"]) - 1)
    else:
        pairs = {"channels": (theirs["channels"], ours["block_out_channels"])}
        factor = theirs["downscale_factor"]
        # its features are added before a level is halved, which a level without attention does too early
        kinds = ["CrossAttnDownBlock2D"] * (len(ours["block_out_channels"]) - 1)
        pairs["levels"] = (kinds, list(ours["down_block_types"])[:-1])
    pairs["pixels to a cell"] = (factor, latent_factor)
    for key, (given, wanted) in pairs.items():
        if _listed(given) != _listed(wanted):
            raise ModelError(
                f"{name} was made for another U-Net: its {key} is {_listed(given)}, this model's {_listed(wanted)}"
            )


def _listed(value: Any) -> Any:
    return list(value) if isinstance(value, list | tuple) else value
