"""The method itself: tensors in, tensors out. Editing and training both stand on it."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any, cast

import numpy as np
import PIL.Image
import torch
from torch import Tensor

from .alignment import Lines
from .compat import (
    BEHAVIOURS,
    Behaviour,
    Compat,
    Fit,
    check_compat,
    fit_exemplar,
    global_generator,
    guidance,
    latent_mask,
)
from .compiled import Network, predict
from .controlnet import Control
from .dial import embed_scale
from .errors import ModelError, PictureError, UserError
from .guidance import Second, guide_with_structure, within_interval
from .inputs import Blend, Encoded, Exemplar, exemplar_pictures
from .layout import LayoutUNet, calm_beside, continue_beside, draw_to_layout, own_guidance
from .parts import Parts
from .sampling import (
    DrawNoise,
    Run,
    Scheduler,
    add_noise,
    denoise,
    draw_batch,
    draw_noise,
    first_step,
    timesteps,
)

GUIDANCE_SCALE = 5.0  # the paper's


class Painter(Parts):
    """The method, of a model whose parts are those of `Parts`."""

    _compat: Compat | None = None

    @property
    def compat(self) -> Compat | None:
        """Whose behaviour is shown: "original", "diffusers", or None for this package's own; see `compat`.

        It is no part of a model and is not saved with it. Setting it to anything else raises a `UserError`.
        """
        return self._compat

    @compat.setter
    def compat(self, value: str | None) -> None:
        self._compat = check_compat(value)

    @property
    def behaviour(self) -> Behaviour:
        """What `compat` stands for."""
        return BEHAVIOURS[self._compat]

    # --- tensors in, tensors out: shared by editing and training ------------------------------------------------------

    def encode_picture(self, x: Tensor, generator: torch.Generator | Sequence[torch.Generator] | None = None) -> Tensor:
        """Pictures to latents.

        Args:
            x: (B, 3, H, W) in [-1, 1].
            generator: samples the posterior, one for all or one each; without it the mean is taken.

        Returns:
            (B, C, h, w), about unit variance.
        """
        posterior = self.vae.encode(x).latent_dist
        z = posterior.mode()
        if generator is not None and hasattr(posterior, "std"):  # the embedded model's has no deviation
            generators = [generator] * len(z) if isinstance(generator, torch.Generator) else generator
            z = posterior.mean + posterior.std * self._draw(z.shape[1:], generators, z.device, z.dtype)
        return cast(Tensor, z * self.vae.config.scaling_factor)

    @property
    def _draw(self) -> DrawNoise:
        noise = self.behaviour.noise
        if noise == "each in float32":
            return draw_noise
        if noise == "batch in the weights' type":
            return draw_batch
        return lambda shape, generators, device, dtype: draw_batch(shape, generators, device, torch.float32).to(dtype)

    def decode_latent(self, z_0: Tensor) -> Tensor:
        """Latents to pictures: (B, C, h, w) to (B, 3, H, W), about [-1, 1]."""
        return cast(Tensor, self.vae.decode(z_0 / self.vae.config.scaling_factor).sample)

    def show(
        self,
        z_0: Tensor,
        source: Tensor,
        mask: Tensor,
        condition: Tensor,
        strength: float = 1.0,
        structure: Tensor | None = None,
        structure_scale: float = 1.0,
    ) -> Tensor:
        """Latents to pictures, as an edit shows them in the hole; see `layout.continue_beside`.

        Args:
            z_0: (B, C, h, w).
            source: (B, 3, H, W) in [-1, 1].
            mask: (B, 1, H, W) in {0, 1}.
            condition: (B, 1, D).
            strength: of the edit; below 1 less is continued beside the object, and from half down nothing, so that
                what stood there shows through.
            structure: that the edit was told, see `paint`.
            structure_scale: the same.

        Returns:
            (B, 3, H, W), about [-1, 1].
        """
        device = z_0.device
        cells = latent_mask(mask.float(), (z_0.shape[-2], z_0.shape[-1]), self.behaviour.latent_mask)
        return continue_beside(
            self.decode_latent(z_0),
            self.unet,
            source,
            mask,
            cells.to(device, self.unet.dtype),
            condition.to(device),
            share=max(0.0, 2 * strength - 1),
            lines=self._lines(source, mask, structure, structure_scale),
        )

    def _lines(self, source: Tensor, mask: Tensor, structure: Tensor | None, scale: float) -> Lines | None:
        """What a map of the exemplar is laid by; None for a U-Net that has none, or where a ControlNet is told."""
        if not isinstance(self.unet, LayoutUNet) or structure is None or structure.shape[1] != 1:
            return None
        return Lines.of(source, mask, structure, scale)

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

    @property
    def exemplar_fit(self) -> Fit:
        """How an exemplar becomes the encoder's square."""
        fit: Fit = getattr(self.image_encoder, "exemplar_fit", self.behaviour.exemplar)
        return fit

    def exemplar_tensor(self, exemplars: Sequence[PIL.Image.Image] | np.ndarray) -> Tensor:
        """Exemplars as the encoder takes them: made its square, as it or `compat` says, and normalised.

        Args:
            exemplars: RGB pictures, or (B, E, E, 3) uint8.

        Returns:
            (B, 3, S, S) float32.

        Raises:
            ModelError: if the model does not say how an exemplar is normalised.
        """
        return self._normalised(exemplars, self.image_encoder.image_size, self.exemplar_fit)

    def _normalised(self, pictures: Sequence[PIL.Image.Image] | np.ndarray, side: int, how: Any) -> Tensor:
        if self.feature_extractor is None:
            raise ModelError(
                "the model has no feature_extractor, which says how an exemplar is normalised; give it one"
            )
        images = [one if isinstance(one, PIL.Image.Image) else PIL.Image.fromarray(one) for one in pictures]
        squares = [fit_exemplar(image.convert("RGB"), side, how) for image in images]
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
    def condition(self, exemplar: Exemplar | Tensor) -> Tensor:
        """An exemplar of any kind to a condition.

        Args:
            exemplar: a picture, a `Blend`, an `Encoded` one, or a tensor (3, S, S) normalised as the encoder wants it.

        Returns:
            (1, 1, D).

        Raises:
            PictureError: for a picture that cannot be used, or a tensor of another shape.
        """
        encoder = self.image_encoder
        if isinstance(exemplar, Encoded) and encoder.uncond_vector.device == self._execution_device:
            features = exemplar.features.to(self._execution_device, self.unet.dtype)
            return cast(Tensor, encoder.decode(features[None]))  # not under offload: the encoder's hooks want all of it
        if not isinstance(exemplar, Tensor):
            # One by one: whatever else is encoded, a picture's condition is the same to the last bit.
            return self.blended([(self.encode_exemplar([one]), share) for one, share in exemplar_pictures(exemplar)])
        side = self.image_encoder.image_size
        if exemplar.shape != (3, side, side):
            raise PictureError(f"exemplars must be of shape (B, 3, {side}, {side}), got {tuple(exemplar.shape)}")
        return cast(Tensor, self.image_encoder(exemplar[None].to(self._execution_device, self.unet.dtype)))

    @staticmethod
    def blended(conditions: Sequence[tuple[Tensor, float]]) -> Tensor:
        """The weighted sum of conditions, (1, 1, D) each; a single one as it is."""
        if len(conditions) == 1:
            return conditions[0][0]
        total = sum(share * condition.double() for condition, share in conditions)
        return cast(Tensor, total).to(conditions[0][0].dtype)

    def conditions(self, exemplars: Any) -> Tensor:
        """Exemplars of any kind, one or several, to (B, 1, D)."""
        if isinstance(exemplars, Tensor):
            listed: list[Any] = list(exemplars) if exemplars.ndim == 4 else [exemplars]
        else:
            listed = [exemplars] if isinstance(exemplars, Blend | Encoded) else _as_exemplars(exemplars)
        if not listed:
            raise UserError("an empty list was given; give at least one source, mask and exemplar")
        return torch.cat([self.condition(exemplar) for exemplar in listed])

    @torch.no_grad()
    def paint(
        self,
        source: Tensor,
        mask: Tensor,
        condition: Tensor,
        *,
        guidance_scale: float | Tensor = GUIDANCE_SCALE,
        steps: int = 50,
        generators: Sequence[torch.Generator] | None,
        scheduler: Scheduler | None = None,
        eta: float = 0.0,
        strength: float = 1.0,
        guidance_rescale: float = 0.0,
        z_T: Tensor | None = None,
        copies: int = 1,
        guidance_interval: tuple[float, float] = (0.0, 1.0),
        network: Network | None = None,
        structure: Tensor | None = None,
        structure_scale: float = 1.0,
        context: bool = False,
        control: Control | None = None,
        second: Second | None = None,
    ) -> Run:
        """The method itself: denoise under the masked source and the exemplar's condition, yielding every step.

        Args:
            source: (B, 3, H, W) in [-1, 1], H and W multiples of the latent factor.
            mask: (B, 1, H, W) in {0, 1}.
            condition: (B copies, 1, D).
            guidance_scale: λ, one for all or (B copies,).
            steps: noise levels to visit.
            generators: one a result; one on the CPU draws the same noise whatever the model's device. None draws from
                torch's global generator.
            scheduler: the solver; the model's own by default.
            eta: noise added in each step, DDIM only.
            strength: share of the noise levels that is visited; below 1 it starts from the source, noised.
            guidance_rescale: see `guide`.
            z_T: (B copies, C, h, w), noise to start from; drawn from the generators by default.
            copies: results for each source, standing together; its posterior is drawn once for all of them.
            guidance_interval: see `within_interval`.
            network: runs the U-Net, see `compile_network`; the U-Net itself by default, and wherever it is told more of
                the source than the paper's.
            structure: (B, 1, H, W) in [0, 1], a map, for a model that has learned structure; or (B, 3, H, W), for
                `control`.
            structure_scale: μ, see `guide_with_structure`.
            context: let edited places look at kept ones, for a model that has learned it.
            control: a network of others that tells the U-Net of the structure, in place of the model's own part.
            second: a second condition, see `guide`.

        Yields:
            Each step; the last one's ``z_t`` is the clean latent. Latents sent back take the place of ``z_t``.

        Raises:
            UserError: for a number out of its range.
            ModelError: for a scheduler that is not known here, and for what the model has not learned.
        """
        behaviour, solver = self.behaviour, scheduler or self.scheduler
        device, dtype = self._execution_device, self.unet.dtype
        start = first_step(strength, steps)
        last = int(timesteps(solver, steps)[-1])
        count, size = len(source) * copies, tuple(side // self.latent_factor for side in source.shape[-2:])
        own = posterior = generators
        if own is None:
            own = [global_generator(device)] * count
            # The authors' code draws the posterior's noise on the CPU whatever the device.
            posterior = [torch.default_generator] * count if behaviour.first_draw == "posterior" else own
        assert posterior is not None

        m = latent_mask(mask.float(), size, behaviour.latent_mask)
        source, mask, m, condition = (x.to(device, dtype) for x in (source, mask, m, condition))
        shape = (self.unet.config.out_channels, *size)
        if z_T is None and behaviour.first_draw == "latents":
            z_T = self._draw(shape, own, device, dtype)
        sampled = posterior[: len(source)] if behaviour.posterior == "sample" else None
        z_masked = self.encode_picture(source * (1 - mask), sampled).repeat_interleave(copies, 0)
        if z_T is None:
            z_T = self._draw(shape, own, device, dtype)
        m = m.repeat_interleave(copies, 0)
        lines = self._lines(source, mask, structure, structure_scale)
        lines = None if lines is None else lines.copied(copies)
        z_T = calm_beside(z_T, self.unet, condition, m, lines)
        if start:
            z_0 = self.encode_picture(source).repeat_interleave(copies, 0)
            z_T = add_noise(z_0, z_T, timesteps(solver, steps)[start], solver)

        scale = guidance(guidance_scale, behaviour.guided)
        told: tuple[Tensor, ...] = ()
        if self.scale_size is not None:
            told = (embed_scale(scale, self.scale_size).to(device, dtype),)

        maps = None if structure is None else structure.to(device, dtype).repeat_interleave(copies, 0)
        beside = None
        if control is not None and maps is not None:
            beside, maps = control.hints(maps), None
        hints = None
        if maps is not None or context:
            hints = self.learned_of_source()(z_masked, m, maps, context)

        def ask(z_t: Tensor, t: Tensor, condition: Tensor, shown: tuple[bool, ...] = (True,)) -> Tensor:
            repeats = len(z_t) // len(z_masked)  # two where guidance asks for both predictions at once
            x = self.unet_input(z_t, z_masked.repeat(repeats, 1, 1, 1), m.repeat(repeats, 1, 1, 1))
            options: dict[str, Any] = {}
            if hints is not None:
                options |= hints.options(shown if len(shown) == repeats else shown * repeats)
            if beside is not None:
                options |= beside(z_t, t, condition, shown)
            if lines is not None:
                options["lines"] = lines
            own = network is None or hints is not None or beside is not None
            asked = partial(predict, self.unet) if own or network is None else network
            prediction = asked(x, t, condition, *told, **options)
            return draw_to_layout(prediction, self.unet, x, t, condition, solver, scale, not context, lines, last)

        # A distilled network is told λ, and gives in one call what guidance makes of two.
        lambda_ = 1.0 if told else own_guidance(scale, self.unet)
        null = self.null_condition()
        mu = structure_scale if structure is not None else 1.0
        guided = guide_with_structure(ask, condition, null, lambda_, mu, guidance_rescale, second)
        unguided = guide_with_structure(ask, condition, null, 1.0, float(mu > 0), second=second)
        guided = within_interval(guided, unguided, guidance_interval, int(solver.config.num_train_timesteps))
        yield from denoise(guided, z_T, solver, steps, eta=eta, generators=own, start=start, draw=self._draw)

    # --- what a result shows ------------------------------------------------------------------------------------------

    @torch.no_grad()
    def check_safety(self, pictures: Sequence[PIL.Image.Image]) -> list[bool] | None:
        """Ask the safety checker, where there is one, about results; it is shown copies, and changes none.

        Args:
            pictures: RGB.

        Returns:
            Of each whether it is flagged; None without a checker.
        """
        checker = self.safety_checker
        if checker is None:
            return None
        if not isinstance(checker, torch.nn.Module):
            return [bool(flag) for flag in checker([picture.copy() for picture in pictures])]
        vision = getattr(checker.config, "vision_config", None)
        pixels = self._normalised(list(pictures), int(getattr(vision, "image_size", 224)), "centre")
        flags = []
        for picture, one in zip(pictures, pixels, strict=True):
            shown = np.asarray(picture.convert("RGB"), dtype=np.float32)[None] / 255
            _, found = checker(
                images=shown.copy(), clip_input=one[None].to(self._execution_device, next(checker.parameters()).dtype)
            )
            flags.append(bool(found[0]))
        return flags


def _as_exemplars(exemplars: Any) -> list[Any]:
    """One or several pictures, Blends or tensors as a list; an array (B, H, W, C) is B pictures."""
    many = isinstance(exemplars, list | tuple) or (isinstance(exemplars, np.ndarray) and exemplars.ndim == 4)
    listed = list(exemplars) if many else [exemplars]
    return [one[0] if isinstance(one, Tensor) and one.ndim == 4 and len(one) == 1 else one for one in listed]
