"""Edits by the thousand: a table becomes a folder of results.

    output/results/3f/3f2a...png    a result with its record; named after what it was made of
    output/manifest.jsonl           row, id, result, seed, settings, seconds; a line a row that succeeded
    output/failed.jsonl             row and reason; a line a row that did not
    output/.work/                   files being written; whatever a killed process left there is removed

A row's id is a hash of its pictures' content, its settings and the model. A result whose file is there is not made
again, and it comes to its name only once it is whole and on the disk.
"""

from .run import run_batch
from .settings import BatchConfig, Outcome

__all__ = ["BatchConfig", "Outcome", "run_batch"]
