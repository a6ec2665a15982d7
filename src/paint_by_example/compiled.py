"""A U-Net compiled for the machine it runs on: by OpenVINO (extra ``fast-cpu``) on a CPU, or by torch.

What OpenVINO makes of a network is kept in the user's cache folder, named by the network's weights, the versions of all
that had a part in it and nothing else, so that a second start needs no conversion. A file there that cannot be used is
made again.
"""

from __future__ import annotations

import functools
import hashlib
import importlib.metadata
import importlib.util
import os
import shutil
import sys
import threading
import uuid
import warnings
from collections.abc import Callable, Iterable
from functools import partial
from pathlib import Path
from typing import Any, Literal, TypeAlias, cast, get_args

import torch
from diffusers import UNet2DConditionModel
from diffusers.models.attention_processor import AttnProcessor
from torch import Tensor, nn

from .attention import transformer_blocks
from .errors import UserError
from .int8 import FLOAT, has_nncf, last_block, quantise
from .layout import LayoutUNet

BackendName: TypeAlias = Literal["torch", "compile", "openvino", "openvino-bf16", "openvino-int8"]
BACKENDS: tuple[BackendName, ...] = get_args(BackendName)
Precision: TypeAlias = Literal["f32", "bf16", "int8"]
VERSION = "1"  # of what this file puts into the cache; another one makes everything there anew


Network: TypeAlias = Callable[..., Tensor]
"""``network(x, t, condition)``: (B, C, h, w), 0-d or (B,), (B, 1, D) -> a prediction of the latent's shape; of a
distilled model ``network(x, t, condition, scale)``, with `dial.embed_scale` of λ, (1 or B, W)."""

Calibration: TypeAlias = Callable[[], Iterable[tuple[Tensor, ...]]]
"""Gives what a network is called with in use."""


def has_openvino() -> bool:
    """Whether OpenVINO is installed."""
    return importlib.util.find_spec("openvino") is not None


def import_openvino() -> Any:
    """OpenVINO, without the package by which its converter and NNCF report to their maker that they were used."""
    sys.modules.setdefault("openvino_telemetry", None)  # type: ignore[arg-type]  # None: not to be imported
    import openvino

    return openvino


@functools.cache
def has_bfloat16() -> bool:
    """Whether the processor multiplies in bfloat16 rather than imitate it."""
    try:
        flags = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return False
    return "avx512_bf16" in flags or "amx_bf16" in flags


def choose_backend(wanted: tuple[BackendName, ...], device: torch.device) -> BackendName:
    """The first of some backends that can be used here; torch where none can.

    Args:
        wanted: best first.
        device: that the model is on.
    """
    for name in wanted:
        if name.startswith("openvino") and (device.type != "cpu" or not has_openvino()):
            continue
        if name == "openvino-bf16" and not has_bfloat16():
            continue
        return name
    return "torch"


def compile_network(unet: nn.Module, backend: BackendName, calibration: Calibration | None = None) -> Network:
    """A U-Net as a function.

    Args:
        unet: of diffusers' kind, in evaluation mode.
        backend: who runs it.
        calibration: needed for openvino-int8 where the cache does not have the network.

    Raises:
        UserError: there is no such backend, it is not installed, or the model is not where it can run it.
    """
    if backend not in BACKENDS:
        raise UserError(f"unknown backend {backend!r}; choose one of {', '.join(BACKENDS)}")
    if backend == "torch":
        return partial(predict, unet)
    if backend == "compile":
        return partial(predict, torch.compile(unet))
    if not has_openvino():
        raise UserError(f"the backend {backend} needs the package openvino; install paint-by-example[fast-cpu]")
    if getattr(unet, "peft_config", None):
        raise UserError(f"the backend {backend} takes no switchable LoRA weights; fuse them first: fuse_lora()")
    weight = next(unet.parameters())
    if weight.device.type != "cpu" or weight.dtype != torch.float32:
        raise UserError(
            f"the backend {backend} runs models in float32 on the CPU; this one is {weight.dtype} on {weight.device}"
        )
    precisions: dict[BackendName, Precision] = {"openvino-bf16": "bf16", "openvino-int8": "int8"}
    return OpenVINONetwork(unet, precisions.get(backend, "f32"), calibration=calibration)


def predict(unet: Any, x: Tensor, t: Tensor, condition: Tensor, scale: Tensor | None = None, **hints: Any) -> Tensor:
    """A call of a U-Net as a `Network` is called, and with what else it may be told, see `source_encoder`."""
    told = {} if scale is None else {"timestep_cond": scale}
    return cast(Tensor, unet(x, t, encoder_hidden_states=condition, **told, **hints).sample)


class _Traced(nn.Module):
    """A U-Net as OpenVINO's converter wants it: positional arguments, one output.

    In place of the time step it takes the waves that encode it, and what the first convolution sees in place of the
    sample: phases and places need float32, in bfloat16 a phase near 1000 has steps of 4.

    Args:
        unet: to trace.
        plain: with attention as products and a softmax. OpenVINO's fused kernel gives wrong numbers in bfloat16:
            2026.4 on an AMD EPYC with avx512_bf16 was off by 112% of the deviation, with plain attention by 0.7%.
    """

    def __init__(self, unet: Any, plain: bool) -> None:
        super().__init__()
        self.unet, self.plain = unet, plain

    def forward(self, x: Tensor, waves: Tensor, condition: Tensor) -> Tensor:
        """As `Network`, with `encode_time` of the time step."""
        blocks = [block for _, block in transformer_blocks(self.unet) if self.plain and not block.only_cross_attention]
        before = [block.attn1.processor for block in blocks]
        for block in blocks:
            block.attn1.set_processor(AttnProcessor())
        self.unet.get_time_embed = lambda sample, timestep: timestep
        try:
            # of the class itself: that of `LayoutUNet` prepares the sample first
            forward = UNet2DConditionModel.forward
            return cast(Tensor, forward(self.unet, x, waves, encoder_hidden_states=condition, return_dict=False)[0])
        finally:
            del self.unet.get_time_embed
            for block, processor in zip(blocks, before, strict=True):
                block.attn1.set_processor(processor)


def first_seen(unet: nn.Module, x: Tensor, condition: Tensor) -> Tensor:
    """What a U-Net's first convolution sees."""
    return unet.with_plan(x, condition) if isinstance(unet, LayoutUNet) else x


def encode_time(unet: Any, t: Tensor, scale: Tensor | None = None) -> Tensor:
    """The waves of one time step for all, and of λ where a U-Net is told it: (1 or B, channels) float32."""
    waves = unet.time_proj(t.reshape(-1)[:1]).float()
    return cast(Tensor, waves if scale is None else waves + unet.time_embedding.cond_proj(scale.float()))


class OpenVINONetwork:
    """A U-Net run by OpenVINO, compiled once for every shape it is called with.

    Args:
        unet: float32, on the CPU.
        precision: f32, whose results are torch's to rounding; bf16; or int8, where what is not quantised runs in bf16
            if the processor has it.
        folder: of the cache; the user's by default.
        calibration: for int8, if the cache does not have it.
        unquantised: for int8, patterns of names of operations that stay as they are; those that lose most by default.

    Raises:
        UserError: it has to be quantised and there is nothing to do it with.
    """

    def __init__(
        self,
        unet: nn.Module,
        precision: Precision,
        folder: Path | None = None,
        calibration: Calibration | None = None,
        unquantised: tuple[str, ...] | None = None,
    ) -> None:
        self.unet, self.precision, self.calibration = unet, precision, calibration
        self.unquantised = (*FLOAT, last_block(unet)) if unquantised is None else unquantised
        self.folder = (folder or cache_folder()) / content_key(unet)
        self.path = self.folder / f"unet-{precision}.xml"
        self.compiled: dict[tuple[int, ...], Any] = {}
        self.lock = threading.Lock()
        if precision == "int8" and not self.path.is_file():
            if not has_nncf():
                raise UserError("the backend openvino-int8 needs the package nncf; install paint-by-example[fast-cpu]")
            if calibration is None:
                raise UserError("the backend openvino-int8 needs to see edits first; ask the pipeline for it")

    def __call__(self, x: Tensor, t: Tensor, condition: Tensor, scale: Tensor | None = None) -> Tensor:
        """As `Network`."""
        inputs = self._arrays(x, t, condition, scale)
        shape = (*x.shape, len(inputs[1]))
        with self.lock:  # a compiled network has room for the numbers of one call
            if shape not in self.compiled:
                self.compiled[shape] = self._compile(first_seen(self.unet, x, condition), condition, len(inputs[1]))
            return torch.from_numpy(self.compiled[shape](inputs)[0].copy())

    @torch.no_grad()
    def _arrays(self, x: Tensor, t: Tensor, condition: Tensor, scale: Tensor | None = None) -> list[Any]:
        tensors = first_seen(self.unet, x, condition), encode_time(self.unet, t, scale), condition.detach()
        return [tensor.contiguous().numpy() for tensor in tensors]

    def _compile(self, x: Tensor, condition: Tensor, times: int) -> Any:
        core = import_openvino().Core()
        precision = self.precision
        if precision == "int8":  # of what is not quantised
            precision = "bf16" if has_bfloat16() else "f32"
        settings: dict[str, Any] = {"INFERENCE_PRECISION_HINT": precision, "PERFORMANCE_HINT": "LATENCY"}
        settings["INFERENCE_NUM_THREADS"] = torch.get_num_threads()
        settings["CACHE_DIR"] = str(self.folder / "compiled")
        shapes = [list(x.shape), [times, -1], list(condition.shape)]

        def load() -> Any:
            model = core.read_model(self._converted(x, condition))
            model.reshape(dict(zip(model.inputs, shapes, strict=True)))
            return core.compile_model(model, "CPU", settings)

        try:
            return load()
        except RuntimeError:  # a damaged file in the cache
            shutil.rmtree(self.folder, ignore_errors=True)
            return load()

    def _converted(self, x: Tensor, condition: Tensor) -> Path:
        """The network in OpenVINO's format; converted where it is not in the cache."""
        openvino = import_openvino()
        if self.path.is_file():
            return self.path
        example = (x, encode_time(self.unet, torch.tensor([500])), condition)
        with torch.no_grad(), warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of the tracer, about comparisons of shapes
            model = openvino.convert_model(_Traced(self.unet, self.precision != "f32").eval(), example_input=example)
        if self.precision == "int8":
            assert self.calibration is not None  # as the constructor saw to, unless the cache was lost since
            seen = [self._arrays(*one) for one in self.calibration()]
            model = quantise(model, seen, self.unquantised)
        # Under another name first: what has its name is whole.
        self.folder.mkdir(parents=True, exist_ok=True)
        beside = self.folder / f"{uuid.uuid4().hex}.xml"
        openvino.save_model(model, beside, compress_to_fp16=False)
        beside.with_suffix(".bin").replace(self.path.with_suffix(".bin"))
        beside.replace(self.path)
        return self.path


def content_key(unet: nn.Module) -> str:
    """A name for what a network converts to: its class, its weights bit for bit, and the converters' versions."""
    digest = hashlib.blake2b(digest_size=16)
    versions = [VERSION, *(importlib.metadata.version(name) for name in ("openvino", "torch", "diffusers"))]
    digest.update(f"{type(unet).__name__} {getattr(unet, 'config', None)} {versions}".encode())
    for name, tensor in sorted(unet.state_dict().items()):
        digest.update(f"{name} {tuple(tensor.shape)} {tensor.dtype}".encode())
        digest.update(tensor.detach().contiguous().view(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()


def cache_folder() -> Path:
    """Where compiled networks are kept: as the platform has it, or ``PBE_CACHE``."""
    if given := os.environ.get("PBE_CACHE"):
        return Path(given)
    if sys.platform == "win32":
        home = Path(os.environ.get("LOCALAPPDATA") or Path.home() / "AppData" / "Local")
    elif sys.platform == "darwin":
        home = Path.home() / "Library" / "Caches"
    else:
        home = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    return home / "paint-by-example"
