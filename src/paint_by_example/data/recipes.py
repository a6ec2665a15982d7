"""How the paper, the authors' code and this package make training examples, by name.

One frozen set of settings each; docs/training.md says of every difference where it comes from. `BoxDataset` follows the
part about examples; the part about training is what `pbe train --recipe` takes where no option says otherwise.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from .masks import ARBITRARY_SHARE, EXTENSION, POINTS_PER_SIDE


@dataclass(frozen=True, slots=True)
class Recipe:
    """Every setting in which `paper`, `released` and `default` differ, and the few numbers they share."""

    # Which boxes

    min_area: float = 0.02
    """Smallest area of a box, as a share of the picture's, that is drawn where the picture has another choice."""
    max_area: float = 0.8
    """Largest one."""
    truncate_boxes: bool = False
    """Cut the boxes' fractions off, rather than round outwards so that nothing of the object is lost."""

    # Exemplar

    augment_exemplar: bool = True
    """Flip, turn, blur and warp it, rather than leave it as it stands in the picture."""
    warps: tuple[Literal["affine", "elastic"], ...] = ("elastic",)
    """What an exemplar that is to be warped goes through, in this order."""
    remove_background: float = 0.0
    """Probability that white takes the place of what surrounds the object, where the index has a mask of it."""

    # Mask

    arbitrary_share: float = ARBITRARY_SHARE
    """Share of masks with an arbitrary shape; the rest are rectangles."""
    extension: float = EXTENSION
    """Each side of a box grows by up to this share of the free space next to it."""
    tight_share: float = 0.0
    """Probability that the box does not grow at all: the small masks that users draw."""
    points_per_side: int = POINTS_PER_SIDE
    """Points on each curve of an arbitrary shape."""
    drop_points: bool = False
    """Leave out the curves' ends, and each point of which one coordinate was there before on the same curve."""
    points_may_stay: bool = False
    """Points move by 0 to 5 pixels, rather than 1 to 5."""
    jitter_in_picture: bool = False
    """These pixels are the picture's, rather than those of a canvas of 512."""

    # Crop

    squash: bool = False
    """Squash a picture of which no square holds the extended box, rather than continue it; leave square ones whole."""
    antialias: bool = True
    """Average over what a pixel covers where pictures shrink, rather than interpolate between four neighbours."""
    soft_mask: bool = False
    """Interpolate the mask as well, rather than keep it black and white."""

    # Training: `TrainConfig` has options of the same names

    drop_exemplar: float = 0.2
    """Probability that the learned null token takes the exemplar's place."""
    drop_together: int = 1
    """Examples in a row that share one draw of it."""
    sample_latents: bool = False
    """Draw latents from the autoencoder's posterior, rather than take its mean."""
    ema_decay: float = 0.9999
    """Decay of the moving average of the weights; 0 keeps none."""
    learning_rate: float = 1e-5
    """Of AdamW, after the warm-up; constant."""
    warmup_steps: int = 10_000
    """Over which the learning rate rises from 0."""
    weight_decay: float = 0.01
    """Of AdamW."""
    max_grad_norm: float = 0.0
    """The gradient is scaled down to this norm; 0 leaves it as it is."""
    batch_size: int = 256
    """Examples a step, of all processes together."""


RECIPES = {
    "paper": Recipe(),
    "released": Recipe(
        truncate_boxes=True,
        warps=("affine",),
        points_per_side=18,
        drop_points=True,
        points_may_stay=True,
        jitter_in_picture=True,
        squash=True,
        antialias=False,
        soft_mask=True,
        drop_together=4,
        sample_latents=True,
        ema_decay=0.0,
        batch_size=32,
    ),
    "default": Recipe(
        min_area=0.001,
        warps=("affine", "elastic"),
        remove_background=0.25,
        tight_share=0.25,
        warmup_steps=1000,
        max_grad_norm=1.0,
        batch_size=64,
    ),
}
DEFAULT = RECIPES["default"]
OF_TRAINING = (
    "drop_exemplar",
    "drop_together",
    "sample_latents",
    "ema_decay",
    "learning_rate",
    "warmup_steps",
    "weight_decay",
    "max_grad_norm",
    "batch_size",
)
