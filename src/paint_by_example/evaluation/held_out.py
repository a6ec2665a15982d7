"""The small benchmark: held-out objects on held-out backgrounds, made from the folder of `pbe prepare composites`.

It needs no download and runs on two cores in minutes. No model of this project is trained on its objects and
backgrounds. Each object of the gallery in turn is to be painted into a scene of its own, whose source shows that very
object, so that the true answer is known.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np

from ..data.composites import MASK_EXTENSION, Composites, object_scene, place_exemplar
from ..data.masks import extend_box, rectangle_mask
from .benchmark import Item, Pixels

GALLERY = 100  # exemplars to choose from
ITEMS = 200
SIDE = 128  # pixels, of sources and exemplars


class HeldOut:
    """Items made when asked for; each depends on (seed, index) only.

    Args:
        folder: from `pbe prepare composites`.
        count: items.
        size: side of the sources, pixels.
        exemplar_size: side of the exemplars, pixels.
        seed: of the scenes.
        light: strong light in all of them, which no exemplar shows.

    Raises:
        DataError: the folder holds no held-out pictures.
    """

    def __init__(
        self,
        folder: Path,
        count: int = ITEMS,
        size: int = SIDE,
        exemplar_size: int = SIDE,
        seed: int = 0,
        light: bool = False,
    ) -> None:
        self.scenes = Composites(folder, "held_out", size, exemplar_size, seed, light=light)
        self.count, self.seed = count, seed
        self.order = np.random.default_rng(12345).permutation(len(self.scenes.objects))[:GALLERY]
        white = np.full((exemplar_size, exemplar_size, 3), 255, np.uint8)
        self.gallery = [place_exemplar(white.copy(), self.scenes.cutouts[number]) for number in self.order]
        self.title = f"held-out composites ({count})"

    @property
    def names(self) -> list[str]:
        """Four digits each, or more."""
        return [f"{index:04d}" for index in range(self.count)]

    def right(self, index: int) -> int:
        """Which exemplar of the gallery an item asks for."""
        return index % len(self.order)

    def __getitem__(self, index: int) -> Item:
        """An item: the source shows the object asked for, under the mask."""
        if not 0 <= index < self.count:
            raise IndexError(f"item {index} of {self.count}")
        return self._scene(index, stream=7)

    def _scene(self, index: int, stream: int) -> Item:
        rng, scenes, number = np.random.default_rng((self.seed, stream, index)), self.scenes, self.right(index)
        scene = object_scene(
            rng, scenes.cutouts[self.order[number]], scenes.background(rng, scenes.size), scenes.light > 0
        )
        size = (scenes.size, scenes.size)
        mask = rectangle_mask(extend_box(rng, scene.box, size, MASK_EXTENSION), size).astype(bool)
        return Item(f"{index:04d}", scene.source, mask, self.gallery[number])

    def reference(self) -> Iterator[Pixels] | None:
        """Other scenes of the same objects, as many as there are items."""
        return (self._scene(index, stream=8).source for index in range(self.count))
