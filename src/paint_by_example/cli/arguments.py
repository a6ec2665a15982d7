"""Arguments to options: tyro, with its complaints on one line."""

from __future__ import annotations

import contextlib
import io
import re
from collections.abc import Sequence
from itertools import groupby
from typing import Any

import tyro


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
