"""``pbe edit --exemplar-from``: the best few exemplars of a library, each painted, the results ranked."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from ..errors import DataError
from .arguments import UsageError
from .edit import SETTINGS, SPEED, Edit, check_writable, structure_settings
from .imports import quick_imports

if TYPE_CHECKING:
    from pathlib import Path


def edit_from_library(options: Edit) -> None:
    """Search, edit with what was found, write the results, print their paths, best first."""
    if options.repeat is not None or options.exemplar:
        raise UsageError("--exemplar-from takes the place of --exemplar and --from; give one of them")
    if options.source is None or len(options.mask) + len(options.box) != 1:
        raise UsageError("--exemplar-from needs SOURCE and one --mask or --box")
    for name in ("strip", "show_structure"):
        if getattr(options, name) is not None:
            raise UsageError(f"--{name.replace('_', '-')} does not go with --exemplar-from")
    top = 1 if options.top is None else options.top
    if top < 1:
        raise UsageError("--top must be at least 1")
    check_writable(options.output)
    from tqdm import tqdm

    from .. import images
    from ..crops import box_mask, parse_box

    with quick_imports():
        from ..library import Hole, find_exemplars, open_library, open_search
        from ..library.ranking import rank
        from ..pipeline import load_pipeline

    assert options.exemplar_from is not None
    source = images.load_image(options.source)
    where: Any = options.mask[0] if options.mask else parse_box(options.box[0])
    mask = images.load_mask(where, source.size) if options.mask else box_mask(where, source.size)
    like = None if options.like is None else images.load_exemplar(options.like)
    with open_library(options.exemplar_from) as library:
        model = options.model or library.encoder.model
        pipeline = load_pipeline(model, device=options.device)
        compat = options.compat or library.encoder.compat
        pipeline.compat = None if compat == "none" else compat
        hole = Hole.of(source, mask) if like is None else None
        found = find_exemplars(library, top, painter=pipeline, like=like, tags=options.tag, hole=hole)
        if not found:
            raise DataError(f"the library {options.exemplar_from} has no such picture; pbe library list shows all")
        settings = {name: value for name in (*SETTINGS, *SPEED) if (value := getattr(options, name)) is not None}
        settings |= structure_settings(options, pipeline)
        edits = []
        for one in tqdm(found, desc="painting", unit="exemplar"):
            edits.append(pipeline.edit(source, mask=mask, exemplar=library.exemplar(one.entry), **settings))
        ids = [one.entry.id for one in found]
        ranked = rank(open_search(library), pipeline, [edit.images[0] for edit in edits], ids, mask)
    for place, (number, score) in enumerate(ranked, 1):
        path = numbered(options.output, place)
        made = edits[number].records[0].named(model=model, source=options.source, where=[where])
        images.save_image(edits[number].images[0], path, made.info(path.parent))
        exemplar = made.regions[0].exemplars[0][0].path
        line = {"output": str(path), "score": round(score, 4), "exemplar": exemplar, "seed": made.seed}
        print(json.dumps(line) if options.json else path)


def numbered(path: Path, place: int) -> Path:
    """Where the result of a place goes: out.png, out-2.png, out-3.png."""
    return path if place == 1 else path.with_name(f"{path.stem}-{place}{path.suffix}")
