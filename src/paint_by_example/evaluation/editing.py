"""Running a method over a benchmark: in batches, over several processes, and again from where it stopped."""

from __future__ import annotations

import json
import secrets
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from itertools import groupby
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from tqdm import tqdm

from ..canvas import Canvas, draw_structure
from ..crops import context_crop
from ..errors import DataError
from ..harmonise import HarmoniseName
from ..images import save_image
from ..inputs import check_seeds
from ..painter import GUIDANCE_SCALE
from ..pipeline import PaintByExamplePipeline, load_pipeline
from ..sampling import SchedulerName, make_scheduler, seeded_generators
from ..structure import Structure
from .baselines import BASELINES
from .benchmark import Benchmark, Item, Pixels

SETTINGS = "settings.json"

Method = Callable[[Sequence[Item], Sequence[int]], list[Pixels]]
"""Items and a seed each to results, (H, W, 3) of the source's size."""


@dataclass(frozen=True)
class ModelSettings:
    """How a model edits."""

    guidance_scale: float = GUIDANCE_SCALE
    """How strongly the exemplar is followed; 5 in the paper."""
    steps: int | None = None
    """Sampling steps; what the sampler is good at if not given."""
    scheduler: SchedulerName | None = None
    """Sampler: ddim, pndm, dpm++ or unipc; the model's own if not given."""
    compat: Literal["none", "original", "diffusers"] = "none"
    """Behave as the authors' code or diffusers did: whole pictures, and nothing pasted back."""


def model_method(
    model: str, settings: ModelSettings, device: str | None = None, offline: bool = False
) -> tuple[Method, dict[str, Any]]:
    """A model as a method, and what its results depend on.

    Args:
        model: as for `load_pipeline`.
        settings: how it edits.
        device: as for `load_pipeline`.
        offline: use what is on this machine, or nothing.

    Raises:
        ModelError: the model cannot be loaded.
    """
    compat = None if settings.compat == "none" else settings.compat
    pipeline = load_pipeline(model, device=device, compat=compat, local_files_only=offline)
    solver = (
        pipeline.scheduler if settings.scheduler is None else make_scheduler(settings.scheduler, pipeline.scheduler)
    )
    steps = settings.steps or pipeline.default_steps(solver)

    def whole(items: Sequence[Item], seeds: Sequence[int]) -> list[Pixels]:
        results: list[Pixels] = []
        pairs = zip(items, seeds, strict=True)
        for _, alike in groupby(pairs, key=lambda pair: pair[0].source.shape):  # a batch is of one size
            part, own = zip(*alike, strict=True)
            images: Any = pipeline(
                [Image.fromarray(item.exemplar) for item in part],
                [Image.fromarray(item.source) for item in part],
                [Image.fromarray(item.mask) for item in part],
                num_inference_steps=steps,
                guidance_scale=settings.guidance_scale,
                seeds=own,
            ).images  # type: ignore[union-attr]
            results += [np.asarray(image) for image in images]
        return results

    def method(items: Sequence[Item], seeds: Sequence[int]) -> list[Pixels]:
        conditions = pipeline.encode_exemplar([Image.fromarray(item.exemplar) for item in items])
        return paint(
            pipeline, items, conditions, seeds, guidance_scale=settings.guidance_scale, steps=steps, scheduler=solver
        )

    made_with = {"model": model, "sha256": pipeline.fingerprint(), **asdict(settings), "steps": steps}
    return (method if settings.compat == "none" else whole), made_with


@torch.no_grad()
def paint(
    pipeline: PaintByExamplePipeline,
    items: Sequence[Item],
    conditions: Tensor,
    seeds: Sequence[int],
    feather: int = 0,
    harmonise: HarmoniseName | None = None,
    **settings: Any,
) -> list[Pixels]:
    """Paint items as one batch and paste the results back.

    A picture of the model's own size is painted as a whole, as the authors evaluate; of another, the square around its
    mask, as in `Editor.edit`.

    Args:
        pipeline: the model.
        items: of any sizes.
        conditions: (n, 1, D), one each.
        seeds: one each.
        feather: see `Editor.edit`.
        harmonise: see `Editor.edit`.
        settings: of `Painter.paint`.

    Returns:
        (H, W, 3) each; outside the mask the source, bit for bit.
    """
    canvases = [canvas_of(item, pipeline.image_size) for item in items]
    pairs = [canvas.tensors(item.source) for canvas, item in zip(canvases, items, strict=True)]
    source, mask = (torch.cat(part) for part in zip(*pairs, strict=True))
    *_, last = pipeline.paint(source, mask, conditions, generators=seeded_generators(seeds), **settings)
    shown = {name: settings[name] for name in ("strength", "structure", "structure_scale") if name in settings}
    decoded = pipeline.show(last.z_t, source, mask, conditions, **shown).detach().cpu()
    trios = zip(canvases, items, decoded, strict=True)
    return [canvas.paste(item.source, x[None], feather, harmonise) for canvas, item, x in trios]


def canvas_of(item: Item, size: int) -> Canvas:
    """The square of an item that is painted with a side of so many pixels."""
    whole = item.source.shape[:2] == (size, size)
    return Canvas(item.mask, (0, 0, size, size) if whole else context_crop(item.mask), size)


def structure_map(pipeline: PaintByExamplePipeline, item: Item, structure: Structure) -> Tensor:
    """What a model is told of the structure of an item's source, as `Painter.paint` takes it."""
    (drawn,) = draw_structure(structure, Image.fromarray(item.source), [canvas_of(item, pipeline.image_size)])
    return pipeline.structure_tensor(drawn)


def baseline_method(name: str) -> Method:
    """A built-in method that needs no model.

    Raises:
        KeyError: there is none of that name.
    """
    make = BASELINES[name]
    return lambda items, seeds: [make(item) for item in items]


def run_method(
    method: Method,
    benchmark: Benchmark,
    out: Path,
    settings: dict[str, Any],
    *,
    seed: int = 0,
    batch_size: int = 8,
    limit: int | None = None,
    rank: int = 0,
    processes: int = 1,
) -> int:
    """Write a result for every item: ``<name>.png``. What is there already stays.

    An item's seed follows from its number, so results do not depend on batches or processes, but for rounding.

    Args:
        method: what makes results.
        benchmark: what is asked for.
        out: folder for the results.
        settings: all that they depend on, kept beside them; results of others are not mixed with.
        seed: of the first item; each next has the next seed.
        batch_size: items at once.
        limit: only the first items.
        rank: of this process among those that share the work.
        processes: how many there are.

    Returns:
        How many were made.

    Raises:
        DataError: the folder holds results that were made otherwise.
    """
    out.mkdir(parents=True, exist_ok=True)
    note_settings(out, settings | {"seed": seed})
    names = benchmark.names[:limit]
    check_seeds([seed, seed + len(names)])
    open_items = [index for index in range(rank, len(names), processes) if not (out / f"{names[index]}.png").exists()]
    with tqdm(total=len(open_items), desc=out.name, unit="item", mininterval=1, disable=not open_items) as bar:
        for start in range(0, len(open_items), batch_size):
            part = open_items[start : start + batch_size]
            items = [benchmark[index] for index in part]
            for item, result in zip(items, method(items, [seed + index for index in part]), strict=True):
                path = out / f"{item.name}.png"
                path.parent.mkdir(parents=True, exist_ok=True)
                save_image(Image.fromarray(result), path)
            bar.update(len(part))
    return len(open_items)


def note_settings(out: Path, settings: dict[str, Any]) -> None:
    """Write what results depend on beside them, or compare with what stands there.

    Raises:
        DataError: it is something else.
    """
    path, text = out / SETTINGS, json.dumps(settings, indent=1, sort_keys=True) + "\n"
    if path.exists():
        if path.read_text(encoding="utf-8") != text:
            raise DataError(f"{out} holds results that were made with other settings, see {path}; give another folder")
        return
    beside = path.with_name(f".{SETTINGS}.{secrets.token_hex(8)}.part")  # several processes may come here at once
    beside.write_text(text, encoding="utf-8")
    beside.replace(path)


def read_settings(results: Path) -> dict[str, Any]:
    """What `note_settings` wrote; nothing for results from elsewhere."""
    path = results / SETTINGS
    return dict(json.loads(path.read_text(encoding="utf-8"))) if path.exists() else {}
