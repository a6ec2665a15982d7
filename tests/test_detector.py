"""Boxes from an object detector: a tiny one with weights made here, through the code that loads real ones."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import huggingface_hub
import numpy as np
import pytest
import torch
from PIL import Image
from transformers import YolosConfig, YolosForObjectDetection, YolosImageProcessorPil

from paint_by_example.cli import main

BOXES = [(0.5, 0.5, 0.5, 0.4), (0.25, 0.3, 0.3, 0.4), (0.7, 0.7, 0.2, 0.2)]  # centre, width and height, in shares
SURE = (0.7, 0.95, 0.2)  # how sure the detector is of each


@pytest.fixture(scope="module")
def detector(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A detector that finds the same three boxes in whatever it sees."""
    torch.manual_seed(0)
    config = YolosConfig(
        hidden_size=8,
        num_hidden_layers=1,
        num_attention_heads=2,
        intermediate_size=8,
        image_size=[64, 96],
        patch_size=16,
        num_detection_tokens=len(BOXES),
        num_labels=2,
        layer_norm_eps=1e-6,
    )
    model = YolosForObjectDetection(config)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.zero_()
        # each detection token carries its number as the place of its largest value, which the norm lifts above zero;
        # all else is zero, so that it arrives as it is, and the heads' inner layers keep what is positive
        for token in range(len(BOXES)):
            model.vit.embeddings.detection_tokens[0, token, token] = 1.0
        model.vit.layernorm.weight.fill_(1.0)
        value = torch.nn.functional.layer_norm(model.vit.embeddings.detection_tokens[0], (8,), eps=1e-6).max()
        for head, wanted in (
            (model.class_labels_classifier, torch.tensor([[p, 1e-9, 1 - p] for p in SURE]).log()),
            (model.bbox_predictor, torch.tensor(BOXES).logit()),
        ):
            for layer in head.layers[:2]:
                layer.weight.copy_(torch.eye(8))
            head.layers[2].weight[:, : len(BOXES)] = wanted.T / value
    folder = tmp_path_factory.mktemp("detector")
    model.save_pretrained(folder)
    YolosImageProcessorPil(size={"shortest_edge": 64, "longest_edge": 96}).save_pretrained(folder)
    return folder


@pytest.fixture
def pictures(tmp_path: Path) -> Path:
    folder = tmp_path / "pictures"
    folder.mkdir()
    pixels = np.random.default_rng(0).integers(0, 256, (100, 200, 3), np.uint8)
    Image.fromarray(pixels).save(folder / "a.png")
    Image.fromarray(pixels).resize((2400, 1200)).save(folder / "b.jpg")  # seen at half its size
    (folder / "c.jpg").write_bytes((folder / "b.jpg").read_bytes()[:3000])
    return folder


def prepare(pictures: Path, out: Path, detector: Path | str, *more: str) -> int:
    return main(["prepare", "folder", str(out), "--pictures", str(pictures), "--detector", str(detector), *more])


def test_boxes_are_those_the_detector_is_sure_of(
    tmp_path: Path, pictures: Path, detector: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert prepare(pictures, tmp_path / "out", detector) == 0
    captured = capsys.readouterr()
    assert captured.out == "pictures  2\nboxes  4\nskipped  1\n"
    assert "no masks or boxes for any of the 3 pictures" in captured.err
    lines = [json.loads(line) for line in (tmp_path / "out" / "index.jsonl").read_text().splitlines()]
    for line, (width, height) in zip(lines, ((200, 100), (2400, 1200)), strict=True):
        expected = [
            [(x - w / 2) * width, (y - h / 2) * height, (x + w / 2) * width, (y + h / 2) * height]
            for x, y, w, h in (BOXES[1], BOXES[0])
        ]
        np.testing.assert_allclose(line["boxes"], expected, atol=0.01 * width)
    assert prepare(pictures, tmp_path / "out", detector) == 0  # and again
    assert main(["prepare", "folder", str(tmp_path / "out"), "--pictures", str(pictures)]) == 1
    assert "made with other options" in capsys.readouterr().err


def test_a_detector_that_is_not_needed_is_refused(
    tmp_path: Path, pictures: Path, detector: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (pictures / "a.txt").write_text("0 0.5 0.5 0.5 0.5\n")
    assert prepare(pictures, tmp_path / "out", detector) == 1
    assert "leave it out" in capsys.readouterr().err


def test_what_is_no_detector_is_one_line(
    tmp_path: Path, pictures: Path, detector: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)

    def refusal(name: Path | str) -> str:
        capsys.readouterr()
        assert prepare(pictures, tmp_path / "out", name) == 1
        error = capsys.readouterr().err.strip().split("\n")[-1]
        assert error.startswith("pbe: ")
        assert not (tmp_path / "out").exists()
        return error

    assert "cannot load the detector nobody/nothing" in refusal("nobody/nothing")
    assert "cannot load the detector" in refusal(pictures)
    pickled = tmp_path / "pickled"
    shutil.copytree(detector, pickled)
    (pickled / "model.safetensors").unlink()
    torch.save({"a": torch.zeros(1)}, pickled / "pytorch_model.bin")
    assert "safetensors" in refusal(pickled)
    half = tmp_path / "half"
    shutil.copytree(detector, half)
    from safetensors.torch import load_file, save_file

    tensors = load_file(half / "model.safetensors")
    tensors = {name: value for name, value in tensors.items() if not name.startswith("bbox_predictor")}
    save_file(tensors, half / "model.safetensors", metadata={"format": "pt"})
    assert "lacks weights, bbox_predictor.layers.0.bias is one of 6" in refusal(half)
