"""Edits in the place of something that stood there, plain and told of the source: demo/source_aware.png.

The photographs come with scikit-image and scikit-learn (BSD); none is in a training set. A row shows source, mask,
exemplar, the plain edit, and edits told the soft edges of what stood there, the surroundings, and both. Nothing is
chosen: seed 0, the defaults of a model that has learned structure and context: the one given as argument, or the
embedded one.
"""

import sys
from pathlib import Path
from typing import Any

from PIL import Image
from skimage import data
from sklearn.datasets import load_sample_image

from paint_by_example import load_pipeline
from paint_by_example.crops import box_mask
from paint_by_example.images import save_image
from paint_by_example.strip import picture_strip

PHOTOGRAPHS = {
    "astronaut": data.astronaut(),
    "coffee": data.coffee(),
    "rocket": data.rocket(),
    "flower": load_sample_image("flower.jpg"),
    "temple": load_sample_image("china.jpg"),
}
CROPS = {  # left, top, right, bottom
    "flower": ("flower", (160, 75, 450, 365)),
    "cup": ("coffee", (165, 10, 440, 310)),
    "saucer": ("coffee", (75, 5, 495, 395)),
    "tower": ("temple", (60, 20, 360, 370)),
}
EDITS = (
    ("rocket", (285, 115, 360, 410), "tower"),  # in the rocket's place: plain, it need not stand on the ground
    ("astronaut", (280, 335, 500, 512), "cup"),  # in the helmet's, before her arm
    ("coffee", (165, 15, 430, 300), "flower"),  # in the cup's, on the saucer
    ("flower", (165, 75, 450, 360), "saucer"),  # in the flower's, in the shade of leaves
)
WAYS: dict[str, dict[str, Any]] = {
    "plain": {},
    "soft edges": {"structure": "soft-edges"},
    "context": {"context": True},
    "soft edges and context": {"structure": "soft-edges", "context": True},
}

pipeline = load_pipeline(sys.argv[1]) if len(sys.argv) > 1 else load_pipeline()
rows = []
for name, box, crop in EDITS:
    of, edges = CROPS[crop]
    source, exemplar = Image.fromarray(PHOTOGRAPHS[name]), Image.fromarray(PHOTOGRAPHS[of]).crop(edges)
    mask = box_mask(box, source.size)
    results = [pipeline.edit(source, mask=mask, exemplar=exemplar, seed=0, **told).images[0] for told in WAYS.values()]
    shown = [source, Image.fromarray(mask), exemplar, *results]
    rows.append(picture_strip(shown, labels=["source", "mask", "exemplar", *WAYS]))

sheet, top = Image.new("RGB", (max(row.width for row in rows), sum(row.height for row in rows)), "white"), 0
for row in rows:
    sheet.paste(row, (0, top))
    top += row.height
folder = Path("demo")
folder.mkdir(exist_ok=True)
save_image(sheet, folder / "source_aware.png")
