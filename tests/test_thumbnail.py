"""The embedded model's exemplar encoder: the object alone, wherever it was, as one vector."""

import pytest
import torch
from torch import Tensor

from paint_by_example import EmbeddedImageEncoder, PatchAutoencoder
from paint_by_example.efficientnet import MEAN, STD
from paint_by_example.layout import CELL, COARSE, LAYOUT_SIZE, PARTS
from paint_by_example.thumbnail import MARGIN, around, describe, span

CHANNELS = COARSE + PARTS**2


def encoder(feature_size: int = 24) -> EmbeddedImageEncoder:
    torch.manual_seed(0)
    made: EmbeddedImageEncoder = EmbeddedImageEncoder(image_size=64, feature_size=feature_size)
    vae = PatchAutoencoder(patch_size=8, latent_channels=COARSE, decoder_channels=8, decoder_blocks=1)
    vae.fit(torch.rand(256, 3, 8, 8) * 2 - 1)
    made.take_latents_of(vae)
    return made.eval()  # type: ignore[no-any-return]


@pytest.fixture(scope="module")
def embedded() -> EmbeddedImageEncoder:
    return encoder()


def grey(made: EmbeddedImageEncoder) -> Tensor:
    """The latents of mid-grey, (C,)."""
    bias = made.latents.bias
    assert bias is not None
    return bias.detach()


class RedIsTheObject(torch.nn.Module):
    """In the place of backbone and matte."""

    def forward(self, pixel_values: Tensor) -> Tensor:
        picture = pixel_values * torch.tensor(STD)[:, None, None] + torch.tensor(MEAN)[:, None, None]
        red = (picture[:, :1] > 0.6) & (picture[:, 1:2] < 0.4)
        return torch.nn.functional.avg_pool2d(red.float(), 2) * 40 - 20


def square(left: int, top: int, side: int, size: int = 64) -> Tensor:
    """A red square with a dark lower half, on white, normalised."""
    picture = torch.ones(3, size, size)
    picture[1:, top : top + side, left : left + side] = 0
    picture[0, top + side // 2 : top + side, left : left + side] = 0.7
    return (picture - torch.tensor(MEAN)[:, None, None]) / torch.tensor(STD)[:, None, None]


@pytest.fixture
def sure() -> EmbeddedImageEncoder:
    made = encoder()
    made.set_submodule("backbone", torch.nn.Identity())
    made.set_submodule("matte", RedIsTheObject())
    return made


def test_the_vector_is_one_and_nothing_of_it_learns(embedded: EmbeddedImageEncoder) -> None:
    x = torch.randn(2, 3, 64, 64)
    features = embedded.features(x)
    assert features.shape == (2, 24) == (2, embedded.feature_size)
    assert not features.requires_grad
    condition, null_condition = embedded(x, return_uncond_vector=True)
    assert condition.shape == (2, 1, 24)
    assert null_condition is embedded.uncond_vector
    assert torch.equal(condition[:, 0], features)
    learning = {name.split(".")[0] for name, parameter in embedded.named_parameters() if parameter.requires_grad}
    assert learning == {"uncond_vector"}


def test_place_and_size_in_the_picture_and_its_backdrop_do_not_matter(sure: EmbeddedImageEncoder) -> None:
    large, small = square(8, 8, 48), square(30, 2, 24)
    other = small.clone()
    other[:, :, :20] = -0.3  # a backdrop of grey beside the object
    with torch.inference_mode():
        thumbnails = sure.thumbnail(torch.stack([large, small, other]))
        elsewhere = sure.thumbnail(square(8, 8, 48).flip(-2)[None])
    assert thumbnails.shape == (3, CHANNELS, LAYOUT_SIZE, LAYOUT_SIZE)
    inner = thumbnails[:, :, 1:-1, 1:-1]
    differs = (inner[0] - elsewhere[0, :, 1:-1, 1:-1]).abs().mean()
    assert differs > 0.1 * inner.std()
    assert (inner[1] - inner[0]).abs().mean() < 0.3 * differs
    torch.testing.assert_close(thumbnails[2], thumbnails[1])


def test_the_last_channels_say_where_the_object_is(sure: EmbeddedImageEncoder) -> None:
    with torch.inference_mode():
        there = sure.thumbnail(square(8, 8, 48)[None])[0, -4:]
        nothing = sure.thumbnail(torch.zeros(1, 3, 64, 64))[0]
    assert (there[:, 1:-1, 1:-1] > 0.99).all()
    assert there.mean() < 1  # a margin is left
    assert (nothing[-4:] < -0.99).all()
    torch.testing.assert_close(nothing[:-4], grey(sure)[:, None, None].expand(-1, LAYOUT_SIZE, LAYOUT_SIZE))


def test_the_square_is_around_what_is_there() -> None:
    alpha = torch.zeros(2, 1, 32, 32)
    alpha[0, :, 4:20, 10:14] = 1
    place = around(alpha, 8)
    middle = place[0].mean((0, 1))
    assert middle.tolist() == pytest.approx([12 / 16 - 1, 12 / 16 - 1], abs=1e-6)
    reach = place[0].amax((0, 1)) - place[0].amin((0, 1))
    assert reach.tolist() == pytest.approx([MARGIN * 16 / 16 * 7 / 8] * 2, rel=0.1)
    whole = place[1]
    assert whole.amax().item() == pytest.approx(MARGIN * 7 / 8)
    assert whole.mean().item() == pytest.approx(0, abs=1e-6)


def test_span() -> None:
    there = torch.tensor([[0, 1, 0, 1], [0, 0, 0, 0], [1, 1, 1, 1], [0, 0, 0, 1]], dtype=torch.bool)
    first, last = span(there)
    assert first.tolist() == [-0.5, -1, -1, 0.5]
    assert last.tolist() == [1, 1, 1, 1]


def test_components_lead_to_the_thumbnail_and_back() -> None:
    """Thumbnails of 24 degrees of freedom pass 24 components without loss, the largest first."""
    made = encoder()
    loadings = torch.randn(24, CHANNELS * LAYOUT_SIZE**2) * torch.arange(24, 0, -1)[:, None]
    thumbnails = (torch.randn(300, 24) @ loadings + 1).unflatten(1, (CHANNELS, LAYOUT_SIZE, LAYOUT_SIZE))
    back = made.fit(thumbnails)
    with torch.inference_mode():
        features = made.components(thumbnails.flatten(1))
        again = back(features)
        torch.testing.assert_close(again, thumbnails.flatten(1), atol=1e-2, rtol=1e-3)
    covariance = torch.cov(features.double().T)
    variances = covariance.diagonal()
    assert (variances.diff() < 0).all()
    assert variances.mean() == pytest.approx(1, rel=1e-2)
    assert (covariance - variances.diag()).abs().max() < 1e-2 * variances.max()


def test_components_keep_what_is_seen() -> None:
    """Of pixels, colours and alpha alike, no other as few numbers keep more: not those of the latents as they are."""
    made = encoder(feature_size=40)
    generator = torch.Generator().manual_seed(0)
    picture = torch.nn.functional.interpolate(
        torch.rand(200, 3, 20, 20, generator=generator) * 2 - 1, 80, mode="bicubic"
    )
    alpha = torch.nn.functional.interpolate(torch.rand(200, 1, 10, 10, generator=generator), 80, mode="bilinear")
    with torch.inference_mode():
        thumbnails = describe(made.latents, picture * alpha, alpha)
    flat = thumbnails.flatten(1)
    patterns = made.latents.weight.detach().flatten(1)
    assert (torch.corrcoef(patterns) - torch.eye(COARSE)).abs().max() < 0.1

    def lost(again: Tensor) -> float:
        """Of the pixels that the latents say, and of alpha in each part of a cell."""
        error = (again - flat).unflatten(1, (CHANNELS, -1))
        pixels = torch.einsum("bcn,cp->bnp", error[:, :COARSE], patterns / patterns.square().sum(1, keepdim=True))
        covered = error[:, COARSE:] / 2 * CELL / PARTS
        return float(pixels.square().sum() + covered.square().sum())

    back = made.fit(thumbnails)
    with torch.inference_mode():
        ours = lost(back(made.components(flat)))
        middle = flat.mean(0)
        _, _, vectors = torch.linalg.svd(flat - middle, full_matrices=False)
        as_they_are = lost(middle + (flat - middle) @ vectors[:40].T @ vectors[:40])
    assert ours < 0.95 * as_they_are


def test_thumbnails_are_moved_in_their_square(sure: EmbeddedImageEncoder) -> None:
    picture = square(8, 8, 48)[None]
    own, mirrored = torch.eye(2, 3)[None], torch.tensor([[[-1.0, 0, 0], [0, 1, 0]]])
    with torch.inference_mode():
        thumbnail = sure.thumbnail(picture)
        assert torch.equal(sure.thumbnail(picture, own, sure.alpha(picture)), thumbnail)
        smaller = sure.thumbnail(picture, 2 * own)
        turned = sure.thumbnail(picture.flip(-1), mirrored)
    covered = [float((x[0, -4:] + 1).mean() / 2) for x in (thumbnail, smaller)]
    assert covered[1] == pytest.approx(covered[0] / 4, rel=0.05)
    torch.testing.assert_close(turned, thumbnail, atol=0.05, rtol=0.02)


def test_the_null_condition_starts_as_no_object() -> None:
    made = encoder(feature_size=200)
    generator = torch.Generator().manual_seed(0)
    thumbnails = torch.randn(400, CHANNELS, LAYOUT_SIZE, LAYOUT_SIZE, generator=generator)
    thumbnails[::2] = 0
    thumbnails[::2, :-4] = grey(made)[:, None, None]
    thumbnails[::2, -4:] = -1
    back = made.fit(thumbnails)
    with torch.inference_mode():
        there = back(made.uncond_vector[0]).unflatten(1, (CHANNELS, LAYOUT_SIZE, LAYOUT_SIZE))[0, -4:]
    assert there.mean() < -0.8
