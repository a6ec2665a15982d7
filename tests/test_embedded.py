"""The model in the package: it fits the limit, loads, paints, and its held-out list is what the split's rule says."""

import zlib

import cv2
import numpy as np
import pytest
import torch
from PIL import Image

from paint_by_example import EmbeddedImageEncoder, efficientnet, embedded, load_pipeline, painter
from paint_by_example.checkpoint import EMBEDDED
from paint_by_example.data.composites import Composites
from paint_by_example.data.packages import SOURCES, Entry, split_by_group
from paint_by_example.distillation import tell_scale
from paint_by_example.evaluation.edges import edge_agreement
from tests import tiny

MEGABYTE = 10**6


@pytest.fixture(scope="module")
def pipeline():
    return load_pipeline()


def held_out() -> list[Entry]:
    lines = (EMBEDDED / embedded.HELD_OUT).read_text(encoding="utf-8").splitlines()
    return [Entry(name, kind, source, group, "") for kind, source, group, name in (line.split("\t") for line in lines)]


def test_weights_fit_into_the_wheel():
    size = sum(len(zlib.compress(file.read_bytes())) for file in EMBEDDED.rglob("*") if file.is_file())
    assert 10 * MEGABYTE < size <= 39 * MEGABYTE  # and one for the code


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
    assert pipeline.image_encoder.uncond_vector.shape == (1, 1, 1024)
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


def test_edits_are_drawn_to_the_exemplar_and_those_of_a_distilled_network_too(monkeypatch):
    pipeline = load_pipeline()
    rng = np.random.default_rng(0)
    source, exemplar = rng.integers(0, 256, (2, 128, 128, 3), np.uint8)

    def edited() -> np.ndarray:
        result = pipeline.edit(source, exemplar=exemplar, box=(32, 32, 96, 96), steps=2, seed=1)
        return np.asarray(result.images[0], np.float64)

    drawn = edited()
    monkeypatch.setattr(painter, "draw_to_layout", lambda prediction, *_, **__: prediction)
    plain = edited()
    assert np.abs(drawn - plain).max() > 10
    monkeypatch.undo()
    tell_scale(pipeline.unet)  # which changes nothing until it learns
    assert np.array_equal(edited(), drawn)


def test_surroundings_go_on_in_whole_edits_and_not_where_the_source_shows_through(pipeline):
    torch.manual_seed(0)
    z_0, source = torch.randn(1, 24, 16, 16), torch.rand(1, 3, 128, 128) * 2 - 1
    mask = torch.zeros(1, 1, 128, 128)
    mask[..., 32:96, 32:96] = 1
    with torch.inference_mode():
        painted = pipeline.decode_latent(z_0)
        told = source, mask, pipeline.null_condition()
        whole, some, none = (pipeline.show(z_0, *told, strength) for strength in (1.0, 0.8, 0.5))
    assert torch.equal(none, painted)
    assert torch.equal(whole * (1 - mask), painted * (1 - mask))
    changed, less = ((x - painted).abs().mean() for x in (whole, some))
    torch.testing.assert_close(less, 0.6 * changed, rtol=1e-3, atol=1e-5)
    assert changed > 0.05


def test_an_object_takes_the_pose_of_what_stood_there(pipeline):
    """A striped sign that stood aslant: told its edges, the upright exemplar is painted aslant."""
    wall = np.full((128, 128, 3), (120, 150, 120), np.uint8)
    sign = wall.copy()
    sign[40:88, 44:84] = (200, 60, 40)
    sign[56:64, 44:84] = (240, 230, 200)
    turned = cv2.getRotationMatrix2D((64, 64), 14, 0.92)
    source = np.asarray(cv2.warpAffine(sign, turned, (128, 128), borderMode=cv2.BORDER_REPLICATE), np.uint8)
    exemplar = Image.new("RGB", (128, 128), "white")
    exemplar.paste(Image.fromarray(sign[40:88, 44:84]).resize((100, 120)), (14, 4))
    box, mask = (34, 34, 94, 94), np.zeros((128, 128), bool)
    mask[34:94, 34:94] = True

    def painted(**told):
        return np.asarray(pipeline.edit(source, exemplar=exemplar, box=box, steps=10, **told).images[0])

    plain, laid = painted(), painted(structure="soft-edges")
    assert edge_agreement(source, laid, mask) > edge_agreement(source, plain, mask) + 0.15
    assert np.array_equal(painted(structure="soft-edges", structure_scale=0.0), plain)
    assert (laid[~mask] == source[~mask]).all()


def test_the_matte_is_learned(tmp_path):
    """A few batches on bright objects on dark ground: what is the object's is told from what is not."""
    torch.manual_seed(0)
    encoder = EmbeddedImageEncoder(image_size=32, feature_size=8)
    encoder.backbone.load_state_dict(efficientnet.load_pretrained(0).state_dict(), strict=False)
    scenes = Composites(tiny.composites_folder(tmp_path / "data"), size=32, exemplar_size=32)
    before = {name: tensor.clone() for name, tensor in encoder.state_dict().items()}

    def error() -> float:
        rng = np.random.default_rng(7)
        pictures, mattes = zip(*(scenes.matte(rng) for _ in range(32)), strict=True)
        with torch.no_grad():
            alpha = encoder.alpha(embedded.normalise(np.stack(pictures)))
        target = torch.from_numpy(np.stack(mattes))[:, None].float() / 255
        return float((torch.nn.functional.avg_pool2d(target, 2) - alpha).abs().mean())

    untaught = error()
    embedded.train_matte(encoder, scenes, seed=0, steps=40, batch_size=8)
    assert error() < 0.6 * untaught
    changed = {name.split(".")[0] for name, tensor in encoder.state_dict().items() if (tensor != before[name]).any()}
    assert changed == {"matte"}
    assert not any(parameter.requires_grad for parameter in encoder.matte.parameters())


def test_pictures_that_look_alike_have_a_small_perceptual_error():
    torch.manual_seed(0)
    eye = embedded.backbone().eval()
    truth = torch.nn.functional.interpolate(torch.rand(2, 3, 8, 8) * 2 - 1, (64, 64), mode="nearest")
    blurred = torch.nn.functional.avg_pool2d(truth, 9, stride=1, padding=4)
    lighter = truth + (blurred - truth).abs().mean()  # as far off in pixels
    with torch.no_grad():
        assert embedded.perceptual_error(eye, truth, truth) == 0
        soft, light = (embedded.perceptual_error(eye, picture, truth) for picture in (blurred, lighter))
    assert soft > 1.3 * light > 0


def test_the_decoder_is_taught(tmp_path):
    scenes = Composites(tiny.composites_folder(tmp_path / "data"), size=32, exemplar_size=32)
    vae = embedded.fit_autoencoder(scenes, 0, latent_channels=6, decoder_blocks=1)
    latents = vae.components.weight.clone()
    x = next(embedded.source_batches(scenes, 16, first=900))

    def error() -> float:
        with torch.no_grad():
            return float((vae.decode(vae.components(x)).sample - x).abs().mean())

    untaught = error()
    embedded.train_decoder(vae, scenes, seed=0, steps=8)
    assert error() < untaught
    assert torch.equal(vae.components.weight, latents)
