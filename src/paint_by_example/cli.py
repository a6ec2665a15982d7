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
from .errors import PictureError, UserError

if TYPE_CHECKING:
    from .sampling import Step

USAGE_ERROR = 2
INTERRUPTED = 130  # 128 + SIGINT, as shells count
BROKEN_PIPE = 141  # 128 + SIGPIPE

WHERE = tyro.conf.create_mutex_group(required=True, title="where to paint")


@dataclass(frozen=True)
class Edit:
    """Paint the exemplar into a region of the source; all other pixels stay as they are."""

    source: Annotated[tyro.conf.Positional[Path], tyro.conf.arg(metavar="SOURCE")]
    """Picture to edit."""
    exemplar: Path
    """Picture of what to paint."""
    mask: Annotated[Path | None, WHERE] = None
    """Picture of the source's size: white is repainted, black is kept."""
    box: Annotated[str | None, WHERE, tyro.conf.arg(metavar="L,T,R,B")] = None
    """Rectangle to repaint, pixels: left, top, right, bottom."""
    output: Path = Path("out.png")
    """File to write."""
    model: str = "embedded"
    """embedded, a folder in diffusers' layout, or a repository of the Hugging Face hub: owner/name."""
    guidance_scale: float | None = None
    """How strongly the exemplar is followed; the model's own if not given (5 in the paper)."""
    steps: int | None = None
    """Sampling steps; the model's own if not given."""
    seed: int = 0
    """Another seed gives another picture."""
    scheduler: str | None = None
    """Sampler: ddim, pndm, dpm++ or unipc; the model's own if not given."""
    feather: int | None = None
    """Width of the soft edge inside the mask, pixels."""
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

    for path in filter(None, (options.output, options.strip)):
        check_writable(path)
    source = images.load_image(options.source)
    exemplar = images.load_exemplar(options.exemplar)
    if options.mask is not None:
        mask = images.load_mask(options.mask, source.size)
    else:
        mask = images.box_mask(images.parse_box(options.box or ""), source.size)

    from tqdm import tqdm

    from .pipeline import load_pipeline

    # What is not given is left to the pipeline, so that its defaults are declared in one place.
    given = {
        name: value
        for name in ("guidance_scale", "steps", "scheduler", "feather")
        if (value := getattr(options, name)) is not None
    }
    pipeline = load_pipeline(options.model, device=options.device)
    with contextlib.ExitStack() as stack:
        bar: Any = None

        def show(step: Step) -> None:
            nonlocal bar
            if bar is None:  # not before the first step, so that no empty bar stands above an error
                bar = stack.enter_context(tqdm(total=step.total, desc="painting", unit="step"))
            bar.update()

        result = pipeline.edit(source, mask=mask, exemplar=exemplar, seed=options.seed, on_step=show, **given)
    picture = result.images[0]
    images.save_image(picture, options.output)
    if options.strip is not None:
        images.save_image(images.picture_strip([source, Image.fromarray(mask), exemplar, picture]), options.strip)
    if options.json:
        report = {
            "output": str(options.output),
            "seed": options.seed,
            "steps": result.steps,
            "guidance_scale": result.guidance_scale,
            "seconds": round(result.seconds, 3),  # of the edit, without loading the model
            "size": list(picture.size),
        }
        print(json.dumps(report))
    else:
        print(options.output)


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
class Prepare:
    """Turn downloaded files into training data."""

    dataset: tyro.conf.Positional[Literal["composites"]]
    """composites: cut-out objects on photographs, what the embedded model learns from."""
    out: Annotated[tyro.conf.Positional[Path], tyro.conf.arg(metavar="OUT")]
    """Folder to write."""
    downloads: Path
    """Folder with the downloaded packages."""


def prepare(options: Prepare) -> None:
    """Prepare a dataset, print what came out."""
    from .data import composites

    for name, number in composites.prepare(options.downloads, options.out).items():
        print(f"{name}  {number:,}")


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
    except UsageError as error:
        return complain(f"{error} (see pbe {name} --help)", status=USAGE_ERROR)
    if options is not None:
        command.run(options)
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
