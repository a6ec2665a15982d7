"""What an exemplar library of 100,000 pictures takes: to add, to open, to search; and what a fit to the hole finds.

    python benchmarks/library.py [--count 100000] [--lance] [--composites data/composites] [--json]

Features are made up: random, in clusters, with a spectrum that falls off. Those of the real pictures in --composites
come from the model. "plain" is numpy's product in float32, which the library's search has to agree with; "index" is the
graph of pbe library index, of whose ten nearest some may be others than the exact ones; its recall on real pictures is
that for views of 200 of them, cropped and mirrored. All kinds of search take turns. Each is timed right after one of
its kind, as where queries come one after another; "query after others" comes after all the others and a pause, when
other matrices have taken the caches. Beside the wall clock stands the processor's time, which other work on the machine
stretches less.
"""

from __future__ import annotations

import json
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import tyro
from PIL import Image

from paint_by_example.images import load_exemplar
from paint_by_example.library import Encoder, Library, Search, make_index, open_library, open_search
from paint_by_example.library.adding import read_picture
from paint_by_example.library.encoder import encode
from paint_by_example.library.entry import NewPicture
from paint_by_example.library.searching import FIRST_PASS, Hole
from paint_by_example.library.store import INDEX

BATCH = 512  # rows that are committed together
QUERIES = 50
NEAREST = 10  # found by each query
PAUSE = 0.1  # seconds
REAL_QUERIES = 200  # views of real pictures


@dataclass
class Options:
    """Measure libraries."""

    count: int = 100_000
    """Pictures whose features are made up."""
    size: int = 768
    """F, numbers of each."""
    lance: bool = False
    """Also keep them in LanceDB, and search there with its index and without."""
    composites: Path | None = None
    """From pbe prepare composites: also add its pictures, and measure the fit to the hole on its held-out scenes."""
    real: int = 4000
    """Pictures of them that are added, encoded by the embedded model."""
    folder: Path | None = None
    """For the libraries; a temporary one if not given."""
    opened: Path | None = None
    """Only open this library and search it: what a second process does."""
    json: bool = False
    """Print one JSON object."""


def made_up(count: int, size: int) -> np.ndarray:
    """Features of a falling spectrum, in clusters of ten, about a mean that is not zero: (count, size) float32."""
    rng = np.random.default_rng(0)
    scale = np.arange(1, size + 1, dtype=np.float32) ** -0.5
    centres = rng.standard_normal((count // 10 + 1, size), dtype=np.float32)
    rows = centres[np.arange(count) % len(centres)]
    rows += 0.7 * rng.standard_normal((count, size), dtype=np.float32)
    return (rows + 1) * scale


def timed(run: Callable[[], Any], warm: bool = True) -> tuple[float, float]:
    """Seconds by the clock, and of the processor; of a second run if it should be warm, or of one after a pause."""
    if warm:
        run()
    else:
        time.sleep(PAUSE)
    wall, processor = time.perf_counter(), time.process_time()
    run()
    return time.perf_counter() - wall, time.process_time() - processor


def peak() -> float:
    """Memory of this process at its largest, megabytes."""
    status = Path("/proc/self/status").read_text()  # getrusage's counts the process that this one was started from
    return int(status.partition("VmHWM:")[2].split()[0]) / 1024


def summary(name: str, times: list[tuple[float, float]]) -> dict[str, float]:
    """Medians and least, milliseconds."""
    walls, processor = ([1000 * each for each in values] for values in zip(*times, strict=True))
    return {
        f"{name}_ms_median": round(statistics.median(walls), 2),
        f"{name}_ms_least": round(min(walls), 2),
        f"{name}_processor_ms_median": round(statistics.median(processor), 2),
    }


def fill(place: Path, options: Options, together: int) -> None:
    """Write a library of made-up features, with thumbnails as large as real ones."""
    rows = made_up(options.count, options.size)
    noise = np.random.default_rng(1)
    thumbnails = [noise.bytes(3000) for _ in range(64)]
    with open_library(place, Encoder("made up", options.size, "made up", None)) as library, library.writing():
        for start in range(0, options.count, together):
            part = rows[start : start + together]
            aspects = np.exp(0.5 * noise.standard_normal(len(part)))
            colours = noise.random((len(part), 3))
            new = [
                NewPicture(f"{start + n:032x}", 640, 480, float(aspects[n]), tuple(colours[n]), thumbnails[n % 64])
                for n in range(len(part))
            ]
            numbers = library.append(new, list(part))
            library.rows.executemany(
                "insert into files values (?, ?, 1, 1)", [(f"/made/up/{n}.jpg", n) for n in numbers]
            )
            library.commit()


def add(folder: Path, options: Options) -> dict[str, Any]:
    """Write a library, and its index."""
    wall = time.perf_counter()
    fill(folder, options, BATCH)
    seconds = time.perf_counter() - wall
    wall, processor = time.perf_counter(), time.process_time()
    with Library(folder) as library:
        make_index(library)
    indexing = {
        "index_seconds": round(time.perf_counter() - wall, 1),
        "index_processor_seconds": round(time.process_time() - processor, 1),
        "index_mb": round((folder / INDEX).stat().st_size / 1e6),
    }
    disk = sum(path.stat().st_size for path in folder.iterdir()) / 1e6
    return {"added": options.count, "add_seconds": round(seconds, 1), "disk_mb": round(disk), **indexing}


def search(folder: Path) -> dict[str, Any]:
    """Open a library and search it, as a process of its own does."""
    before = peak()
    wall = time.perf_counter()
    with Library(folder) as library:
        indexed = Search(library)
        opened_index = time.perf_counter() - wall
        memory_index = peak()
        wall = time.perf_counter()
        search = Search(library, indexed=False)
        assert indexed.index is not None
        assert search.directions.shape[0] == len(search.ids)
        opened = time.perf_counter() - wall
        rng = np.random.default_rng(2)
        chosen = rng.choice(search.ids, QUERIES)
        spread = 0.3 * search.matrix[:1000].std(0)
        queries = [library.features()[n] + spread * rng.standard_normal(library.encoder.size) for n in chosen]
        search.nearest(queries[0], NEAREST)
        memory = peak()
        types = {str(dtype).removeprefix("torch."): Search(library, indexed=False, dtype=dtype) for dtype in FIRST_PASS}
        for each in types.values():
            each.nearest_rows(queries[0], NEAREST)
        typed = [f"query_{name}" for name in types]
        kinds = ("query", "query_after_others", "entries", "fit", "plain", "index", *typed)
        times: dict[str, list[tuple[float, float]]] = {kind: [] for kind in kinds}
        agree, recalled, hole = 0, 0, Hole(1.5, 200, 0.4)
        matrix = np.array(search.matrix[search.ids])
        lengths = np.linalg.norm(matrix - search.centre.astype(np.float32), axis=1)
        for query in queries:  # in turn, so that other work meets all of them
            q = (query - search.centre).astype(np.float32)

            def plain(q: np.ndarray = q) -> np.ndarray:
                cosines = (matrix @ q - np.float32(search.centre @ q)) / lengths
                return np.argpartition(-cosines, NEAREST)[:NEAREST]

            times["plain"].append(timed(plain))
            nearest = partial(search.nearest_rows, query, NEAREST)
            times["query_after_others"].append(timed(nearest, warm=False))
            times["query"].append(timed(nearest))
            for name, each in types.items():
                times[f"query_{name}"].append(timed(partial(each.nearest_rows, query, NEAREST)))
            times["entries"].append(timed(partial(search.nearest, query, NEAREST)))
            times["fit"].append(timed(partial(search.fitting, hole, NEAREST, query)))
            times["index"].append(timed(partial(indexed.nearest_rows, query, NEAREST)))
            recalled += len(set(indexed.nearest_rows(query, NEAREST)[0]) & set(search.nearest_rows(query, NEAREST)[0]))
            agree += len(set(search.nearest_rows(query, NEAREST)[0]) & set(plain()))
        figures: dict[str, Any] = {
            "first_pass": str(search.directions.dtype).removeprefix("torch."),
            "open_seconds": round(opened, 2),
            "open_index_seconds": round(opened_index, 2),
            "memory_before_mb": round(before),
            "memory_index_mb": round(memory_index),
        }
        for name, values in times.items():
            figures |= summary(name, values[5:])
    recall = {"agree_with_plain": agree / NEAREST / QUERIES, "index_recall": recalled / NEAREST / QUERIES}
    return figures | recall | {"memory_peak_mb": round(memory)}


def lance(folder: Path, options: Options) -> dict[str, Any]:
    """Write a library in LanceDB, and search it there; recall against the exact search of the other library."""
    place = folder.with_suffix(".lance")
    figures: dict[str, Any] = {}
    wall = time.perf_counter()
    fill(place, options, 20 * BATCH)
    figures["lance_add_seconds"] = round(time.perf_counter() - wall, 1)
    print(figures, file=sys.stderr)  # this may take long
    figures["lance_mb"] = round(sum(path.stat().st_size for path in place.rglob("*") if path.is_file()) / 1e6)
    rng = np.random.default_rng(2)
    with Library(folder) as library:
        exact = Search(library, indexed=False)
        chosen = rng.choice(exact.ids, QUERIES // 2)
        spread = 0.3 * exact.matrix[:1000].std(0)
        queries = [library.features()[n] + spread * rng.standard_normal(options.size) for n in chosen]
        expected = [{one.entry.id for one in exact.nearest(query, NEAREST)} for query in queries]
    with open_library(place) as library:
        wall = time.perf_counter()
        pages, size = (library.rows.execute(f"pragma {one}").fetchone()[0] for one in ("page_count", "page_size"))
        figures |= {
            "lance_rows_seconds": round(time.perf_counter() - wall, 1),
            "lance_rows_mb": round(pages * size / 1e6),
        }
        for way in ("lance", "lance_index"):
            if way == "lance_index":
                wall = time.perf_counter()
                make_index(library)
                figures["lance_index_seconds"] = round(time.perf_counter() - wall, 1)
                print(figures, file=sys.stderr)
            search, times, same = open_search(library), [], []
            for query, right in zip(queries, expected, strict=True):
                times.append(timed(partial(search.nearest, query, NEAREST)))
                same.append(len(right & {one.entry.id for one in search.nearest(query, NEAREST)}))
            figures |= summary(way, times[5:]) | {f"{way}_recall": sum(same) / NEAREST / len(queries)}
    return figures | {"lance_memory_peak_mb": round(peak())}


def real(folder: Path, options: Options) -> dict[str, Any]:
    """Add pictures from files with the embedded model, and search for them."""
    from paint_by_example import load_pipeline
    from paint_by_example.library import add_pictures

    assert options.composites is not None
    pipeline = load_pipeline()
    files = sorted((options.composites / "objects").iterdir())[: options.real]
    wall = time.perf_counter()
    outcome = add_pictures(folder, pipeline, files)
    first = time.perf_counter() - wall
    wall = time.perf_counter()
    add_pictures(folder, pipeline, files)
    again = time.perf_counter() - wall
    with Library(folder) as library:
        make_index(library)
        indexed, exact = Search(library), Search(library, indexed=False)
        found = [exact.nearest_rows(exact.matrix[n], 1)[0].tolist() == [row] for row, n in enumerate(exact.ids)]
        rng, recalled = np.random.default_rng(3), 0
        chosen = rng.choice(len(files), min(REAL_QUERIES, len(files)), replace=False)
        for number in chosen:
            query = encode(pipeline, view(load_exemplar(files[number]), rng))
            recalled += len(set(indexed.nearest_rows(query, NEAREST)[0]) & set(exact.nearest_rows(query, NEAREST)[0]))
    return {
        "real_index_recall": round(recalled / NEAREST / len(chosen), 4),
        "real_added": outcome.added,
        "real_duplicates": outcome.duplicates,
        "real_seconds": round(first, 1),
        "real_again_seconds": round(again, 2),
        "real_finds_itself": float(np.mean(found)),
    }


def view(picture: Image.Image, rng: np.random.Generator) -> Image.Image:
    """A part of a picture, three quarters of its sides and more, mirrored or not."""
    width, height = picture.size
    share = rng.uniform(0.75, 1)
    left, top = (int(rng.uniform(0, (1 - share) * side)) for side in (width, height))
    part = picture.crop((left, top, left + max(1, int(share * width)), top + max(1, int(share * height))))
    return part.transpose(Image.Transpose.FLIP_LEFT_RIGHT) if rng.random() < 0.5 else part


def fit(options: Options) -> dict[str, Any]:
    """Rank of the right exemplar among 100 of the held-out benchmark, for each way to rank them."""
    from paint_by_example import load_pipeline
    from paint_by_example.crops import context_crop, crop_image
    from paint_by_example.evaluation.held_out import HeldOut
    from paint_by_example.library import searching

    assert options.composites is not None
    pipeline = load_pipeline()
    benchmark = HeldOut(options.composites, count=400)
    with tempfile.TemporaryDirectory() as name:
        place = Path(name)
        new, features = [], []
        for number, pixels in enumerate(benchmark.gallery):
            Image.fromarray(pixels).save(place / f"{number}.png")
            picture, described = read_picture(str(place / f"{number}.png"))
            new.append(described)
            features.append(encode(pipeline, picture))
        with Library(place / "library", Encoder.of(pipeline)) as library, library.writing():
            rows = [new.index(one) for one in new]  # objects that are alike to the last pixel count as one
            kept = sorted(set(rows))
            numbers = library.append([new[n] for n in kept], [features[n] for n in kept])
            library.rows.executemany("insert into files values (?, ?, 1, 1)", [(str(n), n) for n in numbers])
            library.commit()
            search = Search(library)
            ranks: dict[str, list[int]] = {}
            weights = {name: getattr(searching, name) for name in ("ASPECT", "LIGHT", "SIZE")}
            for index in range(benchmark.count):
                item, right = benchmark[index], kept.index(rows[benchmark.right(index)])
                shown = np.where(item.mask[..., None], 128, item.source).astype(np.uint8)
                hole = Hole.of(Image.fromarray(shown), item.mask)
                around = encode(pipeline, Image.fromarray(crop_image(shown, context_crop(item.mask))))
                scores = {"likeness": search.cosines(around, np.arange(len(kept)))}
                for which in ("ASPECT", "LIGHT"):
                    for other in weights:
                        setattr(searching, other, weights[other] if other == which else 0.0)
                    scores[which.lower()] = search.fit(hole)
                for other, value in weights.items():
                    setattr(searching, other, value)
                scores["fit"] = search.fit(hole)
                scores["fit_and_likeness"] = scores["fit"] + scores["likeness"]
                for way, score in scores.items():
                    ranks.setdefault(way, []).append(int((score > score[right]).sum()))
    figures: dict[str, Any] = {"fit_items": benchmark.count, "fit_gallery": len(kept)}
    for way, values in ranks.items():
        figures[f"{way}_mean_rank"] = round(float(np.mean(values)), 1)
        figures[f"{way}_among_10"] = round(float(np.mean(np.array(values) < 10)), 3)
    return figures


def measure(options: Options) -> dict[str, Any]:
    """All of it; searches in a process of their own, whose memory is that of a search."""
    if options.opened is not None:
        return search(options.opened)
    with tempfile.TemporaryDirectory() as name:
        folder = options.folder or Path(name)
        figures = add(folder / "made-up", options)
        again = [sys.executable, __file__, "--opened", str(folder / "made-up"), "--json"]
        if options.lance:
            figures |= lance(folder / "made-up", options)
        figures |= json.loads(subprocess.run(again, check=True, capture_output=True, text=True).stdout)
        if options.composites is not None:
            figures |= real(folder / "real", options)
            figures |= fit(options)
    return figures


if __name__ == "__main__":
    given = tyro.cli(Options)
    measured = measure(given)
    if given.json:
        print(json.dumps(measured))
    else:
        print("\n".join(f"{name.replace('_', ' '):32}{value}" for name, value in measured.items()))
