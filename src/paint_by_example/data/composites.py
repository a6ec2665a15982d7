"""Composites: cut-out objects pasted on photographs, the training set of the embedded model.

`packages.prepare` builds the folder of cut-outs and backgrounds; `Composites` makes a scene of them for every item.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from PIL import Image

from ..errors import DataError
from ..images import IMAGE_SIZE, Box, Size
from .augment import augment
from .masks import ARBITRARY_SHARE, JITTER, random_mask
from .packages import ALPHA_THRESHOLD, count, read_entries
from .packages import prepare as prepare  # what `pbe prepare composites` calls

VARIANTS = 6  # recoloured versions of each object, so that colour is not tied to shape
PATCHES = 16  # boxes taken from each background as objects of their own, so that not everything is pasted
RECOLOURING, PATCHING, PICTURING, ITEMS = 1, 2, 3, 4  # random streams; epoch n of the items has stream ITEMS + n
PATCH_SHARE = 0.12  # share of training items that are such patches
CROWD_SHARE = 0.3  # of scenes with another object, of those with one that have one more, and so on
AUGMENTATION = 0.25  # strength of the exemplar's, of the paper's: a small model learns sooner what looks alike
WARP = 0.2  # strength of the objects' in scenes, for the same reason
# An edit shows a square around the hole, which takes 57% of its side (`crops.context_crop`). So do the scenes:
OBJECT_SHARE = (0.45, 0.62)  # longest side of the object as a share of the scene's
OFF_CENTRE = 0.06  # how far its middle may lie from the scene's, as a share of the scene's side
MASK_EXTENSION = 0.1  # the paper's is 0.4; a small model learns sooner where the hole says how large the object is


@dataclass(frozen=True)
class Scene:
    """A picture with an object in it, and the box around that object."""

    source: np.ndarray
    """(S, S, 3) uint8, the picture with the object: what training has to paint."""
    box: Box
    """The object's tight box."""


class Composites:
    """Scenes of objects on backgrounds. An item depends only on (seed, epoch, index), never on who asks for it.

    Args:
        folder: what `prepare` built.
        split: `train` or `held_out`.
        size: side of a scene, pixels.
        exemplar_size: side of an exemplar, pixels.
        seed: of everything drawn.
        length: items an epoch.
        features: (exemplars, D) float16 from `embedded.build`, handed out in place of exemplar pixels, or None.
        augmented: otherwise an exemplar is what the scene shows in the object's box, and all masks are rectangles.
        light: share of scenes under strong light, see `shade`.
        bent: share of scenes whose object is warped as much as in those held out.

    Raises:
        DataError: if the folder holds no object or no background of the split.
    """

    def __init__(
        self,
        folder: Path,
        split: str = "train",
        size: int = 128,
        exemplar_size: int = 128,
        seed: int = 0,
        length: int = 65536,
        features: np.ndarray | None = None,
        augmented: bool = True,
        light: float = 0.0,
        bent: float = 0.0,
    ) -> None:
        entries = [entry for entry in read_entries(folder) if entry.split == split]
        self.objects = [entry for entry in entries if entry.kind == "object"]
        self.backgrounds = [entry for entry in entries if entry.kind == "background"]
        if not self.objects or not self.backgrounds:
            found = ", ".join(f"{number} {name}" for name, number in count(entries).items()) or "nothing"
            raise DataError(f"{folder} holds {found} of split {split!r}: objects and backgrounds are needed")
        self.size, self.exemplar_size, self.seed, self.length = size, exemplar_size, seed, length
        self.cutouts = [read_pixels(entry.path(folder), "RGBA") for entry in self.objects]
        self.photographs = [read_pixels(entry.path(folder), "RGB") for entry in self.backgrounds]
        self.epoch = 0
        self.features, self.augmented, self.light, self.bent = features, augmented, light, bent
        if features is not None and len(features) != self.exemplars:
            raise DataError(
                f"{len(features)} rows of exemplar features for {self.exemplars} exemplars: encode them again"
            )

    @property
    def exemplars(self) -> int:
        """How many distinct exemplars there are: object variants, then background patches."""
        return len(self.objects) * VARIANTS + len(self.backgrounds) * PATCHES

    def __len__(self) -> int:
        return self.length

    def __getitem__(self, index: int) -> dict[str, Any]:
        """One training example.

        Returns:
            ``source`` (3, S, S) float32 in [-1, 1], ``mask`` (1, S, S) float32 in {0, 1}, and ``features`` (D,) float32
            or ``exemplar`` (E, E, 3) uint8; where some scenes are ``bent``, whether this one is.

        Raises:
            IndexError: if there are not that many items in an epoch.
        """
        if not 0 <= index < self.length:  # also what ends a loop over the items
            raise IndexError(f"item {index} of {self.length}")
        rng = np.random.default_rng((self.seed, ITEMS + self.epoch, index))
        exemplar = self.draw(rng)
        bent = by_chance(rng, self.bent)
        scene = self.scene(rng, exemplar, bent)
        # the paper's jitter is in pixels of a canvas of 512
        jitter = max(1, round(JITTER * self.size / IMAGE_SIZE))
        arbitrary = ARBITRARY_SHARE if self.augmented else 0.0
        mask = random_mask(rng, scene.box, (self.size, self.size), arbitrary, jitter=jitter, extension=MASK_EXTENSION)
        item: dict[str, Any] = {"source": chw(scene.source), "mask": mask[None].astype(np.float32)}
        if self.bent:
            item["bent"] = bent
        if self.features is not None:
            item["features"] = self.features[exemplar].astype(np.float32)
        elif not self.augmented:
            left, top, right, bottom = scene.box
            shown = scene.source[top:bottom, left:right]
            item["exemplar"] = cv2.resize(shown, (self.exemplar_size, self.exemplar_size))
        else:
            item["exemplar"] = self.exemplar(exemplar)
        return item

    def picture(self, index: int) -> np.ndarray:
        """Just the picture of an item, also beyond the epoch's length: (3, S, S) float32 in [-1, 1]."""
        rng = np.random.default_rng((self.seed, ITEMS + self.epoch, index))
        return chw(self.scene(rng, self.draw(rng)).source)

    def draw(self, rng: np.random.Generator) -> int:
        """The number of a random exemplar: an object in one of its colours, now and then a patch of a background."""
        objects = len(self.objects) * VARIANTS
        if rng.random() < PATCH_SHARE:
            return objects + int(rng.integers(len(self.backgrounds) * PATCHES))
        return int(rng.integers(objects))

    def cutout(self, exemplar: int) -> np.ndarray:
        """A variant of an object: (h, w, 4) uint8. Variant 0 is as it is, the others are recoloured, half are mirrored.

        Scene and exemplar show the same variant, so an object faces the same way in both: at the size of the embedded
        model, guessing which way costs more than it teaches.
        """
        number, variant = divmod(exemplar, VARIANTS)
        picture = self.cutouts[number]
        if variant == 0:
            return picture
        rng = np.random.default_rng((self.seed, RECOLOURING, exemplar))
        picture = recolour(rng, picture)
        return np.ascontiguousarray(picture[:, ::-1]) if rng.random() < 0.5 else picture

    def patch(self, exemplar: int) -> tuple[np.ndarray, Box]:
        """A background, (H, W, 3) uint8, and a square box in it that serves as its own object."""
        number, _ = divmod(exemplar - len(self.objects) * VARIANTS, PATCHES)
        photograph = self.photographs[number]
        height, width = photograph.shape[:2]
        rng = np.random.default_rng((self.seed, PATCHING, exemplar))
        side = int(rng.uniform(0.15, 0.5) * min(height, width))
        left, top = int(rng.integers(width - side + 1)), int(rng.integers(height - side + 1))
        return photograph, (left, top, left + side, top + side)

    def exemplar(self, exemplar: int) -> np.ndarray:
        """The picture a user would hand in for an object or patch, augmented: (E, E, 3) uint8, always the same."""
        rng = np.random.default_rng((self.seed, PICTURING, exemplar))
        if exemplar >= len(self.objects) * VARIANTS:
            photograph, box = self.patch(exemplar)
            crop = photograph[box[1] : box[3], box[0] : box[2]]
            picture = cv2.resize(crop, (self.exemplar_size, self.exemplar_size), interpolation=cv2.INTER_AREA)
            return augment(rng, picture, strength=AUGMENTATION, flip=0)
        backdrop = rng.random()
        if backdrop < 0.25:
            canvas = self.background(rng, self.exemplar_size)
        else:  # product pictures: white or light grey, now and then any colour
            colour = rng.integers(0, 256, 3) if backdrop < 0.45 else np.full(3, rng.choice((255, 255, 240, 200)))
            canvas = np.broadcast_to(colour.astype(np.uint8), (self.exemplar_size, self.exemplar_size, 3)).copy()
        picture = place_exemplar(canvas, self.cutout(exemplar), share=rng.uniform(0.75, 1.0))
        return augment(rng, picture, strength=AUGMENTATION, flip=0)

    def matte(self, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
        """A random exemplar, smaller and more often on a photograph than the others, and what of it is the object.

        Returns:
            The picture, (E, E, 3) uint8, and (E, E) uint8.
        """
        size = self.exemplar_size
        number = self.draw(rng)
        if number >= len(self.objects) * VARIANTS:
            return self.exemplar(number), np.full((size, size), 255, np.uint8)
        if rng.random() < 0.6:
            canvas = self.background(rng, size)
        else:
            grey = np.full(3, rng.choice((255, 255, 240, 200)))
            colour = grey if rng.random() < 0.6 else rng.integers(0, 256, 3)
            canvas = np.broadcast_to(colour.astype(np.uint8), (size, size, 3)).copy()
        cutout, share = self.cutout(number), rng.uniform(0.35, 1.0)
        white = np.dstack([np.full_like(cutout[..., :3], 255), cutout[..., 3]])
        shift = rng.uniform(-1, 1, 2) * (1 - share) / 2 * size
        picture = paste(canvas, cutout, share, shift)
        alpha = paste(np.zeros_like(canvas), white, share, shift)
        turn = cv2.getRotationMatrix2D((size / 2, size / 2), rng.uniform(-10, 10), 1.0)
        picture = cv2.warpAffine(picture, turn, (size, size), borderMode=cv2.BORDER_REFLECT)
        alpha = cv2.warpAffine(alpha, turn, (size, size))[..., 0]
        if rng.random() < 0.3:
            picture = cv2.GaussianBlur(picture, (0, 0), rng.uniform(0.3, 1.2))
        return picture, alpha

    def background(self, rng: np.random.Generator, size: int) -> np.ndarray:
        """A random square crop of a random background: (size, size, 3) uint8."""
        photograph = self.photographs[int(rng.integers(len(self.photographs)))]
        height, width = photograph.shape[:2]
        side = int(rng.integers(min(size, height, width), min(height, width) + 1))
        left, top = int(rng.integers(width - side + 1)), int(rng.integers(height - side + 1))
        crop = photograph[top : top + side, left : left + side]
        small = cv2.resize(crop, (size, size), interpolation=cv2.INTER_AREA)
        return np.ascontiguousarray(small[:, ::-1]) if rng.random() < 0.5 else small

    def scene(self, rng: np.random.Generator, exemplar: int, bent: bool = False) -> Scene:
        """A scene around an object or patch, see `draw`."""
        light = by_chance(rng, self.light)
        if exemplar >= len(self.objects) * VARIANTS:
            return patch_scene(rng, *self.patch(exemplar), self.size, light)
        background = self.crowd(rng, self.background(rng, self.size))
        return object_scene(rng, self.cutout(exemplar), background, light, 1.0 if bent else WARP)

    def crowd(self, rng: np.random.Generator, background: np.ndarray) -> np.ndarray:
        """Now and then other objects, near the edges, where the scene's own object may hide a part of them.

        Args:
            rng: source of randomness.
            background: (S, S, 3) uint8.

        Returns:
            The same, or another.
        """
        while rng.random() < CROWD_SHARE:
            number = int(rng.integers(len(self.objects) * VARIANTS))
            angle, size = rng.uniform(0, 2 * np.pi), background.shape[0]
            shift = np.array([np.cos(angle), np.sin(angle)]) * rng.uniform(0.4, 0.6) * size
            background = paste(background, self.cutout(number), rng.uniform(0.2, 0.5), shift)
        return background


def read_pixels(file: Path, mode: str) -> np.ndarray:
    """A picture of the folder that `prepare` built: (H, W, 3) or (H, W, 4) uint8.

    Raises:
        DataError: if it is gone, damaged or of another mode.
    """
    try:
        with Image.open(file) as picture:
            if picture.mode == mode:
                return np.asarray(picture)
            problem: object = f"its mode is {picture.mode}, not {mode}"
    except OSError as error:
        problem = error
    raise DataError(f"cannot use {file}: {problem}; remove its folder and run `pbe prepare composites` again")


def by_chance(rng: np.random.Generator, share: float) -> bool:
    """Whether something happens that does in so many cases; nothing is drawn where that is certain."""
    return share >= 1 or (share > 0 and rng.random() < share)


def chw(picture: np.ndarray) -> np.ndarray:
    """(H, W, 3) uint8 to (3, H, W) float32 in [-1, 1]."""
    return np.ascontiguousarray(picture.transpose(2, 0, 1), np.float32) / 127.5 - 1


def recolour(rng: np.random.Generator, cutout: np.ndarray) -> np.ndarray:
    """Turn the hue and change saturation and brightness, but not alpha: (h, w, 4) uint8 to the same."""
    hsv = cv2.cvtColor(cutout[..., :3], cv2.COLOR_RGB2HSV).astype(np.float32)
    hsv[..., 0] = (hsv[..., 0] + rng.uniform(0, 180)) % 180
    hsv[..., 1] = np.clip(hsv[..., 1] * rng.uniform(0.5, 1.4), 0, 255)
    hsv[..., 2] = np.clip(hsv[..., 2] * rng.uniform(0.7, 1.2), 0, 255)
    colours = cv2.cvtColor(hsv.astype(np.uint8), cv2.COLOR_HSV2RGB)
    return np.dstack([colours, cutout[..., 3]])


def place_exemplar(canvas: np.ndarray, cutout: np.ndarray, share: float = 0.9) -> np.ndarray:
    """Put a cut-out into the middle of a square canvas.

    Args:
        canvas: (E, E, 3) uint8, changed in place.
        cutout: (h, w, 4) uint8.
        share: longest side of the cut-out as a share of the canvas's.

    Returns:
        The canvas.
    """
    size = canvas.shape[0]
    height, width = cutout.shape[:2]
    scale = share * size / max(height, width)
    width, height = max(1, round(width * scale)), max(1, round(height * scale))
    placed = resize_cutout(cutout, (width, height))
    left, top = (size - width) // 2, (size - height) // 2
    region = canvas[top : top + height, left : left + width]
    region[:] = np.rint(region * (1 - placed[..., 3:] / 255) + placed[..., :3]).clip(0, 255)
    return canvas


def paste(canvas: np.ndarray, cutout: np.ndarray, share: float, shift: np.ndarray) -> np.ndarray:
    """A cut-out on a square canvas, some of which may lie beyond its edge.

    Args:
        canvas: (E, E, 3) uint8.
        cutout: (h, w, 4) uint8.
        share: longest side of the cut-out as a share of the canvas's.
        shift: of its middle from the canvas's, to the right and down, pixels.

    Returns:
        A new canvas.
    """
    size, height, width = canvas.shape[0], *cutout.shape[:2]
    scale = share * size / max(height, width)
    small = resize_cutout(cutout, (max(1, round(width * scale)), max(1, round(height * scale))))
    start = size / 2 + shift - (small.shape[1] / 2, small.shape[0] / 2)
    placed = cv2.warpAffine(small, np.column_stack([np.eye(2), start]), (size, size))
    pasted: np.ndarray = np.rint(canvas * (1 - placed[..., 3:] / 255) + placed[..., :3]).clip(0, 255).astype(np.uint8)
    return pasted


def resize_cutout(cutout: np.ndarray, size: Size) -> np.ndarray:
    """Resize with premultiplied colours, so that those of invisible pixels do not bleed into the edge.

    Args:
        cutout: (h, w, 4) uint8.
        size: (width, height).

    Returns:
        (height, width, 4) float32 in [0, 255], colours multiplied by alpha / 255.
    """
    premultiplied = cutout.astype(np.float32)
    premultiplied[..., :3] *= premultiplied[..., 3:] / 255
    shrinks = size[0] < cutout.shape[1]
    return cv2.resize(premultiplied, size, interpolation=cv2.INTER_AREA if shrinks else cv2.INTER_LINEAR)


def object_scene(
    rng: np.random.Generator, cutout: np.ndarray, background: np.ndarray, light: bool = False, warp: float = 1.0
) -> Scene:
    """Paste an object: scaled, slightly turned and sheared, now and then with a soft shadow, under the scene's light.

    Args:
        rng: source of randomness.
        cutout: (h, w, 4) uint8.
        background: (S, S, 3) uint8.
        light: strong light, see `shade`.
        warp: strength of turning, shearing and stretching.

    Returns:
        The scene, with the box of all that is visible of the object.
    """
    size = background.shape[0]
    height, width = cutout.shape[:2]
    longest = rng.uniform(*OBJECT_SHARE) * size
    aspect = np.exp(warp * rng.uniform(-0.15, 0.15))
    scale = longest / max(height / aspect, width * aspect)
    shrunk = (max(2, round(width * scale * aspect)), max(2, round(height * scale / aspect)))
    small = resize_cutout(cutout, shrunk)
    height, width = small.shape[:2]
    angle, shear = warp * np.deg2rad(rng.normal(0, 4)), warp * rng.uniform(-0.05, 0.05)
    linear = np.array([[np.cos(angle), -np.sin(angle) + shear], [np.sin(angle), np.cos(angle)]])
    corners = np.array([[-1, -1], [1, -1], [1, 1], [-1, 1]]) * (width / 2, height / 2) @ linear.T
    reach = np.abs(corners).max(0)
    margin = np.clip(size / 2 - reach - 2, 0, OFF_CENTRE * size)
    centre = size / 2 + rng.uniform(-1, 1, 2) * margin
    matrix = np.column_stack([linear, centre - linear @ (width / 2, height / 2)])
    warped = cv2.warpAffine(small, matrix, (size, size), flags=cv2.INTER_LINEAR)
    alpha = warped[..., 3:] / 255
    visible = alpha[..., 0] > ALPHA_THRESHOLD / 255
    if not visible.any():
        visible[size // 2, size // 2] = True
    rows, columns = np.flatnonzero(visible.any(1)), np.flatnonzero(visible.any(0))
    box = (int(columns[0]), int(rows[0]), int(columns[-1]) + 1, int(rows[-1]) + 1)

    scene: np.ndarray = background.astype(np.float32)
    if rng.random() < 0.6:
        scene *= 1 - contact_shadow(rng, alpha[..., 0], box)[..., None]
    gain = rng.uniform(0.85, 1.1) * np.exp(rng.normal(0, 0.04, 3))
    scene = scene * (1 - alpha) + warped[..., :3] * gain
    return Scene(shade(rng, scene, light), box)


def contact_shadow(rng: np.random.Generator, alpha: np.ndarray, box: Box) -> np.ndarray:
    """The object's outline, squeezed flat at its foot and blurred.

    Args:
        rng: source of randomness.
        alpha: (S, S) in [0, 1].
        box: the object's.

    Returns:
        How much light the shadow takes, (S, S) float32 in [0, 0.6].
    """
    size = alpha.shape[0]
    flatness = rng.uniform(0.1, 0.35)
    shift_x, foot = rng.uniform(-0.1, 0.1) * size, float(box[3])
    matrix = np.array([[1.0, 0.0, shift_x], [0.0, flatness, foot * (1 - flatness) - 1]])
    shadow = cv2.warpAffine(alpha.astype(np.float32), matrix, (size, size))
    return cv2.GaussianBlur(shadow, (0, 0), rng.uniform(1, 4) * size / 128) * np.float32(rng.uniform(0.2, 0.6))


def shade(rng: np.random.Generator, scene: np.ndarray, light: bool = False) -> np.ndarray:
    """Light, tint and grain over object and background together: (S, S, 3) of [0, 255] to uint8.

    The exemplar shows the object before it. With ``light`` no scene is without and it is strong: dusk, a lamp's
    colour, a side of the picture in shadow, a blurred photograph. From the unedited surroundings a model can then
    learn what the edited region should look like.
    """
    if light:
        scene = strong_light(rng, scene.astype(np.float32))
    if rng.random() < 0.4:
        contrast, brightness = rng.uniform(0.75, 1.15), rng.uniform(-15, 15)
        tint = np.exp(rng.normal(0, 0.06, 3))
        scene = ((scene - 128) * contrast + 128 + brightness) * tint
    if rng.random() < 0.3:
        scene = scene + rng.normal(0, rng.uniform(1, 5), scene.shape)
    shaded: np.ndarray = np.rint(np.clip(scene, 0, 255)).astype(np.uint8)
    return shaded


def strong_light(rng: np.random.Generator, scene: np.ndarray) -> np.ndarray:
    """Light of another colour and brightness, uneven, and blur: (S, S, 3) float32 of [0, 255] to the same."""
    size = scene.shape[0]
    tint = np.exp(rng.normal(0, 0.25, 3)) * np.exp(rng.uniform(-0.7, 0.25))
    angle, fall = rng.uniform(0, 2 * np.pi), rng.uniform(0, 0.6)
    y, x = np.mgrid[-1 : 1 : size * 1j, -1 : 1 : size * 1j]
    gradient = 1 + fall * (np.cos(angle) * x + np.sin(angle) * y)[..., None] / np.sqrt(2)
    lit: np.ndarray = 128 + (scene * tint * gradient - 128) * rng.uniform(0.7, 1.1)
    if rng.random() < 0.3:
        lit = cv2.GaussianBlur(lit, (0, 0), rng.uniform(0.4, 1.2) * size / 128)
    return lit.astype(np.float32)


def patch_scene(rng: np.random.Generator, photograph: np.ndarray, box: Box, size: int, light: bool = False) -> Scene:
    """A square crop of a photograph around a box in it: nothing is pasted.

    Args:
        rng: source of randomness.
        photograph: (H, W, 3) uint8.
        box: in the photograph, no longer than its shorter side.
        size: side S of the scene, pixels.
        light: strong light, see `shade`.

    Returns:
        The scene, with the box where it lies in it.
    """
    height, width = photograph.shape[:2]
    longest = max(box[2] - box[0], box[3] - box[1])
    side = int(min(longest / rng.uniform(*OBJECT_SHARE), height, width))
    side = max(side, longest)

    def start(low: int, high: int, limit: int) -> int:
        centred = (low + high - side) / 2 + rng.uniform(-OFF_CENTRE, OFF_CENTRE) * side
        return int(np.clip(centred, max(0, high - side), min(low, limit - side)))

    left, top = start(box[0], box[2], width), start(box[1], box[3], height)
    crop = photograph[top : top + side, left : left + side]
    scale = size / side
    inside = [round((edge - origin) * scale) for edge, origin in zip(box, (left, top, left, top), strict=True)]
    inside[2], inside[3] = max(inside[2], inside[0] + 1), max(inside[3], inside[1] + 1)
    resized = cv2.resize(crop, (size, size), interpolation=cv2.INTER_AREA)
    return Scene(shade(rng, resized.astype(np.float32), light), (inside[0], inside[1], inside[2], inside[3]))
