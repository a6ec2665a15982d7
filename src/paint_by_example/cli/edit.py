"""``pbe edit``."""

from __future__ import annotations

import contextlib
import json
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import tyro

from ..errors import ModelError, PictureError
from .arguments import UsageError
from .imports import EMBEDDED_WITHOUT, quick_imports

if TYPE_CHECKING:
    from PIL import Image

    from ..record import Record
    from ..sampling import Step

WHERE = tyro.conf.create_mutex_group(required=False, title="where to paint")
SETTINGS = (
    *("guidance_scale", "steps", "seed", "scheduler", "feather", "strength", "eta", "guidance_rescale"),
    *("structure_scale", "context", "source_exemplar", "harmonise"),
)
SPEED = ("preset", "backend")
PRESET_SETS = ("steps", "scheduler", "guidance_interval", "backend")


@dataclass(frozen=True)
class Edit:
    """Paint the exemplar into a region of the source; all other pixels stay as they are.

    Needed are SOURCE, --exemplar, and --mask or --box; or --from alone.
    """

    source: Annotated[tyro.conf.Positional[Path | None], tyro.conf.arg(metavar="SOURCE")] = None
    """Picture to edit."""
    exemplar: tyro.conf.UseAppendAction[tuple[Path, ...]] = ()
    """Picture of what to paint. Once for all masks or boxes, or once for each of them, in the same order."""
    mask: Annotated[tyro.conf.UseAppendAction[tuple[Path, ...]], WHERE] = ()
    """Picture of the source's size: white is repainted, black is kept."""
    box: Annotated[tyro.conf.UseAppendAction[tuple[str, ...]], WHERE, tyro.conf.arg(metavar="L,T,R,B")] = ()
    """Rectangle to repaint, pixels: left, top, right, bottom."""
    exemplar_from: Annotated[str | None, tyro.conf.arg(metavar="LIBRARY")] = None
    """Take the exemplar from this library (see pbe library): the pictures that --like and --tag find, or without --like
    those that fit the hole. The results are ranked."""
    like: Path | None = None
    """With --exemplar-from: picture that the exemplar should be like."""
    tag: tyro.conf.UseAppendAction[tuple[str, ...]] = ()
    """With --exemplar-from: a tag that the exemplar must have; may be given several times."""
    top: int | None = None
    """With --exemplar-from: how many exemplars are tried, 1 if not given. The best result is --output out.png, the
    others are out-2.png, out-3.png, ..."""
    output: Path = Path("out.png")
    """File to write; a PNG file also holds how it was made."""
    repeat: Annotated[Path | None, tyro.conf.arg(name="from", metavar="RESULT")] = None
    """PNG file that was written so: make it again. What else is given takes the place of what it says."""
    model: str | None = None
    """embedded (if not given), a folder or file, or a repository of the Hugging Face hub: owner/name."""
    guidance_scale: float | None = None
    """How strongly the exemplar is followed: 5 if not given, as in the paper; 1 is without guidance."""
    steps: int | None = None
    """Sampling steps; the model's own if not given."""
    seed: int | None = None
    """Another seed gives another picture; 0 if not given."""
    scheduler: str | None = None
    """Sampler: ddim, pndm, dpm++ or unipc; the model's own if not given."""
    feather: int | None = None
    """Width of the soft edge inside the mask, pixels; 0 if not given."""
    strength: float | None = None
    """How far to leave what stood in the region, above 0 to 1: below 1 it shows through; 1 if not given."""
    eta: float | None = None
    """Noise added in each step, 0 to 1, ddim only; 0 if not given."""
    guidance_rescale: float | None = None
    """How far to take back the contrast that guidance adds, 0 to 1; 0 if not given."""
    structure: Annotated[str | None, tyro.conf.arg(metavar="KIND")] = None
    """What of the source is to be kept: edges, soft-edges, pose (people), or sketch=FILE, a drawing of the source's
    size. Needs --controlnet, or a model that takes it: see docs/source-aware.md."""
    structure_scale: float | None = None
    """How much of the structure is kept: 1 if not given, 0 nothing of it."""
    show_structure: Annotated[Path | None, tyro.conf.arg(metavar="FILE")] = None
    """File to draw the structure into; without --exemplar nothing is painted."""
    controlnet: Annotated[str | None, tyro.conf.arg(metavar="MODEL")] = None
    """ControlNet or T2I-Adapter for Stable Diffusion 1.x that sees the structure: a folder, or a name on the hub."""
    pose_models: Annotated[Path | None, tyro.conf.arg(metavar="FOLDER")] = None
    """With --structure pose: where mediapipe's wheel is, or the two networks out of it."""
    context: bool | None = None
    """Let the region look at its surroundings; for a model that has learned it (pbe train --add context)."""
    source_exemplar: Annotated[float | None, tyro.conf.arg(metavar="WEIGHT")] = None
    """Share that what stands in the region has as a second exemplar, 0 to 1; 0 if not given."""
    harmonise: Literal["colour", "poisson"] | None = None
    """Fit what was painted to its surroundings afterwards: its colours, or its seam."""
    preset: Literal["exact", "fast", "draft"] | None = None
    """How much is given up for speed, see docs/speed.md: exact nothing, draft most."""
    backend: Literal["auto", "torch", "compile", "openvino", "openvino-bf16", "openvino-int8"] | None = None
    """Who runs the U-Net; the preset's if not given, and without one torch. openvino needs the extra fast-cpu."""
    compat: Literal["none", "original", "diffusers"] | None = None
    """Prepare pictures and noise as the authors' code or diffusers did; none if not given."""
    device: str | None = None
    """cpu, cuda, cuda:1, ...; the best there is if not given."""
    strip: Path | None = None
    """File to write source, mask, exemplar and result to, side by side."""
    json: bool = False
    """Print one JSON object instead of the path of the result."""


def edit(options: Edit) -> None:
    """Read the pictures, edit, write the result, print its path."""
    if options.exemplar_from is not None:
        from .from_library import edit_from_library

        edit_from_library(options)
        return
    if options.like or options.tag or options.top is not None:
        raise UsageError("--like, --tag and --top go with --exemplar-from")
    from PIL import Image

    from .. import images
    from ..crops import parse_box
    from ..record import gather, read_record

    record = None if options.repeat is None else read_record(options.repeat)
    for path in filter(None, (options.output, options.strip, options.show_structure)):
        check_writable(path)
    preview = options.show_structure is not None and not options.exemplar and record is None
    if record is None:
        needed = {
            "SOURCE": options.source,
            "--exemplar": options.exemplar or preview,
            "--mask or --box": options.mask or options.box,
        }
        if missing := [name for name, given in needed.items() if not given]:
            raise UsageError(f"missing: {', '.join(missing)}")
    where: list[Any] = [*options.mask, *(parse_box(box) for box in options.box)]
    if preview:
        show_structure(options, where)
        return
    asked = gather(record, options.source, where, options.exemplar)

    from tqdm import tqdm

    # What is not given is left to the pipeline, so that its defaults are declared in one place.
    settings = {"seed": 0} if record is None else record.settings()
    if options.preset is not None:  # what a recorded preset stood for gives way to another one
        settings = {name: value for name, value in settings.items() if name not in PRESET_SETS}
    settings |= {name: value for name in (*SETTINGS, *SPEED) if (value := getattr(options, name)) is not None}
    settings = {name: value for name, value in settings.items() if value is not None}  # a recorded None too
    model = options.model or (None if record is None else record.model.path) or "embedded"
    with quick_imports(EMBEDDED_WITHOUT if model == "embedded" else ()):
        from ..inputs import Blend
        from ..pipeline import load_pipeline

    pipeline = load_pipeline(model, device=options.device)
    compat = options.compat or (None if record is None else record.compat)
    if compat is not None:
        pipeline.compat = None if compat == "none" else compat
    if record is not None and options.model is None and pipeline.fingerprint() != record.model.sha256:
        raise ModelError(
            f"the model {model} is not the one that made {options.repeat}; give --model to use it nevertheless"
        )
    settings |= structure_settings(options, pipeline, record)
    if options.show_structure is not None:
        structure: Any = settings["structure"]
        maps = pipeline.structure_maps(asked.source, structure, mask=one_or_all(asked.masks))
        images.save_image(side_by_side(maps), options.show_structure)
    with contextlib.ExitStack() as stack:
        bar: Any = None

        def show(step: Step) -> None:
            nonlocal bar
            if bar is None:  # not before the first step, so that no empty bar stands above an error
                bar = stack.enter_context(tqdm(total=step.total, desc="painting", unit="step"))
            bar.update()

        exemplars = [
            Blend(exemplar.pictures, exemplar.shares) if len(exemplar.pictures) > 1 else exemplar.pictures[0]
            for exemplar in asked.exemplars
        ]
        result = pipeline.edit(
            asked.source, mask=one_or_all(asked.masks), exemplar=one_or_all(exemplars), on_step=show, **settings
        )
    picture = result.images[0]
    paths = [exemplar.paths for exemplar in asked.exemplars] * (1 if len(asked.exemplars) > 1 else len(asked.masks))
    made = result.records[0].named(model=model, source=asked.path, where=asked.where, exemplars=paths)
    images.save_image(picture, options.output, made.info(options.output.parent))
    if options.strip is not None:
        shown = [
            *map(Image.fromarray, asked.masks),
            *(one for exemplar in asked.exemplars for one in exemplar.pictures),
        ]
        from ..strip import picture_strip

        images.save_image(picture_strip([asked.source, *shown, picture]), options.strip)
    if options.json:
        report = {
            "output": str(options.output),
            "seed": made.seed,
            "steps": result.steps,
            "guidance_scale": result.guidance_scale,
            "preset": made.preset,
            "backend": made.backend,
            "seconds": round(result.seconds, 3),  # of the edit, without loading the model
            "size": list(picture.size),
        }
        print(json.dumps(report))
    else:
        print(options.output)


def structure_settings(options: Edit, pipeline: Any, record: Record | None = None) -> dict[str, Any]:
    """The structure that was asked for, as `pipeline.edit` takes it, and the network beside the U-Net, loaded.

    Raises:
        UsageError: options do not go together.
        UserError: the network cannot be loaded, or is not the one of the record.
    """
    from ..structure import parse_structure

    recorded = None if record is None else record.structure
    if options.structure is None and recorded is None:
        for option in ("structure_scale", "show_structure", "controlnet", "pose_models"):
            if getattr(options, option) is not None:
                raise UsageError(f"--{option.replace('_', '-')} goes with --structure")
        return {}
    beside = None if recorded is None else recorded.controlnet
    name = options.controlnet or (None if beside is None else beside.path)
    if name is not None:
        pipeline.load_controlnet(name)
        if options.controlnet is None and beside is not None and pipeline.controlnet.fingerprint() != beside.sha256:
            raise ModelError(f"the ControlNet {name} is not the recorded one; give --controlnet to use it nevertheless")
    if options.structure is None:
        return {}
    return {"structure": parse_structure(options.structure, options.pose_models)}


def show_structure(options: Edit, where: list[Any]) -> None:
    """Write what would be told, print its path."""
    from .. import images
    from ..structure import parse_structure

    if options.structure is None:
        raise UsageError("--show-structure goes with --structure")
    assert options.source is not None
    assert options.show_structure is not None
    structure = parse_structure(options.structure, options.pose_models)
    with quick_imports():
        from ..pipeline import load_pipeline

    pipeline = load_pipeline(options.model or "embedded", device=options.device)
    place = {"mask": one_or_all(where)} if options.mask else {"box": one_or_all(where)}
    maps = pipeline.structure_maps(options.source, structure, **place)
    images.save_image(side_by_side(maps), options.show_structure)
    print(options.show_structure)


def side_by_side(maps: list[Image.Image]) -> Image.Image:
    """A map of one region as it is, those of several in a row."""
    from ..strip import picture_strip

    return maps[0] if len(maps) == 1 else picture_strip(maps, height=maps[0].height)


def one_or_all(values: list[Any]) -> Any:
    """A single value by itself, several as a list."""
    return values[0] if len(values) == 1 else values


def check_writable(path: Path) -> None:
    """Find out before the work, not after it, that a picture cannot be saved.

    Raises:
        PictureError: if the suffix is unknown or the folder is not there.
    """
    from ..images import WRITABLE

    if path.suffix.lower() not in WRITABLE:
        raise PictureError(f"cannot write {path}: its suffix is unknown; use one of {', '.join(WRITABLE)}")
    if not path.parent.is_dir():
        raise PictureError(f"cannot write {path}: there is no folder {path.parent}; make it first")
