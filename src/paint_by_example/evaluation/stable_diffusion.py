"""Two methods that are told in words what to paint, through diffusers.

Stable Diffusion's inpainting model is shown the hole (arXiv 2112.10752, section 4.5); blended diffusion keeps a plain
text-to-image model to the source by putting the noised source back outside the mask at every step (arXiv 2206.02779).
diffusers' inpainting pipeline does the one or the other as the U-Net has nine input channels or four. Words come from
the benchmark: `Item.text`.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from PIL import Image

from ..canvas import Canvas
from ..crops import context_crop
from ..errors import DataError, ModelError
from ..images import tensor_image
from .benchmark import Item, Pixels
from .editing import Method

CHANNELS = {"stable-diffusion-inpainting": 9, "blended-diffusion": 4}
REPOSITORIES = {
    "stable-diffusion-inpainting": "stable-diffusion-v1-5/stable-diffusion-inpainting",
    "blended-diffusion": "CompVis/stable-diffusion-v1-4",
}
PROMPT = "a photo of a {}"
STEPS = 50
GUIDANCE_SCALE = 7.5


def text_method(
    name: str, weights: str | None = None, offline: bool = False, device: str | None = None, steps: int = STEPS
) -> tuple[Method, dict[str, Any]]:
    """A method that is told in words, and what its results depend on.

    Args:
        name: one of `REPOSITORIES`.
        weights: a repository on the hub or a folder, in place of the usual one.
        offline: use what is on this machine, or nothing.
        device: the best there is by default.
        steps: noise levels to visit.

    Raises:
        ModelError: the weights cannot be had, or are of the other kind.
    """
    from ..pipeline import choose_device

    place = weights or REPOSITORIES[name]
    try:
        from diffusers import StableDiffusionInpaintPipeline

        pipeline = StableDiffusionInpaintPipeline.from_pretrained(
            place, safety_checker=None, requires_safety_checker=False, local_files_only=offline
        )
    except Exception as error:  # hub, file and library raise whatever they like
        reason = str(error).strip().partition("\n")[0] or type(error).__name__
        raise ModelError(f"{name} cannot be had: {reason}") from error
    if (found := int(pipeline.unet.config.in_channels)) != CHANNELS[name]:
        raise ModelError(f"{name} needs a U-Net of {CHANNELS[name]} input channels, and that of {place} has {found}")
    pipeline.to(choose_device(device))
    pipeline.set_progress_bar_config(disable=True)
    size = int(pipeline.unet.config.sample_size) * int(pipeline.vae_scale_factor)

    @torch.no_grad()
    def method(items: Sequence[Item], seeds: Sequence[int]) -> list[Pixels]:
        if without := [item.name for item in items if not item.text]:
            raise DataError(f"{name} is told in words what to paint, and the benchmark has none for {without[0]}")
        crops = [
            (0, 0, size, size) if item.source.shape[:2] == (size, size) else context_crop(item.mask) for item in items
        ]
        canvases = [Canvas(item.mask, crop, size) for item, crop in zip(items, crops, strict=True)]
        pairs = [canvas.tensors(item.source) for canvas, item in zip(canvases, items, strict=True)]
        painted = pipeline(
            prompt=[PROMPT.format(item.text) for item in items],
            image=[Image.fromarray(tensor_image(source)[0]) for source, _ in pairs],
            mask_image=[Image.fromarray(mask[0, 0].numpy() > 0.5) for _, mask in pairs],
            height=size,
            width=size,
            num_inference_steps=steps,
            guidance_scale=GUIDANCE_SCALE,
            generator=[torch.Generator().manual_seed(seed) for seed in seeds],
            output_type="pt",
        ).images.cpu()
        return [
            canvas.paste(item.source, 2 * x[None] - 1) for canvas, item, x in zip(canvases, items, painted, strict=True)
        ]

    return method, {"method": name, "weights": place, "steps": steps, "guidance_scale": GUIDANCE_SCALE}
