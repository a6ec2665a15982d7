"""The command ``pbe``: a table of commands, each a dataclass of options and the function that carries it out.

A command's file is named after it. Whatever loads torch is imported where it is used, so that help and mistyped options
are answered at once.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from .. import __version__
from ..errors import UserError
from .ablate import Ablate, ablate
from .arguments import UsageError, parse
from .batch import batch, batch_options
from .bench import Bench, bench
from .compare import Compare, compare
from .distill import distill, distill_options
from .edit import Edit, edit
from .evaluate import evaluate, evaluate_options
from .library import library, library_options
from .models import Convert, Info, convert, info
from .prepare import Prepare, prepare
from .serve import Serve, serve
from .study import study, study_options
from .sweep import Sweep, sweep
from .train import train, train_options

USAGE_ERROR = 2
INTERRUPTED = 130  # 128 + SIGINT, as shells count
BROKEN_PIPE = 141  # 128 + SIGPIPE


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
    "batch": Command("make all edits of a table", batch_options, batch),
    "library": Command("keep pictures to paint with, find them", library_options, library),
    "serve": Command("serve a page to edit pictures on", lambda: Serve, serve),
    "bench": Command("time a model here, recommend a preset", lambda: Bench, bench),
    "info": Command("say what a model is", lambda: Info, info),
    "convert": Command("write a model in another layout", lambda: Convert, convert),
    "prepare": Command("turn downloads into training data", lambda: Prepare, prepare),
    "train": Command("train a model", train_options, train),
    "distill": Command("make a model that needs few steps", distill_options, distill),
    "evaluate": Command("edit a benchmark, measure the results", evaluate_options, evaluate),
    "compare": Command("lay methods side by side", lambda: Compare, compare),
    "sweep": Command("vary settings, all else alike", lambda: Sweep, sweep),
    "ablate": Command("score what each part of the method brings", lambda: Ablate, ablate),
    "study": Command("have people rank results, blind", study_options, study),
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
        options = parse(command.options(), f"pbe {name}", rest, command.summary)
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


def complain(message: str, status: int) -> int:
    """One line on stderr; gives the status back."""
    print(f"pbe: error: {message}", file=sys.stderr)
    return status
