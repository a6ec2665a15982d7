"""How many edits a second `pbe batch` makes against a loop of single edits, where eight rows share a source or do not.

    python benchmarks/batch.py [--model tiny] [--sources 8] [--json]

The ways take turns, so that whatever else the machine does meets all of them. Each reads its pictures from files and
writes its results to files; the model is loaded once for all. "shared" is what pbe batch does by default, whose results
are those of the loop bit for bit; "batched" is pbe batch --batch 8.
"""

from __future__ import annotations

import dataclasses
import json
import multiprocessing
import os
import statistics
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import tyro
from PIL import Image
from skimage import data

from paint_by_example import PaintByExamplePipeline, load_pipeline
from paint_by_example.batch import BatchConfig
from paint_by_example.batch.editing import BatchEditor, Task
from paint_by_example.batch.spread import work
from paint_by_example.batch.table import Row


@dataclass
class Options:
    """Time batches."""

    model: str = "embedded"
    """Model to time; tiny is the one of the tests."""
    device: str = "cpu"
    """Where."""
    rows: int = 8
    """Edits."""
    sources: int = 1
    """Different ones among them."""
    exemplars: int = 2
    """Different ones among them."""
    steps: int | None = None
    """Steps of each edit; the model's own if not given."""
    batch: int = 8
    """Edits whose calls of the U-Net are made as one."""
    processes: int = 1
    """Time as many processes too; not for tiny."""
    repeats: int = 2
    """Turns of each way; medians are printed."""
    json: bool = False
    """Print one JSON object."""


class Workers:
    """Processes of pbe batch that have started and edited once."""

    def __init__(self, options: Options, size: int, output: Path, first: Task) -> None:
        context = multiprocessing.get_context("spawn")
        config = BatchConfig(Path(), output, model=options.model, batch=size)
        threads = max(1, (os.cpu_count() or 1) // options.processes)
        self.connections = []
        for _ in range(options.processes):
            ours, theirs = context.Pipe()
            context.Process(target=work, args=(theirs, config, options.device, threads), daemon=True).start()
            self.connections.append(ours)
        self.run([first])

    def run(self, tasks: list[Task]) -> None:
        """Edit the tasks in each process."""
        for number, connection in enumerate(self.connections):
            connection.send([dataclasses.replace(task, result=f"{number}/{task.result}") for task in tasks])
        for connection in self.connections:
            answer = connection.recv()
            assert isinstance(answer, list), answer


def make_tasks(folder: Path, options: Options) -> list[Task]:
    """Rows, with their pictures."""
    for number in range(options.sources):
        Image.fromarray(np.roll(data.coffee(), 20 * number, 1)).save(folder / f"source-{number}.png")
    for number, picture in enumerate((data.chelsea(), data.astronaut(), data.rocket())[: options.exemplars]):
        Image.fromarray(picture).save(folder / f"exemplar-{number}.png")
    tasks = []
    for number in range(options.rows):
        exemplar = str(folder / f"exemplar-{number % options.exemplars}.png")
        settings: dict[str, Any] = {"seed": number} | ({} if options.steps is None else {"steps": options.steps})
        source = str(folder / f"source-{number % options.sources}.png")
        row = Row(number + 1, source, (), ((200, 60, 440, 300),), (exemplar,), settings)
        tasks.append(Task(str(number), row, f"{number}.png"))
    return tasks


def load(options: Options) -> PaintByExamplePipeline:
    """A pipeline of its own for each way."""
    if options.model != "tiny":
        return load_pipeline(options.model, device=options.device)
    sys.path.insert(0, str(Path(__file__).parent.parent))
    from tests import tiny

    return tiny.embedded_pipeline().to(options.device)


def measure(options: Options) -> dict[str, Any]:
    """Edits a second of each way, and ratios within each turn."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        tasks = make_tasks(folder, options)
        single = load(options)

        def loop(editor: BatchEditor | None, output: Path, tasks: list[Task]) -> None:
            for task in tasks:
                row = task.row
                edited = single.edit(row.source, exemplar=row.exemplars[0], box=row.boxes[0], **row.settings)
                edited.save(output / task.result)

        def batch(editor: BatchEditor | None, output: Path, tasks: list[Task]) -> None:
            assert editor is not None
            editor.run(tasks)

        ways = {"loop": (loop, 0), "shared": (batch, 1), "batched": (batch, options.batch)}
        names = [*ways, *(["processes", "processes_batched"] if options.processes > 1 else [])]
        times: dict[str, list[float]] = {way: [] for way in names}
        first = dataclasses.replace(tasks[0].row, source=tasks[-1].row.exemplars[0], exemplars=(tasks[0].row.source,))
        for turn in range(options.repeats + 1):
            now = tasks if turn else tasks[:1]  # the first turn warms up
            for way, (run, size) in ways.items():
                output = folder / f"{way}-{turn}"
                output.mkdir()
                editor = BatchEditor(load(options), output, size) if size else None  # which has encoded nothing yet
                since = time.perf_counter()
                run(editor, output, now)
                if turn:
                    times[way].append(time.perf_counter() - since)
            for way in names[len(ways) :]:
                size = options.batch if way == "processes_batched" else 1
                workers = Workers(
                    options,
                    size,
                    folder / f"{way}-{turn}",
                    dataclasses.replace(tasks[0], row=first, result="first.png"),
                )
                since = time.perf_counter()
                workers.run(now)
                if turn:
                    times[way].append((time.perf_counter() - since) / options.processes)
                for connection in workers.connections:
                    connection.send(None)
        where = {way: folder / f"{way}-1" / ("0" if way not in ways else "") for way in names}
        pictures = {
            way: [np.asarray(Image.open(where[way] / task.result)).astype(int) for task in tasks] for way in names
        }
    figures: dict[str, Any] = {"model": options.model, "device": options.device, "rows": options.rows}
    for way, seconds in times.items():
        figures[f"{way}_edits_per_second"] = round(options.rows / statistics.median(seconds), 3)
    for way in names[1:]:
        ratios = [alone / together for alone, together in zip(times["loop"], times[way], strict=True)]
        figures[f"{way}_ratio"] = round(statistics.median(ratios), 2)
        differences = [abs(a - b).max() for a, b in zip(pictures["loop"], pictures[way], strict=True)]
        figures[f"{way}_largest_difference"] = int(max(differences))
    return figures


if __name__ == "__main__":
    given = tyro.cli(Options)
    found = measure(given)
    if given.json:
        print(json.dumps(found))
    else:
        print("\n".join(f"{name.replace('_', ' '):28}{value}" for name, value in found.items()))
