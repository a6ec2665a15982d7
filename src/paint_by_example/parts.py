"""The model's parts, and what they say of themselves."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from typing import Any, cast

import PIL.Image
import torch
from torch import Tensor

from .calibration import unet_inputs
from .compiled import BackendName, Network, compile_network
from .errors import ModelError
from .fingerprint import fingerprint
from .presets import Preset, find_preset
from .sampling import Scheduler, default_steps
from .source_encoder import SourceEncoder
from .switches import Switches

PACKAGE = __name__.partition(".")[0]

SafetyChecker = Callable[[list[PIL.Image.Image]], Sequence[bool]]
"""Takes pictures, says of each whether it should not be seen."""


class Parts(Switches):
    """A model: its parts, and what they say of themselves.

    Args:
        vae: pictures to latents and back.
        image_encoder: exemplar to condition, see `conditioning`.
        unet: [noisy latent, masked latent, mask] and condition to a prediction.
        scheduler: the noise schedule, and the solver used by default.
        safety_checker: None, or what is asked about every result: a `SafetyChecker`, or Stable Diffusion's module. A
            result that it flags is reported, and left as it is.
        feature_extractor: carries the exemplar's size and normalisation.
        requires_safety_checker: not used.
        source_encoder: None, or a `SourceEncoder`, which tells the U-Net more of the source.
        student_steps: of a distilled model, see `distillation`: the steps it was made for.
    """

    model_cpu_offload_seq = "image_encoder->unet->vae"
    _optional_components = ["safety_checker", "feature_extractor", "source_encoder"]  # noqa: RUF012 - diffusers' name and type
    _networks: tuple[str, dict[str, Network]] = ("", {})
    model_name: str | None = None
    """The path or name that the model was loaded by."""

    def __init__(
        self,
        vae: Any,
        image_encoder: Any,
        unet: Any,
        scheduler: Any,
        safety_checker: Any = None,
        feature_extractor: Any = None,
        requires_safety_checker: bool = False,
        source_encoder: SourceEncoder | None = None,
        student_steps: int | None = None,
    ) -> None:
        super().__init__()
        if "clip_sample" not in scheduler.config:
            # Only DDIM knows the key, and its default is True, but latents have no fixed range. Where the others carry
            # it too, DDIMScheduler.from_config(pipe.scheduler.config) comes out right.
            scheduler.register_to_config(clip_sample=False)
        is_part = isinstance(safety_checker, torch.nn.Module)
        self.register_modules(
            vae=vae,
            image_encoder=image_encoder,
            unet=unet,
            scheduler=scheduler,
            safety_checker=safety_checker if is_part else None,
            feature_extractor=feature_extractor,
            source_encoder=source_encoder,
        )
        if source_encoder is not None:
            source_encoder.attach(unet)
        if not is_part:
            self.safety_checker = safety_checker  # a function is no part that could be saved
        self.register_to_config(requires_safety_checker=requires_safety_checker)
        if student_steps is not None:
            self.register_to_config(student_steps=student_steps)

    def register_to_config(self, **settings: Any) -> None:
        """Note parts and settings for ``model_index.json``.

        Args:
            settings: by name; a part is noted as (library, class).
        """
        for name, value in settings.items():
            # diffusers notes the module a class is defined in; the released checkpoint names the package, and so do we
            if isinstance(value, tuple) and str(value[0]).startswith(f"{PACKAGE}."):
                settings[name] = (PACKAGE, value[1])
        super().register_to_config(**settings)

    @property
    def latent_factor(self) -> int:
        """Pixels of the picture to one of the latent, per side."""
        config = self.vae.config
        return int(config.get("patch_size") or 2 ** (len(config["block_out_channels"]) - 1))

    @property
    def image_size(self) -> int:
        """Side of the square the model paints best, pixels."""
        return int(self.unet.config.sample_size) * self.latent_factor

    @property
    def scale_size(self) -> int | None:
        """Width of the embedding of λ that a distilled U-Net is told; None for one that is guided."""
        size = self.unet.config.get("time_cond_proj_dim")
        return None if size is None else int(size)

    def default_steps(self, solver: Scheduler) -> int:
        """How many steps an edit takes if nobody says."""
        return int(self.config.get("student_steps") or default_steps(solver))

    def preset(self, name: str | None) -> Preset:
        """What a preset sets; a distilled model keeps its own steps, and only who runs it changes.

        Raises:
            UserError: there is none of that name.
        """
        preset = find_preset(name)
        return preset if self.scale_size is None else Preset(backends=preset.backends)

    def null_condition(self) -> Tensor:
        """The condition of no exemplar, (1, 1, D)."""
        vector = self.image_encoder.uncond_vector
        if vector.device.type != "meta":
            return cast(Tensor, vector)
        # Under sequential offload the encoder's parameters are only there while it works.
        side = self.image_encoder.image_size
        with torch.no_grad():
            nothing = torch.zeros(1, 3, side, side, dtype=self.unet.dtype, device=self._execution_device)
            return cast(Tensor, self.image_encoder(nothing, return_uncond_vector=True)[1])

    def fingerprint(self) -> str:
        """A hash of weights and noise schedule, that tells one model from another; see `fingerprint.fingerprint`."""
        schedule = {key: value for key, value in self.scheduler.config.items() if not key.startswith("_")}
        rest = json.dumps(schedule, sort_keys=True, default=str) + type(self.scheduler).__name__
        return fingerprint(self._weights(), rest)

    def _weights(self) -> Iterator[tuple[str, Tensor]]:
        """Names and tensors of all parts that paint, from wherever they are."""
        for part in ("vae", "image_encoder", "unet", "source_encoder"):
            if (module := getattr(self, part, None)) is not None:
                for name, value in sorted(module.state_dict().items()):
                    yield f"{part}.{name}", _offloaded(module, name) if value.device.type == "meta" else value

    def network(self, backend: BackendName, weights: str | None = None) -> Network | None:
        """The U-Net as a backend runs it, kept until its weights change; None for torch, which needs no other.

        Args:
            backend: which.
            weights: the model's fingerprint, where it is known.

        Raises:
            UserError: the backend cannot be used here.
        """
        if backend == "torch":
            return None
        weights = self.fingerprint() if weights is None else weights
        if self._networks[0] != weights:
            self._networks = (weights, {})
        kept = self._networks[1]
        if backend not in kept:
            kept[backend] = compile_network(self.unet, backend, lambda: unet_inputs(self))
        return kept[backend]

    def add_source_encoder(self, parts: Sequence[str], seed: int = 0) -> None:
        """Give the model a `SourceEncoder`, or more of its parts; what is new says nothing yet.

        Args:
            parts: of "structure" and "context".
            seed: of the new weights.
        """
        had = self.source_encoder
        wanted = [part for part in ("structure", "context") if part in parts or (had is not None and had.config[part])]
        with torch.random.fork_rng(devices=[]), torch.no_grad():
            torch.manual_seed(seed)
            made = SourceEncoder.for_unet(self.unet, self.latent_factor, wanted)
        if had is not None:
            made.load_state_dict(had.state_dict(), strict=False)
        self.register_modules(source_encoder=made.to(next(self.unet.parameters()).device).eval())
        made.attach(self.unet)

    def learned_of_source(self) -> SourceEncoder:
        """The part that tells the U-Net more of the source.

        Raises:
            ModelError: the model has none.
        """
        if self.source_encoder is None:
            raise ModelError("this model has learned neither structure nor context; train them with pbe train --add")
        return cast(SourceEncoder, self.source_encoder)

    def check_context(self) -> None:
        """Raise a `ModelError` where the model has not learned to look at a region's surroundings."""
        if not self.learned_of_source().config.context:
            raise ModelError("this model has learned no context; train it with pbe train --add context")


def _offloaded(module: torch.nn.Module, name: str) -> Tensor:
    """A tensor that accelerate's sequential offload keeps outside its module."""
    owner, _, key = name.rpartition(".")
    hook = getattr(module.get_submodule(owner), "_hf_hook", None)
    for single in getattr(hook, "hooks", [hook]):
        weights = getattr(single, "weights_map", None)
        if weights is not None:
            return cast(Tensor, weights[key])
    raise ModelError(f"the weights of {name} are not in memory")
