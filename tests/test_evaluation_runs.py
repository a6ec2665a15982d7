"""Runs over a benchmark: what goes together in a batch, and what one method's failure leaves of the others."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from paint_by_example.cli import main
from paint_by_example.evaluation.benchmark import items_of, open_benchmark
from paint_by_example.evaluation.editing import ModelSettings, model_method
from paint_by_example.evaluation.result import read_scores
from paint_by_example.pipeline import PaintByExamplePipeline
from tests.test_evaluation import SIDE, cocoee


def test_under_compat_pictures_of_one_size_are_a_batch(models: dict[str, Path], tmp_path: Path) -> None:
    folder = cocoee(tmp_path / "b", count=3)
    other = "000000003419"  # of another size, so that it stands alone
    for path in (folder / "GT_3500" / f"{other}_GT.png", folder / "Mask_bbox_3500" / f"{other}_mask.png"):
        Image.open(path).crop((0, 0, SIDE, 32)).save(path)
    items = list(items_of(open_benchmark(folder)))
    ordered = [items[0], items[2], items[1]]
    method, _ = model_method(str(models["clip"]), ModelSettings(steps=1, compat="original"), "cpu")
    together = method(ordered, [5, 6, 7])
    assert [one.shape for one in together] == [item.source.shape for item in ordered]
    for result, item, seed in zip(together, ordered, (5, 6, 7), strict=True):
        (alone,) = method([item], [seed])
        assert np.abs(result.astype(int) - alone).max() <= 1
    calls: list[int] = []
    painted = PaintByExamplePipeline.__call__

    def counted(self: PaintByExamplePipeline, exemplars: list[Image.Image], *others: Any, **more: Any) -> Any:
        calls.append(len(exemplars))
        return painted(self, exemplars, *others, **more)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(PaintByExamplePipeline, "__call__", counted)
        method(ordered, [5, 6, 7])
    assert calls == [2, 1]


def test_a_method_whose_weights_cannot_be_had_does_not_stop_the_others(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder, out = cocoee(tmp_path / "b"), tmp_path / "out"
    words = ["--method", "blended-diffusion", "--weights", f"blended-diffusion={tmp_path / 'none'}"]
    command = ["evaluate", "run", str(folder), str(out), "--offline", "--spaces", "efficientnet-lite2", *words]
    assert main([*command, "--method", "source", "--device", "cpu"]) == 0
    assert "\npbe: blended-diffusion cannot be had: " in f"\n{capsys.readouterr().err}"
    assert [one.method for one in read_scores(out / "scores.json")] == ["source"]
    assert main([*command, "--device", "cpu"]) == 1  # nothing is left to do
    assert capsys.readouterr().err.splitlines()[-1].startswith("pbe: error: blended-diffusion cannot be had: ")
