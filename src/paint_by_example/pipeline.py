"""The pipeline: load a model, edit a picture, save the model.

The flow of an edit, downwards: source, mask and exemplar -> crop around the mask -> latents and condition -> denoise ->
decode -> paste back. `edit`, in `edit.py`, is for people; `__call__` takes what diffusers' deprecated class takes.
"""

from __future__ import annotations

import contextlib
import dataclasses
import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, cast

import diffusers
import numpy as np
import PIL.Image
import torch
from diffusers.utils import BaseOutput
from torch import Tensor

from .canvas import Canvas, padded_canvases
from .checkpoint import check_fit, find_model, read_model, readable
from .edit import Editor, singly
from .errors import ModelError, PictureError, UserError
from .inputs import (
    check_seeds,
    check_sizes,
    common_count,
    mask_tensors,
    pad_to,
    result_generators,
    size_of,
    source_tensors,
)
from .painter import GUIDANCE_SCALE
from .sampling import Run, first_step, in_step, timesteps

logger = diffusers.utils.logging.get_logger(__name__)


@dataclasses.dataclass
class PaintByExampleOutput(BaseOutput):  # type: ignore[misc]
    """What the pipeline returns."""

    images: list[PIL.Image.Image] | np.ndarray | Tensor
    """One a result: PIL pictures, (B, H, W, 3) or (B, 3, H, W) float32 in [0, 1], or latents (B, C, h, w)."""
    nsfw_content_detected: list[bool] | None = None
    """What the safety checker says of each result; None without one, and for latents."""


class PaintByExamplePipeline(Editor):
    """Paints an exemplar's object into the masked part of a picture (arXiv 2211.13227); has the parts of `Parts`."""

    _callback_tensor_inputs = ["latents", "pred_original_sample"]  # noqa: RUF012 - diffusers' name and type
    _interrupt = False

    @classmethod
    def from_pretrained(
        cls, pretrained_model_name_or_path: str | Path, *, compat: str | None = None, **options: Any
    ) -> PaintByExamplePipeline:
        """Load a model as diffusers' pipelines are loaded.

        Args:
            pretrained_model_name_or_path: a folder, an LDM file, or a name on the hub, as for `load_pipeline`.
            compat: "original" or "diffusers", to behave as an ancestor did.
            options: diffusers' own: ``torch_dtype`` (one, or one a part by its name; float32 by default), ``variant``,
                ``revision``, ``cache_dir``, ``local_files_only``, ``token``, ``force_download``, ``proxies``,
                ``use_safetensors``, ``device_map`` (a device, or "balanced"), and parts by name instead of the model's.

        Returns:
            The pipeline.

        Raises:
            ModelError: if the model cannot be found or loaded, or its parts do not fit together.
        """
        pipeline = _load(cls, pretrained_model_name_or_path, options)
        pipeline.compat = compat
        return pipeline

    @property
    def interrupt(self) -> bool:
        """Whether a callback has set ``_interrupt``, which ends the running `__call__` after that step."""
        return self._interrupt

    @torch.no_grad()
    def __call__(
        self,
        example_image: Any,
        image: Any,
        mask_image: Any,
        height: int | None = None,
        width: int | None = None,
        num_inference_steps: int = 50,
        guidance_scale: float = GUIDANCE_SCALE,
        negative_prompt: str | list[str] | None = None,
        num_images_per_prompt: int = 1,
        eta: float = 0.0,
        generator: torch.Generator | list[torch.Generator] | None = None,
        latents: Tensor | None = None,
        output_type: str = "pil",
        return_dict: bool = True,
        callback: Callable[[int, int, Tensor], None] | None = None,
        callback_steps: int = 1,
        *,
        seeds: int | Sequence[int] | None = None,
        strength: float = 1.0,
        guidance_rescale: float = 0.0,
        padding_mask_crop: int | None = None,
        callback_on_step_end: Callable[..., dict[str, Any] | None] | None = None,
        callback_on_step_end_tensor_inputs: Sequence[str] = ("latents",),
    ) -> PaintByExampleOutput | tuple[Any, list[bool] | None]:
        """Paint whole pictures at their own size, with the arguments of the class that diffusers deprecated and more.

        Of sources, masks, exemplars and seeds there is one for all, or one for each. Pictures are paths, PIL pictures,
        arrays or tensors. By default each result is computed by itself, so that its bits do not depend on what else is
        made at once; under `compat` all are one batch, as they were in the ancestors.

        Args:
            example_image: exemplars, or a `Blend` of several; tensors (B, 3, S, S) must be normalised as the encoder
                wants it.
            image: sources; tensors (B, 3, H, W) in [-1, 1]. Under `compat`, sides must be multiples of the latent
                factor.
            mask_image: 1 or white where to repaint; tensors (B, 1, H, W) in [0, 1].
            height: not used, as in diffusers: the picture's own counts.
            width: likewise.
            num_inference_steps: noise levels to visit.
            guidance_scale: λ; as in diffusers' class, all below 1 is taken for 1 under ``compat="diffusers"``.
            negative_prompt: not used, as in diffusers: there is no text.
            num_images_per_prompt: results for each source, standing together.
            eta: noise added in each step, DDIM only.
            generator: one for all, which draws for one result after another, or one for each result; on the CPU it
                gives the same noise whatever the model's device. By default noise follows from ``torch.manual_seed``.
            latents: (B, C, h, w), noise to start from.
            output_type: pil, np, pt or latent.
            return_dict: an output object, or a tuple.
            callback: called with step, timestep and latents.
            callback_steps: after how many steps each.
            seeds: in place of ``generator``: one for all results or one for each. Several seeds of one source, mask and
                exemplar give as many results.
            strength: share of the noise levels that is visited, above 0; below 1 it starts from the source, noised.
            guidance_rescale: 0 to 1, see `guidance.guide`.
            padding_mask_crop: paint only a square with this many pixels around the mask, at the model's resolution, and
                paste it back: pixels outside the mask stay as they are. For pictures, not tensors.
            callback_on_step_end: called with the pipeline, step, timestep and a dictionary of tensors after every step.
                Where it returns a dictionary with ``latents``, those take the place of the step's. It may set the
                pipeline's ``_interrupt``.
            callback_on_step_end_tensor_inputs: what the dictionary holds: ``latents``, ``pred_original_sample``.

        Returns:
            The results. Without ``padding_mask_crop``, pixels outside the mask have been through the autoencoder.

        Raises:
            UserError: for arguments that cannot be used, in one line.
        """
        if output_type not in ("pil", "np", "pt", "latent"):
            raise UserError(f"output_type must be pil, np, pt or latent, got {output_type!r}")
        for name, value in (("num_images_per_prompt", num_images_per_prompt), ("callback_steps", callback_steps)):
            if value < 1:
                raise UserError(f"{name} must be at least 1, got {value}")
        if not math.isfinite(guidance_scale):
            raise UserError(f"guidance_scale must be a finite number, got {guidance_scale}")
        timesteps(self.scheduler, num_inference_steps)  # as in edit: raises before the work
        first_step(strength, num_inference_steps)
        inputs = list(getattr(callback_on_step_end, "tensor_inputs", callback_on_step_end_tensor_inputs))
        if unknown := [name for name in inputs if name not in self._callback_tensor_inputs]:
            known = ", ".join(self._callback_tensor_inputs)
            raise UserError(f"callback_on_step_end_tensor_inputs may hold {known}; got {', '.join(unknown)}")

        # What is painted, and how to show it
        crops: list[tuple[np.ndarray, Canvas]] | None = None
        if padding_mask_crop is None:
            source, mask = source_tensors(image), mask_tensors(mask_image, self.behaviour.half)
            check_sizes(source, mask)
        else:
            if output_type == "latent":
                raise UserError("output_type latent does not go with padding_mask_crop, which pastes pixels back")
            crops = padded_canvases(image, mask_image, padding_mask_crop, self.image_size)
            pairs = [canvas.tensors(pixels) for pixels, canvas in crops]
            source, mask = (torch.cat(part) for part in zip(*pairs, strict=True))
        size, factor = source.shape[-2:], self.latent_factor
        if self.behaviour.sizes == "multiples" and any(side % factor for side in size):
            raise PictureError(
                f"the source is {size_of(source)} pixels; with compat its sides must be multiples of {factor}"
            )
        source, mask = pad_to(source, factor), pad_to(mask, factor)
        condition = self.conditions(example_image)
        listed = None if seeds is None else check_seeds(seeds)
        counts = {"sources": len(source), "masks": len(mask), "exemplars": len(condition)}
        if listed is not None and num_images_per_prompt == 1:
            counts["seeds"] = len(listed)
        count = common_count(**counts)
        source, mask, condition = (x.expand(count, *x.shape[1:]) for x in (source, mask, condition))
        condition = condition.repeat_interleave(num_images_per_prompt, 0)
        if latents is not None:
            shape = (len(condition), self.unet.config.out_channels, *(side // factor for side in source.shape[-2:]))
            if latents.shape != shape:
                raise UserError(f"latents must be of shape {shape}, got {tuple(latents.shape)}")
            latents = latents.to(self._execution_device, self.unet.dtype)

        settings: dict[str, Any] = {
            "guidance_scale": guidance_scale,
            "steps": num_inference_steps,
            "eta": eta,
            "strength": strength,
            "guidance_rescale": guidance_rescale,
        }
        if self.behaviour.runs == "batch" and generator is None and listed is None:
            generators = None
        else:
            generators = result_generators(generator, listed, len(condition))
        run = self._runs(source, mask, condition, generators, latents, num_images_per_prompt, settings)

        self._interrupt = False
        z_0, sent = None, None
        with contextlib.ExitStack() as stack:
            while True:
                try:
                    step = next(run) if sent is None else run.send(sent)
                except StopIteration:
                    break
                if z_0 is None:
                    bar = stack.enter_context(self.progress_bar(total=step.total))
                bar.update()
                z_0, sent = step.z_t, None
                if callback_on_step_end is not None:
                    tensors = {"latents": step.z_t, "pred_original_sample": step.z_0}
                    returned = callback_on_step_end(self, step.index, step.t, {name: tensors[name] for name in inputs})
                    sent = (returned or {}).get("latents")
                    sent = None if sent is step.z_t else sent
                    z_0 = z_0 if sent is None else sent.to(z_0)
                if callback is not None and step.index % callback_steps == 0:
                    callback(step.index, step.t, z_0)
                if self._interrupt:
                    break
        assert z_0 is not None  # there is at least one step

        source, mask = (x.repeat_interleave(num_images_per_prompt, 0) for x in (source, mask))
        images, flagged = self._shown(z_0, (source, mask, condition), strength, size, output_type, crops)
        self.maybe_free_model_hooks()
        return PaintByExampleOutput(images, flagged) if return_dict else (images, flagged)

    def _runs(
        self,
        source: Tensor,
        mask: Tensor,
        condition: Tensor,
        generators: list[torch.Generator] | None,
        noise: Tensor | None,
        copies: int,
        settings: dict[str, Any],
    ) -> Run:
        """One run for all results, or a run for each; see `compat.Behaviour.runs`."""
        if self.behaviour.runs == "batch" or generators is None:
            return self.paint(source, mask, condition, generators=generators, z_T=noise, copies=copies, **settings)
        if noise is None:  # all of it before the first step, so that a generator they share draws it in order
            shape = (self.unet.config.out_channels, *(side // self.latent_factor for side in source.shape[-2:]))
            noise = self._draw(shape, generators, self._execution_device, self.unet.dtype)
        parts = (x.repeat_interleave(copies, 0).split(1) for x in (source, mask))
        runs = [
            self.paint(s, m, c, generators=[generator], z_T=z_T, **settings)
            for s, m, c, z_T, generator in zip(*parts, condition.split(1), singly(noise), generators, strict=True)
        ]
        return in_step(runs)

    def _shown(
        self,
        z_0: Tensor,
        told: tuple[Tensor, Tensor, Tensor],
        strength: float,
        size: Sequence[int],
        output_type: str,
        crops: list[tuple[np.ndarray[Any, Any], Canvas]] | None,
    ) -> tuple[Any, list[bool] | None]:
        """Latents as what was asked for, and what the safety checker says."""
        if output_type == "latent":
            return z_0, None
        height, width = size
        if self.behaviour.runs == "batch":
            decoded = self.show(z_0, *told, strength=strength)
        else:
            each = zip(*(singly(x) for x in (z_0, *told)), strict=True)
            decoded = torch.cat([self.show(z, s, m, c, strength) for z, s, m, c in each])
        if crops is None:
            values = (decoded[..., :height, :width].float() / 2 + 0.5).clamp(0, 1)
        else:
            copies = len(decoded) // len(crops)
            pasted = [
                canvas.paste(pixels, x[None])
                for (pixels, canvas), xs in zip(crops, decoded.split(copies), strict=True)
                for x in xs
            ]
            if output_type == "pil":
                pictures = [PIL.Image.fromarray(pixels) for pixels in pasted]
                return pictures, self.check_safety(pictures)
            if len({pixels.shape for pixels in pasted}) > 1:
                raise PictureError("results of several sizes do not go into one array; use output_type pil")
            values = torch.from_numpy(np.stack(pasted)).permute(0, 3, 1, 2).float() / 255
        images = values.permute(0, 2, 3, 1).cpu().numpy()
        pictures = self.numpy_to_pil(images) if output_type == "pil" or self.safety_checker is not None else []
        shown = {"pil": pictures, "np": images, "pt": values}[output_type]
        return shown, self.check_safety(pictures)


# --- loading ----------------------------------------------------------------------------------------------------------


def load_pipeline(
    model: str | Path = "embedded",
    device: str | torch.device | None = None,
    dtype: torch.dtype | None = None,
    *,
    compat: str | None = None,
    variant: str | None = None,
    revision: str | None = None,
    cache_dir: str | Path | None = None,
    local_files_only: bool = False,
) -> PaintByExamplePipeline:
    """Load a model.

    Args:
        model: "embedded" for the one in this package, a folder in diffusers' layout, an LDM file (``.ckpt`` or
            ``.safetensors``), or a name on the hub.
        device: cpu, cuda, ...; the best there is by default.
        dtype: of the weights; float32 on the CPU and float16 on a GPU by default.
        compat: "original" or "diffusers", to behave as an ancestor did.
        variant: of the files in a folder, such as fp16.
        revision: of a model on the hub.
        cache_dir: where models from the hub are kept.
        local_files_only: take a model on the hub from there, or not at all.

    Returns:
        The pipeline, on the device.

    Raises:
        ModelError: if the model cannot be found or loaded, or its parts do not fit together.
        UserError: if the device cannot be used.
    """
    device = choose_device(device)
    if dtype is None:
        dtype = torch.float32 if device.type == "cpu" else torch.float16
    hub = {"revision": revision, "cache_dir": cache_dir, "local_files_only": local_files_only or None}
    pipeline = PaintByExamplePipeline.from_pretrained(
        model, torch_dtype=dtype, device_map=device, compat=compat, variant=variant, **hub
    )
    # Kernels of convolutions want channels last; the numbers are the same to rounding.
    pipeline.unet.to(memory_format=torch.channels_last)
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


PARTS = ("vae", "image_encoder", "unet", "scheduler", "safety_checker", "feature_extractor", "source_encoder")
FOR_THE_HUB = ("revision", "cache_dir", "local_files_only", "token", "force_download", "proxies")
WITHOUT_USE = ("low_cpu_mem_usage", "offload_folder", "offload_state_dict", "max_memory", "disable_mmap")
"""Options of diffusers' that change how a model is loaded there, and nothing here."""


def _load(cls: type[PaintByExamplePipeline], model: str | Path, options: dict[str, Any]) -> PaintByExamplePipeline:
    """Load a model with diffusers' options; see `PaintByExamplePipeline.from_pretrained`."""
    options = dict(options)
    given = {name: options.pop(name) for name in PARTS if name in options}
    settings = {name: options.pop(name) for name in ("requires_safety_checker",) if name in options}
    types = options.pop("dtype", None) or options.pop("torch_dtype", None) or torch.float32
    options.pop("torch_dtype", None)
    device_map = options.pop("device_map", None)
    hub = {name: value for name in FOR_THE_HUB if (value := options.pop(name, None)) is not None}
    files = {name: options.pop(name, None) for name in ("variant", "use_safetensors")}
    memory = {name: options.pop(name) for name in WITHOUT_USE if name in options}
    if options:
        logger.warning("%s does not know the options %s; they are ignored", cls.__name__, ", ".join(sorted(options)))
    if device_map == "balanced":
        return _balanced(cls, model, types, given | settings | memory, files | hub)

    def dtype(part: str) -> torch.dtype | None:
        chosen = types.get(part, types.get("default", torch.float32)) if isinstance(types, dict) else types
        return None if chosen == "auto" else cast(torch.dtype, chosen)

    device = choose_device("cpu" if device_map is None else device_map)
    stored = read_model(model, without=given, **files, download=cls.download, **hub)
    if "student_steps" in stored.index:
        settings["student_steps"] = stored.index["student_steps"]
    with readable(model):
        parts = stored.load(device, dtype) | given
        check_fit(parts, model)
        pipeline = cls(**parts, **settings)
    pipeline.model_name = str(model)
    return pipeline


def _balanced(
    cls: type[PaintByExamplePipeline], model: str | Path, types: Any, given: dict[str, Any], files: dict[str, Any]
) -> PaintByExamplePipeline:
    """Spread the parts over the devices there are; that is left to diffusers and accelerate."""
    folder = find_model(model, cls.download, **{name: value for name, value in files.items() if value is not None})
    if folder.is_file():
        raise ModelError(f"{model} is one file, of which no parts can be spread; convert it to a folder: pbe convert")
    with readable(model):
        load = cast(Any, super(PaintByExamplePipeline, cls)).from_pretrained
        pipeline = load(folder, torch_dtype=types, device_map="balanced", variant=files["variant"], **given)
    return cast(PaintByExamplePipeline, pipeline)


def choose_device(device: str | torch.device | None) -> torch.device:
    """The device asked for, or the best there is.

    Raises:
        UserError: if there is no such device.
    """
    if device is None:
        device = "cuda" if torch.cuda.is_available() else "mps" if torch.backends.mps.is_available() else "cpu"
    try:
        return torch.empty(0, device=device).device
    except (RuntimeError, AssertionError, NotImplementedError) as error:  # the second: torch built without CUDA
        reason = str(error).partition("\n")[0]
        raise UserError(f"cannot use the device {str(device)!r}: {reason}; cpu always works") from error


def describe(model: str | Path) -> dict[str, Any]:
    """What a model is: its parts, sizes and settings.

    Raises:
        ModelError: if the model cannot be found or loaded.
    """
    stored = read_model(model, download=PaintByExamplePipeline.download)
    check_fit(stored.outline(), model)
    pipeline = PaintByExamplePipeline(**stored.outline())  # without weights, which makes it quick
    parts = {
        name: {
            "class": type(part).__name__,
            "parameters": sum(parameter.numel() for parameter in part.parameters()),
        }
        for name, part in pipeline.components.items()
        if isinstance(part, torch.nn.Module)
    }
    return {
        "model": str(model),
        "layout": stored.layout,
        "dtype": ", ".join(stored.dtypes),
        "parts": parts,
        "parameters": sum(cast(int, part["parameters"]) for part in parts.values()),
        "image_size": pipeline.image_size,
        "latent_factor": pipeline.latent_factor,
        "latent_channels": int(pipeline.unet.config.out_channels),
        "exemplar_size": int(pipeline.image_encoder.image_size),
        "condition": list(pipeline.image_encoder.uncond_vector.shape),
        "scheduler": type(pipeline.scheduler).__name__,
        "prediction_type": pipeline.scheduler.config.prediction_type,
    }
