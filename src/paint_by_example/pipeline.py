"""The pipeline: load a model, edit a picture, save the model.

The flow of an edit, downwards: source, mask and exemplar -> crop around the mask -> latents and condition -> denoise ->
decode -> paste back. `edit` is for people; `__call__` takes what the class that diffusers deprecated takes.
"""

from __future__ import annotations

import dataclasses
import math
import textwrap
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, TypeVar, cast

import numpy as np
import PIL.Image
import torch
from diffusers import DiffusionPipeline
from diffusers.utils import BaseOutput
from torch import Tensor
from torch.nn import functional as F

from .checkpoint import find_model, load_parts, quiet
from .errors import MaskError, ModelError, PictureError, UserError
from .images import (
    Box,
    Picture,
    box_mask,
    context_crop,
    crop_image,
    crop_mask,
    image_tensor,
    load_exemplar,
    load_image,
    load_mask,
    mask_tensor,
    paste_back,
    resize,
    resize_mask,
    tensor_image,
)
from .sampling import (
    Scheduler,
    SchedulerName,
    Step,
    default_steps,
    denoise,
    draw_noise,
    guide,
    make_scheduler,
    seeded_generators,
    timesteps,
)

T = TypeVar("T")

PACKAGE = __name__.partition(".")[0]
GUIDANCE_SCALE = 5.0  # the paper's


@dataclasses.dataclass
class PaintByExampleOutput(BaseOutput):  # type: ignore[misc]
    """What the pipeline returns."""

    images: list[PIL.Image.Image] | np.ndarray | Tensor
    """One a result: PIL pictures, (B, H, W, 3) or (B, 3, H, W) float32 in [0, 1], or latents (B, C, h, w)."""
    nsfw_content_detected: list[bool] | None = None
    """Always None: there is no safety checker."""


@dataclasses.dataclass(frozen=True)
class Edit:
    """The result of `PaintByExamplePipeline.edit`."""

    images: list[PIL.Image.Image]
    """One picture a seed, of the source's size and mode."""
    seeds: list[int]
    """The seed of each."""
    guidance_scale: float
    """λ."""
    steps: int
    """Noise levels visited."""
    box: Box
    """The square that the model saw and painted, in pixels of the source; it may reach outside."""
    seconds: float
    """Time it took, wall clock."""


class PaintByExamplePipeline(DiffusionPipeline):  # type: ignore[misc]
    """Paints an exemplar's object into the masked part of a picture (arXiv 2211.13227).

    Args:
        vae: pictures to latents and back.
        image_encoder: exemplar to condition, see `conditioning`.
        unet: [noisy latent, masked latent, mask] and condition to a prediction.
        scheduler: the noise schedule, and the solver used by default.
        safety_checker: not used; there because released checkpoints name it.
        feature_extractor: carries the exemplar's size and normalisation.
        requires_safety_checker: not used.
    """

    model_cpu_offload_seq = "image_encoder->unet->vae"
    _optional_components = ["safety_checker", "feature_extractor"]  # noqa: RUF012 - diffusers' name and type

    def __init__(
        self,
        vae: Any,
        image_encoder: Any,
        unet: Any,
        scheduler: Any,
        safety_checker: Any = None,
        feature_extractor: Any = None,
        requires_safety_checker: bool = False,
    ) -> None:
        super().__init__()
        self.register_modules(
            vae=vae,
            image_encoder=image_encoder,
            unet=unet,
            scheduler=scheduler,
            safety_checker=safety_checker,
            feature_extractor=feature_extractor,
        )
        self.register_to_config(requires_safety_checker=requires_safety_checker)

    def register_to_config(self, **settings: Any) -> None:
        """Note parts and settings for ``model_index.json``.

        Args:
            settings: by name; a part is noted as (library, class).
        """
        for name, value in settings.items():
            # diffusers notes the module a class is defined in; the released checkpoint names the package, and so do we
            if isinstance(value, tuple) and str(value[0]).startswith(f"{PACKAGE}."):
                settings[name] = (PACKAGE, value[1])
        super().register_to_config(**settings)

    # --- what the model's parts say of themselves ---------------------------------------------------------------------

    @property
    def latent_factor(self) -> int:
        """Pixels of the picture to one of the latent, per side."""
        config = self.vae.config
        return int(config.get("patch_size") or 2 ** (len(config["block_out_channels"]) - 1))

    @property
    def image_size(self) -> int:
        """Side of the square the model paints best, pixels."""
        return int(self.unet.config.sample_size) * self.latent_factor

    # --- tensors in, tensors out: shared by editing and training ------------------------------------------------------

    def encode_picture(self, x: Tensor, generator: torch.Generator | None = None) -> Tensor:
        """Pictures to latents.

        Args:
            x: (B, 3, H, W) in [-1, 1].
            generator: samples the posterior; without it the mean is taken.

        Returns:
            (B, C, h, w), about unit variance.
        """
        posterior = self.vae.encode(x).latent_dist
        z = posterior.mode() if generator is None else posterior.sample(generator)
        return cast(Tensor, z * self.vae.config.scaling_factor)

    def decode_latent(self, z_0: Tensor) -> Tensor:
        """Latents to pictures: (B, C, h, w) to (B, 3, H, W), about [-1, 1]."""
        return cast(Tensor, self.vae.decode(z_0 / self.vae.config.scaling_factor).sample)

    def unet_input(self, z_t: Tensor, z_masked: Tensor, mask: Tensor) -> Tensor:
        """What the U-Net sees: noisy latent, masked latent, mask, in the authors' order of channels.

        Args:
            z_t: (B, C, h, w).
            z_masked: (B, C, h, w), latent of the source with a grey hole.
            mask: (B, 1, h, w) in [0, 1], 1 = repaint.

        Returns:
            (B, 2 C + 1, h, w).
        """
        keep = 1 - mask  # the released U-Net was trained on 1 = keep; this is the only place where the mask is flipped
        return torch.cat([z_t, z_masked, keep], dim=1)

    def exemplar_tensor(self, exemplars: Sequence[PIL.Image.Image] | np.ndarray) -> Tensor:
        """Exemplars as the encoder takes them: squashed to its square, normalised.

        Args:
            exemplars: RGB pictures, or (B, E, E, 3) uint8.

        Returns:
            (B, 3, S, S) float32.

        Raises:
            ModelError: if the model does not say how an exemplar is normalised.
        """
        if self.feature_extractor is None:
            raise ModelError(
                "the model has no feature_extractor, which says how an exemplar is normalised; give it one"
            )
        side = (self.image_encoder.image_size,) * 2
        pictures = [
            picture if isinstance(picture, PIL.Image.Image) else PIL.Image.fromarray(picture) for picture in exemplars
        ]
        # squashed, not cropped, as in the authors' code: the whole exemplar counts
        squares = [picture.convert("RGB").resize(side, PIL.Image.Resampling.BICUBIC) for picture in pictures]
        x = torch.from_numpy(np.stack([np.asarray(square) for square in squares])).permute(0, 3, 1, 2).float() / 255
        mean, std = (
            torch.tensor(values)[:, None, None]
            for values in (self.feature_extractor.image_mean, self.feature_extractor.image_std)
        )
        return (x - mean) / std

    @torch.no_grad()
    def encode_exemplar(self, exemplars: Sequence[PIL.Image.Image] | np.ndarray) -> Tensor:
        """Exemplars to conditions: pictures to (B, 1, D)."""
        x = self.exemplar_tensor(exemplars).to(self._execution_device, self.unet.dtype)
        return cast(Tensor, self.image_encoder(x))

    @torch.no_grad()
    def paint(
        self,
        source: Tensor,
        mask: Tensor,
        condition: Tensor,
        *,
        guidance_scale: float | Tensor = GUIDANCE_SCALE,
        steps: int = 50,
        generators: Sequence[torch.Generator],
        scheduler: Scheduler | None = None,
        eta: float = 0.0,
        z_T: Tensor | None = None,
    ) -> Iterator[Step]:
        """The method itself: denoise under the masked source and the exemplar's condition, yielding every step.

        Args:
            source: (B, 3, H, W) in [-1, 1], H and W multiples of the latent factor.
            mask: (B, 1, H, W) in {0, 1}.
            condition: (B, 1, D).
            guidance_scale: λ, one for all or (B,).
            steps: noise levels to visit.
            generators: one a picture; one on the CPU draws the same noise whatever the model's device.
            scheduler: the solver; the model's own by default.
            eta: noise added in each step, DDIM only.
            z_T: (B, C, h, w), noise to start from; drawn from the generators by default.

        Yields:
            Each step; the last one's ``z_t`` is the clean latent.

        Raises:
            UserError: for a number out of its range.
            ModelError: for a scheduler that is not known here.
        """
        device, dtype = self._execution_device, self.unet.dtype
        source, mask, condition = (x.to(device, dtype) for x in (source, mask, condition))
        z_masked = self.encode_picture(source * (1 - mask))
        m = latent_mask(mask, z_masked.shape[-2:])
        if z_T is None:
            z_T = draw_noise(z_masked.shape[1:], generators, device, dtype)

        def predict(z_t: Tensor, t: Tensor, condition: Tensor) -> Tensor:
            repeats = len(z_t) // len(z_masked)  # two where guidance asks for both predictions at once
            x = self.unet_input(z_t, z_masked.repeat(repeats, 1, 1, 1), m.repeat(repeats, 1, 1, 1))
            return cast(Tensor, self.unet(x, t, encoder_hidden_states=condition).sample)

        guided = guide(predict, condition, self.image_encoder.uncond_vector, guidance_scale)
        yield from denoise(guided, z_T, scheduler or self.scheduler, steps, eta=eta, generators=generators)

    # --- for people ---------------------------------------------------------------------------------------------------

    def edit(
        self,
        source: Picture,
        *,
        exemplar: Picture,
        mask: Picture | None = None,
        box: Box | None = None,
        guidance_scale: float = GUIDANCE_SCALE,
        steps: int | None = None,
        seed: int | Sequence[int] = 0,
        scheduler: SchedulerName | None = None,
        feather: int = 0,
        on_step: Callable[[Step], None] | None = None,
    ) -> Edit:
        """Paint an exemplar into a picture of any size.

        A square around the mask is painted at the model's resolution and pasted back at the picture's own. Pixels
        outside the mask are those of the source, bit for bit. The result for a seed is the same alone or among others.

        Args:
            source: the picture to edit: a path, a PIL picture or an array.
            exemplar: a picture of what to paint.
            mask: white where to repaint, of the source's size; this or ``box``.
            box: (left, top, right, bottom) to repaint, in pixels.
            guidance_scale: λ: the larger, the more alike the exemplar; 1 is no guidance, 0 no exemplar.
            steps: noise levels to visit; what the solver is good at by default.
            seed: one for one result, several for several; each in 0 .. 2^64 - 1.
            scheduler: ddim, pndm, dpm++ or unipc; the model's own by default.
            feather: pixels over which the painted part fades in, inside the mask.
            on_step: called after every step, for progress, previews, and, by raising, for cancelling. Latents are those
                of all results, (B, C, h, w), in the order of the seeds.

        Returns:
            The results and their settings.

        Raises:
            UserError: for a picture, mask, box or setting that cannot be used, in one line.
        """
        started = time.perf_counter()
        picture = load_image(source)
        if mask is not None and box is not None:
            raise MaskError("both a mask and a box were given; give one of them")
        if mask is not None:
            selected = load_mask(mask, picture.size)
        elif box is not None:
            selected = box_mask(box, picture.size)
        else:
            raise MaskError("neither a mask nor a box was given; give one of them")
        seeds = _check_seeds([seed] if isinstance(seed, int | np.integer) else seed)
        if not math.isfinite(guidance_scale):
            raise UserError(f"guidance_scale must be a finite number, got {guidance_scale}")
        if feather < 0:
            raise UserError(f"feather must be at least 0 pixels, got {feather}")
        solver = self.scheduler if scheduler is None else make_scheduler(scheduler, self.scheduler)
        steps = default_steps(solver) if steps is None else steps
        timesteps(solver, steps)  # raises what there is to raise before the work, not after the exemplar is encoded

        condition = self.encode_exemplar([load_exemplar(exemplar)])
        pixels = np.asarray(picture.convert("RGB"))
        crop = context_crop(selected)
        size = (self.image_size, self.image_size)
        x = image_tensor(resize(crop_image(pixels, crop), size))
        m = mask_tensor(resize_mask(crop_mask(selected, crop), size))

        # Each picture has a run of its own, and the runs go in step. Kernels differ between sizes of batch, and so
        # would the last bits of a result between a seed alone and among others.
        runs = [
            self.paint(
                x,
                m,
                condition,
                guidance_scale=guidance_scale,
                steps=steps,
                generators=[generator],
                scheduler=solver,
            )
            for generator in seeded_generators(seeds)
        ]
        latents: list[Tensor] = []
        for taken in zip(*runs, strict=True):
            latents = [step.z_t for step in taken]
            if on_step is not None:
                on_step(dataclasses.replace(taken[0], z_t=torch.cat(latents), z_0=torch.cat([s.z_0 for s in taken])))

        results = []
        for z_0 in latents:
            with torch.no_grad():
                (painted,) = tensor_image(self.decode_latent(z_0))
            result = PIL.Image.fromarray(paste_back(pixels, painted, selected, crop, feather))
            if picture.mode == "RGBA":
                result.putalpha(picture.getchannel("A"))
            result.info = dict(picture.info)  # the colour profile, without which the kept pixels would look different
            results.append(result)
        self.maybe_free_model_hooks()
        return Edit(results, seeds, guidance_scale, steps, crop, time.perf_counter() - started)

    # --- for programs written for diffusers ---------------------------------------------------------------------------

    @torch.no_grad()
    def __call__(
        self,
        example_image: Tensor | PIL.Image.Image | list[PIL.Image.Image],
        image: Tensor | PIL.Image.Image | list[PIL.Image.Image],
        mask_image: Tensor | PIL.Image.Image | list[PIL.Image.Image],
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
    ) -> PaintByExampleOutput | tuple[Any, None]:
        """Paint whole pictures at their own size, with the arguments of the class that diffusers deprecated.

        Of sources, masks and exemplars there is one for all, or one for each.

        Args:
            example_image: exemplars; tensors (B, 3, S, S) must be normalised as the encoder wants it.
            image: sources; tensors (B, 3, H, W) in [-1, 1]. Sides must be multiples of the latent factor.
            mask_image: 1 or white where to repaint; tensors (B, 1, H, W) in [0, 1].
            height: not used, as in diffusers: the picture's own counts.
            width: likewise.
            num_inference_steps: noise levels to visit.
            guidance_scale: λ; in diffusers' class all below 1 was taken for 1.
            negative_prompt: not used, as in diffusers: there is no text.
            num_images_per_prompt: results for each source.
            eta: noise added in each step, DDIM only.
            generator: one for all, which draws for one result after another, or one for each result; on the CPU it
                gives the same noise whatever the model's device. By default noise follows from ``torch.manual_seed``.
            latents: (B, C, h, w), noise to start from.
            output_type: pil, np, pt or latent.
            return_dict: an output object, or a tuple.
            callback: called with step, timestep and latents.
            callback_steps: after how many steps each.

        Returns:
            The results. Pixels outside the mask have been through the autoencoder: use `edit` to keep them.

        Raises:
            UserError: for arguments that cannot be used, in one line.
        """
        if output_type not in ("pil", "np", "pt", "latent"):
            raise UserError(f"output_type must be pil, np, pt or latent, got {output_type!r}")
        for name, value in (("num_images_per_prompt", num_images_per_prompt), ("callback_steps", callback_steps)):
            if value < 1:
                raise UserError(f"{name} must be at least 1, got {value}")
        timesteps(self.scheduler, num_inference_steps)  # as in edit: raises before the work

        source, mask = _sources(image), _masks(mask_image)
        if source.shape[-2:] != mask.shape[-2:]:
            raise MaskError(f"the mask is {_size(mask)} pixels but the source is {_size(source)}; both need one size")
        factor = self.latent_factor
        if source.shape[-1] % factor or source.shape[-2] % factor:
            raise PictureError(
                f"the source is {_size(source)} pixels; its sides must be multiples of {factor}, or use edit"
            )
        if isinstance(example_image, Tensor):
            condition = self._encode_normalised(example_image)
        else:
            condition = self.encode_exemplar([load_exemplar(one) for one in _as_list(example_image)])
        count = max(len(source), len(mask), len(condition))
        if any(len(part) not in (1, count) for part in (source, mask, condition)):
            raise UserError(
                f"{len(source)} sources, {len(mask)} masks and {len(condition)} exemplars do not go together;"
                f" give one or {count} of each"
            )
        source, mask, condition = (
            part.expand(count, *part.shape[1:]).repeat_interleave(num_images_per_prompt, 0)
            for part in (source, mask, condition)
        )
        if latents is not None:
            shape = (len(source), self.unet.config.out_channels, *(side // factor for side in source.shape[-2:]))
            if latents.shape != shape:
                raise UserError(f"latents must be of shape {shape}, got {tuple(latents.shape)}")
            latents = latents.to(self._execution_device, self.unet.dtype)

        z_0 = None
        for step in self.paint(
            source,
            mask,
            condition,
            guidance_scale=guidance_scale,
            steps=num_inference_steps,
            generators=_generators(generator, len(source)),
            eta=eta,
            z_T=latents,
        ):
            z_0 = step.z_t
            if callback is not None and step.index % callback_steps == 0:
                callback(step.index, step.t, step.z_t)
        assert z_0 is not None  # there is at least one step

        images: Any = z_0
        if output_type != "latent":
            images = (self.decode_latent(z_0).float() / 2 + 0.5).clamp(0, 1)
        if output_type in ("pil", "np"):
            images = images.permute(0, 2, 3, 1).cpu().numpy()
        if output_type == "pil":
            images = self.numpy_to_pil(images)
        self.maybe_free_model_hooks()
        return PaintByExampleOutput(images) if return_dict else (images, None)

    def _encode_normalised(self, exemplars: Tensor) -> Tensor:
        """Exemplars as tensors to conditions: (B, 3, S, S), or one (3, S, S), to (B, 1, D)."""
        exemplars = exemplars[None] if exemplars.ndim == 3 else exemplars
        side = self.image_encoder.image_size
        if exemplars.ndim != 4 or exemplars.shape[1:] != (3, side, side):
            raise PictureError(f"exemplars must be of shape (B, 3, {side}, {side}), got {tuple(exemplars.shape)}")
        return cast(Tensor, self.image_encoder(exemplars.to(self._execution_device, self.unet.dtype)))


# --- what __call__ takes ----------------------------------------------------------------------------------------------


def _as_list(value: T | Sequence[T]) -> list[T]:
    """One or several, as a list with something in it."""
    values = list(value) if isinstance(value, list | tuple) else [cast(T, value)]
    if not values:
        raise UserError("an empty list was given; give at least one source, mask and exemplar")
    return values


def _sources(image: Any) -> Tensor:
    """Sources of any kind as (B, 3, H, W) in [-1, 1]."""
    if not isinstance(image, Tensor):
        pictures = [load_image(picture).convert("RGB") for picture in _as_list(image)]
        return _stack([image_tensor(np.asarray(picture)) for picture in pictures], "sources")
    sources = image[None] if image.ndim == 3 else image
    if sources.ndim != 4 or sources.shape[1] != 3 or not sources.numel():
        raise PictureError(f"sources must be of shape (B, 3, H, W), got {tuple(image.shape)}")
    if not -1 <= sources.min() <= sources.max() <= 1:  # written so that NaN fails it, here and below
        raise PictureError(f"sources must be in [-1, 1], got {sources.min():g} to {sources.max():g}")
    return sources.float()


def _masks(mask: Any) -> Tensor:
    """Masks of any kind as (B, 1, H, W) in {0, 1}."""
    if not isinstance(mask, Tensor):
        pictures = [load_image(picture, "mask") for picture in _as_list(mask)]
        return _stack([mask_tensor(load_mask(picture, picture.size)) for picture in pictures], "masks")
    masks = mask[None] if mask.ndim == 2 else mask
    masks = masks[:, None] if masks.ndim == 3 else masks
    if masks.ndim != 4 or masks.shape[1] != 1 or not masks.numel():
        raise MaskError(f"masks must be of shape (B, 1, H, W), got {tuple(mask.shape)}")
    if not 0 <= masks.min() <= masks.max() <= 1:
        raise MaskError(f"masks must be in [0, 1], got {masks.min():g} to {masks.max():g}")
    selected = masks >= 0.5
    if not selected.flatten(1).any(1).all():
        raise MaskError("a mask selects nothing; at least 0.5 marks what is repainted")
    return selected.float()


def _stack(tensors: list[Tensor], what: str) -> Tensor:
    """Join (1, C, H, W) tensors of one size, or say that they are not."""
    sizes = {_size(tensor) for tensor in tensors}
    if len(sizes) > 1:
        raise PictureError(f"{what} of one call must have one size, got {', '.join(sorted(sizes))} pixels")
    return torch.cat(tensors)


def _size(x: Tensor) -> str:
    return f"{x.shape[-1]} x {x.shape[-2]}"


def _generators(generator: torch.Generator | Sequence[torch.Generator] | None, count: int) -> list[torch.Generator]:
    """One generator a result."""
    if generator is None:
        # Seeded from torch's global generator, which programs written for diffusers set by torch.manual_seed.
        generator = torch.Generator().manual_seed(int(torch.randint(2**63 - 1, ())))
    if isinstance(generator, torch.Generator):
        return [generator] * count
    if len(generator) != count:
        raise UserError(f"{len(generator)} generators do not go with {count} results; give one, or one for each")
    return list(generator)


def _check_seeds(seeds: Sequence[int]) -> list[int]:
    """Seeds as Python's integers, or what is wrong with them."""
    if not len(seeds):
        raise UserError("no seed was given; one result is made for each seed")
    for seed in seeds:
        if not 0 <= seed < 2**64:
            raise UserError(f"seed must be in 0 .. 2^64 - 1, got {seed}")
    return [int(seed) for seed in seeds]


def latent_mask(mask: Tensor, size: Sequence[int]) -> Tensor:
    """The mask at latent resolution: the share of each cell that is repainted, so that no thin stroke vanishes.

    Args:
        mask: (B, 1, H, W) in {0, 1}.
        size: (h, w).

    Returns:
        (B, 1, h, w) in [0, 1].
    """
    return F.interpolate(mask, size=tuple(size), mode="area")


# --- loading ----------------------------------------------------------------------------------------------------------


def load_pipeline(
    model: str | Path = "embedded", device: str | torch.device | None = None, dtype: torch.dtype | None = None
) -> PaintByExamplePipeline:
    """Load a model.

    Args:
        model: "embedded" for the one in this package, a folder in diffusers' layout, or a name on the hub.
        device: cpu, cuda, ...; the best there is by default.
        dtype: of the weights; float32 on the CPU and float16 on a GPU by default.

    Returns:
        The pipeline, on the device.

    Raises:
        ModelError: if the model cannot be found or loaded, or its parts do not fit together.
        UserError: if the device cannot be used.
    """
    device = choose_device(device)
    if dtype is None:
        dtype = torch.float32 if device.type == "cpu" else torch.float16
    folder = find_model(model)
    try:
        with quiet():
            parts = load_parts(folder)
            for part in parts.values():
                if isinstance(part, torch.nn.Module):
                    part.to(device, dtype)
            pipeline = PaintByExamplePipeline(**parts)
    except UserError:
        raise
    except Exception as error:  # diffusers, transformers, safetensors: each raises kinds of its own over a broken file
        reason = textwrap.shorten(f"{error}", 300, placeholder=" ...") or type(error).__name__
        raise ModelError(f"cannot load {model}: {reason}") from error
    _check_fit(pipeline, model)
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


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


def _check_fit(pipeline: PaintByExamplePipeline, model: str | Path) -> None:
    """Raise a `ModelError` where the parts are not of one model."""
    unet = pipeline.unet.config
    latent, condition = int(pipeline.vae.config.latent_channels), pipeline.image_encoder.uncond_vector.shape[-1]
    found = unet.in_channels, unet.out_channels, unet.cross_attention_dim
    if found != (2 * latent + 1, latent, condition):
        raise ModelError(
            f"the parts of {model} do not fit together: with {latent} latent channels and conditions of {condition} its"
            f" U-Net needs {2 * latent + 1} channels in, {latent} out and attention to {condition}, and has"
            f" {', '.join(map(str, found))}"
        )


def describe(model: str | Path) -> dict[str, Any]:
    """What a model is: its parts, sizes and settings.

    Raises:
        ModelError: if the model cannot be found or loaded.
    """
    pipeline = load_pipeline(model, device="cpu")
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
