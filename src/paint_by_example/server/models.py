"""Which models there are, by the names that clients may say, and how each is loaded."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from ..errors import ModelError
from .messages import Kind
from .messages import Model as ListedModel

if TYPE_CHECKING:
    import torch

    from .painting import Model

EMBEDDED = "embedded"
FILL = "cv2"
OWN_SUFFIXES = (".safetensors", ".ckpt")
SCRIPT_SUFFIXES = (".pt", ".jit")

OLD_ON_THE_HUB: Mapping[str, tuple[str, Kind]] = {
    "paint_by_example": ("Fantasy-Studio/Paint-by-Example", "exemplar"),
    "sd1.5": ("stable-diffusion-v1-5/stable-diffusion-inpainting", "prompt"),
    "sd2": ("stabilityai/stable-diffusion-2-inpainting", "prompt"),
    "instruct_pix2pix": ("timbrooks/instruct-pix2pix", "instruct"),
}
"""Lama Cleaner's names of models, and where their weights are; a folder of the name in ``--model-dir`` goes first."""

LAMA_FILES = ("lama.pt", "big-lama.pt")
"""What LaMa's TorchScript file is called: in ``--model-dir``, or where Lama Cleaner left it."""

GONE = {
    name: f"{name} is not run here; cv2 and lama erase too, and IOPaint still has it: iopaint start --model {name}"
    for name in ("ldm", "zits", "mat", "fcf", "manga")
}
"""Lama Cleaner's names of models that have no code here, and who has it."""


@dataclass(frozen=True)
class Loading:
    """How models are loaded: the command's options."""

    half: bool = True
    """Half precision on a GPU."""
    offload: bool = False
    text_on_cpu: bool = False
    checked: bool = True
    """With the model's safety checker, if it has one."""
    local_files_only: bool = False
    controlnet: str | None = None
    """ControlNet or T2I-Adapter that goes beside the first model."""
    pose_models: Path | None = None
    """See `Structure.models`."""


@dataclass(frozen=True)
class Shelved:
    """A model that may be chosen."""

    name: str
    kind: Kind
    source: str | Path
    """For the loader: a folder, a file, or a name."""


class Shelf:
    """The models there are.

    Args:
        model: what ``--model`` says: a name of Lama Cleaner's, "embedded", a folder, a file, or a name on the hub.
        model_dir: a folder of folders and files to choose from.
        loading: how to load.

    Raises:
        ModelError: there is no such model.
    """

    def __init__(self, model: str = EMBEDDED, model_dir: Path | None = None, loading: Loading | None = None) -> None:
        self.loading = loading or Loading()
        self.models: dict[str, Shelved] = {
            EMBEDDED: Shelved(EMBEDDED, "exemplar", EMBEDDED),
            FILL: Shelved(FILL, "erase", FILL),
        }
        for shelved in (*_in_folder(model_dir), *_lama(model_dir)):
            self.models.setdefault(shelved.name, shelved)
        if model in GONE:
            raise ModelError(GONE[model])
        if model not in self.models:
            shelved = _named(model)
            if shelved.name in self.models:  # another one of that name
                shelved = replace(shelved, name=f"{Path(shelved.source).resolve().parent.name}/{shelved.name}")
            self.models[shelved.name] = shelved
            model = shelved.name
        self.first = model
        if self.loading.controlnet is not None and self.models[model].kind != "exemplar":
            raise ModelError(f"--controlnet goes beside a model that is shown an exemplar; {model} is none")
        self.looked_at = {FILL: ListedModel(name=FILL, kind="erase", steps=1, takes=[])}

    def listed(self, loaded: set[str]) -> list[ListedModel]:
        """The models, for clients.

        Args:
            loaded: names of those in memory.
        """
        return [self.known(name).model_copy(update={"loaded": name in loaded}) for name in self.models]

    def known(self, name: str) -> ListedModel:
        """What is known of a model, one of `models`."""
        kind = self.models[name].kind
        return self.looked_at.get(name) or ListedModel(name=name, kind=kind, takes=None if kind == "exemplar" else [])

    def load(self, name: str, device: torch.device) -> Model:
        """Load a model.

        Args:
            name: one of `models`, but not the fill, which needs no loading.
            device: to run it on.

        Raises:
            ModelError: it cannot be loaded.
        """
        model = self._load(self.models[name], device)
        self.looked_at[name] = ListedModel(
            name=name,
            kind=model.kind,
            image_size=model.image_size,
            steps=model.steps,
            scheduler=model.scheduler,
            takes=list(model.takes),
        )
        return model

    def _load(self, shelved: Shelved, device: torch.device) -> Model:
        import torch

        how = self.loading
        dtype = torch.float16 if how.half and device.type != "cpu" else torch.float32
        if shelved.kind == "erase":
            from .erasing import Lama

            return Lama(Path(shelved.source), device)
        if shelved.kind in ("prompt", "instruct"):
            from .prompting import PromptedModel

            return PromptedModel(
                shelved.source,
                shelved.name,
                "prompt" if shelved.kind == "prompt" else "instruct",
                device,
                dtype,
                local_files_only=how.local_files_only,
                offload=how.offload and device.type != "cpu",
                text_on_cpu=how.text_on_cpu,
                checked=how.checked,
            )
        from ..pipeline import load_pipeline
        from .painting import ExemplarModel

        offload = how.offload and device.type != "cpu"
        pipeline = load_pipeline(
            shelved.source, "cpu" if offload else device, dtype, local_files_only=how.local_files_only
        )
        if not how.checked:
            pipeline.safety_checker = None
        if how.controlnet is not None and shelved.name == self.first:
            pipeline.load_controlnet(how.controlnet)
        if offload:
            pipeline.enable_model_cpu_offload(device=device)
        return ExemplarModel(pipeline, shelved.name, whole=not offload, pose_models=how.pose_models)


def _in_folder(folder: Path | None) -> list[Shelved]:
    """The models in a folder."""
    from .prompting import kind_of_folder

    if folder is None:
        return []
    if not folder.is_dir():
        raise ModelError(f"there is no folder {folder}; --model-dir takes a folder of models")
    found = []
    for place in sorted(folder.iterdir()):
        if place.name.startswith("."):
            continue
        if place.is_dir():
            kind = kind_of_folder(place)
            if kind is not None:
                found.append(Shelved(place.name, kind, place))
        elif place.suffix in OWN_SUFFIXES:
            found.append(Shelved(place.name, "exemplar", place))
    return found


def _lama(folder: Path | None) -> list[Shelved]:
    """LaMa, if its file is there."""
    cache = Path(os.environ.get("TORCH_HOME") or Path.home() / ".cache" / "torch") / "hub" / "checkpoints"
    for place in filter(None, (folder, cache)):
        for file in LAMA_FILES:
            if (place / file).is_file():
                return [Shelved("lama", "erase", place / file)]
    return []


def _named(model: str) -> Shelved:
    """What ``--model`` names, if it is not on the shelf yet."""
    if model == "lama":
        raise ModelError(
            f"lama needs its weights as a TorchScript file: put {LAMA_FILES[1]} into --model-dir; cv2 needs none"
        )
    if model in OLD_ON_THE_HUB:
        source, kind = OLD_ON_THE_HUB[model]
        return Shelved(model, kind, source)
    place = Path(model).expanduser()
    if place.is_dir():
        from .prompting import kind_of_folder

        if (place / "model_index.json").is_file() and (kind_found := kind_of_folder(place)) is not None:
            return Shelved(place.name, kind_found, place)
        raise ModelError(f"the folder {place} holds no model of a kind that is run here: see docs/http-api.md, Models")
    if place.is_file():
        kind = "erase" if place.suffix in SCRIPT_SUFFIXES else "exemplar"
        return Shelved(place.name, kind, place)
    if model.count("/") == 1 and not model.startswith((".", "/", "~")):
        return Shelved(model, "exemplar", model)
    raise ModelError(
        f"no model {model!r}; give embedded, a folder, a file, a name on the hub (owner/name), or one of"
        f" {', '.join((FILL, 'lama', *OLD_ON_THE_HUB))}"
    )
