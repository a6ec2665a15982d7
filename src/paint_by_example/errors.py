"""Errors a user can fix. The command prints them as one line; the server answers 422 with the same line.

UserError
├── PictureError   a source, exemplar or mask file that cannot be used
├── MaskError      a mask or box that selects nothing, or does not fit its picture
├── ModelError     a model that cannot be found, or whose files do not fit together
└── DataError      training data, an index or a configuration that cannot be used
"""

from __future__ import annotations


class UserError(Exception):
    """A problem the user can fix: what was wrong, what was found, what is expected, what to do.

    The message is one line without a trailing full stop, so that a caller can put it behind a prefix. What a terminal
    would obey instead of showing it, in a file's name say, is written as Python's escapes.
    """

    def __init__(self, message: str) -> None:
        shown = (
            one if one.isprintable() else one.encode("unicode_escape").decode() for one in " ".join(message.split())
        )
        super().__init__("".join(shown))


class PictureError(UserError):
    """A picture that cannot be read, or is larger than the stated limit."""


class MaskError(UserError):
    """A mask or box that is empty, outside its picture, or of another size."""


class ModelError(UserError):
    """A model that cannot be found or loaded."""


class DataError(UserError):
    """Training data, an index or a configuration that cannot be used."""
