"""The quality score of the paper: how likely a result is under a mixture of Gaussians fitted to photographs.

The score is GIQA's (arXiv 2003.08932, section 3.2) on features of CLIP ViT-B/32, with 20 components fitted to COCO. The
authors' own mixture was published outside their repository; another fit gives other figures, so a figure is comparable
only with those under the same mixture.

In other features neither number of components nor scale can be the authors': a component with more numbers than
pictures is as good as infinitely thin, and log-likelihoods are of another size. There the number follows from that of
the pictures, and the scale from pictures that the mixture was not fitted to.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from ..errors import UserError

if TYPE_CHECKING:
    from sklearn.mixture import GaussianMixture

SPACE = "clip-vit-b-32"  # the authors' features
COMPONENTS = 20
ENOUGH = 10  # pictures for each number of a component, at least
SPAN = (0.0, 300.0)  # log-likelihoods that score 0 and 100, of the authors
UNSEEN = 0.1  # share of the pictures that another span is measured on, from their 1% to their 99% quantile
TENSORS = ("weights", "means", "precisions_cholesky", "span")


@dataclass(frozen=True)
class Quality:
    """What scores pictures."""

    mixture: GaussianMixture
    space: str
    """Name of the features."""
    span: tuple[float, float] = SPAN
    """Log-likelihoods that score 0 and 100."""


def fit_quality(features: NDArray[np.floating], space: str, components: int | None = None, seed: int = 0) -> Quality:
    """Fit a mixture with full covariances.

    Args:
        features: (n, D), of photographs.
        space: name of the features.
        components: K; 20 by default, or as many as there are enough pictures for.
        seed: of the start, and of which pictures the span is measured on.

    Raises:
        UserError: there are fewer pictures than components.
    """
    from sklearn.mixture import GaussianMixture

    x = np.asarray(features, np.float64)
    if components is None:
        components = max(1, min(COMPONENTS, len(x) // (ENOUGH * x.shape[1])))
    unseen = 0 if space == SPACE else max(2, round(UNSEEN * len(x)))
    if len(x) - unseen < components + 1:
        raise UserError(f"a mixture of {components} components needs more pictures, got {len(x)}")
    x = x[np.random.default_rng(seed).permutation(len(x))] if unseen else x
    mixture = GaussianMixture(components, random_state=seed).fit(x[unseen:])
    if not unseen:
        return Quality(mixture, space)
    low, high = np.quantile(mixture.score_samples(x[:unseen]), (0.01, 0.99))
    return Quality(mixture, space, (float(low), float(high)))


def save_quality(quality: Quality, path: str | os.PathLike[str]) -> None:
    """Write to a safetensors file, which holds no code.

    Args:
        quality: fitted.
        path: the file; its folder is made.
    """
    from safetensors.numpy import save_file

    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    beside = path.with_name(f".{path.name}.part")
    tensors = {name: np.ascontiguousarray(getattr(quality.mixture, f"{name}_")) for name in TENSORS[:-1]}
    save_file(tensors | {"span": np.array(quality.span)}, beside, metadata={"space": quality.space})
    beside.replace(path)


def load_quality(path: str | os.PathLike[str]) -> Quality:
    """Read what `save_quality` wrote.

    Raises:
        UserError: there is no such file, or it holds something else.
    """
    from safetensors import SafetensorError, safe_open
    from sklearn.mixture import GaussianMixture

    try:
        with safe_open(path, "np") as file:
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - it is no dictionary
            space = (file.metadata() or {}).get("space")
    except (OSError, SafetensorError) as error:
        raise UserError(f"cannot read the mixture {path}: {error}") from error
    if set(tensors) != set(TENSORS) or space is None:
        raise UserError(f"{path} holds no mixture; pbe evaluate fit-qs writes one")
    mixture = GaussianMixture(len(tensors["weights"]))
    for name in TENSORS[:-1]:
        setattr(mixture, f"{name}_", tensors[name])
    low, high = tensors["span"].tolist()
    return Quality(mixture, space, (low, high))


def quality_scores(quality: Quality, features: NDArray[np.floating]) -> NDArray[np.float64]:
    """Each picture's score: (n,) in [0, 100]. The score of a set is the mean.

    Every picture counts: the authors' script loses the last ones that fill no batch of 50.

    Args:
        quality: from `load_quality`.
        features: (n, D) in its space.

    Raises:
        UserError: the features are of another length.
    """
    expected = quality.mixture.means_.shape[1]
    if features.shape[1] != expected:
        raise UserError(f"the mixture is of features of {expected} numbers, got {features.shape[1]}")
    likelihood = quality.mixture.score_samples(np.asarray(features, np.float64))
    low, high = quality.span
    return np.asarray(np.clip((likelihood - low) / (high - low), 0, 1) * 100)
