"""``pbe compare``."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated

import tyro

from ..errors import UserError
from .arguments import UsageError


@dataclass(frozen=True)
class Compare:
    """Lay methods side by side: a picture of their results on the same items, and how far their scores differ."""

    benchmark: Annotated[tyro.conf.Positional[Path], tyro.conf.arg(metavar="BENCHMARK")]
    """Folder with the benchmark."""
    scores: Annotated[tyro.conf.Positional[Path], tyro.conf.arg(metavar="SCORES")]
    """scores.json, from pbe evaluate."""
    against: str | None = None
    """Method that the others are compared with; the first if not given."""
    item: tyro.conf.UseAppendAction[tuple[str, ...]] = ()
    """Name of an item to show. May be given several times; the first --count if not given."""
    count: int = 6
    """Items to show."""
    metric: str | None = None
    """What stands under each result; the first that has values for items if not given."""
    out: Path = Path("compare.png")
    """Picture to write."""
    json: bool = False
    """Print the differences as JSON instead of a table."""


def compare(options: Compare) -> None:
    """Write the picture, print the scores and their differences."""
    from PIL import Image

    from ..evaluation.benchmark import open_benchmark
    from ..evaluation.compare import compare_sheet, differences
    from ..evaluation.result import as_table, describe, read_scores
    from ..images import save_image
    from .edit import check_writable

    if options.count < 1:
        raise UsageError(f"--count must be at least 1, got {options.count}")
    check_writable(options.out)
    scores = read_scores(options.scores)
    if not scores or not scores[0].items:
        raise UserError(f"{options.scores} holds no scores of single items; pbe evaluate run makes some")
    against = options.against or scores[0].method
    apart = differences(scores, against)
    names = options.item or scores[0].names[: options.count]
    metric = options.metric or next(iter(scores[0].items))
    sheet = compare_sheet(scores, open_benchmark(options.benchmark), names, metric)
    save_image(Image.fromarray(sheet), options.out)
    if options.json:
        values = {name: {method: asdict(one) for method, one in row.items()} for name, row in apart.items()}
        print(json.dumps({"output": str(options.out), "against": against, "differences": values}))
        return
    print(as_table(scores))
    print(f"\ndifference from {against}, item by item, and its interval of 95%; * where that leaves out 0")
    for name, row in apart.items():
        digits = describe(name).digits
        for method, one in row.items():
            text = f"{name}  {method}  {one.value:.{digits}f}"
            if one.low is not None and one.high is not None:
                sure = " *" if one.low > 0 or one.high < 0 else ""
                text += f" ({one.low:.{digits}f} to {one.high:.{digits}f}){sure}"
            print(text)
    print(options.out)
