"""Arguments to options: tyro, with its complaints on one line and its help made plain."""

from __future__ import annotations

import contextlib
import dataclasses
import io
import re
import shutil
import textwrap
from collections.abc import Sequence
from itertools import groupby
from typing import Annotated, Any, get_args, get_origin

import tyro
from tyro.constructors import ConstructorRegistry, StructConstructorSpec, StructFieldSpec, StructTypeInfo

ESCAPES = re.compile(r"\x1b\[[\d;]*m")  # of a terminal's colours
AT_MOST_ONE = "At most one argument can be overridden."  # tyro's words
REPEATED = get_args(tyro.conf.UseAppendAction[int])[1]  # marks an option that may be given several times


class UsageError(Exception):
    """Arguments that make no sense."""


def parse(kind: Any, program: str, arguments: Sequence[str], summary: str = "") -> Any:
    """Read the options of a dataclass from arguments; None when help was asked for and printed.

    Args:
        kind: the dataclass, or several as a union: a group of commands.
        program: what stands before the arguments.
        arguments: the rest.
        summary: of a group, for its help; a dataclass has a docstring.

    Raises:
        UsageError: what tyro has against the arguments, on one line; tyro itself draws a box.
    """
    more = f"{summary.capitalize()}. {program} COMMAND --help tells a command's options."
    box, help_text = io.StringIO(), io.StringIO()
    try:
        with contextlib.redirect_stderr(box), contextlib.redirect_stdout(help_text):
            return tyro.cli(
                kind,
                prog=program,
                description=None if isinstance(kind, type) else more,
                args=arguments,
                config=(tyro.conf.FlagCreatePairsOff, tyro.conf.DisallowNone),
                registry=plain_options(),
            )
    except SystemExit as ended:
        if ended.code:
            raise UsageError(box_text(box.getvalue())) from None
    printed = help_text.getvalue()
    asked = not {"-h", "--help"}.isdisjoint(arguments)  # else it is for a shell to complete by
    print(plain_help(printed, shutil.get_terminal_size().columns) if asked else printed, end="")
    return None


def plain_options() -> ConstructorRegistry:
    """Options as tyro has them, with texts as one paragraph and without defaults that say nothing."""
    registry = ConstructorRegistry()
    within = False

    @registry.struct_rule
    def plain(info: StructTypeInfo) -> StructConstructorSpec | None:
        nonlocal within
        if within or not dataclasses.is_dataclass(info.type):
            return None
        within = True
        try:
            found = ConstructorRegistry.get_struct_spec(info)  # by tyro's own rule
        finally:
            within = False
        if not isinstance(found, StructConstructorSpec):
            return None
        return dataclasses.replace(found, fields=tuple(map(plain_option, found.fields)))

    return registry


def plain_option(option: StructFieldSpec) -> StructFieldSpec:
    """An option with its text as one paragraph, and its default only where that is a value one could give."""
    text = option.helptext

    def paragraph() -> str | None:
        words = text() if callable(text) else text
        return None if words is None else " ".join(words.split())

    kind: Any
    kind, *details = get_args(option.type) if get_origin(option.type) is Annotated else (option.type,)
    default = option.default
    if default is None or isinstance(default, bool) or (default == () and REPEATED not in details):
        details = [tyro.conf.arg(help_behavior_hint=""), *details]  # in front: what a field says goes before this
    if details:
        kind = Annotated[(kind, *details)]
    return dataclasses.replace(option, helptext=paragraph, type=kind)


def plain_help(text: str, width: int) -> str:
    """A help of tyro's without colours, no line of which is wider than the terminal, and no empty one within a list."""
    lines: list[str] = []
    for line in ESCAPES.sub("", text).replace(AT_MOST_ONE, "One of these.").splitlines():
        within = " " * 7 if line.startswith("usage:") else ""
        broken = textwrap.wrap(line, width, subsequent_indent=within, break_on_hyphens=False)
        lines += broken if len(line) > width else [line.rstrip()]
    return re.sub(r"\n\n(?=  )", "\n", "\n".join(lines)).rstrip() + "\n"


def box_text(box: str) -> str:
    """What stands in a box of tyro's between its title and the rule above the pointer to help."""
    lines = [line.strip("│| ") for line in ESCAPES.sub("", box).splitlines()]
    body = [line for line in lines if line][1:]  # without the title
    sections = (section for is_rule, section in groupby(body, lambda line: not line.strip("─-")) if not is_rule)
    return " ".join(" ".join(next(sections, ())).replace("•", "").split()).rstrip(".! ")
