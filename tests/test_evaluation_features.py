"""Feature spaces: preprocessing and networks against other implementations, with made-up weights; the cache."""

import json
import math
import socketserver
import sys
import threading
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor, nn
from torch.nn import functional as F
from torchmetrics.functional.image import lpips as theirs
from transformers import CLIPVisionConfig, CLIPVisionModelWithProjection, Dinov2Config, Dinov2Model
from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil

from paint_by_example.errors import ModelError
from paint_by_example.evaluation import features
from paint_by_example.evaluation.features import CHUNK, EXTRACTORS, Extractor, FeatureCache, fitted, load_extractor
from paint_by_example.evaluation.inception import FidInception, tensorflow_resize
from paint_by_example.evaluation.perceptual import Lpips, load_lpips, lpips_outside
from paint_by_example.evaluation.scoring import find_instruments
from tests.oracle.metrics import made_up, picture

STORED = json.loads((Path(__file__).parent / "data" / "oracle_metrics.json").read_text())


def noise(width: int, height: int, seed: int = 0) -> Any:
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3)).astype(np.uint8)


def tiny_clip(folder: Path, image_size: int = 32) -> Path:
    torch.manual_seed(0)
    config = CLIPVisionConfig(
        hidden_size=16,
        intermediate_size=32,
        num_hidden_layers=2,
        num_attention_heads=2,
        image_size=image_size,
        patch_size=16,
        projection_dim=12,
    )
    CLIPVisionModelWithProjection(config).save_pretrained(folder)
    return folder


# --- networks ---------------------------------------------------------------------------------------------------------


# Sizes after which whole pixels are cut off: half a pixel goes to the other side there than in torchvision and here.
@pytest.mark.parametrize("size", [(60, 40), (33, 58), (32, 32), (20, 90)])
def test_clip_sees_what_its_own_preprocessing_shows(tmp_path: Path, size: tuple[int, int]) -> None:
    extractor = load_extractor("clip-vit-b-32", str(tiny_clip(tmp_path)), offline=True)
    shown = noise(*size)
    processor = CLIPImageProcessorPil(size={"shortest_edge": 32}, crop_size={"height": 32, "width": 32})
    pixels = processor(Image.fromarray(shown), return_tensors="pt")["pixel_values"]
    model = CLIPVisionModelWithProjection.from_pretrained(tmp_path).eval()
    with torch.no_grad():
        expected = model(pixel_values=pixels).image_embeds.numpy()
    np.testing.assert_allclose(extractor([shown], "crop"), expected, atol=1e-5)
    if size[0] != size[1]:  # the ends of the longer side are seen when squashed, and not when cropped
        changed = shown.copy()
        changed[:, :1] = changed[:1] = 0
        assert not np.allclose(extractor([shown], "squash"), extractor([changed], "squash"))


def test_dinov2_is_the_normed_class_token_of_the_middle(tmp_path: Path) -> None:
    torch.manual_seed(0)
    config = Dinov2Config(hidden_size=16, num_hidden_layers=2, num_attention_heads=2, image_size=224, patch_size=14)
    Dinov2Model(config).save_pretrained(tmp_path)
    extractor = load_extractor("dinov2", str(tmp_path), offline=True)
    shown = noise(300, 260)
    resized = Image.fromarray(shown).resize((int(300 * 256 / 260), 256), Image.Resampling.BICUBIC)
    left, top = round((resized.width - 224) / 2), 16
    middle = np.asarray(resized.crop((left, top, left + 224, top + 224)), np.float32) / 255
    x = torch.from_numpy((middle - features.IMAGENET_MEAN) / features.IMAGENET_STD).permute(2, 0, 1)[None].float()
    with torch.no_grad():
        output = Dinov2Model.from_pretrained(tmp_path).eval()(pixel_values=x)
    np.testing.assert_allclose(extractor([shown], "crop"), output.last_hidden_state[:, 0].numpy(), atol=1e-5)


def test_inception_is_torch_fidelitys(tmp_path: Path) -> None:
    shapes = {name: tuple(shape) for name, shape in STORED["inception"]["shapes"].items()}
    assert {name: tuple(tensor.shape) for name, tensor in FidInception().state_dict().items()} == shapes
    weights = made_up(shapes)
    classifier = {"fc.weight": torch.zeros(1008, 2048), "fc.bias": torch.zeros(1008)}
    torch.save({name: t for name, t in weights.items() if "num_batches" not in name} | classifier, tmp_path / "w.pth")
    extractor = load_extractor("inception-v3", str(tmp_path / "w.pth"))
    (row,) = extractor([picture()], "crop").astype(np.float64)
    assert np.linalg.norm(row) == pytest.approx(STORED["inception"]["length"], rel=1e-4)
    np.testing.assert_allclose(row[:32], STORED["inception"]["first"], rtol=1e-3, atol=1e-3)


def test_tensorflow_resize_by_hand() -> None:
    """Twice the size and one more: a pixel lies at i * 2 / 4 = 0, 0.5, 1, 1.5 of the original; no half is added."""
    shown = np.repeat(np.array([[0, 128]], np.uint8)[..., None], 3, 2)
    found = tensorflow_resize(shown)[0, 0]
    places = np.minimum(np.arange(299) * 2 / 299, 1)
    np.testing.assert_allclose(found.numpy() * 128 + 128, 128 * places, atol=1e-4)


@pytest.mark.parametrize("offline", [True, False])
def test_inception_without_its_file_is_an_error_on_one_line(tmp_path: Path, offline: bool) -> None:
    with pytest.raises(ModelError, match=r"inception-v3 cannot be had: there is no file .*none.pth"):
        load_extractor("inception-v3", str(tmp_path / "none.pth"), offline)
    torch.save({"a": torch.zeros(1)}, tmp_path / "other.pth")
    with pytest.raises(ModelError, match="not the weights of FID's Inception"):
        load_extractor("inception-v3", str(tmp_path / "other.pth"), offline)


def test_lpips_is_torchmetrics(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    torch.manual_seed(1)
    layers = Lpips().features
    names = {f"features.{name}": tensor for name, tensor in layers.state_dict().items()}
    torch.save(names | {"classifier.1.weight": torch.zeros(2)}, tmp_path / "alexnet.pth")
    model = load_lpips(str(tmp_path / "alexnet.pth"))
    monkeypatch.setattr(theirs, "_get_tv_model_features", lambda *_: layers)
    load = torch.load
    monkeypatch.setattr(torch, "load", lambda path, **_: load(path, map_location="cpu", weights_only=True))
    reference = theirs._LPIPS(net="alex")
    a, b = (torch.rand(2, 3, 64, 80, generator=torch.Generator().manual_seed(seed)) * 2 - 1 for seed in (0, 1))
    with torch.no_grad():
        found, expected = model(a, b), reference(a, b)[:, 0, 0, 0]
    assert (found > 1e-4).all()
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-7)
    source, result = noise(64, 48), noise(64, 48)
    mask = np.zeros((48, 64), bool)
    mask[10:20, 10:30] = True
    result[mask] = 7
    assert lpips_outside(model, source, result, mask) == 0
    assert lpips_outside(model, source, result, ~mask) > 0


def test_lpips_that_cannot_be_had_says_why(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="lpips cannot be had: there is no file"):
        load_lpips(str(tmp_path / "none.pth"))
    torch.save({"features.0.weight": torch.zeros(1)}, tmp_path / "other.pth")
    with pytest.raises(ModelError, match="holds no AlexNet"):
        load_lpips(str(tmp_path / "other.pth"))


def test_dreamsim_comes_through_its_package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A stand-in for the package, with its signature; it embeds the mean colour."""

    class Model(nn.Module):
        def embed(self, x: Tensor) -> Tensor:
            assert x.shape[1:] == (3, 224, 224)
            assert 0 <= x.min() <= x.max() <= 1
            return x.mean((2, 3))

    asked: dict[str, Any] = {}

    def dreamsim(pretrained: bool, device: str, cache_dir: str) -> tuple[Model, None]:
        asked.update(pretrained=pretrained, device=device, cache_dir=cache_dir)
        return Model(), None

    monkeypatch.setitem(sys.modules, "dreamsim", SimpleNamespace(dreamsim=dreamsim))
    extractor = load_extractor("dreamsim", str(tmp_path), offline=True)
    assert asked == {"pretrained": True, "device": "cpu", "cache_dir": str(tmp_path)}
    found = extractor([np.full((50, 30, 3), (255, 0, 51), np.uint8)], "crop")
    np.testing.assert_allclose(found, [[1, 0, 0.2]], atol=1e-6)
    with pytest.raises(ModelError, match="no folder"):
        load_extractor("dreamsim", str(tmp_path / "none"), offline=True)
    monkeypatch.setitem(sys.modules, "dreamsim", None)
    with pytest.raises(ModelError, match="package dreamsim is not installed"):
        load_extractor("dreamsim", str(tmp_path))


def test_lite2_sees_the_whole_picture_and_tells_pictures_apart() -> None:
    extractor = load_extractor("efficientnet-lite2", offline=True)
    shown = noise(90, 40)
    (first, again, other) = extractor([shown, shown, noise(90, 40, seed=1)], "crop")
    assert first.shape == (352,)
    assert (first == again).all()
    assert not np.allclose(first, other, atol=1e-2)


@pytest.mark.parametrize("name", ["clip-vit-b-32", "clip-vit-l-14", "clip-vit-l-14-336", "dinov2"])
def test_what_is_not_there_is_an_error_on_one_line(name: str, tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=f"^{name} cannot be had: .*; offline, only") as caught:
        load_extractor(name, str(tmp_path), offline=True)
    assert "\n" not in str(caught.value)


def test_a_hub_that_does_not_answer_is_not_asked_for_every_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)
    with socketserver.TCPServer(("127.0.0.1", 0), Hanging) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", f"http://127.0.0.1:{server.server_address[1]}")
        weights = {name: f"none/{name}" for name in ("clip-vit-b-32", "dinov2")}
        found = find_instruments(tuple(weights), weights)
        server.shutdown()
    assert server.asked < 6  # type: ignore[attr-defined]  # its client would ask six times for one file
    assert set(weights) <= set(found.missing)
    assert all("only what was downloaded before" in found.missing[name] for name in weights)
    assert not any("\n" in line for line in found.missing.values())


class Hanging(socketserver.BaseRequestHandler):
    """Counts who comes and says nothing to them."""

    def handle(self) -> None:
        self.server.asked = getattr(self.server, "asked", 0) + 1  # type: ignore[attr-defined]


def test_an_unknown_space_is_named() -> None:
    with pytest.raises(ModelError, match="unknown feature space 'fid'; one of clip-vit-b-32, "):
        load_extractor("fid")
    assert set(EXTRACTORS) >= {"clip-vit-b-32", "clip-vit-l-14", "inception-v3", "dinov2", "dreamsim"}


def test_bilinear_is_without_averaging() -> None:
    shown = noise(90, 70)
    x = torch.from_numpy(shown).permute(2, 0, 1)[None].float()
    expected = F.interpolate(x, (32, 32), mode="bilinear")[0].permute(1, 2, 0).numpy()
    np.testing.assert_array_equal(fitted(shown, "bilinear", 32, 32), expected)
    assert np.abs(expected - fitted(shown, "squash", 32, 32)).mean() > 5


# --- the cache --------------------------------------------------------------------------------------------------------


class Counting:
    """Averages pictures, and counts how many it was shown."""

    def __init__(self) -> None:
        self.shown = 0

    def __call__(self, x: Tensor) -> Tensor:
        self.shown += len(x)
        return x.mean((2, 3))


def counting_extractor(fingerprint: str = "a") -> tuple[Extractor, Counting]:
    network = Counting()
    prepare = lambda picture, fit: features.scaled(fitted(picture, fit, 8, 8))  # noqa: E731
    return Extractor("counting", prepare, network, fingerprint, torch.device("cpu")), network


def test_the_cache_computes_only_what_is_new(tmp_path: Path) -> None:
    extractor, network = counting_extractor()
    pictures = [noise(16, 12, seed) for seed in range(CHUNK + 7)]
    cache = FeatureCache(tmp_path)
    first = cache.features(extractor, pictures, "squash")
    assert first.shape == (CHUNK + 7, 3)
    assert network.shown == CHUNK + 7
    np.testing.assert_array_equal(cache.features(extractor, iter(pictures), "squash"), first)
    assert network.shown == CHUNK + 7
    changed = [*pictures[:-1], noise(16, 12, 999)]
    again = cache.features(extractor, changed, "squash")
    assert network.shown == 2 * (CHUNK + 7) - CHUNK  # the last part anew, the first not
    assert (again[:-1] == first[:-1]).all()
    assert (again[-1] != first[-1]).any()
    np.testing.assert_allclose(FeatureCache().features(extractor, pictures, "squash"), first)
    cache.features(extractor, pictures, "crop")
    assert network.shown == 3 * (CHUNK + 7) - CHUNK + CHUNK + 7  # another fit is another feature


def test_the_cache_knows_other_weights(tmp_path: Path) -> None:
    cache, pictures = FeatureCache(tmp_path), [noise(8, 8)]
    for fingerprint in ("a", "b"):
        extractor, network = counting_extractor(fingerprint)
        cache.features(extractor, pictures, "crop")
        assert network.shown == 1


def test_streams_come_in_parts() -> None:
    extractor, _ = counting_extractor()
    parts = [
        len(part) for part in FeatureCache().stream(extractor, (noise(8, 8) for _ in range(2 * CHUNK + 1)), "crop")
    ]
    assert parts == [CHUNK, CHUNK, 1]
    assert math.fsum(parts) == 2 * CHUNK + 1
