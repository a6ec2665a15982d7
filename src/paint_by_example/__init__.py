"""Paint by Example: a masked region of a picture is repainted after an exemplar picture.

The names below are imported when first used, so that ``import paint_by_example`` alone loads no torch.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from .autoencoder import PatchAutoencoder
    from .conditioning import PaintByExampleImageEncoder, PooledImageEncoder
    from .errors import UserError
    from .inputs import Blend
    from .layout import LayoutUNet
    from .pipeline import PaintByExamplePipeline, load_pipeline
    from .thumbnail import EmbeddedImageEncoder

__version__ = "0.1.0"

__all__ = [
    "Blend",
    "EmbeddedImageEncoder",
    "LayoutUNet",
    "PaintByExampleImageEncoder",
    "PaintByExamplePipeline",
    "PatchAutoencoder",
    "PooledImageEncoder",
    "UserError",
    "__version__",
    "load_pipeline",
]

_HOMES = {
    "Blend": "inputs",
    "EmbeddedImageEncoder": "thumbnail",
    "LayoutUNet": "layout",
    "PaintByExampleImageEncoder": "conditioning",
    "PaintByExamplePipeline": "pipeline",
    "PatchAutoencoder": "autoencoder",
    "PooledImageEncoder": "conditioning",
    "UserError": "errors",
    "load_pipeline": "pipeline",
}

# The loader of diffusers looks for these in the library that a model's index names, to learn how a part is loaded.
_BASES = {"ModelMixin": "diffusers", "PreTrainedModel": "transformers"}


def __getattr__(name: str) -> object:
    if name in _BASES:
        base: object = getattr(importlib.import_module(_BASES[name]), name)
        return base
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value: object = getattr(importlib.import_module(f".{_HOMES[name]}", __name__), name)
    globals()[name] = value  # the next use finds it without coming here
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
