"""The model in the package: it fits the limit, loads, paints, and its held-out list is what the split's rule says."""

import numpy as np
import pytest
import torch
from PIL import Image

from paint_by_example import embedded, load_pipeline
from paint_by_example.checkpoint import EMBEDDED
from paint_by_example.conditioning import EmbeddedImageEncoder
from paint_by_example.data.packages import SOURCES, Entry, split_by_group

MEGABYTE = 10**6


@pytest.fixture(scope="module")
def pipeline():
    return load_pipeline()


def held_out() -> list[Entry]:
    lines = (EMBEDDED / embedded.HELD_OUT).read_text(encoding="utf-8").splitlines()
    return [Entry(name, kind, source, group, "") for kind, source, group, name in (line.split("\t") for line in lines)]


def test_weights_fit_into_the_wheel():
    size = sum(file.stat().st_size for file in EMBEDDED.rglob("*") if file.is_file())
    assert 10 * MEGABYTE < size <= 40 * MEGABYTE


def test_held_out_list_follows_the_rule():
    entries = held_out()
    assert {entry.split for entry in split_by_group(entries)} == {"held_out"}
    assert sum(entry.kind == "object" for entry in entries) >= 200
    assert sum(entry.kind == "background" for entry in entries) >= 10
    assert {entry.source for entry in entries} <= set(SOURCES)
    assert len({(entry.kind, entry.name) for entry in entries}) == len(entries)


def test_shapes(pipeline):
    assert pipeline.image_size == 128
    assert pipeline.latent_factor == 8
    assert pipeline.image_encoder.uncond_vector.shape == (1, 1, 512)
    assert all(torch.isfinite(parameter).all() for parameter in pipeline.unet.parameters())


def test_autoencoder_reconstructs_a_smooth_picture(pipeline):
    y, x = torch.meshgrid(torch.linspace(-1, 1, 128), torch.linspace(-1, 1, 128), indexing="ij")
    picture = torch.stack([x, y, -x * y])[None] * 0.8
    with torch.no_grad():
        error = (pipeline.decode_latent(pipeline.encode_picture(picture)) - picture).square().mean()
    assert 10 * torch.log10(4 / error) > 25  # dB


def test_the_exemplar_decides(pipeline):
    """A red and a blue exemplar make the same hole redder and bluer."""
    rng = np.random.default_rng(0)
    source = rng.integers(90, 160, (160, 160, 3), np.uint8)
    pictures = {}
    for name, colour in (("red", (220, 20, 20)), ("blue", (20, 20, 220))):
        exemplar = Image.new("RGB", (120, 120), "white")
        exemplar.paste(colour, (20, 20, 100, 100))
        result = pipeline.edit(source, exemplar=exemplar, box=(40, 40, 120, 120), steps=8, seed=1)
        pictures[name] = np.asarray(result.images[0], np.float64)[40:120, 40:120].mean((0, 1))
    assert pictures["red"][0] - pictures["blue"][0] > 30
    assert pictures["blue"][2] - pictures["red"][2] > 30


def test_the_token_learns_what_lies_where():
    """On targets that follow from the features, the map comes close; what is not asked of it stays free."""
    torch.manual_seed(0)
    encoder, unet = EmbeddedImageEncoder(), embedded.build_unet(512)
    generator = torch.Generator().manual_seed(1)
    features = torch.randn((300, 512), generator=generator)
    mixing = torch.randn((512, 16 * 64), generator=generator) / 512**0.5
    targets = (features @ mixing).view(300, 16, 8, 8)
    embedded.train_layout(encoder, unet, features, targets, seed=0, steps=60)
    with torch.no_grad():
        plan = unet.plan(encoder.decode(features))
    assert plan.shape[1] > 16
    assert (plan[:, :16] - targets).square().mean() < 0.5 * targets.var()
