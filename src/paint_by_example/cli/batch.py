"""``pbe batch``."""

from __future__ import annotations

import dataclasses
import json
import sys
from typing import Any

from ..errors import UserError


def batch_options() -> type:
    """What a batch is told is declared where it is made; one option more is the command's."""
    from ..batch.settings import BatchConfig

    @dataclasses.dataclass(frozen=True)
    class Batch(BatchConfig):
        json: bool = False
        """Print one JSON object."""

    Batch.__doc__ = BatchConfig.__doc__
    return Batch


def batch(options: Any) -> None:
    """Make the edits, print how many; ends with an error if a row failed."""
    from tqdm import tqdm

    from ..batch import BatchConfig, run_batch

    names = [each.name for each in dataclasses.fields(BatchConfig)]
    config = BatchConfig(**{name: getattr(options, name) for name in names})  # of a class other processes know
    with tqdm(desc="batch", unit="row", total=None) as bar:

        def show(done: int, total: int) -> None:
            bar.total = total
            bar.update(done - bar.n)

        try:
            outcome = run_batch(config, show)
        except KeyboardInterrupt:
            bar.close()
            print("pbe: stopped; run the same command again to go on", file=sys.stderr)
            raise
    if options.json:
        print(json.dumps(dataclasses.asdict(outcome)))
    else:
        print(f"made    {outcome.made:,}\nkept    {outcome.kept:,}\nfailed  {outcome.failed:,}")
    if outcome.failed:
        raise UserError(f"{outcome.failed:,} rows failed; {config.output / 'failed.jsonl'} says why")
