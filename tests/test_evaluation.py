"""Benchmarks, runs over them and their scores, end to end at tiny scale."""

import csv
import json
import math
import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from paint_by_example.cli import main
from paint_by_example.errors import DataError, UserError
from paint_by_example.evaluation import coco, scoring
from paint_by_example.evaluation.baselines import cut_and_paste
from paint_by_example.evaluation.benchmark import Cocoee, DreamEditBench, Item, Pixels, items_of, open_benchmark
from paint_by_example.evaluation.editing import ModelSettings, baseline_method, model_method, run_method
from paint_by_example.evaluation.features import FeatureCache
from paint_by_example.evaluation.held_out import HeldOut
from paint_by_example.evaluation.result import Figure, Scores, as_table, describe, read_scores, write_scores
from paint_by_example.evaluation.scoring import find_instruments, measure_reference, score
from tests import tiny
from tests.test_evaluation_features import tiny_clip

SIDE = 48


def cocoee(folder: Path, count: int = 4, exemplars: int = 3) -> Path:
    """The published layout in small."""
    for part in ("GT_3500", "Ref_3500", "Mask_bbox_3500", "test_set_GT"):
        (folder / part).mkdir(parents=True)
    ids = [1773, 3419, 900100065455, 7][:count]
    for index, number in enumerate(ids):
        tiny.picture(SIDE, SIDE, seed=index).save(folder / "GT_3500" / f"{number:012d}_GT.png")
        exemplar = np.random.default_rng(index % exemplars).integers(0, 40, (30, 20, 3)).astype(np.uint8)
        exemplar[..., index % exemplars] += 200  # red, green, blue
        Image.fromarray(exemplar).save(folder / "Ref_3500" / f"{number:012d}_ref.png")
        mask = np.zeros((SIDE, SIDE), np.uint8)
        mask[10:30, 8 : 30 + index] = 255
        Image.fromarray(mask).save(folder / "Mask_bbox_3500" / f"{number:012d}_mask.png")
        tiny.picture(SIDE, SIDE, seed=100 + index).save(folder / "test_set_GT" / f"{number}.png")
    np.save(folder / "id_list.npy", np.array(ids))
    return folder


# --- layouts ----------------------------------------------------------------------------------------------------------


def test_cocoee_is_read_as_published(tmp_path: Path) -> None:
    benchmark = open_benchmark(cocoee(tmp_path))
    assert isinstance(benchmark, Cocoee)
    assert benchmark.names == ["000000001773", "000000003419", "900100065455", "000000000007"]
    item = benchmark[2]
    assert (item.source == np.asarray(tiny.picture(SIDE, SIDE, seed=2))).all()
    assert item.exemplar.shape == (30, 20, 3)
    assert item.mask[10:30, 8:32].all()  # white is repainted
    assert item.mask.sum() == 20 * 24
    reference = benchmark.reference()
    assert reference is not None
    assert len(list(reference)) == 4


@pytest.mark.parametrize("part", ["GT_3500", "Ref_3500", "Mask_bbox_3500", "id_list.npy"])
def test_what_cocoee_lacks_is_named(part: str, tmp_path: Path) -> None:
    folder = cocoee(tmp_path / "whole")
    (folder / part).rename(tmp_path / "elsewhere")
    with pytest.raises(DataError, match=f"{part} missing"):
        open_benchmark(folder)


def test_pictures_that_cocoee_lacks_are_named(tmp_path: Path) -> None:
    folder = cocoee(tmp_path)
    for path in sorted((folder / "Ref_3500").iterdir()):
        path.unlink()
    with pytest.raises(DataError, match=r"lacks Ref_3500.000000001773_ref.png, .* and 1 more, of 12 pictures"):
        Cocoee(folder)


@pytest.mark.parametrize("ids", [np.array([1.5]), np.array([[1]]), np.array([], int), np.array(["a"])])
def test_a_list_of_something_else_is_refused(ids: Any, tmp_path: Path) -> None:
    folder = cocoee(tmp_path)
    np.save(folder / "id_list.npy", ids)
    with pytest.raises(DataError, match="must hold a list of whole numbers"):
        Cocoee(folder)


def test_a_pickled_list_is_not_executed(tmp_path: Path) -> None:
    folder = cocoee(tmp_path)
    np.save(folder / "id_list.npy", np.array([object()]), allow_pickle=True)
    with pytest.raises(DataError, match="cannot read"):
        Cocoee(folder)


def test_dreameditbench_has_boxes_and_a_cut_out_subject(tmp_path: Path) -> None:
    (tmp_path / "cat" / "bg").mkdir(parents=True)
    (tmp_path / "cat" / "fg").mkdir()
    content = [{"image": "00.jpg", "bbox": [192, 0, 576, 384], "source_prompt": "a cat on a sofa"}]
    (tmp_path / "cat" / "bg" / "content.json").write_text(json.dumps(content))
    tiny.picture(64, 64).save(tmp_path / "cat" / "bg" / "00.jpg")
    tiny.picture(20, 20).save(tmp_path / "cat" / "fg" / "03.jpg")
    outline = np.zeros((20, 20), np.uint8)
    outline[5:15, 5:15] = 255
    Image.fromarray(outline).save(tmp_path / "cat" / "fg" / "03.png")
    benchmark = open_benchmark(tmp_path)
    assert isinstance(benchmark, DreamEditBench)
    (item,) = items_of(benchmark)
    assert (item.name, item.text) == ("cat/00", "a cat on a sofa")
    assert item.mask[0:32, 16:48].all()  # of pictures of 768
    assert item.mask.sum() == 32 * 32
    assert item.subject is not None
    assert (item.subject[outline == 0] == 0).all()
    assert (item.subject[outline > 0] == item.exemplar[outline > 0]).all()
    results = tmp_path / "results"
    assert run_method(baseline_method("cut-and-paste"), benchmark, results, {}) == 1
    assert (results / "cat" / "00.png").exists()
    (tmp_path / "cat" / "fg" / "03.png").unlink()
    with pytest.raises(DataError, match=r"lacks cat.fg.03.png"):
        DreamEditBench(tmp_path)
    (tmp_path / "cat" / "bg" / "content.json").write_text('[{"image": "00.jpg"}]')
    with pytest.raises(DataError, match="bbox"):
        DreamEditBench(tmp_path)


def test_a_folder_without_a_layout_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="holds no benchmark"):
        open_benchmark(tmp_path)
    with pytest.raises(DataError, match="no folder"):
        open_benchmark(tmp_path / "none")


def test_held_out_items_are_of_held_out_pictures_and_always_the_same(tmp_path: Path) -> None:
    folder = tiny.composites_folder(tmp_path)
    first, again = (HeldOut(folder, count=5, size=64, exemplar_size=32) for _ in range(2))
    assert len(first.gallery) == 2  # of four objects two are held out
    for index in (4, 0):
        a, b = first[index], again[index]
        assert (a.source == b.source).all()
        assert (a.mask == b.mask).all()
        assert (a.exemplar == first.gallery[index % 2]).all()
        assert a.source.shape == (64, 64, 3)
        assert 0 < a.mask.mean() < 0.8
    assert (first[0].source != first[2].source).any()
    reference = first.reference()
    assert reference is not None
    shown = list(reference)
    assert len(shown) == 5
    assert not any((one == item.source).all() for one, item in zip(shown, items_of(first), strict=True))
    with pytest.raises(IndexError):
        first[5]


# --- built from COCO --------------------------------------------------------------------------------------------------


def coco_files(
    folder: Path, split: str, boxes: list[tuple[int, list[float], int]], crowd: int = -1
) -> tuple[Path, Path]:
    """Annotations and pictures: of each box its category, edges, and whether the picture is there."""
    pictures = folder / split
    pictures.mkdir(parents=True)
    images, annotations = [], []
    for number, (category, box, there) in enumerate(boxes):
        name = f"{number:012d}.jpg"
        if there:
            tiny.picture(320, 240, seed=number).save(pictures / name)
        images.append({"id": number, "file_name": name, "width": 320, "height": 240})
        annotations.append(
            {
                "id": 100 + number,
                "image_id": number,
                "bbox": box,
                "category_id": category,
                "iscrowd": int(number == crowd),
            }
        )
    categories = [{"id": 1, "name": "cat"}, {"id": 2, "name": "dog"}]
    path = folder / f"instances_{split}.json"
    path.write_text(json.dumps({"images": images, "annotations": annotations, "categories": categories}))
    return path, pictures


VAL: list[tuple[int, list[float], int]] = [
    (1, [100, 50, 120, 100], 1),
    (1, [0, 0, 100, 80], 1),
    (2, [10, 10, 90, 90], 1),  # no dog to show
    (1, [0, 0, 300, 100], 1),  # longer than the square
    (1, [10, 10, 220, 220], 1),  # more than half of it
    (1, [10, 10, 10, 10], 1),  # too small
    (1, [100, 50, 120, 100], 0),  # the picture is gone
    (1, [100, 50, 110, 90], 1),  # a crowd
    (1, [200, 60, 110, 90], 1),
]
TRAIN: list[tuple[int, list[float], int]] = [
    (1, [50, 40, 100, 120], 1),
    (1, [0, 0, 30, 30], 1),
    (2, [0, 0, 20, 200], 1),
]


def test_a_benchmark_like_cocoee_from_coco(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (val, val_pictures), (train, train_pictures) = (
        coco_files(tmp_path, "val", VAL, crowd=7),
        coco_files(tmp_path, "train", TRAIN),
    )
    out = tmp_path / "out"
    command = ["evaluate", "build-cocoee", str(out), "--val-annotations", str(val), "--val-pictures", str(val_pictures)]
    command += ["--train-annotations", str(train), "--train-pictures", str(train_pictures)]
    assert main([*command, "--test-pictures", str(train_pictures)]) == 0
    assert capsys.readouterr().out.split() == ["items", "3", "reference", "pictures", "3", "unusable", "1"]
    benchmark = open_benchmark(out)
    assert isinstance(benchmark, Cocoee)
    assert benchmark.ids == [100, 101, 108]
    for item in items_of(benchmark):
        assert item.source.shape == (512, 512, 3)
        assert 0.02 <= item.mask.mean() <= 0.5
        assert item.exemplar.shape == (140, 120, 3)  # the only cat that is large enough, with 10 pixels around
        assert item.text == "cat"
    # 100: the square is x 40..280; the box 100..220 by 50..150 of 240 pixels
    scale = 512 / 240
    left, top, right, bottom = (round(edge * scale) for edge in (60, 50, 180, 150))
    assert benchmark[0].mask[top:bottom, left:right].all()
    assert benchmark[0].mask.sum() == (bottom - top) * (right - left)
    expected = Image.open(val_pictures / "000000000000.jpg").crop((40, 0, 280, 240)).resize((512, 512), 3)
    assert (benchmark[0].source == np.asarray(expected)).all()
    reference = benchmark.reference()
    assert reference is not None
    assert {one.shape for one in reference} == {(512, 512, 3)}
    before = {path: path.stat().st_mtime_ns for path in (out / "GT_3500").iterdir()}
    assert main(command) == 0  # goes on: nothing is left to do
    assert {path: path.stat().st_mtime_ns for path in (out / "GT_3500").iterdir()} == before


def test_coco_that_gives_nothing_is_an_error(tmp_path: Path) -> None:
    val, train = coco_files(tmp_path, "val", VAL[2:6]), coco_files(tmp_path, "train", TRAIN)
    with pytest.raises(DataError, match="no item can be made"):
        coco.build_cocoee(val, train, tmp_path / "out")
    assert not (tmp_path / "out" / "id_list.npy").exists()
    (tmp_path / "instances_val.json").write_text("{}")
    with pytest.raises(DataError, match="not in COCO's layout"):
        coco.build_cocoee(val, train, tmp_path / "out")


# --- running ----------------------------------------------------------------------------------------------------------


def test_a_run_goes_on_and_is_shared(tmp_path: Path) -> None:
    benchmark, seen = open_benchmark(cocoee(tmp_path / "b")), []

    def method(items: Sequence[Item], seeds: Sequence[int]) -> list[Pixels]:
        seen.append([(item.name, seed) for item, seed in zip(items, seeds, strict=True)])
        return [cut_and_paste(item) for item in items]

    out = tmp_path / "results"
    settings: dict[str, Any] = {"method": "a"}
    assert run_method(method, benchmark, out, settings, seed=10, rank=1, processes=2, batch_size=1) == 2
    assert seen == [[("000000003419", 11)], [("000000000007", 13)]]
    assert run_method(method, benchmark, out, settings, seed=10, batch_size=4) == 2
    assert seen[2] == [("000000001773", 10), ("900100065455", 12)]
    assert run_method(method, benchmark, out, settings, seed=10) == 0
    with pytest.raises(DataError, match="other settings"):
        run_method(method, benchmark, out, settings, seed=11)


def test_a_model_edits_a_benchmark_and_keeps_what_is_outside(models: dict[str, Path], tmp_path: Path) -> None:
    benchmark = open_benchmark(cocoee(tmp_path / "b"))
    method, settings = model_method(str(models["embedded"]), ModelSettings(steps=2), "cpu")
    assert settings["steps"] == 2
    items = list(items_of(benchmark))
    alone, together = [method([item], [index])[0] for index, item in enumerate(items)], method(items, range(4))
    for item, one, two in zip(items, alone, together, strict=True):
        assert (one[~item.mask] == item.source[~item.mask]).all()
        assert (one[item.mask] != item.source[item.mask]).any()
        assert np.abs(one.astype(int) - two).max() <= 1  # rounding
    other = method([items[0]], [77])[0]
    assert (other != alone[0]).any()


def test_under_compat_whole_pictures_are_made_and_nothing_is_pasted_back(
    models: dict[str, Path], tmp_path: Path
) -> None:
    benchmark = open_benchmark(cocoee(tmp_path / "b", count=1))
    method, settings = model_method(str(models["clip"]), ModelSettings(steps=1, compat="original"), "cpu")
    assert settings["compat"] == "original"
    item = benchmark[0]
    (result,) = method([item], [0])
    assert result.shape == item.source.shape
    assert (result[~item.mask] != item.source[~item.mask]).mean() > 0.5


# --- scores -----------------------------------------------------------------------------------------------------------


@pytest.fixture
def measured(tmp_path: Path) -> tuple[Path, Path]:
    """A benchmark with results, and CLIP in small."""
    folder = cocoee(tmp_path / "b")
    run_method(baseline_method("cut-and-paste"), open_benchmark(folder), tmp_path / "pasted", {"method": "pasted"})
    return folder, tiny_clip(tmp_path / "clip")


def test_scores_of_a_known_method(measured: tuple[Path, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder, clip = measured
    monkeypatch.setenv("PBE_CACHE", str(tmp_path / "nothing"))
    spaces = ("clip-vit-b-32", "clip-vit-l-14", "efficientnet-lite2", "inception-v3")
    weights = {"clip-vit-b-32": str(clip), "clip-vit-l-14": str(clip), "inception-v3": str(tmp_path / "none")}
    instruments = find_instruments(spaces, weights, offline=True)
    assert set(instruments.missing) == {"inception-v3", "lpips-outside", "pose-inside", "qs"}
    benchmark, cache = open_benchmark(folder), FeatureCache(tmp_path / "cache")
    references = measure_reference(benchmark.reference, instruments, cache)
    made = score(benchmark, "pasted", tmp_path / "pasted", instruments, references, cache, {"a": 1})
    assert set(made.figures) == {
        "clip-score",
        "clip-score-original",
        "likeness-clip-vit-l-14",
        "likeness-efficientnet-lite2",
        "top1-efficientnet-lite2",
        "top5-efficientnet-lite2",
        "frechet-clip-vit-b-32",
        "frechet-efficientnet-lite2",
        "kid-clip-vit-b-32",
        "kid-efficientnet-lite2",
        "cmmd-clip-vit-l-14",
        "changed-outside",
        "psnr-outside",
        "ssim-outside",
        "seam",
        "edges-inside",
    }
    for name, figure in made.figures.items():
        assert math.isfinite(figure.value), name
        assert figure.count == 4
        if name in made.items:
            assert len(made.items[name]) == 4
            assert np.mean(made.items[name]) == pytest.approx(figure.value)
    assert made.figures["top1-efficientnet-lite2"].value == 100  # what was pasted is recognised, among three
    assert made.figures["changed-outside"].value == 0
    assert made.figures["psnr-outside"].value == 100
    # The box holds the exemplar resized, so CLIP, whose square is of another size, sees nearly the same.
    assert made.figures["clip-score"].value > 60
    assert made.names == tuple(benchmark.names)
    assert made.settings["a"] == 1


def test_scoring_says_what_is_wrong_with_results(measured: tuple[Path, Path], tmp_path: Path) -> None:
    benchmark, instruments = open_benchmark(measured[0]), find_instruments(("efficientnet-lite2",), offline=True)

    def try_to_score() -> Scores:
        return score(benchmark, "pasted", tmp_path / "pasted", instruments, {})

    made = try_to_score()
    assert "no reference pictures" in made.missing["frechet-efficientnet-lite2"]
    result = tmp_path / "pasted" / "000000001773.png"
    Image.open(result).resize((20, 20)).save(result)
    with pytest.raises(DataError, match="is 20 x 20 pixels but its source is 48 x 48"):
        try_to_score()
    result.rename(tmp_path / "other.png")
    with pytest.raises(DataError, match="1 of 4 results are missing"):
        try_to_score()
    tiny.picture(SIDE, SIDE).save(result.with_suffix(".jpg"))
    assert try_to_score().figures["changed-outside"].value > 0  # results of others may be of other formats


def test_the_command_scores_folders(
    measured: tuple[Path, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder, clip = measured
    run_method(baseline_method("source"), open_benchmark(folder), tmp_path / "source", {})
    qs = tmp_path / "qs.safetensors"
    fit = ["evaluate", "fit-qs", str(folder / "test_set_GT"), str(qs), "--components", "2", "--weights", str(clip)]
    assert main([*fit, "--offline"]) == 0
    assert capsys.readouterr().out.strip() == str(qs)
    command = ["evaluate", "score", str(folder), "--results", f"pasted={tmp_path / 'pasted'}"]
    command += ["--results", f"source={tmp_path / 'source'}", "--spaces", "clip-vit-b-32", "efficientnet-lite2"]
    command += [
        "--weights",
        f"clip-vit-b-32={clip}",
        "--qs",
        str(qs),
        "--offline",
        "--out",
        str(tmp_path / "s" / "s.json"),
    ]
    assert main(command) == 0
    shown = capsys.readouterr()
    assert "lpips cannot be had" in shown.err
    lines = shown.out.splitlines()
    assert lines[0].split() == ["pasted", "source", "better"]
    assert [line.split()[0] for line in lines[1:4]] == [
        "clip-score",
        "clip-score-original",
        "likeness-efficientnet-lite2",
    ]
    pasted, source = read_scores(tmp_path / "s" / "s.json")
    assert (pasted.method, pasted.settings["method"]) == ("pasted", "pasted")
    assert pasted.figures["seam"].value > source.figures["seam"].value
    assert source.figures["edges-inside"].value == 1
    assert "qs" in source.figures
    with (tmp_path / "s" / "s.csv").open() as stream:
        rows = list(csv.DictReader(stream))
    assert len(rows) == len(pasted.figures) + len(source.figures)
    assert float(rows[0]["value"]) == pasted.figures["clip-score"].value
    assert main([*command, "--json"]) == 0
    again = json.loads(capsys.readouterr().out)
    assert again["scores"][0]["figures"]["seam"]["value"] == pasted.figures["seam"].value


def test_statistics_in_a_file_are_a_reference(measured: tuple[Path, Path], tmp_path: Path) -> None:
    benchmark, instruments = open_benchmark(measured[0]), find_instruments(("efficientnet-lite2",), offline=True)
    own = scoring.find_references(None, benchmark, instruments, FeatureCache())
    own["efficientnet-lite2"].moments.save(tmp_path / "r.safetensors", "efficientnet-lite2")
    stored = scoring.find_references(tmp_path / "r.safetensors", benchmark, instruments, FeatureCache())
    folder = scoring.find_references(measured[0] / "test_set_GT", benchmark, instruments, FeatureCache())
    results = [score(benchmark, "a", tmp_path / "pasted", instruments, one) for one in (own, stored, folder)]
    distances = [one.figures["frechet-efficientnet-lite2"].value for one in results]
    assert distances[0] == pytest.approx(distances[1], rel=1e-9)
    assert distances[0] == pytest.approx(distances[2], rel=1e-9)
    assert "statistics were given" in results[1].missing["kid-efficientnet-lite2"]
    assert results[0].figures["kid-efficientnet-lite2"] == results[2].figures["kid-efficientnet-lite2"]


def test_a_run_edits_and_scores_the_small_benchmark(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], models: dict[str, Path]
) -> None:
    folder = tiny.composites_folder(tmp_path / "data")
    out = tmp_path / "out"
    command = ["evaluate", "run", str(folder), str(out), "--method", "source", "--method", f"tiny={models['embedded']}"]
    command += ["--limit", "3", "--steps", "1", "--offline", "--spaces", "efficientnet-lite2", "--device", "cpu"]
    assert main(command) == 0
    assert "the first 3" in capsys.readouterr().out
    source, model = read_scores(out / "scores.json")
    assert model.settings["model"] == str(models["embedded"])
    assert source.figures["edges-inside"].value == 1
    assert model.figures["edges-inside"].value < 1
    assert model.figures["changed-outside"].value == 0
    stamps = {path: path.stat().st_mtime_ns for path in out.rglob("*.png")}
    assert len(stamps) == 6
    assert main(command) == 0
    assert {path: path.stat().st_mtime_ns for path in out.rglob("*.png")} == stamps
    assert read_scores(out / "scores.json") == [source, model]


@pytest.mark.slow
def test_processes_share_a_run(tmp_path: Path) -> None:
    folder = tiny.composites_folder(tmp_path / "data")
    command = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2", "--master-port", "29631"]
    command += ["-m", "paint_by_example", "evaluate", "run", str(folder), str(tmp_path / "out"), "--method", "poisson"]
    command += ["--limit", "5", "--offline", "--spaces", "efficientnet-lite2", "--device", "cpu"]
    done = subprocess.run(
        command, capture_output=True, text=True, env=os.environ | {"OMP_NUM_THREADS": "1"}, timeout=300
    )
    assert done.returncode == 0, done.stderr
    (made,) = read_scores(tmp_path / "out" / "scores.json")
    assert len(made.names) == 5
    assert done.stdout.count("intervals of 95%") == 1


@pytest.mark.parametrize(
    ("arguments", "status", "message"),
    [
        (["score", "{b}"], 2, "missing: --results"),
        (["score", "{b}", "--results", "a"], 1, "name=value is expected"),
        (["score", "{b}", "--results", "a=x", "--results", "a=y"], 1, "each name once"),
        (["score", "{b}", "--results", "a=/none"], 1, "no folder of results"),
        (["score", "{b}", "--results", "a={b}/done", "--spaces", "fid"], 1, "unknown feature space 'fid'"),
        (["score", "{b}", "--results", "a={b}/done", "--reference", "{b}/none", "--offline"], 1, "cannot read"),
        (["run", "{b}", "{b}/out", "--method", "magic"], 1, "unknown method 'magic'; one of source, "),
        (["run", "{b}", "{b}/out", "--method", "a=none/none", "--offline"], 1, "none/none"),
        (["fit-qs", "{b}/none", "{b}/qs.safetensors", "--space", "efficientnet-lite2"], 1, "no folder"),
        (["build-cocoee", "{b}/out"], 2, "required"),
    ],
)
def test_mistakes_are_one_line(
    arguments: list[str],
    status: int,
    message: str,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.chdir(tmp_path)  # where scores would be written
    folder = cocoee(tmp_path / "b")
    (folder / "done").mkdir()
    for picture in (folder / "GT_3500").iterdir():
        (folder / "done" / picture.name.replace("_GT", "")).write_bytes(picture.read_bytes())
    assert main(["evaluate", *(argument.format(b=folder) for argument in arguments)]) == status
    last = capsys.readouterr().err.splitlines()[-1]
    assert last.startswith("pbe: error: ")
    assert message in last


# --- files ------------------------------------------------------------------------------------------------------------


def test_scores_survive_their_file(tmp_path: Path) -> None:
    figures = {"seam": Figure(1.5, 1.0, 2.0, 3), "frechet-dinov2": Figure(2.0, None, None, 3)}
    made = Scores("a", "b (3)", ("0", "1", "2"), figures, {"seam": (1.0, 1.5, 2.0)}, {"qs": "none"}, {"seed": 1}, "r")
    path, table = write_scores([made], tmp_path / "new" / "scores.json")
    assert read_scores(path) == [made]
    assert table.read_text().splitlines()[2] == "a,b (3),frechet-dinov2,2.0,,,3,lower"
    assert as_table([made]).splitlines()[1].split() == ["seam", "1.50", "±0.50", "lower"]
    path.write_text('{"format": 2, "scores": []}')
    with pytest.raises(UserError, match="format is 2"):
        read_scores(path)
    with pytest.raises(UserError, match="cannot read the scores"):
        read_scores(tmp_path / "none.json")


def test_names_of_metrics_mean_the_longest_that_fits() -> None:
    assert describe("clip-score-original").name == "clip-score-original"
    assert describe("frechet-clip-vit-b-32").name == "frechet"
    for name in ("fid", "frechetx", "seams"):
        with pytest.raises(KeyError):
            describe(name)
