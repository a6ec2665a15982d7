"""What the source says of the place to be painted, for a U-Net that has learned nothing of it.

The paper's model sees of the source what surrounds the hole, and of the hole its outline. Two additions, each trained
by itself beside a frozen U-Net, which without them stays what it was, bit for bit:

    structure   a map of edges, a skeleton or a drawing -> residuals for the U-Net's skips, as in ControlNet
                (Zhang et al., arXiv 2302.05543), but from a small network of its own that does not see the noise, so
                that it runs once an edit
    context     the unedited surroundings -> keys and values for the edited places, in every self-attention, next to
                a token of the source's style

What ends in the U-Net goes through weights or gates that start as zeros.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, cast

import torch
from diffusers import ConfigMixin, ModelMixin, UNet2DConditionModel
from diffusers.configuration_utils import register_to_config
from torch import Tensor, nn
from torch.nn import functional as F

from .attention import transformer_blocks
from .autoencoder import ResidualBlock
from .errors import ModelError

HEADS = 4
EDITED = 0.5  # share of a cell that is repainted, from which on it is an edited place


@dataclass(frozen=True)
class Region:
    """What the edited places of one resolution, of n cells, may look at."""

    tokens: Tensor
    """(B, n + 1, S): every cell of the source, and last the style."""
    visible: Tensor
    """(B, n + 1) bool: the cells that are kept, and the style."""
    edited: Tensor
    """(B, n, 1) in {0, 1}: who looks."""

    def repeated(self, count: int) -> Region:
        """All sources so many times over."""
        return Region(*(x.repeat(count, *[1] * (x.ndim - 1)) for x in (self.tokens, self.visible, self.edited)))


@dataclass(frozen=True)
class SourceHints:
    """What a U-Net is told of B sources, for all steps of an edit."""

    skips: tuple[Tensor, ...] = ()
    """Residuals of the U-Net's skips, from the first on, (B, C, h, w) each; of none where there is no structure."""
    middle: Tensor | None = None
    """Residual of its middle block."""
    regions: dict[int, Region] = field(default_factory=dict)
    """By number of cells."""

    def told(self, structure: Tensor, context: Tensor) -> SourceHints:
        """The same, but of some sources nothing: (B,) in {0, 1} each."""
        flags = structure[:, None, None, None]
        regions = {
            count: Region(region.tokens, region.visible, region.edited * context[:, None, None])
            for count, region in self.regions.items()
        }
        return SourceHints(
            tuple(flags * x for x in self.skips), None if self.middle is None else flags * self.middle, regions
        )

    def options(self, told: Sequence[bool] = (True,)) -> dict[str, Any]:
        """Arguments for the U-Net's call.

        Args:
            told: for a batch of all sources so many times over, whether each time they are told their structure.
        """
        given: dict[str, Any] = {}
        if self.middle is not None and any(told):
            *skips, middle = (torch.cat([x * flag for flag in told]) for x in (*self.skips, self.middle))
            given = {"down_block_additional_residuals": skips, "mid_block_additional_residual": middle}
        if self.regions:
            regions = {count: region.repeated(len(told)) for count, region in self.regions.items()}
            given["cross_attention_kwargs"] = {"regions": regions}
        return given


class Pyramid(nn.Module):
    """A convolutional network with one output for each of a U-Net's resolutions, all of one width.

    Args:
        channels: of its input, which has the latents' size; further ones say where a cell lies.
        width: of its outputs.
        levels: how many.
    """

    def __init__(self, channels: int, width: int, levels: int) -> None:
        super().__init__()
        self.first = nn.Conv2d(channels + 2, width, 3, padding=1)
        self.levels = nn.ModuleList(ResidualBlock(width) for _ in range(levels))
        self.down = nn.ModuleList(nn.Conv2d(width, width, 3, stride=2, padding=1) for _ in range(levels - 1))

    def forward(self, x: Tensor) -> list[Tensor]:
        """(B, C, h, w) to (B, width, h / 2^i, w / 2^i)."""
        places = [torch.linspace(-1, 1, side, device=x.device, dtype=x.dtype) for side in x.shape[-2:]]
        grid = torch.stack(torch.meshgrid(*places, indexing="ij")).expand(len(x), -1, -1, -1)
        x = self.first(torch.cat([x, grid], dim=1))
        outputs = []
        for number, level in enumerate(self.levels):
            if number:
                x = self.down[number - 1](x)
            x = level(x)
            outputs.append(x)
        return outputs


class RegionAttention(nn.Module):
    """Attention of edited places to the source's kept ones, through a gate that starts closed (arXiv 2204.14198).

    Args:
        channels: C, of the U-Net's places.
        width: S, of the source's.
    """

    def __init__(self, channels: int, width: int) -> None:
        super().__init__()
        self.to_q = nn.Linear(channels, width, bias=False)
        self.to_k = nn.Linear(width, width, bias=False)
        self.to_v = nn.Linear(width, width, bias=False)
        self.to_out = nn.Linear(width, channels)
        self.gate = nn.Parameter(torch.zeros(()))

    def forward(self, x: Tensor, region: Region) -> Tensor:
        """What is added to self-attention's result.

        Args:
            x: (B, n, C), normalised.
            region: of these n places.

        Returns:
            (B, n, C), zeros at kept places.
        """
        q, k, v = (
            y.unflatten(-1, (HEADS, -1)).transpose(1, 2)
            for y in (self.to_q(x), self.to_k(region.tokens), self.to_v(region.tokens))
        )
        seen = F.scaled_dot_product_attention(q, k, v, attn_mask=region.visible[:, None, None])
        return cast(Tensor, self.to_out(seen.transpose(1, 2).flatten(2)) * self.gate.tanh() * region.edited)


class RegionProcessor:
    """A processor of diffusers' for self-attention: what was there, and what a `RegionAttention` adds.

    Args:
        attention: of this block; owned by the `SourceEncoder`, so that the U-Net's weights stay what they are.
        plain: the processor that was there.
    """

    def __init__(self, attention: RegionAttention, plain: Any) -> None:
        self.attention, self.plain = attention, plain

    def __call__(
        self,
        attn: Any,
        hidden_states: Tensor,
        encoder_hidden_states: Tensor | None = None,
        attention_mask: Tensor | None = None,
        temb: Tensor | None = None,
        regions: dict[int, Region] | None = None,
    ) -> Tensor:
        """As in diffusers, and with ``regions`` from `SourceHints.options`."""
        result = cast(Tensor, self.plain(attn, hidden_states, encoder_hidden_states, attention_mask, temb))
        region = (regions or {}).get(hidden_states.shape[1])
        return result if region is None else result + self.attention(hidden_states, region)


class SourceEncoder(ModelMixin, ConfigMixin):  # type: ignore[misc]
    """Both additions, for one U-Net; `for_unet` says what fits.

    Args:
        latent_channels: C, of the masked latent.
        latent_factor: pixels of a map to one of the latent, per side.
        skips: channels and level of each of the U-Net's skips, in its order.
        middle: channels of its middle block.
        attention: name and channels of each transformer block.
        structure: whether there is that part.
        context: whether there is that one.
        width: S, of both.
    """

    config_name = "config.json"

    @register_to_config
    def __init__(
        self,
        latent_channels: int,
        latent_factor: int,
        skips: Sequence[tuple[int, int]],
        middle: int,
        attention: Sequence[tuple[str, int]],
        structure: bool = True,
        context: bool = True,
        width: int = 96,
    ) -> None:
        super().__init__()
        levels = 1 + max(level for _, level in skips)
        if structure:
            self.map = Pyramid(latent_factor**2 + 1, width, levels)
            self.to_skips = nn.ModuleList(zero_convolution(width, channels) for channels, _ in skips)
            self.to_middle = zero_convolution(width, middle)
        if context:
            self.surroundings = Pyramid(latent_channels + 1, width, levels)
            self.style = nn.Linear(2 * latent_channels, width)
            self.attentions = nn.ModuleDict(
                {name.replace(".", "-"): RegionAttention(channels, width) for name, channels in attention}
            )

    @classmethod
    def for_unet(
        cls, unet: UNet2DConditionModel, latent_factor: int, parts: Sequence[str], width: int = 96
    ) -> SourceEncoder:
        """One that fits a U-Net and changes nothing yet.

        Args:
            unet: of diffusers' kind.
            latent_factor: see the class.
            parts: of "structure" and "context".
            width: see the class.
        """
        config = unet.config
        channels = list(config.block_out_channels)
        skips = [(channels[0], 0)]
        for level, (block, count) in enumerate(zip(unet.down_blocks, channels, strict=True)):
            skips += [(count, level)] * len(block.resnets)
            if block.downsamplers:
                skips.append((count, level + 1))
        blocks = [(name, int(block.norm1.normalized_shape[0])) for name, block in transformer_blocks(unet)]
        made: SourceEncoder = cls(
            latent_channels=(config.in_channels - 1) // 2,
            latent_factor=latent_factor,
            skips=skips,
            middle=channels[-1],
            attention=blocks,
            structure="structure" in parts,
            context="context" in parts,
            width=width,
        )
        return made

    def learning(self, parts: Sequence[str]) -> list[nn.Module]:
        """The layers of "structure", "context" or both."""
        layers = {"structure": ("map", "to_skips", "to_middle"), "context": ("surroundings", "style", "attentions")}
        return [self.get_submodule(name) for part in parts for name in layers[part]]

    def attach(self, unet: UNet2DConditionModel) -> None:
        """Let a U-Net's self-attention ask this encoder, where a call has ``regions``; it owns none of its weights.

        Raises:
            ModelError: if it was made for another U-Net.
        """
        if not self.config.context:
            return
        blocks = dict(transformer_blocks(unet))
        for name, channels in self.config.attention:
            block = blocks.get(name)
            if block is None or block.norm1.normalized_shape[0] != channels:
                raise ModelError(
                    f"the source encoder was made for another U-Net: {name} is not there or of another width"
                )
            processor = block.attn1.processor
            plain = processor.plain if isinstance(processor, RegionProcessor) else processor
            block.attn1.set_processor(
                RegionProcessor(cast(RegionAttention, self.attentions[name.replace(".", "-")]), plain)
            )

    def forward(
        self,
        z_masked: Tensor,
        mask: Tensor,
        structure: Tensor | None = None,
        context: bool = False,
    ) -> SourceHints:
        """See the source.

        Args:
            z_masked: (B, C, h, w), latent of the source with a grey hole.
            mask: (B, 1, h, w) in [0, 1], 1 = repaint.
            structure: (B, 1, H, W) in [0, 1], a map; None for no structure.
            context: whether the surroundings are to be heeded.

        Returns:
            What the U-Net is told.

        Raises:
            ModelError: for a part that this encoder does not have.
        """
        for name, given in (("structure", structure is not None), ("context", context)):
            if given and not self.config[name]:
                raise ModelError(f"this model has learned no {name}; train it with --add {name}")
        skips: tuple[Tensor, ...] = ()
        middle, regions = None, {}
        if structure is not None:
            cells = F.pixel_unshuffle(structure, self.config.latent_factor)
            seen = self.map(torch.cat([cells, mask], dim=1))
            levels = [level for _, level in self.config.skips]
            skips = tuple(zero(seen[level]) for zero, level in zip(self.to_skips, levels, strict=True))
            middle = self.to_middle(seen[-1])
        if context:
            token = self.style(style_of(z_masked, mask))[:, None]
            for cells in self.surroundings(torch.cat([z_masked, mask], dim=1)):
                tokens = torch.cat([cells.flatten(2).mT, token.to(cells)], dim=1)
                share = F.adaptive_avg_pool2d(mask, cells.shape[-2:]).flatten(1)
                kept = share < EDITED
                visible = torch.cat([kept, torch.ones_like(kept[:, :1])], dim=1)
                regions[kept.shape[1]] = Region(tokens, visible, (~kept).to(cells)[..., None])
        return SourceHints(skips, middle, regions)


def style_of(z_masked: Tensor, mask: Tensor) -> Tensor:
    """Mean and deviation of each channel where the source is kept, which are its style (arXiv 1703.06868, section 3).

    Args:
        z_masked: (B, C, h, w).
        mask: (B, 1, h, w) in [0, 1], 1 = repaint.

    Returns:
        (B, 2 C); zeros of a source that nothing is left of.
    """
    kept = (mask < EDITED).to(z_masked)
    count = kept.sum((2, 3)).clamp_min(1)
    mean = (z_masked * kept).sum((2, 3)) / count
    variance = ((z_masked - mean[..., None, None]).square() * kept).sum((2, 3)) / count
    return torch.cat([mean, (variance + 1e-6).sqrt() * (kept.sum((2, 3)) > 0)], dim=1)


def zero_convolution(channels: int, out: int) -> nn.Conv2d:
    """A 1x1 convolution that starts as zeros (arXiv 2302.05543, section 3.1)."""
    convolution = nn.Conv2d(channels, out, 1)
    nn.init.zeros_(convolution.weight)
    nn.init.zeros_(cast(Tensor, convolution.bias))
    return convolution
