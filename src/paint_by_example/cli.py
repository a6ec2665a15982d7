"""The command ``pbe``: a table of commands, each a dataclass of options and the function that carries it out.

Whatever loads torch is imported where it is used, so that help and mistyped options are answered at once.
"""

from __future__ import annotations

import contextlib
import io
import json
import os
import re
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import tyro

from . import __version__
from .errors import DataError, ModelError, PictureError, UserError

if TYPE_CHECKING:
    from .sampling import Step

USAGE_ERROR = 2
INTERRUPTED = 130  # 128 + SIGINT, as shells count
BROKEN_PIPE = 141  # 128 + SIGPIPE

WHERE = tyro.conf.create_mutex_group(required=False, title="where to paint")
SETTINGS = ("guidance_scale", "steps", "seed", "scheduler", "feather", "strength", "eta", "guidance_rescale")


@dataclass(frozen=True)
class Edit:
    """Paint the exemplar into a region of the source; all other pixels stay as they are."""

    source: Annotated[tyro.conf.Positional[Path | None], tyro.conf.arg(metavar="SOURCE")] = None
    """Picture to edit."""
    exemplar: tyro.conf.UseAppendAction[tuple[Path, ...]] = ()
    """Picture of what to paint. Once for all masks or boxes, or once for each of them, in the same order."""
    mask: Annotated[tyro.conf.UseAppendAction[tuple[Path, ...]], WHERE] = ()
    """Picture of the source's size: white is repainted, black is kept."""
    box: Annotated[tyro.conf.UseAppendAction[tuple[str, ...]], WHERE, tyro.conf.arg(metavar="L,T,R,B")] = ()
    """Rectangle to repaint, pixels: left, top, right, bottom."""
    output: Path = Path("out.png")
    """File to write; a PNG file also holds how it was made."""
    repeat: Annotated[Path | None, tyro.conf.arg(name="from", metavar="RESULT")] = None
    """PNG file that was written so: make it again. What else is given takes the place of what it says."""
    model: str | None = None
    """embedded (if not given), a folder or file, or a repository of the Hugging Face hub: owner/name."""
    guidance_scale: float | None = None
    """How strongly the exemplar is followed; the model's own if not given (5 in the paper)."""
    steps: int | None = None
    """Sampling steps; the model's own if not given."""
    seed: int | None = None
    """Another seed gives another picture; 0 if not given."""
    scheduler: str | None = None
    """Sampler: ddim, pndm, dpm++ or unipc; the model's own if not given."""
    feather: int | None = None
    """Width of the soft edge inside the mask, pixels."""
    strength: float | None = None
    """How far to leave what stood in the region, above 0 to 1: below 1 it shows through; 1 if not given."""
    eta: float | None = None
    """Noise added in each step, 0 to 1, ddim only; 0 if not given."""
    guidance_rescale: float | None = None
    """How far to take back the contrast that guidance adds, 0 to 1; 0 if not given."""
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
    from PIL import Image

    from . import images
    from .record import gather, read_record

    record = None if options.repeat is None else read_record(options.repeat)
    for path in filter(None, (options.output, options.strip)):
        check_writable(path)
    if record is None:
        needed = {
            "SOURCE": options.source,
            "--exemplar": options.exemplar,
            "--mask or --box": options.mask or options.box,
        }
        if missing := [name for name, given in needed.items() if not given]:
            raise UsageError(f"missing: {', '.join(missing)}")
    where: list[Any] = [*options.mask, *(images.parse_box(box) for box in options.box)]
    asked = gather(record, options.source, where, options.exemplar)

    from tqdm import tqdm

    from .inputs import Blend
    from .pipeline import load_pipeline

    # What is not given is left to the pipeline, so that its defaults are declared in one place.
    settings = {"seed": 0} if record is None else record.settings()
    settings |= {name: value for name in SETTINGS if (value := getattr(options, name)) is not None}
    settings = {name: value for name, value in settings.items() if value is not None}  # a recorded None too
    model = options.model or (None if record is None else record.model.path) or "embedded"
    pipeline = load_pipeline(model, device=options.device)
    compat = options.compat or (None if record is None else record.compat)
    if compat is not None:
        pipeline.compat = None if compat == "none" else compat
    if record is not None and options.model is None and pipeline.fingerprint() != record.model.sha256:
        raise ModelError(
            f"the model {model} is not the one that made {options.repeat}; give --model to use it nevertheless"
        )
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
        images.save_image(images.picture_strip([asked.source, *shown, picture]), options.strip)
    if options.json:
        report = {
            "output": str(options.output),
            "seed": made.seed,
            "steps": result.steps,
            "guidance_scale": result.guidance_scale,
            "seconds": round(result.seconds, 3),  # of the edit, without loading the model
            "size": list(picture.size),
        }
        print(json.dumps(report))
    else:
        print(options.output)


def one_or_all(values: list[Any]) -> Any:
    """A single value by itself, several as a list."""
    return values[0] if len(values) == 1 else values


def check_writable(path: Path) -> None:
    """Find out before the work, not after it, that a picture cannot be saved.

    Raises:
        PictureError: if the suffix is unknown or the folder is not there.
    """
    from .images import WRITABLE

    if path.suffix.lower() not in WRITABLE:
        raise PictureError(f"cannot write {path}: its suffix is unknown; use one of {', '.join(WRITABLE)}")
    if not path.parent.is_dir():
        raise PictureError(f"cannot write {path}: there is no folder {path.parent}; make it first")


@dataclass(frozen=True)
class Info:
    """Say what a model is: its parts, their sizes, its picture size and scheduler."""

    model: Annotated[tyro.conf.Positional[str], tyro.conf.arg(metavar="MODEL")] = "embedded"
    """As for `pbe edit --model`."""
    json: bool = False
    """Print one JSON object instead of a table."""


def info(options: Info) -> None:
    """Describe a model."""
    from .pipeline import describe

    description = describe(options.model)
    if options.json:
        print(json.dumps(description))
        return
    rows = list(flatten(description))
    width = max(len(name) for name, _ in rows)
    for name, value in rows:
        print(f"{name:{width}}  {value}")


def flatten(values: dict[str, Any], prefix: str = "") -> list[tuple[str, str]]:
    """Nested values as (dotted name, text), whole numbers with separators."""
    rows: list[tuple[str, str]] = []
    for name, value in values.items():
        if isinstance(value, dict):
            rows += flatten(value, f"{prefix}{name}.")
        else:
            rows.append((prefix + name, f"{value:,}" if type(value) is int else str(value)))
    return rows


@dataclass(frozen=True)
class Convert:
    """Write a model in another layout, or make a start for training of Stable Diffusion 1.x."""

    model: Annotated[tyro.conf.Positional[str], tyro.conf.arg(metavar="IN")]
    """A folder in diffusers' layout, an LDM file (.ckpt or .safetensors), or a repository of the hub: owner/name."""
    out: Annotated[tyro.conf.Positional[Path], tyro.conf.arg(metavar="OUT")]
    """What to write: a .safetensors file in the LDM layout, or else a folder in diffusers' layout."""
    dtype: Literal["float32", "float16", "bfloat16"] | None = None
    """Of the weights; as they are if not given."""
    image_encoder: str | None = None
    """For Stable Diffusion 1.x, also its inpainting model: CLIP, a folder or openai/clip-vit-large-patch14."""
    seed: int = 0
    """Of the layers that then start at random."""
    variant: str | None = None
    """Of the files in a folder, such as fp16."""
    ema: bool = False
    """Take the averages that training kept of the weights, from an LDM file."""
    overwrite: bool = False
    """Replace a model that is at OUT."""


def convert(options: Convert) -> None:
    """Convert a model, print where it is."""
    import torch
    from tqdm import tqdm

    from . import conversion

    with contextlib.ExitStack() as stack:
        bar: Any = None

        def start(total: int) -> None:
            nonlocal bar
            bar = stack.enter_context(tqdm(total=total, desc="writing", unit="B", unit_scale=True))

        conversion.convert(
            options.model,
            options.out,
            dtype=None if options.dtype is None else getattr(torch, options.dtype),
            variant=options.variant,
            image_encoder=options.image_encoder,
            seed=options.seed,
            ema=options.ema,
            overwrite=options.overwrite,
            on_start=start,
            on_bytes=lambda count: bar.update(count),
        )
    print(options.out)


@dataclass(frozen=True)
class Prepare:
    """Turn downloaded files, or a folder of your own pictures, into training data."""

    dataset: tyro.conf.Positional[Literal["composites", "openimages", "coco", "lvis", "folder"]]
    """composites: cut-out objects on photographs, what the embedded model learns from. openimages, coco, lvis: an
    index of pictures and boxes from the official annotations. folder: the same from pictures with masks, with YOLO,
    Pascal VOC or COCO boxes beside them, or with neither."""
    out: Annotated[tyro.conf.Positional[Path], tyro.conf.arg(metavar="OUT")]
    """Folder to write; all but composites write index.jsonl and skipped.tsv."""
    downloads: Path | None = None
    """composites: folder with the downloaded packages."""
    pictures: Path | None = None
    """Folder with the pictures, or with folders of them."""
    annotations: Path | None = None
    """openimages: the table of boxes (.csv); coco, lvis: the instances (.json)."""
    masks: Path | None = None
    """folder: masks under the pictures' names, white is the object."""
    min_area: float = 0.02
    """Smallest area of a box, as a share of its picture's."""
    max_area: float = 0.8
    """Largest area of a box, as a share of its picture's."""
    groups: bool = False
    """Keep boxes around groups and crowds."""
    depictions: bool = False
    """openimages: keep drawings and the like of an object."""
    seed: int = 0
    """folder: of the boxes made up for pictures without any."""


def prepare(options: Prepare) -> None:
    """Prepare a dataset, print what came out."""
    kind = options.dataset
    needed = {"composites": ("downloads",), "folder": ("pictures",)}.get(kind, ("annotations", "pictures"))
    if missing := [f"--{name}" for name in needed if getattr(options, name) is None]:
        raise UsageError(f"missing: {', '.join(missing)}")
    given = {name: value for name in (*needed, "masks") if (value := getattr(options, name)) is not None}
    if kind == "composites":
        from .data import composites

        counts = composites.prepare(given["downloads"], options.out)
    else:
        counts = prepare_index(options, given)
    for name, number in counts.items():
        print(f"{name}  {number:,}")


def prepare_index(options: Prepare, paths: dict[str, Path]) -> dict[str, int]:
    """Write an index of pictures and boxes, say on stderr what is wrong with it."""
    from .data import sources

    for name, path in paths.items():
        if not path.exists():
            raise DataError(f"--{name}: there is no {path}; check the path")
    settings: dict[str, Any] = {name: str(path.resolve()) for name, path in paths.items()}
    settings |= {name: getattr(options, name) for name in ("dataset", "groups", "depictions", "seed")}
    found: Any
    made_up = 0
    if options.dataset == "openimages":
        found = sources.read_openimages(paths["annotations"], paths["pictures"], options.groups, options.depictions)
    elif options.dataset == "folder":
        found, made_up = sources.read_folder(paths["pictures"], paths.get("masks"), options.seed)
    else:
        found = sources.read_coco(paths["annotations"], paths["pictures"], options.groups)
    if made_up:
        note = "they get random boxes where they stand out, which need not hold an object"
        print(f"pbe: no masks or boxes for any of the {made_up:,} pictures: {note}", file=sys.stderr)
    counts = sources.build_index(found, options.out, settings, options.min_area, options.max_area)
    if counts["skipped"]:
        print(f"pbe: skipped pictures are listed in {options.out / sources.SKIPPED}", file=sys.stderr)
    return counts


def train(options: Any) -> None:
    """Train with a `TrainConfig`, print the folder of the trained model."""
    from . import training

    print(training.train(options))


def train_options() -> type:
    """The trainer declares its options itself."""
    from .training import TrainConfig

    return TrainConfig


@dataclass(frozen=True)
class Command:
    """A line of the table below."""

    summary: str
    """One line for ``pbe --help``."""
    options: Callable[[], type]
    """Gives the dataclass of options; called only when this command is asked for."""
    run: Callable[[Any], None]


COMMANDS = {
    "edit": Command("paint an exemplar into a picture", lambda: Edit, edit),
    "info": Command("say what a model is", lambda: Info, info),
    "convert": Command("write a model in another layout", lambda: Convert, convert),
    "prepare": Command("turn downloads into training data", lambda: Prepare, prepare),
    "train": Command("train a model", train_options, train),
}


def main(argv: Sequence[str] | None = None) -> int:
    """Run a command.

    Args:
        argv: arguments without the program's name; those of the process if not given.

    Returns:
        The exit status: 0, 1 for an error the user can fix, 2 for arguments that make no sense.
    """
    arguments = list(sys.argv[1:] if argv is None else argv)
    try:
        status = dispatch(arguments)
        sys.stdout.flush()  # a reader that is gone shows here, not while Python ends
        return status
    except UserError as error:
        return complain(str(error), status=1)
    except KeyboardInterrupt:
        return INTERRUPTED
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return BROKEN_PIPE


def dispatch(arguments: Sequence[str]) -> int:
    """Find the command, read its options, run it."""
    if not arguments or arguments[0] in ("-h", "--help"):
        print(overview())
        return 0
    if arguments[0] == "--version":
        print(f"pbe {__version__}")
        return 0
    name, *rest = arguments
    if name not in COMMANDS:
        return complain(f"unknown command {name!r}; one of {', '.join(COMMANDS)} is expected", status=USAGE_ERROR)
    command = COMMANDS[name]
    try:
        options = parse(command.options(), f"pbe {name}", rest)
        if options is not None:
            command.run(options)
    except UsageError as error:
        return complain(f"{error} (see pbe {name} --help)", status=USAGE_ERROR)
    return 0


def overview() -> str:
    """What ``pbe --help`` prints; written here, because tyro would load every command's options for it."""
    commands = "\n".join(f"  {name:9} {command.summary}" for name, command in COMMANDS.items())
    return (
        "usage: pbe COMMAND ...\n\nEdit pictures by example.\n\ncommands:\n"
        f"{commands}\n\npbe COMMAND --help tells a command's options; pbe --version prints the version."
    )


class UsageError(Exception):
    """Arguments that make no sense."""


def parse(kind: type, program: str, arguments: Sequence[str]) -> Any:
    """Read the options of a dataclass from arguments; None when help was asked for and printed.

    Raises:
        UsageError: what tyro has against the arguments, on one line; tyro itself draws a box.
    """
    box = io.StringIO()
    try:
        with contextlib.redirect_stderr(box):
            return tyro.cli(
                kind, prog=program, args=arguments, config=(tyro.conf.FlagCreatePairsOff, tyro.conf.DisallowNone)
            )
    except SystemExit as ended:
        if not ended.code:
            return None
        raise UsageError(box_text(box.getvalue())) from None


def box_text(box: str) -> str:
    """What stands in a box of tyro's between its title and the rule above the pointer to help."""
    lines = [line.strip("│| ") for line in re.sub(r"\x1b\[[\d;]*m", "", box).splitlines()]
    body = [line for line in lines if line][1:]  # without the title
    sections = (section for is_rule, section in groupby(body, lambda line: not line.strip("─-")) if not is_rule)
    return " ".join(" ".join(next(sections, ())).replace("•", "").split()).rstrip(".! ")


def complain(message: str, status: int) -> int:
    """One line on stderr; gives the status back."""
    print(f"pbe: error: {message}", file=sys.stderr)
    return status
