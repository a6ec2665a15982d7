"""``pbe ablate``."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro

from .arguments import UsageError


@dataclass(frozen=True)
class Ablate:
    """Score the models that runs/ablation.sh trained, each with one part of the method more than the one before.

    They edit the small benchmark in their own size. Run again, it goes on. What the paper found of their like on COCOEE
    is printed below; it was measured in other features on other pictures, and only which way each step goes compares.
    """

    data: Annotated[tyro.conf.Positional[Path], tyro.conf.arg(metavar="BENCHMARK")]
    """Folder from pbe prepare composites: the small benchmark."""
    folder: Annotated[tyro.conf.Positional[Path], tyro.conf.arg(metavar="FOLDER")]
    """Folder of the ablation. Results, scores.json, scores.csv, report.html and sheet.png come into its scores/."""
    limit: int | None = None
    """Only so many items, the first; all if not given."""
    seed: int = 0
    """Seed of the first item; each next item has the next one."""
    batch_size: int = 16
    """Items edited at once."""
    count: int = 6
    """Items to show in sheet.png."""


def ablate(options: Ablate) -> None:
    """Edit, score, write; print the table."""
    from PIL import Image

    from ..ablation import GUIDANCE_SCALE, IMAGE_SIZE, QUALITY, SPACE, VARIANTS
    from ..evaluation import scoring
    from ..evaluation.compare import compare_sheet
    from ..evaluation.editing import ModelSettings, model_method, read_settings, run_method
    from ..evaluation.features import FeatureCache
    from ..evaluation.held_out import HeldOut
    from ..evaluation.report import report_html, write_report
    from ..evaluation.result import as_table, write_scores
    from ..images import save_image

    for name in ("limit", "batch_size", "count"):
        if (value := getattr(options, name)) is not None and value < 1:
            raise UsageError(f"--{name.replace('_', '-')} must be at least 1, got {value}")
    benchmark = HeldOut(options.data, size=IMAGE_SIZE)
    out = options.folder / "scores"
    for variant in VARIANTS:
        settings = ModelSettings(guidance_scale=GUIDANCE_SCALE if variant.guidance else 1.0)
        method, made_with = model_method(str(options.folder / variant.name / "model"), settings, "cpu", offline=True)
        run_method(
            method,
            benchmark,
            out / variant.name,
            made_with,
            seed=options.seed,
            batch_size=options.batch_size,
            limit=options.limit,
        )
    instruments = scoring.find_instruments((SPACE,), quality=options.folder / QUALITY, offline=True)
    cache = FeatureCache(options.folder / "features")
    references = scoring.find_references(None, benchmark, instruments, cache)
    scores = []
    for variant in VARIANTS:
        results = out / variant.name
        settings_of = read_settings(results) | {
            "paper": dict(zip(("FID", "QS", "CLIP score"), variant.paper, strict=True))
        }
        scores.append(
            scoring.score(benchmark, variant.name, results, instruments, references, cache, settings_of, options.limit)
        )
    path, table = write_scores(scores, out / "scores.json")
    page = write_report(report_html(scores, benchmark, options.count, [path.name, table.name]), out / "report.html")
    sheet = compare_sheet(scores, benchmark, scores[0].names[: options.count], f"likeness-{SPACE}")
    save_image(Image.fromarray(sheet), out / "sheet.png")
    print(as_table(scores))
    for place, name in enumerate(("FID, lower", "QS, higher", "CLIP score, higher")):
        print(f"paper, {name}: " + ", ".join(f"{variant.name} {variant.paper[place]:.2f}" for variant in VARIANTS))
    print(f"{scores[0].benchmark}; intervals of 95%; written: {path}, {table}, {page}, {out / 'sheet.png'}")
