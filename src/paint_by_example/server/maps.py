"""What edits are told of the source's structure, to be looked at before one is made."""

from __future__ import annotations

from pathlib import Path

from ..canvas import Canvas, draw_structure
from ..compiled import has_openvino
from ..crops import context_crop
from ..errors import UserError
from ..pose import find_models
from ..structure import KINDS, StructureKind
from .messages import StructureMap
from .painting import Work, structure_of
from .previews import data_url


def drawable(pose_models: Path | None) -> list[StructureKind]:
    """The structures that can be drawn here.

    Args:
        pose_models: see `Structure.models`.
    """
    try:
        find_models(pose_models)
    except UserError:
        return [kind for kind in KINDS if kind != "pose"]
    return [kind for kind in KINDS if kind != "pose" or has_openvino()]


def check_drawable(kind: StructureKind | None, pose_models: Path | None) -> None:
    """Raise a `UserError` where a structure cannot be drawn here."""
    if kind is not None and kind not in (kinds := drawable(pose_models)):
        raise UserError(
            f"this server has no networks for the structure {kind}, see docs/source-aware.md; it draws"
            f" {', '.join(kinds)}"
        )


def maps(work: Work, size: int, pose_models: Path | None) -> list[StructureMap]:
    """The maps of an edit's regions.

    Args:
        work: the edit; exemplars may be missing.
        size: side of the square that the model paints, pixels.
        pose_models: see `Structure.models`.

    Raises:
        UserError: a map cannot be drawn.
    """
    structure = structure_of(work, pose_models)
    assert structure is not None
    canvases = [Canvas(part.mask, context_crop(part.mask), size) for part in work.parts]
    drawn = draw_structure(structure, work.source, canvases)
    return [
        StructureMap(region=region, box=canvas.crop, picture=data_url(picture, "PNG"))
        for region, (canvas, picture) in enumerate(zip(canvases, drawn, strict=True))
    ]
