"""The patch autoencoder: a linear code with answers known in closed form."""

from pathlib import Path
from typing import Any, cast

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from paint_by_example import PatchAutoencoder
from paint_by_example.autoencoder import Exact

PATCH = 4
PIXELS = 3 * PATCH**2


def directions(count: int, seed: int = 0) -> Tensor:
    """Orthonormal rows: (count, 48) float64."""
    generator = torch.Generator().manual_seed(seed)
    basis: Tensor = torch.linalg.qr(torch.randn(PIXELS, count, generator=generator, dtype=torch.float64))[0]
    return basis.T


def draw_patches(deviations: list[float], seed: int = 0, number: int = 500) -> Tensor:
    """Patches with a deviation along each of some directions, around a flat colour: (N, 3, 4, 4) float32.

    Each comes with its opposite, so that their mean is the flat colour itself.
    """
    generator = torch.Generator().manual_seed(seed)
    half = torch.randn(number // 2, len(deviations), generator=generator, dtype=torch.float64)
    weights = torch.cat([half, -half]) * torch.tensor(deviations)
    colour = torch.tensor([0.2, -0.1, 0.4], dtype=torch.float64).repeat_interleave(PATCH**2)
    return (weights @ directions(len(deviations), seed) + colour).float().reshape(-1, 3, PATCH, PATCH)


def fitted(patches: Tensor, channels: int, whitening: float = 0.5) -> PatchAutoencoder:
    vae = PatchAutoencoder(patch_size=PATCH, latent_channels=channels, decoder_channels=8, decoder_blocks=1)
    vae.fit(patches, whitening)
    vae.eval()
    return cast(PatchAutoencoder, vae)


def encode(vae: PatchAutoencoder, x: Tensor) -> Tensor:
    (posterior,) = cast(tuple[Exact], vae.encode(x, return_dict=False))
    return posterior.mode()


def decode(vae: PatchAutoencoder, z: Tensor) -> Tensor:
    (sample,) = cast(tuple[Tensor], vae.decode(z, return_dict=False))
    return sample


def last_layer(vae: PatchAutoencoder) -> nn.Conv2d:
    return cast(nn.Conv2d, vae.detail[-2])


@settings(max_examples=15, deadline=None)
@given(st.integers(1, 12), st.floats(0, 1), st.integers(0, 1000))
def test_patches_within_the_subspace_come_back_exactly(channels: int, whitening: float, seed: int) -> None:
    patches = draw_patches([0.5 / (i + 1) for i in range(channels)], seed)
    vae = fitted(patches, channels, whitening)
    with torch.no_grad():
        decoded = decode(vae, encode(vae, patches))
    assert (decoded - patches).abs().max() < 1e-4


@pytest.mark.parametrize("whitening", [0.0, 0.5, 1.0])
def test_error_of_the_others_is_the_variance_left_out(whitening: float) -> None:
    patches = draw_patches([0.6, 0.5, 0.4, 0.3, 0.2, 0.1])
    vae = PatchAutoencoder(patch_size=PATCH, latent_channels=4, decoder_channels=8, decoder_blocks=1)
    shares = vae.fit(patches, whitening)
    assert shares.shape == (4,)
    assert (shares.diff() < 0).all()
    with torch.no_grad():
        error = decode(vae, encode(vae, patches)) - patches
    total = patches.flatten(1).double().var(0).sum()
    left_out = error.flatten(1).double().var(0).sum()
    assert left_out / total == pytest.approx(1 - shares.sum().item(), rel=1e-4)
    assert shares.sum() == pytest.approx(1 - (0.2**2 + 0.1**2) / 0.91, abs=0.01)


@pytest.mark.parametrize("whitening", [0.0, 0.5, 1.0])
def test_latents_have_variance_1_overall_and_no_correlation(whitening: float) -> None:
    patches = draw_patches([0.6, 0.4, 0.2, 0.1, 0.05])
    with torch.no_grad():
        latents = encode(fitted(patches, 4, whitening), patches).flatten(1).double()
    covariance = torch.cov(latents.T)
    variances = covariance.diagonal()
    assert variances.mean() == pytest.approx(1, abs=1e-4)
    assert latents.mean(0).abs().max() < 1e-4
    assert (covariance - variances.diag()).abs().max() < 1e-4
    # without whitening the components' deviations differ 6 : 1, halfway by the root of that, and then no longer
    ratio = (variances[0] / variances[-1]).sqrt()
    assert ratio == pytest.approx(6 ** (1 - whitening), rel=0.1)


def test_directions_without_variance_do_no_harm() -> None:
    patches = draw_patches([0.5])
    vae = fitted(patches, 3)
    assert all(torch.isfinite(tensor).all() for tensor in vae.state_dict().values())
    with torch.no_grad():
        assert (decode(vae, encode(vae, patches)) - patches).abs().max() < 1e-3


def test_encode_and_decode_work_on_whole_pictures_patch_by_patch() -> None:
    vae = fitted(draw_patches([0.5, 0.4, 0.3, 0.2]), 3)
    x = torch.rand(2, 3, 12, 20) * 2 - 1
    with torch.no_grad():
        z = encode(vae, x)
        assert z.shape == (2, 3, 3, 5)
        alone = encode(vae, x[1:, :, 4:8, 8:12])
        assert torch.allclose(z[1, :, 1, 2], alone[0, :, 0, 0], atol=1e-6)
        decoded = decode(vae, z)
    assert decoded.shape == x.shape


def test_plain_tuples_on_request() -> None:
    vae: Any = fitted(draw_patches([0.5, 0.4]), 2)
    x = torch.zeros(1, 3, 8, 8)
    posterior = vae.encode(x).latent_dist
    z = encode(vae, x)
    assert torch.equal(posterior.mode(), z)
    assert torch.equal(posterior.sample(torch.Generator().manual_seed(1)), z)  # no variance
    assert torch.equal(vae.decode(z).sample, decode(vae, z))


def test_the_decoder_starts_as_the_linear_inverse_and_learns_only_the_rest() -> None:
    vae = fitted(draw_patches([0.5, 0.4, 0.3]), 2)
    z = torch.randn(2, 2, 4, 4, generator=torch.Generator().manual_seed(0))
    decoded = decode(vae, z)
    assert torch.equal(decoded, vae.inverse(z))
    decoded.square().mean().backward()
    learning = {name for name, parameter in vae.named_parameters() if parameter.grad is not None}
    assert learning == {name for name, _ in vae.named_parameters() if name.startswith("detail.")}
    gradient = last_layer(vae).weight.grad
    assert gradient is not None
    assert gradient.abs().max() > 0  # it starts at 0, but does not stay there


def test_saving_and_loading_changes_nothing(tmp_path: Path) -> None:
    vae = fitted(draw_patches([0.5, 0.4, 0.3]), 2)
    with torch.no_grad():
        last_layer(vae).weight.normal_(std=0.1)
    vae.save_pretrained(tmp_path)
    again = PatchAutoencoder.from_pretrained(tmp_path)
    assert dict(again.config)["patch_size"] == PATCH
    z = torch.randn(1, 2, 3, 3)
    with torch.no_grad():
        assert torch.equal(decode(again, z), decode(vae, z))
        assert not torch.equal(decode(vae, z), vae.inverse(z))


def test_the_network_that_goes_over_the_result_adds_nothing_at_first_and_then_learns() -> None:
    torch.manual_seed(0)
    plain = PatchAutoencoder(patch_size=8, latent_channels=4, decoder_channels=8, decoder_blocks=1)
    more = PatchAutoencoder(
        patch_size=8, latent_channels=4, decoder_channels=8, decoder_blocks=1, refiner_channels=8, refiner_blocks=2
    )
    missing, unknown = more.load_state_dict(plain.state_dict(), strict=False)
    assert unknown == []
    assert all(name.startswith("refiner.") for name in missing)
    z = torch.randn(2, 4, 3, 5)
    assert torch.equal(decode(more, z), decode(plain, z))
    decode(more, z).square().sum().backward()
    last = cast(nn.Conv2d, more.refiner.added[-2])
    assert cast(Tensor, last.weight.grad).abs().max() > 0
