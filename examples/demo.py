"""Edit a real photograph by a real exemplar with the embedded model: demo/strip.png, for `make demo`.

Both pictures come with scikit-image and are in no training set: the photograph is `rocket` (a launch, by SpaceX, public
domain), the exemplar is `retina` (the back of an eye, by Mikael Häggström, CC0).
"""

from pathlib import Path

from PIL import Image
from skimage import data

from paint_by_example import load_pipeline
from paint_by_example.crops import box_mask
from paint_by_example.images import save_image
from paint_by_example.strip import picture_strip

BOX = (60, 150, 220, 320)  # a piece of the sky

source, exemplar = Image.fromarray(data.rocket()), Image.fromarray(data.retina())
mask = box_mask(BOX, source.size)
result = load_pipeline().edit(source, mask=mask, exemplar=exemplar, seed=0)

folder = Path("demo")
folder.mkdir(exist_ok=True)
save_image(result.images[0], folder / "result.png")
strip = picture_strip(
    [source, Image.fromarray(mask), exemplar, result.images[0]], labels=["source", "mask", "exemplar", "result"]
)
save_image(strip, folder / "strip.png")
