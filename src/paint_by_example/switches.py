"""What can be switched on a loaded pipeline: memory against time, LoRA weights on top of the U-Net's, a ControlNet."""

from __future__ import annotations

import os
import textwrap
from collections.abc import Callable, Mapping
from typing import Any

import torch
from diffusers import DiffusionPipeline
from diffusers.loaders import StableDiffusionLoraLoaderMixin
from diffusers.loaders.lora_base import LoraBaseMixin
from torch import Tensor

from .controlnet import Control, load_control
from .errors import ModelError, UserError


class Switches(DiffusionPipeline, LoraBaseMixin):  # type: ignore[misc]
    """The part of a pipeline that holds these switches.

    What comes from the two parents is diffusers' own, ``enable_attention_slicing``, ``unload_lora_weights``,
    ``set_adapters``, ``fuse_lora`` and ``delete_adapters`` among the rest.
    """

    _lora_loadable_modules = ["unet"]  # noqa: RUF012 - diffusers' name and type
    unet_name = "unet"
    controlnet: Control | None = None
    """What is told the structure of the source, beside the U-Net."""

    # --- memory -------------------------------------------------------------------------------------------------------

    def enable_model_cpu_offload(self, gpu_id: int | None = None, device: torch.device | str | None = None) -> None:
        """Keep the parts in main memory, and each on the GPU only while it works.

        Args:
            gpu_id: which GPU; the first by default.
            device: or which device; the GPU there is by default.

        Raises:
            UserError: accelerate is not installed, or there is no such device.
        """
        self._offload(super().enable_model_cpu_offload, gpu_id, device)

    def enable_sequential_cpu_offload(
        self, gpu_id: int | None = None, device: torch.device | str | None = None
    ) -> None:
        """Keep every layer in main memory, and each on the GPU only while it works: least memory, and slow.

        Args:
            gpu_id: which GPU; the first by default.
            device: or which device; the GPU there is by default.

        Raises:
            UserError: accelerate is not installed, or there is no such device.
        """
        self._offload(super().enable_sequential_cpu_offload, gpu_id, device)

    def _offload(self, enable: Callable[..., None], gpu_id: int | None, device: torch.device | str | None) -> None:
        try:
            enable(gpu_id=gpu_id, device=device)
        except ImportError as error:
            raise UserError(
                f"{enable.__name__} needs the package accelerate; install it, or paint-by-example[offload]"
            ) from error
        except (RuntimeError, ValueError, AssertionError) as error:  # the last: torch built without CUDA
            reason = textwrap.shorten(f"{error}", 200, placeholder=" ...")
            raise UserError(f"{enable.__name__} is not possible here: {reason}") from error

    def enable_vae_slicing(self) -> None:
        """Encode and decode one picture of a batch after another.

        Raises:
            UserError: the autoencoder cannot.
        """
        self._switch_vae("enable_slicing")

    def disable_vae_slicing(self) -> None:
        """Encode and decode batches at once again."""
        self._switch_vae("disable_slicing")

    def enable_vae_tiling(self) -> None:
        """Encode and decode large pictures in overlapping tiles; the seams are blended, so the result is not the same.

        Raises:
            UserError: the autoencoder cannot.
        """
        self._switch_vae("enable_tiling")

    def disable_vae_tiling(self) -> None:
        """Encode and decode pictures whole again."""
        self._switch_vae("disable_tiling")

    def _switch_vae(self, name: str) -> None:
        switch = getattr(self.vae, name, None)
        if switch is None:
            raise UserError(f"this model's {type(self.vae).__name__} has no {name}, and is small enough to need none")
        switch()

    # --- networks of others -------------------------------------------------------------------------------------------

    def load_controlnet(self, pretrained_model_name_or_path: str | os.PathLike[str]) -> None:
        """Put a ControlNet or T2I-Adapter for Stable Diffusion 1.x beside the U-Net, to be told an edit's structure.

        Args:
            pretrained_model_name_or_path: a folder in diffusers' layout, or a name on the hub.

        Raises:
            ModelError: it cannot be loaded, is neither, or was made for another U-Net.
        """
        config = self.vae.config
        factor = int(config.get("patch_size") or 2 ** (len(config["block_out_channels"]) - 1))
        self.controlnet = load_control(pretrained_model_name_or_path, self.unet, factor)

    def unload_controlnet(self) -> None:
        """Take it away again."""
        self.controlnet = None

    # --- LoRA ---------------------------------------------------------------------------------------------------------

    def load_lora_weights(
        self,
        pretrained_model_name_or_path_or_dict: str | os.PathLike[str] | Mapping[str, Tensor],
        adapter_name: str | None = None,
        **options: Any,
    ) -> None:
        """Add low-rank weights to the U-Net's (arXiv 2106.09685), in diffusers' format or kohya's.

        Of weights made for Stable Diffusion the U-Net's are taken. Those of a text encoder, which there is none of
        here, are left out, and those in front of attention to one token (its queries and keys) change nothing.

        Args:
            pretrained_model_name_or_path_or_dict: a folder, a file, a name on the hub, or tensors by name.
            adapter_name: what to call it, for ``set_adapters``.
            options: as for diffusers' method of the same name: ``weight_name``, ``subfolder``, ``revision``, ...

        Raises:
            UserError: peft is not installed.
            ModelError: there are no such weights, or they do not fit this U-Net.
        """
        given = pretrained_model_name_or_path_or_dict
        tensors: Any = dict(given) if isinstance(given, Mapping) else os.fspath(given)
        name = "the given LoRA weights" if isinstance(given, Mapping) else f"the LoRA weights {os.fspath(given)}"
        try:
            import peft  # noqa: F401
        except ImportError as error:
            raise UserError("LoRA weights need the package peft; install it, or paint-by-example[lora]") from error
        try:
            state, alphas, metadata = StableDiffusionLoraLoaderMixin.lora_state_dict(
                tensors, unet_config=self.unet.config, return_lora_metadata=True, **options
            )
            if not any(key.startswith("unet.") for key in state):
                raise ModelError(f"{name} hold none for a U-Net")
            StableDiffusionLoraLoaderMixin.load_lora_into_unet(
                state, alphas, self.unet, adapter_name=adapter_name, metadata=metadata, _pipeline=self
            )
        except UserError:
            raise
        except Exception as error:  # diffusers, peft and safetensors raise kinds of their own
            reason = textwrap.shorten(f"{error}", 300, placeholder=" ...") or type(error).__name__
            raise ModelError(f"cannot load {name}: {reason}") from error
