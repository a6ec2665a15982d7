"""Models on disk: finding them, reading their parts, whatever the layout.

A model is a folder in diffusers' layout: ``model_index.json`` lists the parts, each in a folder of its own.
"""

from __future__ import annotations

import contextlib
import json
import textwrap
from collections.abc import Iterator
from pathlib import Path
from typing import Any, cast

import diffusers
import torch
import transformers
from diffusers import AutoencoderKL, DiffusionPipeline, ModelMixin, UNet2DConditionModel
from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil

from .autoencoder import PatchAutoencoder
from .conditioning import EmbeddedImageEncoder, PaintByExampleImageEncoder
from .errors import ModelError
from .sampling import SCHEDULERS

EMBEDDED = Path(__file__).parent / "assets" / "embedded"


def find_model(model: str | Path) -> Path:
    """The folder of a model, downloaded if it has a name on the hub.

    Raises:
        ModelError: if there is none.
    """
    name = str(model)
    folder = EMBEDDED if name == "embedded" else Path(name)
    if folder.is_file():
        raise ModelError(f"{name} is a file; give a folder in diffusers' layout, or a name on the hub")
    if not folder.is_dir():
        if name == "embedded" or folder.is_absolute() or name.startswith((".", "~")) or name.count("/") != 1:
            raise ModelError(f"no model at {folder}; give 'embedded', a folder, or a name on the hub: owner/name")
        try:
            with quiet(bars=True):
                # without the safety checker, which is not used
                folder = Path(DiffusionPipeline.download(name, safety_checker=None))
        except Exception as error:  # no network, no such name, no access: the hub's errors share no parent
            reason = textwrap.shorten(f"{error}", 200, placeholder=" ...") or type(error).__name__
            raise ModelError(f"no folder {name}, and it cannot be had from the hub: {reason}") from error
    if not (folder / "model_index.json").is_file():
        raise ModelError(f"{name} holds no model_index.json: it is not a model in diffusers' layout")
    return folder


def load_parts(folder: Path) -> dict[str, Any]:
    """The parts that a folder's ``model_index.json`` lists; classes that are not known here are not loaded."""
    index = json.loads((folder / "model_index.json").read_text(encoding="utf-8"))
    known = {
        "vae": (AutoencoderKL, PatchAutoencoder),
        "image_encoder": (PaintByExampleImageEncoder, EmbeddedImageEncoder),
        "unet": (UNet2DConditionModel,),
        "scheduler": tuple(SCHEDULERS.values()),
    }
    parts: dict[str, Any] = {}
    for name, classes in known.items():
        listed = index.get(name, (None, None))[1]
        kind: Any = next((kind for kind in classes if kind.__name__ == listed), None)
        if kind is None:
            expected = " or ".join(kind.__name__ for kind in classes)
            raise ModelError(f"the {name} of {folder} is {listed or 'missing'}; {expected} is expected")
        if name == "scheduler":
            parts[name] = kind.from_pretrained(folder / name)
        else:
            parts[name] = _load_module(kind, folder / name)
    # Without torchvision the class that the index names may be missing; it is needed for two triples of numbers only.
    if (folder / "feature_extractor").is_dir():
        parts["feature_extractor"] = CLIPImageProcessorPil.from_pretrained(folder / "feature_extractor")
    return parts


def _load_module(kind: Any, folder: Path) -> torch.nn.Module:
    """A network and its weights, all of them: what a file lacks would be left as it was drawn at random."""
    options = {"low_cpu_mem_usage": False} if issubclass(kind, ModelMixin) else {}  # True needs accelerate
    module, info = kind.from_pretrained(folder, output_loading_info=True, **options)
    if missing := sorted(info["missing_keys"]):
        raise ModelError(f"the weights in {folder} lack {len(missing)} tensors, among them {missing[0]}")
    return cast(torch.nn.Module, module)


@contextlib.contextmanager
def quiet(bars: bool = False) -> Iterator[None]:
    """Silence diffusers and transformers; what they would warn of, missing tensors, `_load_module` raises.

    Args:
        bars: show their progress bars nevertheless.
    """
    logs: tuple[Any, ...] = (diffusers.utils.logging, transformers.utils.logging)
    before = [(log.get_verbosity(), log.is_progress_bar_enabled()) for log in logs]
    for log in logs:
        log.set_verbosity_error()
        if not bars:
            log.disable_progress_bar()
    try:
        yield
    finally:
        for log, (verbosity, shown) in zip(logs, before, strict=True):
            log.set_verbosity(verbosity)
            if shown:
                log.enable_progress_bar()
