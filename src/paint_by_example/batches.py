"""The data of a run: which examples make up which batch, whoever computes which part of it.

Every draw follows from the seed and the number of the example, so a run that was stopped goes on as if it had not been,
and the number of workers changes nothing.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import replace
from typing import Any, TypeVar

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset
from tqdm import tqdm

from .data.composites import Composites
from .data.dataset import BoxDataset, Examples
from .data.guides import Guided
from .data.latents import CHUNK, Latents, check_made_of, chunk_files, write_chunk
from .data.recipes import RECIPES
from .data.shards import SHARDS, ShardDataset
from .errors import DataError, UserError
from .objective import frozen
from .pipeline import PaintByExamplePipeline
from .processes import Processes, Shares
from .settings import TrainConfig

T = TypeVar("T")


class Steps(Dataset[dict[str, Any]]):
    """The data of a run from a given step on: item i is example i of the run, whatever the number of workers.

    Args:
        data: the examples of an epoch.
        first: example of the run to begin with.
        last: example of the run to end before.
        shuffle: seed of each epoch's order; None where the examples are drawn at random anyway.
    """

    def __init__(self, data: Examples, first: int, last: int, shuffle: int | None = None) -> None:
        self.data, self.first, self.last, self.shuffle = data, first, last, shuffle
        self.shuffled = -1, np.empty(0, np.int64)  # an epoch and its order, made once

    def __len__(self) -> int:
        return max(0, self.last - self.first)

    def __getitem__(self, index: int) -> dict[str, Any]:
        """Example ``first + index`` of the run, see `Examples`."""
        self.data.epoch, position = self.item(self.first + index)
        return self.data[position]

    def item(self, example: int) -> tuple[int, int]:
        """Which epoch an example of the run is of, and which item of the data it is."""
        epoch, position = divmod(example, len(self.data))
        if self.shuffle is not None:
            if self.shuffled[0] != epoch:
                self.shuffled = epoch, np.random.default_rng((self.shuffle, epoch)).permutation(len(self.data))
            position = int(self.shuffled[1][position])
        return epoch, position


def load_steps(config: TrainConfig, first: int, pipeline: PaintByExamplePipeline, processes: Processes) -> Steps:
    """The examples of the run from step ``first`` to its end; latents are computed ahead where that is asked for.

    Raises:
        DataError: if the data cannot be used.
    """
    data = load_examples(config, pipeline, "train")
    shuffle = config.seed if isinstance(data, BoxDataset) else None
    if config.ahead:
        if processes.is_first:
            compute_ahead(config, pipeline, data, shuffle)
        processes.wait()
        data, shuffle = Latents(config.output / "latents", config.ahead), config.seed
    else:
        data = with_guides(config, data)
    return Steps(data, first * config.batch_size, config.steps * config.batch_size, shuffle)


def batches(config: TrainConfig, examples: Steps, processes: Processes) -> Iterator[dict[str, Tensor]]:
    """This process's share of each batch.

    Raises:
        DataError: if the data cannot be used.
    """
    share = processes.share(config.batch_size, config.accumulate)
    shares = Shares(len(examples) // config.batch_size, config.batch_size, share, processes.rank)
    return with_plain_errors(DataLoader(examples, batch_sampler=shares, num_workers=config.workers))


def compute_ahead(config: TrainConfig, pipeline: PaintByExamplePipeline, data: Examples, shuffle: int | None) -> None:
    """Write the latents of the run's first examples, as far as they are not there.

    Raises:
        DataError: if the data cannot be used, or what is there was made of other data.
    """
    folder = config.output / "latents"
    if not any(folder.glob("*.npy")):  # its writing may have been killed, and says nothing about none
        (folder / "made_of.json").unlink(missing_ok=True)
    made_of = {name: str(getattr(config, name)) for name in ("data", "features", "init", "seed")}
    if not config.augment:
        made_of["augment"] = str(config.augment)
    if config.add:
        made_of["add"] = config.add + ("" if config.adds_alone else ", beside all else")
    if not isinstance(data, Composites):  # which no recipe is about
        made_of["recipe"] = config.recipe
    check_made_of(folder, made_of)
    data = with_guides(config, data)
    files = chunk_files(folder, config.ahead)
    missing = [number for number, (path, _) in enumerate(files) if not path.exists()]
    with tqdm(total=sum(files[number][1] for number in missing), desc="latents", unit="picture", mininterval=5) as bar:
        for number in missing:
            path, length = files[number]
            examples = Steps(data, number * CHUNK, number * CHUNK + length, shuffle)
            made: list[dict[str, Tensor]] = []
            for batch in with_plain_errors(DataLoader(examples, config.batch_size, num_workers=config.workers)):
                batch = {name: value.to(pipeline.device) for name, value in batch.items()}
                made.append({name: value.cpu() for name, value in frozen(pipeline, batch).items()})
                bar.update(len(made[-1]["z_0"]))
            write_chunk(path, {name: torch.cat([part[name] for part in made]).numpy() for name in made[0]})


def with_guides(config: TrainConfig, data: Examples) -> Examples:
    """The same examples, with maps of their structure where a run learns from these."""
    return Guided(data, config.seed) if "structure" in config.added else data


def with_plain_errors(batches: Iterable[T]) -> Iterator[T]:
    """The same, but an error of a worker without the traceback that stands in front of its message.

    Raises:
        DataError: as the worker said it.
    """
    try:
        yield from batches
    except UserError as error:
        raise type(error)(str(error).rpartition(f"{type(error).__name__}: ")[2]) from None


def load_examples(config: TrainConfig, pipeline: PaintByExamplePipeline, split: str) -> Examples:
    """The run's data, in the sizes the model takes.

    Args:
        config: the run's.
        pipeline: the model.
        split: train or held_out; an index of pictures and boxes is not split, nor are shards.

    Raises:
        DataError: if they are not there or cannot be used.
    """
    sizes = pipeline.image_size, pipeline.image_encoder.image_size
    place = config.held_out if split == "held_out" and config.held_out is not None else config.data
    if not place.is_dir():
        if config.features is not None:
            raise DataError(f"features are of composites, and {place} is not a folder of them; leave features out")
        recipe = RECIPES[config.recipe]
        if not config.augment:
            recipe = replace(recipe, augment_exemplar=False, arbitrary_share=0.0)
        if place.name == SHARDS:
            return ShardDataset(place, *sizes, seed=config.seed, recipe=recipe)
        return BoxDataset(place, *sizes, seed=config.seed, recipe=recipe)
    features = None
    if config.features is not None and split == "train":
        try:
            features = np.load(config.features, mmap_mode="r")
        except (OSError, ValueError) as error:
            raise DataError(f"cannot read the features {config.features}: {error}") from error
    # where all learns, half of the scenes are as they are for a model that is told nothing
    share = 1.0 if config.adds_alone else 0.5
    light, bent = (share * (part in config.added) for part in ("context", "structure"))
    return Composites(
        place,
        split,
        *sizes,
        seed=config.seed,
        features=features,
        augmented=config.augment,
        light=light,
        bent=bent,
    )


def divide(batch: dict[str, Tensor], pieces: int) -> list[dict[str, Tensor]]:
    """A batch as that many equal ones, in order."""
    split = {name: value.chunk(pieces) for name, value in batch.items()}
    return [{name: values[number] for name, values in split.items()} for number in range(pieces)]
