"""Edits of pictures of any size: a square around each region is painted and pasted back, the rest stays bit for bit."""

from __future__ import annotations

import dataclasses
import math
import os
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Literal

import numpy as np
import PIL.Image
import torch
from numpy.typing import NDArray
from torch import Tensor

from . import __version__
from .canvas import Canvas, draw_structure
from .compiled import BackendName, choose_backend
from .crops import box_mask, context_crop
from .errors import MaskError, UserError
from .guidance import check_interval, check_share
from .harmonise import HarmoniseName, check_harmonise
from .images import Box, Picture, load_image, load_mask, save_image
from .inputs import Blend, Encoded, Exemplar, as_list, check_seeds, common_count, exemplar_pictures, repeated
from .painter import GUIDANCE_SCALE, Painter
from .presets import PresetName
from .record import File, Guide, Record, Region, picture_file
from .sampling import (
    SchedulerName,
    Step,
    first_step,
    in_step,
    make_scheduler,
    seeded_generators,
    timesteps,
)
from .structure import Structure, StructureKind, as_structure


@dataclass(frozen=True)
class Edit:
    """The result of `PaintByExamplePipeline.edit`."""

    images: list[PIL.Image.Image]
    """One picture a seed, of the source's size and mode."""
    records: list[Record]
    """What each was made of and with."""
    boxes: list[Box]
    """Of each region the square that the model saw and painted, in pixels of the source; it may reach outside."""
    seconds: float
    """Time it took, wall clock."""
    nsfw_content_detected: list[bool] | None = None
    """What the safety checker says of each picture; None without one."""

    @property
    def seeds(self) -> list[int]:
        """The seed of each picture."""
        return [record.seed for record in self.records]

    @property
    def guidance_scale(self) -> float:
        """λ."""
        return self.records[0].guidance_scale

    @property
    def steps(self) -> int:
        """Noise levels there were to visit, in each region."""
        return self.records[0].steps

    @property
    def box(self) -> Box:
        """The first of `boxes`: all there is in an edit of one region."""
        return self.boxes[0]

    def save(self, path: str | os.PathLike[str], index: int = 0) -> None:
        """Save a result, in a PNG file together with its record: ``pbe edit --from`` makes it again.

        Args:
            path: ends in one of the suffixes in `images.WRITABLE`; its folder exists.
            index: which of the results.

        Raises:
            PictureError: the suffix is unknown, or the file cannot be written.
        """
        save_image(self.images[index], path, info=self.records[index].info(Path(path).parent))


class Editor(Painter):
    """The part of the pipeline that edits."""

    @property
    def takes_structure(self) -> bool:
        """Whether there is a part, or a network beside the U-Net, that can be told a structure."""
        own = getattr(self, "source_encoder", None)
        return self.controlnet is not None or bool(own is not None and own.config["structure"])

    def check_structure(self) -> None:
        """Raise a `UserError` where nothing here can be told a structure."""
        if not self.takes_structure:
            raise UserError(
                "this model takes no structure; load a ControlNet or T2I-Adapter beside it (--controlnet), or train it"
                " (pbe train --add structure)"
            )

    def structure_maps(
        self,
        source: Picture,
        structure: Structure | StructureKind,
        *,
        mask: Picture | Sequence[Picture] | None = None,
        box: Box | Sequence[Box] | None = None,
    ) -> list[PIL.Image.Image]:
        """What an edit is told of the structure of what stands in its regions.

        Args:
            source: the picture to edit.
            structure: a kind, or a `Structure`.
            mask: see `edit`.
            box: see `edit`.

        Returns:
            Of each region a map of the square that is painted, RGB, at the model's resolution.

        Raises:
            UserError: see `edit`.
        """
        picture = load_image(source)
        canvases = self._canvases([selected for _, selected in _places(mask, box, picture.size)])
        return [PIL.Image.fromarray(drawn) for drawn in draw_structure(as_structure(structure), picture, canvases)]

    def structure_tensor(self, drawn: NDArray[np.uint8]) -> Tensor:
        """A map (S, S, 3) as `paint` takes it, [0, 1]: (1, 3, S, S) for a network of others, else (1, 1, S, S)."""
        x = torch.from_numpy(drawn.copy()).permute(2, 0, 1)[None].float() / 255
        return x if self.controlnet is not None else x.amax(1, keepdim=True)

    def _guide(self, structure: Structure, scale: float) -> Guide:
        drawing = None
        if structure.sketch is not None:
            drawing = picture_file(structure.sketch, load_image(structure.sketch).convert("RGB"))
        models = None if structure.models is None else os.fspath(structure.models)
        network = None if self.controlnet is None else File(self.controlnet.name, self.controlnet.fingerprint())
        return Guide(structure.kind, float(scale), drawing, models, network)

    def _canvases(self, masks: Sequence[NDArray[np.bool_]]) -> list[Canvas]:
        return [Canvas(selected, context_crop(selected), self.image_size) for selected in masks]

    def edit(
        self,
        source: Picture,
        *,
        exemplar: Exemplar | Sequence[Exemplar],
        mask: Picture | Sequence[Picture] | None = None,
        box: Box | Sequence[Box] | None = None,
        guidance_scale: float = GUIDANCE_SCALE,
        steps: int | None = None,
        seed: int | Sequence[int] = 0,
        scheduler: SchedulerName | None = None,
        feather: int = 0,
        strength: float = 1.0,
        eta: float = 0.0,
        guidance_rescale: float = 0.0,
        guidance_interval: tuple[float, float] | None = None,
        preset: PresetName | None = None,
        backend: BackendName | Literal["auto"] | None = None,
        structure: Structure | StructureKind | None = None,
        structure_scale: float = 1.0,
        context: bool = False,
        source_exemplar: float = 0.0,
        harmonise: HarmoniseName | None = None,
        on_step: Callable[[Step], None] | None = None,
    ) -> Edit:
        """Paint an exemplar into a picture of any size, or several into one region each.

        A square around the mask is painted at the model's resolution and pasted back at the picture's own. Pixels
        outside the mask are those of the source, bit for bit. The result for a seed is the same alone or among others.

        With a list of masks or boxes there are as many regions, painted in that order; each sees what was painted
        before it, and where two overlap the later one stays. Of exemplars there is one for all regions or one for each.
        Several exemplars of one object are a `Blend`.

        Args:
            source: the picture to edit: a path, a PIL picture or an array.
            exemplar: a picture of what to paint, a `Blend` of several, or an `Encoded` one; a list of these for a list
                of regions.
            mask: white where to repaint, of the source's size; this or ``box``. A list for several regions.
            box: (left, top, right, bottom) to repaint, in pixels. A list for several regions.
            guidance_scale: λ: the larger, the more alike the exemplar; 1 is no guidance, 0 no exemplar.
            steps: noise levels to visit; what the solver is good at by default.
            seed: one for one result, several for several; each in 0 .. 2^64 - 1.
            scheduler: ddim, pndm, dpm++ or unipc; the model's own by default.
            feather: pixels over which the painted part fades in, inside the mask.
            strength: how far to leave what stood in the region: the share of the noise levels that is visited, above 0;
                below 1 it starts from the source, noised.
            eta: noise added in each step, 0 to 1; DDIM only.
            guidance_rescale: 0 to 1, how far to bring the contrast that a large λ adds back (arXiv 2305.08891, 3.4).
            guidance_interval: shares of the noise levels, 0 the cleanest, between which there is guidance; all by
                default.
            preset: exact, fast or draft: how much is given up for speed. What else is given goes before what it says.
            backend: torch, compile, openvino (extra ``fast-cpu``), openvino-bf16 or openvino-int8: who runs the U-Net;
                auto takes the best that does not change results beyond rounding. The preset's by default, and without
                one torch. An edit that is told a structure is run by torch whatever is asked for.
            structure: what of the source is told a model that takes it, or a network that `load_controlnet` loaded: a
                kind, or a `Structure`.
            structure_scale: μ: the larger, the more of the structure is kept; see `guidance.guide_with_structure`.
            context: let the region look at its surroundings, with a model that has learned to. Torch runs it, too.
            source_exemplar: 0 to 1, share of the condition that what stands in the region has, as a second exemplar.
            harmonise: colour or poisson: fit what was painted to its surroundings, see `harmonise`.
            on_step: called after every step, for progress, previews, and, by raising, for cancelling. Latents are those
                of all results, (B, C, h, w), in the order of the seeds. Steps count through all regions.

        Returns:
            The results and their settings.

        Raises:
            UserError: for a picture, mask, box or setting that cannot be used, in one line.
        """
        started = time.perf_counter()
        picture = load_image(source)
        places = _places(mask, box, picture.size)
        exemplars: list[Exemplar] = as_list(exemplar)
        count = common_count(regions=len(places), exemplars=len(exemplars))
        if count != len(places):
            raise UserError(
                f"{count} exemplars were given for one region; give a mask or box for each, or a Blend of the exemplars"
            )
        seeds = check_seeds(seed)
        for name, value in (("guidance_scale", guidance_scale), ("guidance_rescale", guidance_rescale)):
            if not math.isfinite(value):
                raise UserError(f"{name} must be a finite number, got {value}")
        if feather < 0:
            raise UserError(f"feather must be at least 0 pixels, got {feather}")
        chosen = self.preset(preset)
        scheduler = chosen.scheduler if scheduler is None else scheduler
        steps = chosen.steps if steps is None else steps
        interval = chosen.guidance_interval if guidance_interval is None else guidance_interval
        check_interval(interval)
        fit = check_harmonise(harmonise)
        check_share("source_exemplar", source_exemplar)
        if structure is not None:
            structure = as_structure(structure)
            self.check_structure()
            backend = "torch"
        if context:
            self.check_context()
            backend = "torch"
        if backend is None or backend == "auto":
            wanted = chosen.backends if backend is None else ("openvino",)
            backend = choose_backend(wanted, self._execution_device)
        weights = self.fingerprint()
        network = self.network(backend, weights)
        solver = self.scheduler if scheduler is None else make_scheduler(scheduler, self.scheduler)
        steps = self.default_steps(solver) if steps is None else steps
        timesteps(solver, steps)  # raises what there is to raise before the work, not after the exemplar is encoded
        first_step(strength, steps)

        regions, conditions = [], []
        loaded = [exemplar_pictures(one) for one in exemplars]
        for (place, _), one, pictures in zip(places, repeated(exemplars, count), repeated(loaded, count), strict=True):
            given = one.exemplars if isinstance(one, Blend) else [one.picture if isinstance(one, Encoded) else one]
            files = [picture_file(path, image) for path, (image, _) in zip(given, pictures, strict=True)]
            shares = tuple(zip(files, (share for _, share in pictures), strict=True))
            regions.append(dataclasses.replace(place, exemplars=shares))
        for one, pictures in zip(exemplars, loaded, strict=True):
            if isinstance(one, Encoded):
                conditions.append(self.condition(one))
            else:
                conditions.append(self.blended([(self.encode_exemplar([image]), share) for image, share in pictures]))

        # Each picture has a run of its own, and the runs go in step: see `in_step`. Its generator serves all regions.
        generators = seeded_generators(seeds)
        results = [np.asarray(picture.convert("RGB"))] * len(seeds)
        canvases = self._canvases([selected for _, selected in places])
        original = np.asarray(picture.convert("RGB"))
        maps = [] if structure is None else draw_structure(structure, picture, canvases)
        for index, (canvas, condition) in enumerate(zip(canvases, repeated(conditions, count), strict=True)):
            drawn = self.structure_tensor(maps[index]) if maps else None
            second = None
            if source_exemplar:
                second = (self.encode_exemplar([PIL.Image.fromarray(canvas.hole(original))]), source_exemplar)
            squares = [canvas.tensors(pixels) for pixels in results]
            runs = [
                self.paint(
                    *square,
                    condition,
                    guidance_scale=guidance_scale,
                    steps=steps,
                    generators=[generator],
                    scheduler=solver,
                    eta=eta,
                    strength=strength,
                    guidance_rescale=guidance_rescale,
                    guidance_interval=interval,
                    network=network,
                    structure=drawn,
                    structure_scale=structure_scale,
                    context=context,
                    control=self.controlnet,
                    second=second,
                )
                for square, generator in zip(squares, generators, strict=True)
            ]
            for step in in_step(runs):
                if on_step is not None:
                    on_step(_counted(step, index, count))
            with torch.no_grad():
                show = partial(self.show, strength=strength, structure=drawn, structure_scale=structure_scale)
                latents = zip(singly(step.z_t), squares, strict=True)
                painted = [show(z_0, *square, condition) for z_0, square in latents]
            results = [canvas.paste(*pair, feather, fit) for pair in zip(results, painted, strict=True)]

        images = [_like(picture, pixels) for pixels in results]
        flagged = self.check_safety([PIL.Image.fromarray(pixels) for pixels in results])
        self.maybe_free_model_hooks()
        record = Record(
            version=__version__,
            model=File(self.model_name or self.name_or_path, weights),
            source=picture_file(source, picture),
            regions=tuple(regions),
            seed=0,
            guidance_scale=float(guidance_scale),
            steps=int(steps),
            scheduler=scheduler,
            eta=float(eta),
            strength=float(strength),
            guidance_rescale=float(guidance_rescale),
            feather=int(feather),
            compat=self.compat,
            preset=preset,
            backend=backend,
            guidance_interval=(float(interval[0]), float(interval[1])),
            structure=None if structure is None else self._guide(structure, structure_scale),
            context=bool(context),
            source_exemplar=float(source_exemplar),
            harmonise=fit,
        )
        return Edit(
            images=images,
            records=[dataclasses.replace(record, seed=each) for each in seeds],
            boxes=[canvas.crop for canvas in canvases],
            seconds=time.perf_counter() - started,
            nsfw_content_detected=flagged,
        )


def _places(mask: object, box: object, size: tuple[int, int]) -> list[tuple[Region, NDArray[np.bool_]]]:
    """The regions, without their exemplars, and what each selects, (H, W)."""
    if mask is not None and box is not None:
        raise MaskError("both a mask and a box were given; give one of them")
    if mask is None and box is None:
        raise MaskError("neither a mask nor a box was given; give one of them")
    places = []
    if mask is not None:
        for one in as_list(mask):
            selected = load_mask(one, size)
            places.append((Region((), mask=picture_file(one, selected)), selected))
    else:
        for one_box in as_list(box):
            left, top, right, bottom = (int(side) for side in one_box)
            places.append((Region((), box=(left, top, right, bottom)), box_mask((left, top, right, bottom), size)))
    return places


def singly(z: Tensor) -> list[Tensor]:
    """(B, ...) to B copies of (1, ...): of their own memory, whose alignment kernels may look at."""
    return [one.clone() for one in z.split(1)]


def _counted(step: Step, region: int, regions: int) -> Step:
    """A step of one region, counted through all of them."""
    return dataclasses.replace(step, index=region * step.total + step.index, total=regions * step.total)


def _like(picture: PIL.Image.Image, pixels: NDArray[np.uint8]) -> PIL.Image.Image:
    """A result with the source's transparency, and its colour profile, without which it would look different."""
    result = PIL.Image.fromarray(pixels)
    if picture.mode == "RGBA":
        result.putalpha(picture.getchannel("A"))
    result.info = dict(picture.info)
    return result
