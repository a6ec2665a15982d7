"""Models that are told in words what to paint: Stable Diffusion's for holes, and InstructPix2Pix, run by diffusers."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from PIL import Image

from ..crops import context_crop, crop_image, crop_mask, paste_back, resize, resize_mask
from ..errors import ModelError
from ..images import Box
from ..sampling import make_scheduler, seeded_generators
from .messages import Kind, Told
from .painting import Made, OnStep, Part, Pixels, Progress, Work, kept

if TYPE_CHECKING:
    import torch

CLASSES: dict[str, Literal["prompt", "instruct"]] = {
    "StableDiffusionInpaintPipeline": "prompt",
    "StableDiffusionInstructPix2PixPipeline": "instruct",
}
"""diffusers' pipelines that are taken, and what kind of model each is."""
GUIDANCE_SCALE = 7.5  # both pipelines' own
IMAGE_GUIDANCE_SCALE = 1.5  # of InstructPix2Pix, arXiv 2211.09800
STEPS = 50


class PromptedModel:
    """One of diffusers' pipelines.

    Args:
        model: a folder, or a name on the hub.
        name: what clients call it.
        kind: which of the pipelines.
        device: to run it on.
        dtype: of its weights.
        local_files_only: nothing is downloaded.
        offload: keep its parts in main memory, and each on the GPU only while it works.
        text_on_cpu: keep the text encoder on the CPU.
        checked: with its safety checker, if it has one.

    Raises:
        ModelError: it is not there, or not one of these.
    """

    def __init__(
        self,
        model: str | Path,
        name: str,
        kind: Literal["prompt", "instruct"],
        device: torch.device,
        dtype: torch.dtype,
        *,
        local_files_only: bool,
        offload: bool = False,
        text_on_cpu: bool = False,
        checked: bool = True,
    ) -> None:
        import diffusers

        loader = diffusers.StableDiffusionInpaintPipeline
        if kind == "instruct":
            loader = diffusers.StableDiffusionInstructPix2PixPipeline
        options: dict[str, Any] = {} if checked else {"safety_checker": None, "requires_safety_checker": False}
        try:
            self.pipeline = loader.from_pretrained(
                model, local_files_only=local_files_only, use_safetensors=True, **options
            )
        except (OSError, ValueError) as error:
            if local_files_only and not Path(model).is_dir():
                raise ModelError(
                    f"{name} is not on this machine: leave --local-files-only out once, so that {model} is downloaded,"
                    f" or put its folder into --model-dir under the name {name}"
                ) from error
            reason = " ".join(str(error).split())[:200]
            raise ModelError(f"cannot load {name} with diffusers from {model}: {reason}") from error
        self.pipeline.to(dtype)  # not while loading: versions of diffusers differ in what they call that
        self.pipeline.set_progress_bar_config(disable=True)
        self.device = device
        self.text_on_cpu = text_on_cpu and not offload
        if offload:
            self.pipeline.enable_model_cpu_offload(device=device)
        else:
            self.pipeline.to(device)
        if self.text_on_cpu:
            self.pipeline.text_encoder.to("cpu", dtype=_cpu_type())
        self.kind: Kind = kind
        self.image_size: int | None = int(self.pipeline.unet.config.sample_size * self.pipeline.vae_scale_factor)
        self.steps = STEPS
        self.scheduler: str | None = type(self.pipeline.scheduler).__name__
        self.takes: Sequence[Told] = ()
        self.own_scheduler = self.pipeline.scheduler

    def network(self) -> None:
        """Calls are not shared: diffusers' pipelines keep their state in their scheduler."""
        return None

    def edit(self, work: Work, on_step: OnStep) -> list[Made]:
        """See `painting.Model.edit`. Of several regions, each has the same prompt."""
        asked = work.settings
        steps = asked.steps or self.steps
        total = steps * len(work.parts) * len(asked.seeds)
        boxes = [context_crop(part.mask) for part in work.parts]
        words = self._words(work)
        done, made = 0, []
        for seed, generator in zip(asked.seeds, seeded_generators(asked.seeds), strict=True):
            pixels: Pixels = np.asarray(work.source.convert("RGB"))
            flagged = None
            for region, (part, box) in enumerate(zip(work.parts, boxes, strict=True)):

                def tell(pipe: Any, index: int, t: Any, tensors: dict[str, Any], at: int = region) -> dict[str, Any]:
                    nonlocal done
                    done = min(done + 1, total)
                    on_step(Progress(done, total, at, boxes[at]))
                    return tensors

                picture, flag = self._paint(pixels, part, box, generator, steps, work, words, tell)
                pixels = paste_back(pixels, picture, part.mask, box)
                flagged = flag if flagged is None else flagged or bool(flag)
            mask = np.logical_or.reduce([part.mask for part in work.parts])
            made.append(Made(kept(work.source, pixels, mask), seed, {}, flagged=flagged, boxes=boxes))
        return made

    def _paint(
        self,
        pixels: Pixels,
        part: Part,
        box: Box,
        generator: torch.Generator,
        steps: int,
        work: Work,
        words: dict[str, Any],
        tell: Any,
    ) -> tuple[Pixels, bool | None]:
        """The square around a region, (S, S, 3), and whether it was flagged."""
        assert self.image_size is not None
        size, asked = (self.image_size, self.image_size), work.settings
        square = Image.fromarray(resize(crop_image(pixels, box), size))
        options: dict[str, Any] = {"image": square}
        if self.kind == "prompt":
            hole = resize_mask(crop_mask(part.mask, box), size)
            options |= {"mask_image": Image.fromarray(hole), "strength": asked.strength}
            options |= {"height": size[1], "width": size[0], "eta": asked.eta}
        else:
            options |= {"image_guidance_scale": IMAGE_GUIDANCE_SCALE, "eta": asked.eta}
        if asked.scheduler is not None:
            self.pipeline.scheduler = make_scheduler(asked.scheduler, self.own_scheduler)
        try:
            output = self.pipeline(
                num_inference_steps=steps,
                guidance_scale=GUIDANCE_SCALE if asked.guidance_scale is None else asked.guidance_scale,
                generator=generator,
                callback_on_step_end=tell,
                **words,
                **options,
            )
        finally:
            self.pipeline.scheduler = self.own_scheduler
        flags = output.nsfw_content_detected
        return np.asarray(output.images[0].convert("RGB")), None if flags is None else bool(flags[0])

    def _words(self, work: Work) -> dict[str, Any]:
        """The prompt, as words or, where the text encoder is kept on the CPU, as what it makes of them."""
        prompt, negative = work.settings.prompt, work.settings.negative_prompt
        if not self.text_on_cpu:
            return {"prompt": prompt, "negative_prompt": negative}
        encoder, tokenizer = self.pipeline.text_encoder, self.pipeline.tokenizer
        embedded = {}
        for key, text in (("prompt_embeds", prompt), ("negative_prompt_embeds", negative)):
            tokens = tokenizer(
                text, padding="max_length", max_length=tokenizer.model_max_length, truncation=True, return_tensors="pt"
            )
            import torch

            with torch.no_grad():
                embedded[key] = encoder(tokens.input_ids)[0].to(self.device, self.pipeline.unet.dtype)
        return embedded


def _cpu_type() -> torch.dtype:
    """Half precision is slow on CPUs, where it works at all."""
    import torch

    return torch.float32


def kind_of_folder(folder: Path) -> Kind | None:
    """What kind of model a folder in diffusers' layout is, None for none that is taken here."""
    try:
        name = json.loads((folder / "model_index.json").read_text(encoding="utf-8"))["_class_name"]
    except (OSError, ValueError, KeyError, TypeError):
        return None
    return "exemplar" if name == "PaintByExamplePipeline" else CLASSES.get(str(name))
