"""Quicker imports: most of a short command's time passes before it begins, with all that diffusers brings along."""

from __future__ import annotations

import contextlib
import gc
import sys
from collections.abc import Collection, Iterator

EMBEDDED_WITHOUT = ("peft", "scipy")
"""Packages that diffusers imports where it finds them, and that the embedded model needs nothing of."""


@contextlib.contextmanager
def quick_imports(without: Collection[str] = ()) -> Iterator[None]:
    """Import what stays until the process ends; nothing changes where diffusers has been imported before.

    Python looks for cyclic garbage the more often the more there is, and once more as it ends. None is looked for
    meanwhile, and what has been imported is never looked through.

    Args:
        without: packages that are meanwhile as if they were not installed. diffusers and transformers look, as they
            are imported, which optional packages there are, and import those they find, used or not. Afterwards the
            packages can be imported as ever, but the two go on doing without them as long as the process lives.
    """
    if "diffusers" in sys.modules:
        yield
        return
    hidden = [name for name in without if name not in sys.modules]
    for name in hidden:
        sys.modules[name] = None  # type: ignore[assignment] # which Python takes for "not there"
    gc.disable()
    try:
        yield
    finally:
        gc.freeze()
        gc.enable()
        for name in hidden:
            del sys.modules[name]
