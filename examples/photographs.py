"""Six edits of real photographs by crops of others with the embedded model: demo/photographs.png.

The photographs come with scikit-image and scikit-learn (BSD); none is in a training set. A row shows source, mask,
exemplar and result. Nothing is chosen: seed 0, the model's defaults.
"""

from pathlib import Path

from PIL import Image
from skimage import data
from sklearn.datasets import load_sample_image

from paint_by_example import load_pipeline
from paint_by_example.crops import box_mask
from paint_by_example.images import save_image
from paint_by_example.strip import picture_strip

PHOTOGRAPHS = {
    "astronaut": data.astronaut(),
    "cat": data.chelsea(),
    "coffee": data.coffee(),
    "rocket": data.rocket(),
    "flower": load_sample_image("flower.jpg"),
    "temple": load_sample_image("china.jpg"),
}
CROPS = {  # left, top, right, bottom
    "flower": ("flower", (160, 75, 450, 365)),
    "cup": ("coffee", (165, 10, 440, 310)),
    "saucer": ("coffee", (75, 5, 495, 395)),
    "cat": ("cat", (130, 0, 450, 300)),
    "tower": ("temple", (60, 20, 360, 370)),
}
EDITS = (
    ("rocket", (80, 60, 220, 200), "flower"),  # a flower in the evening sky
    ("coffee", (165, 15, 430, 300), "flower"),  # in the cup's place
    ("cat", (10, 170, 130, 290), "flower"),  # beside the cat
    ("astronaut", (280, 335, 500, 512), "cup"),  # in the helmet's place
    ("temple", (400, 60, 560, 220), "cat"),  # in the sky
    ("flower", (165, 75, 450, 360), "saucer"),  # in the flower's place
)

pipeline = load_pipeline()
rows = []
for name, box, crop in EDITS:
    of, edges = CROPS[crop]
    source, exemplar = Image.fromarray(PHOTOGRAPHS[name]), Image.fromarray(PHOTOGRAPHS[of]).crop(edges)
    mask = box_mask(box, source.size)
    result = pipeline.edit(source, mask=mask, exemplar=exemplar, seed=0)
    shown = [source, Image.fromarray(mask), exemplar, result.images[0]]
    rows.append(picture_strip(shown, labels=["source", "mask", "exemplar", "result"]))

sheet, top = Image.new("RGB", (max(row.width for row in rows), sum(row.height for row in rows)), "white"), 0
for row in rows:
    sheet.paste(row, (0, top))
    top += row.height
folder = Path("demo")
folder.mkdir(exist_ok=True)
save_image(sheet, folder / "photographs.png")
