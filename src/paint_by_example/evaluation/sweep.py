"""One or two settings over a range, all else alike: what each value does to an edit, or to a benchmark's scores."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from PIL import Image

from ..compiled import BACKENDS, choose_backend
from ..errors import UserError
from ..guidance import check_share
from ..harmonise import check_harmonise
from ..pipeline import PaintByExamplePipeline
from ..presets import find_preset, parse_interval, parse_switch
from ..sampling import SCHEDULERS, make_scheduler
from ..structure import Structure
from .benchmark import Item, Pixels
from .editing import Method, canvas_of, paint, structure_map
from .sheet import picture_sheet

SETTINGS: dict[str, Callable[[str], Any]] = {
    "guidance_scale": float,
    "steps": int,
    "seed": int,
    "scheduler": str,
    "strength": float,
    "eta": float,
    "guidance_rescale": float,
    "guidance_interval": parse_interval,
    "feather": int,
    "preset": str,
    "backend": str,
    "structure_scale": float,
    "context": parse_switch,
    "source_exemplar": float,
    "harmonise": str,
}
"""What may be varied, and the kind of its values."""
WRONG: dict[Callable[[str], Any], str] = {parse_interval: "no interval as in 0.2-1", parse_switch: "neither yes nor no"}
"""What is said of a value that is not of a kind without a name."""


@dataclass(frozen=True)
class Axis:
    """A setting and the values it takes."""

    name: str
    values: tuple[Any, ...]


def parse_axis(text: str) -> Axis:
    """Read ``name=value,value,...``; hyphens in the name are taken for underscores.

    Raises:
        UserError: the setting is unknown, a value is not of its kind, or one comes twice.
    """
    name, equals, listed = text.partition("=")
    name = name.replace("-", "_")
    if name not in SETTINGS or not equals:
        raise UserError(f"cannot vary {text!r}; name=value,value is expected, the name one of {', '.join(SETTINGS)}")
    try:
        values = tuple(SETTINGS[name](value.strip()) for value in listed.split(","))
    except ValueError:
        wrong = WRONG.get(SETTINGS[name]) or f"no {SETTINGS[name].__name__}"
        raise UserError(f"cannot vary {text!r}: a value is {wrong}") from None
    if len(set(values)) != len(values):
        raise UserError(f"cannot vary {text!r}: a value comes twice")
    if name == "scheduler" and (unknown := [value for value in values if value not in SCHEDULERS]):
        raise UserError(f"unknown scheduler {unknown[0]!r}; one of {', '.join(SCHEDULERS)} is expected")
    if name == "backend" and (unknown := [value for value in values if value not in BACKENDS]):
        raise UserError(f"unknown backend {unknown[0]!r}; one of {', '.join(BACKENDS)} is expected")
    if name == "preset":
        for value in values:
            find_preset(value)
    if name == "harmonise":
        values = tuple(check_harmonise(None if value == "none" else value) for value in values)
    return Axis(name, values)


def combinations(axes: Sequence[Axis]) -> list[dict[str, Any]]:
    """All settings of a sweep: the first axis downwards, the second across.

    Raises:
        UserError: there are not one or two axes, or they are of one setting.
    """
    names = [axis.name for axis in axes]
    if not 1 <= len(axes) <= 2 or len(set(names)) != len(names):
        raise UserError(f"a sweep has one or two settings, each once; got {', '.join(names) or 'none'}")
    return [dict(zip(names, values, strict=True)) for values in itertools.product(*(axis.values for axis in axes))]


def cell_name(settings: dict[str, Any]) -> str:
    """Of a cell's folder and row of scores: ``guidance_scale=3,steps=20``."""
    return ",".join(f"{name}={_text(value)}" for name, value in settings.items())


def swept_method(
    pipeline: PaintByExamplePipeline, settings: dict[str, Any], structure: Structure | None = None
) -> Method:
    """The model under some settings, as a method; the seed is the run's.

    Args:
        pipeline: the model.
        settings: of `SETTINGS`; what is not among them is the model's own.
        structure: what of the source is to be kept.

    Raises:
        UserError: the model cannot do it.
    """
    own = ("seed", "scheduler", "steps", "preset", "backend", "source_exemplar")
    preset = pipeline.preset(settings.get("preset"))
    given: dict[str, Any] = {"guidance_interval": preset.guidance_interval}
    given |= {name: value for name, value in settings.items() if name not in own}
    chosen = settings.get("scheduler") or preset.scheduler
    solver = pipeline.scheduler if chosen is None else make_scheduler(chosen, pipeline.scheduler)
    steps = settings.get("steps") or preset.steps or pipeline.default_steps(solver)
    backend = settings.get("backend") or choose_backend(preset.backends, pipeline.device)
    network = pipeline.network(backend)
    if given.get("context"):
        pipeline.check_context()
    if structure is not None:
        pipeline.check_structure()
        given["control"] = pipeline.controlnet
    share = settings.get("source_exemplar", 0.0)
    check_share("source_exemplar", share)

    def method(items: Sequence[Item], seeds: Sequence[int]) -> list[Pixels]:
        conditions = pipeline.encode_exemplar([Image.fromarray(item.exemplar) for item in items])
        told: dict[str, Any] = {}
        if structure is not None:
            told["structure"] = torch.cat([structure_map(pipeline, item, structure) for item in items])
        if share:
            holes = [canvas_of(item, pipeline.image_size).hole(item.source) for item in items]
            told["second"] = (pipeline.encode_exemplar([Image.fromarray(hole) for hole in holes]), share)
        return paint(
            pipeline, items, conditions, seeds, steps=steps, scheduler=solver, network=network, **given, **told
        )

    return method


def sweep_sheet(
    axes: Sequence[Axis], pictures: Sequence[Pixels], captions: Sequence[str], foot: Sequence[str] = ()
) -> Pixels:
    """A grid of results, labelled with the settings.

    Args:
        axes: as for `combinations`.
        pictures: a result for each combination, (H, W, 3).
        captions: a line under each; "" for none.
        foot: lines under the whole.

    Returns:
        (H, W, 3). Two settings are rows and columns; one is a row.
    """
    first, *rest = axes
    down, across = (first.values, rest[0].values) if rest else ((None,), first.values)
    heading = rest[0].name if rest else first.name
    cells = list(zip(pictures, captions, strict=True))
    return picture_sheet(
        [cells[at * len(across) : (at + 1) * len(across)] for at in range(len(down))],
        [f"{heading} = {_text(value)}" for value in across],
        ["" if value is None else f"{first.name} = {_text(value)}" for value in down],
        foot,
    )


def _text(value: Any) -> str:
    if isinstance(value, tuple):
        return "-".join(map(_text, value))
    if value is None or isinstance(value, bool):
        return "yes" if value else "none" if value is None else "no"
    return f"{value:g}" if isinstance(value, float) else str(value)
