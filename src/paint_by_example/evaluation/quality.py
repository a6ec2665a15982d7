"""The quality score of the paper: how likely a result is under a mixture of Gaussians fitted to photographs.

The score is GIQA's (arXiv 2003.08932, section 3.2) on features of CLIP ViT-B/32, with 20 components fitted to COCO. The
authors' own mixture was published outside their repository; another fit gives other figures, so a figure is comparable
only with those under the same mixture.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from ..errors import UserError

if TYPE_CHECKING:
    from sklearn.mixture import GaussianMixture

COMPONENTS = 20
MAXIMUM = 300.0  # log-likelihood that scores 100; 0 and below score 0
TENSORS = ("weights", "means", "precisions_cholesky")


def fit_quality(features: NDArray[np.floating], components: int = COMPONENTS, seed: int = 0) -> GaussianMixture:
    """Fit a mixture with full covariances.

    Args:
        features: (n, D), of photographs.
        components: K.
        seed: of the start.

    Raises:
        UserError: there are fewer pictures than components.
    """
    from sklearn.mixture import GaussianMixture

    if len(features) < components:
        raise UserError(f"a mixture of {components} components needs at least as many pictures, got {len(features)}")
    return GaussianMixture(components, random_state=seed).fit(np.asarray(features, np.float64))


def save_quality(mixture: GaussianMixture, path: str | os.PathLike[str], space: str) -> None:
    """Write a mixture to a safetensors file, which holds no code.

    Args:
        mixture: fitted.
        path: the file; its folder is made.
        space: name of the feature space, kept in the file.
    """
    from safetensors.numpy import save_file

    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    beside = path.with_name(f".{path.name}.part")
    tensors = {name: np.ascontiguousarray(getattr(mixture, f"{name}_")) for name in TENSORS}
    save_file(tensors, beside, metadata={"space": space})
    beside.replace(path)


def load_quality(path: str | os.PathLike[str]) -> tuple[GaussianMixture, str]:
    """Read what `save_quality` wrote: the mixture, and the name of its feature space.

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
    for name in TENSORS:
        setattr(mixture, f"{name}_", tensors[name])
    return mixture, space


def quality_scores(mixture: GaussianMixture, features: NDArray[np.floating]) -> NDArray[np.float64]:
    """Each picture's score: (n,) in [0, 100]. The score of a set is the mean.

    Every picture counts: the authors' script loses the last ones that fill no batch of 50.

    Args:
        mixture: from `load_quality`.
        features: (n, D) in its space.

    Raises:
        UserError: the features are of another length.
    """
    expected = mixture.means_.shape[1]
    if features.shape[1] != expected:
        raise UserError(f"the mixture is of features of {expected} numbers, got {features.shape[1]}")
    likelihood = mixture.score_samples(np.asarray(features, np.float64))
    return np.asarray(np.clip(likelihood / MAXIMUM, 0, 1) * 100)
