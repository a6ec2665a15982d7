"""Files of weights, models' folders and training checkpoints."""

import io
import json
import os
import pickle
import shutil
import struct
from pathlib import Path
from random import Random
from typing import Any

import torch

from paint_by_example.pipeline import describe, load_pipeline
from paint_by_example.state import NEEDED, load_checkpoint
from paint_by_example.weights import read_metadata, read_tensors
from tests import tiny
from tests.fuzz import damage


class Hostile:
    """Asks whoever reads it to run something."""

    def __init__(self, rng: Random) -> None:
        self.call = rng.choice(
            (
                (os.system, ("touch outside",)),
                (eval, ("open('outside', 'w')",)),
                (open, ("outside", "w")),
                (torch.load, ("outside",)),
                (shutil.rmtree, ("outside",)),
                (exec, ("open('outside', 'w')",)),
            )
        )

    def __reduce__(self) -> Any:
        return self.call


def saved(content: Any, zipped: bool = True) -> bytes:
    file = io.BytesIO()
    torch.save(content, file, _use_new_zipfile_serialization=zipped)
    return file.getvalue()


def safetensors(rng: Random) -> bytes:
    """A file whose header says something else than what is there."""
    header: Any = {
        "__metadata__": {"format": "pt"},
        "a": {"dtype": "F32", "shape": [2, 3], "data_offsets": [0, 24]},
        "b": {"dtype": "I64", "shape": [1], "data_offsets": [24, 32]},
    }
    text = damage.text(rng, header) if rng.random() < 0.9 else json.dumps(header).encode()
    length = len(text) if rng.random() < 0.8 else rng.choice((0, 1, 2**31, 2**63, 2**64 - 1))
    return struct.pack("<Q", length) + text + bytes(rng.choice((0, 31, 32, 40)))


class Weights:
    """Single files: safetensors, ``torch.save`` with and without zip, and LDM files of whole models."""

    cases = 2200

    def __init__(self, folder: Path) -> None:
        tensors = {"a": torch.rand(2, 3), "b": torch.arange(4), "c": torch.rand(5).half()}
        self.small = [saved(tensors), saved(tensors, False), saved({"state_dict": tensors, "epoch": 3})]
        self.small += [saved([1, 2]), pickle.dumps({"a": 1}), b"", b"{}", b"\0" * 64]
        names = ("unet.conv_in.weight", "model.diffusion_model.input_blocks.0.0.weight", "first_stage_model.x")
        self.small.append(saved({name: torch.rand(4, 9, 3, 3) for name in names}))

    def attempt(self, rng: Random, folder: Path) -> None:
        kind = rng.random()
        if kind < 0.4:
            content = safetensors(rng)
        elif kind < 0.5:
            content = saved({"state_dict": {"a": torch.rand(2)}, "x": Hostile(rng)}, rng.random() < 0.5)
            content = damage.damaged(rng, content) if rng.random() < 0.5 else content
        else:
            content = damage.damaged(rng, rng.choice(self.small))
        path = folder / rng.choice(("model.safetensors", "model.ckpt", "\x1b[31m.bin"))
        path.write_bytes(content)
        read_metadata(path)
        (read_tensors if rng.random() < 0.6 else describe)(path)


class Ldm:
    """A whole model in one file, with tensors renamed, reshaped, left out or of other types."""

    cases = 60

    def __init__(self, folder: Path) -> None:
        from paint_by_example.conversion import convert

        tiny.sd_pipeline().save_pretrained(folder / "sd")
        convert(folder / "sd", folder / "sd.safetensors")
        self.tensors = read_tensors(folder / "sd.safetensors")

    def attempt(self, rng: Random, folder: Path) -> None:
        tensors = dict(self.tensors)
        for name in rng.sample(list(tensors), rng.choice((1, 2, 50))):
            tensor = tensors.pop(name)
            kind = rng.randrange(6)
            if kind == 0:
                tensors[name + rng.choice((".x", ".weight", "\x1b[31m"))] = tensor
            elif kind == 1:
                tensors[name] = tensor.flatten()
            elif kind == 2:
                tensors[name] = torch.zeros(rng.choice(((), (0,), (1, 1), (3, 5, 7), (2**20, 0))))
            elif kind == 3:
                tensors[name] = torch.full_like(tensor, rng.choice((float("nan"), float("inf"))))
            elif kind == 4:
                tensors[name] = tensor.to(rng.choice((torch.int8, torch.float64, torch.bfloat16)))
        if rng.random() < 0.2:
            tensors["scale_factor"] = torch.full(rng.choice(((), (1,), (2,), (0,))), rng.choice((0.0, float("nan"))))
        torch.save(tensors, folder / "model.ckpt")
        (load_pipeline if rng.random() < 0.3 else describe)(folder / "model.ckpt")


class Folders:
    """Models' folders whose configurations or weights are changed, or lead out of the folder."""

    cases = 200

    def __init__(self, folder: Path) -> None:
        self.models = []
        for family, build in tiny.PIPELINES.items():
            build().save_pretrained(folder / family)
            self.models.append(folder / family)

    def attempt(self, rng: Random, folder: Path) -> None:
        model = rng.choice(self.models)
        copy = folder / "model"
        shutil.copytree(model, copy, copy_function=os.link)
        path = rng.choice([one for one in sorted(copy.rglob("*")) if one.is_file()])
        content = path.read_bytes()
        path.unlink()
        kind = rng.random()
        if path.suffix == ".json":
            path.write_bytes(damage.text(rng, json.loads(content)))
        elif kind < 0.5:  # in parts, which are listed in a file
            shown = {"weight_map": dict.fromkeys(("a", "b"), rng.choice((*damage.LEADING_OUT, *damage.NAMES)))}
            listed = json.dumps(shown) if rng.random() < 0.7 else damage.text(rng, shown).decode("utf-8", "replace")
            path.with_name(f"{path.name}.index.json").write_text(listed, encoding="utf-8", errors="replace")
        elif kind < 0.9:
            path.write_bytes(damage.damaged(rng, content))
        (load_pipeline if rng.random() < 0.3 else describe)(copy)


class Checkpoints:
    """A training run's checkpoints, which are read when the run goes on."""

    cases = 400

    def __init__(self, folder: Path) -> None:
        state: dict[str, Any] = {key: {"w": torch.rand(20)} for key in NEEDED}
        self.whole = saved(state | {"step": 3, "average_updates": 3})

    def attempt(self, rng: Random, folder: Path) -> None:
        (folder / "checkpoints").mkdir()
        for step in range(1, rng.choice((2, 3))):
            content = saved(Hostile(rng)) if rng.random() < 0.1 else damage.damaged(rng, self.whole)
            (folder / "checkpoints" / f"step-{step:07d}.pt").write_bytes(content)
        load_checkpoint(folder)
