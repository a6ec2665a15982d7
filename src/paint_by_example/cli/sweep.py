"""``pbe sweep``."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import tyro

from ..errors import UserError
from .arguments import UsageError

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from ..evaluation.sweep import Axis
    from ..pipeline import PaintByExamplePipeline
    from ..structure import Structure

PAPERS = ("guidance_scale=1,3,5",)
"""What the paper's figure about guidance shows."""


@dataclass(frozen=True)
class Sweep:
    """Vary one or two settings, all else alike: a labelled grid of one edit, or of a benchmark with its scores."""

    source: Annotated[tyro.conf.Positional[Path | None], tyro.conf.arg(metavar="SOURCE")] = None
    """Picture to edit; or --benchmark."""
    vary: tyro.conf.UseAppendAction[tuple[str, ...]] = ()
    """Setting and its values, name=value,value: guidance_scale (λ), steps, seed, scheduler, strength, eta,
    guidance_rescale, guidance_interval (as in 0-1,0.2-1), feather, preset, backend, structure_scale (μ, with
    --structure), context (no,yes), source_exemplar or harmonise (none,colour,poisson). Once, or twice for rows and
    columns; guidance_scale=1,3,5, as in the paper, if not given."""
    exemplar: Path | None = None
    """Picture of what to paint."""
    mask: Path | None = None
    """Picture of the source's size: white is repainted."""
    box: Annotated[str | None, tyro.conf.arg(metavar="L,T,R,B")] = None
    """Rectangle to repaint instead, pixels."""
    structure: Annotated[str | None, tyro.conf.arg(metavar="KIND")] = None
    """What of the source is to be kept, as for pbe edit: edges, soft-edges, pose, or sketch=FILE."""
    controlnet: Annotated[str | None, tyro.conf.arg(metavar="MODEL")] = None
    """With --structure: ControlNet or T2I-Adapter that sees it, as for pbe edit."""
    pose_models: Annotated[Path | None, tyro.conf.arg(metavar="FOLDER")] = None
    """With --structure pose: where mediapipe's wheel is, or the two networks out of it."""
    benchmark: Path | None = None
    """Edit this instead of SOURCE with every combination; running again goes on."""
    metric: str | None = None
    """Figure of the benchmark to stand in each cell; the first that was measured if not given."""
    limit: int | None = None
    """Only so many of the benchmark's items, the first; all if not given."""
    spaces: tuple[str, ...] = ()
    """Feature spaces; all that can be had if not given."""
    model: str = "embedded"
    """As for pbe edit: embedded, a folder or file, or a repository of the hub."""
    out: Path = Path("sweep.png")
    """Picture to write. A benchmark's results and scores.json are in a folder of that name without suffix."""
    offline: bool = False
    """Download nothing."""
    device: str | None = None
    """cpu, cuda, ...; the best there is if not given."""


def sweep(options: Sweep) -> None:
    """Edit with every combination, write the grid, print its path."""
    from PIL import Image

    from ..evaluation.sweep import combinations, parse_axis, sweep_sheet
    from ..images import save_image
    from .edit import check_writable

    axes = [parse_axis(text) for text in options.vary or PAPERS]
    combinations(axes)  # wrong ones are told before the model is loaded
    check_writable(options.out)
    edits = {"SOURCE": options.source, "--exemplar": options.exemplar, "--mask or --box": options.mask or options.box}
    if options.benchmark is None:
        if missing := [name for name, given in edits.items() if given is None]:
            raise UsageError(f"missing: {', '.join(missing)}, or --benchmark")
        if options.mask is not None and options.box is not None:
            raise UsageError("--mask and --box exclude each other")
    elif given := [name for name, value in edits.items() if value is not None]:
        raise UsageError(f"{', '.join(given)} and --benchmark exclude each other")

    structure = asked_structure(options, axes)

    from ..pipeline import load_pipeline

    pipeline = load_pipeline(options.model, device=options.device, local_files_only=options.offline)
    if options.controlnet is not None:
        pipeline.load_controlnet(options.controlnet)
    foot: list[str] = []
    if options.benchmark is None:
        pictures = sweep_edit(options, pipeline, combinations(axes), structure)
        captions = [""] * len(pictures)
    else:
        pictures, captions, foot = sweep_benchmark(options, pipeline, axes, structure)
    save_image(Image.fromarray(sweep_sheet(axes, pictures, captions, foot)), options.out)
    print(options.out)


def asked_structure(options: Sweep, axes: list[Axis]) -> Structure | None:
    """What is to be kept in all cells.

    Raises:
        UsageError: options do not go together.
        UserError: there is no such structure.
    """
    from ..structure import parse_structure

    if options.structure is not None:
        structure = parse_structure(options.structure, options.pose_models)
        if structure.kind == "sketch" and options.benchmark is not None:
            raise UsageError("a sketch is of one picture; it and --benchmark exclude each other")
        return structure
    for name in ("controlnet", "pose_models"):
        if getattr(options, name) is not None:
            raise UsageError(f"--{name.replace('_', '-')} goes with --structure")
    if any(axis.name == "structure_scale" for axis in axes):
        raise UsageError("structure_scale goes with --structure")
    return None


def sweep_edit(
    options: Sweep, pipeline: PaintByExamplePipeline, cells: list[dict[str, Any]], structure: Structure | None
) -> list[NDArray[np.uint8]]:
    """The edit under each combination."""
    import numpy as np
    from tqdm import tqdm

    from ..crops import parse_box

    assert options.source is not None
    assert options.exemplar is not None
    given: dict[str, Any] = {"mask": options.mask} if options.box is None else {"box": parse_box(options.box)}
    given |= {"exemplar": options.exemplar, "structure": structure}
    return [
        np.asarray(pipeline.edit(options.source, **given, **cell).images[0].convert("RGB"))
        for cell in tqdm(cells, desc="sweep", unit="edit")
    ]


def sweep_benchmark(
    options: Sweep, pipeline: PaintByExamplePipeline, axes: list[Axis], structure: Structure | None
) -> tuple[list[NDArray[np.uint8]], list[str], list[str]]:
    """The benchmark's first item under each combination, each one's figure, and what it is."""
    import numpy as np

    from ..evaluation.benchmark import open_benchmark
    from ..evaluation.editing import read_settings, run_method
    from ..evaluation.report import figure_text
    from ..evaluation.result import describe, write_scores
    from ..evaluation.sweep import cell_name, combinations, swept_method
    from ..images import load_image
    from .evaluate import Score, score_all

    assert options.benchmark is not None
    benchmark, work, cells = open_benchmark(options.benchmark), options.out.with_suffix(""), combinations(axes)
    folders = {cell_name(cell): work / cell_name(cell) for cell in cells}
    made_with = {"model": options.model, "sha256": pipeline.fingerprint()}
    if options.structure is not None:
        made_with["structure"] = options.structure
    if pipeline.controlnet is not None:
        made_with["controlnet"] = pipeline.controlnet.fingerprint()
    for (name, folder), cell in zip(folders.items(), cells, strict=True):
        settings = made_with | {"sweep": name}
        run_method(
            swept_method(pipeline, cell, structure),
            benchmark,
            folder,
            settings,
            seed=cell.get("seed", 0),
            limit=options.limit,
        )
    how = Score(options.benchmark, spaces=options.spaces, limit=options.limit, offline=options.offline)
    settings_of = {name: read_settings(folder) for name, folder in folders.items()}
    scores = score_all(benchmark, folders, settings_of, how, str(pipeline.device), work / "features")
    write_scores(scores, work / "scores.json")
    metric = options.metric or next(iter(scores[0].figures))
    if metric not in scores[0].figures:
        raise UserError(f"{metric} was not measured; {', '.join(scores[0].figures)} were")
    shown = benchmark.names[0]
    pictures = [np.asarray(load_image(folder / f"{shown}.png").convert("RGB")) for folder in folders.values()]
    captions = [figure_text(one.figures[metric], describe(metric)) for one in scores]
    better = describe(metric).better
    return pictures, captions, [f"{metric} ({better} is better)", f"{scores[0].benchmark}; shown: {shown}"]
