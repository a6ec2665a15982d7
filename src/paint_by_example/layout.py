"""The embedded model's U-Net: Stable Diffusion's in small, with a place in it for what lies where in the exemplar.

A constant added in every block, which is all that attention to one token can give, says what to paint but not where: at
the size of the embedded model the network then learns colours long before it learns shapes. So one fully connected
layer, fitted and then fixed, decodes the same token into a coarse map, laid into the hole and handed to the first
convolution. The exemplar still enters as one vector and nothing else. docs/log.md has the figures of what was tried.
"""

from __future__ import annotations

import functools
from typing import Any, cast

import torch
from diffusers import UNet2DConditionModel
from torch import Tensor, nn
from torch.nn import functional as F

from .alignment import Lines
from .attention import collapse_cross_attention, dead_parameters
from .autoencoder import PatchAutoencoder
from .errors import ModelError
from .harmonise import fill
from .images import image_tensor, tensor_image
from .sampling import Scheduler, move_clean, predict_clean, scales

LAYOUT_SIZE = 10  # cells along a side of the map, which covers the square around the hole
CELL = 8  # pixels to a cell of the latents, per side
COARSE = 16  # of the latents' channels, the first of which say most, those that the map has
TEMPERATURE = 0.3  # see `calm_beside`
LIGHT = 0.08  # of the exemplar's light, where the U-Net is told the context, see `draw_to_layout`
BETWEEN = (0.05, 0.75)  # see `continue_beside`; docs/log.md has the figures
REMEMBERED = 32  # maps in their places that a U-Net keeps
PARTS = 2  # places in each row and column of a cell for which the map says how much the object fills


class LayoutUNet(UNet2DConditionModel):  # type: ignore[misc]
    """A U-Net that sees its one token twice: as a constant in every block, and as a map within the hole.

    It takes what `UNet2DConditionModel` takes, and is called as that one is. Parts of its attention that one token
    makes pointless (`attention.dead_parameters`) do not exist.
    """

    # wraps: diffusers reads a configuration's keys off the signature
    @functools.wraps(UNet2DConditionModel.__init__)  # type: ignore[misc]
    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        first: Any = self.get_submodule("conv_in")
        latents = int(self.config.out_channels)
        coarse = min(COARSE, latents)
        channels = coarse + PARTS**2
        self.conv_in = nn.Conv2d(
            first.in_channels + latents + PARTS**2, first.out_channels, first.kernel_size, padding=first.padding
        )
        self.layout = nn.Linear(self.config.cross_attention_dim, channels * LAYOUT_SIZE**2).requires_grad_(False)
        for name in ("to_latents", "to_pixels"):
            self.register_buffer(f"{name}_weight", torch.zeros(latents, 3, CELL, CELL))
        self.register_buffer("to_latents_bias", torch.zeros(latents))
        self.register_buffer("to_pixels_bias", torch.zeros(3))
        for name in sorted({name.rpartition(".")[0] for name in dead_parameters(self)}):
            self.set_submodule(name, nn.Identity())
        collapse_cross_attention(self)
        self.recently_laid: list[tuple[Any, Tensor, Tensor, tuple[Tensor, Tensor]]] = []

    @torch.no_grad()
    def take_latents_of(self, vae: PatchAutoencoder) -> None:
        """Let the map be in an autoencoder's latents."""
        for name, layer in (("to_latents", vae.components), ("to_pixels", vae.inverse)):
            for kind, tensor in layer.state_dict().items():
                self.get_buffer(f"{name}_{kind}").copy_(tensor)

    def plan(self, condition: Tensor) -> Tensor:
        """The map that a token, (B, 1, D), is decoded into, a `thumbnail`: (B, c + 4, n, n), c the coarse channels."""
        plan = self.layout(condition[:, 0])
        return cast(Tensor, plan.unflatten(1, (-1, LAYOUT_SIZE, LAYOUT_SIZE)))

    def forward(
        self,
        sample: Tensor,
        timestep: Tensor | float,
        encoder_hidden_states: Tensor,
        *args: Any,
        lines: Lines | None = None,
        **options: Any,
    ) -> Any:
        """Predict.

        Args:
            sample: (B, C, h, w): noisy latent, masked latent, and last the mask, where 1 is kept.
            timestep: (B,) or one for all.
            encoder_hidden_states: the condition, (B, 1, D).
            args: as in diffusers.
            lines: see `lay`.
            options: as in diffusers.

        Returns:
            As in diffusers: ``.sample``, (B, out_channels, h, w).

        Raises:
            ModelError: for a condition of several tokens.
        """
        sample = self.with_plan(sample, encoder_hidden_states, lines)
        return super().forward(sample, timestep, encoder_hidden_states, *args, **options)

    def with_plan(self, sample: Tensor, condition: Tensor, lines: Lines | None = None) -> Tensor:
        """What the first convolution sees: (B, C', h, w) and (B, 1, D) to (B, C' + C + 4, h, w); lines as for `lay`.

        The map is laid into the hole as pixels, since latents of patches cannot be moved by a part of a patch.

        Raises:
            ModelError: for a condition of several tokens.
        """
        if condition.shape[1] != 1:
            raise ModelError(f"this U-Net takes a condition of one token, not of {condition.shape[1]}")
        _, cells = self.lay_once(condition, 1 - sample[:, -1:], lines)
        return torch.cat([sample, cells.to(sample)], dim=1)

    def lay(self, condition: Tensor, mask: Tensor, lines: Lines | None = None) -> Tensor:
        """The map, in its place.

        Args:
            condition: (B, 1, D).
            mask: (B, 1, h, w) in [0, 1], the share of each cell that is repainted.
            lines: of the pictures, of which B may hold several times as many: the map's place is theirs. By default it
                is the square around the hole.

        Returns:
            (B, 4, 8 h, 8 w) float32: the object's colours, multiplied by its alpha, and alpha in [0, 1].
        """
        plan = self.plan(condition).float()
        latents, there = plan[:, : -(PARTS**2)], plan[:, -(PARTS**2) :]
        inverse = self._pattern("to_pixels")[: latents.shape[1]]
        picture = F.conv_transpose2d(latents, inverse, self._pattern("to_pixels", "bias"), stride=CELL)
        alpha = F.interpolate((F.pixel_shuffle(there, PARTS) + 1) / 2, picture.shape[-2:], mode="bilinear")
        picture = torch.cat([picture, alpha], dim=1)
        laid = lay_into_hole(picture, mask, CELL)
        if lines is None:
            return laid
        return lay_into_hole(picture, mask, CELL, lines.places(condition, laid))

    def lay_once(self, condition: Tensor, mask: Tensor, lines: Lines | None = None) -> tuple[Tensor, Tensor]:
        """The map in its place, as pixels and as latents; without gradients what was asked for lately is kept.

        All steps of an edit ask for the same, and several edits may take turns.

        Args:
            condition: (B, 1, D).
            mask: (B, 1, h, w) in [0, 1], the share of each cell that is repainted.
            lines: see `lay`.

        Returns:
            From `lay`, each cell's patch in its place, (B, 4 64, h, w); and its colours in latents and how much each
            part of a cell is filled, (B, C + 4, h, w).
        """
        learning = torch.is_grad_enabled() or torch.compiler.is_compiling()
        asked = [(id(x), 0 if x.is_inference() else x._version) for x in self.layout.parameters()], lines
        if not learning:
            for one in self.recently_laid:
                if one[0] == asked and same(one[1], condition) and same(one[2], mask):
                    return one[3]
        laid = self.lay(condition, mask, lines)
        cells = F.conv2d(laid[:, :3], self._pattern("to_latents"), self._pattern("to_latents", "bias"), stride=CELL)
        filled = F.pixel_unshuffle(F.avg_pool2d(laid[:, 3:], CELL // PARTS), PARTS) * 2 - 1
        made = F.pixel_unshuffle(laid, CELL), torch.cat([cells, filled], dim=1)
        if not learning:
            new = asked, condition.clone(), mask.clone(), made  # whatever becomes of the tensors given
            self.recently_laid = [new, *self.recently_laid[: REMEMBERED - 1]]  # anew: another thread may be looking
        return made

    def change_to_show(self, z_0: Tensor, laid: Tensor, light: bool = True) -> Tensor:
        """What a picture lacks to show the map where the object is.

        Args:
            z_0: latents, (B, C, h, w).
            laid: from `lay_once`, (B, 4 64, h, w).
            light: whether in its light too; otherwise of the mean colour of what is lacking only `LIGHT` is kept.

        Returns:
            The difference, times alpha, (B, C, h, w) float32.
        """
        # A cell is a patch of pixels, so that both convolutions are products: (B, 3, 64, h, w) throughout.
        inverse, bias = self._pattern("to_pixels"), self._pattern("to_pixels", "bias")
        patches = laid.unflatten(1, (4, -1))
        colours, alpha = patches[:, :3], patches[:, 3:].clamp(0, 1)
        picture = torch.einsum("bl...,lcp->bcp...", z_0.float(), inverse.flatten(2)) + bias.view(-1, 1, 1, 1)
        # times alpha: beside the object the map is not quite empty, and what guidance makes of that is seen
        lacking = alpha * (colours - alpha * picture)
        if not light:
            shares = alpha.square()
            total = shares.sum((2, 3, 4), keepdim=True).clamp_min(1e-3)
            lacking = lacking - (1 - LIGHT) * shares * lacking.sum((2, 3, 4), keepdim=True) / total
        return torch.einsum("bcp...,lcp->bl...", lacking, self._pattern("to_latents").flatten(2))

    def _pattern(self, name: str, kind: str = "weight") -> Tensor:
        return cast(Tensor, self.get_buffer(f"{name}_{kind}").float())


def draw_to_layout(
    prediction: Tensor,
    unet: Any,
    sample: Tensor,
    t: Tensor,
    condition: Tensor,
    scheduler: Scheduler,
    scale: float | Tensor,
    light: bool = True,
    lines: Lines | None = None,
    last: int | None = None,
) -> Tensor:
    """Draw what a `LayoutUNet` predicts to the map of its token, the more the noisier the latent is.

    Where the object is, the predicted picture changes by λ σ_t times what it lacks to show the map: reconstruction
    guidance (arXiv 2204.03458, section 3.1) by a picture that the token alone gives. The null token's map shows
    nothing, so below λ = 1, where guidance multiplies by λ itself (`own_guidance`), it is σ_t here. Beyond what is
    lacking goes only what a later prediction can take back, so at the last level λ σ_t is at most 1. The U-Net learns
    without all this.

    Args:
        prediction: of the U-Net, (B, C, h, w); another U-Net's stays as it is.
        unet: whose prediction.
        sample: what it was asked, (B, C', h, w).
        t: (B,) or one for all.
        condition: (B, 1, D).
        scheduler: gives σ_t and the kind of prediction.
        scale: λ, one for all pictures or one each, (B,), of which ``prediction`` may hold several.
        light: whether to all of the light of the exemplar's picture, or to a little of it; a U-Net that is told the
            source's context says itself in what light the object stands.
        lines: that the map is laid by, see `LayoutUNet.lay`.
        last: the time step of the last level, where it is known.

    Returns:
        (B, C, h, w).

    Raises:
        ModelError: the scheduler's prediction type is unknown.
    """
    if not isinstance(unet, LayoutUNet):
        return prediction
    z_t, mask = sample[:, : prediction.shape[1]], 1 - sample[:, -1:]
    z_0 = predict_clean(z_t, prediction, t, scheduler)
    pull = torch.as_tensor(scale, dtype=torch.float32, device=mask.device).reshape(-1, 1, 1, 1).clamp(min=1)
    pull = pull.repeat(len(mask) // len(pull), 1, 1, 1)
    if last is not None:
        _, sigma = scales(t, scheduler, pull)
        pull = torch.where((t == last).view(-1, 1, 1, 1).to(pull.device), pull.minimum(1 / sigma), pull)
    change = pull * mask * unet.change_to_show(z_0, unet.lay_once(condition, mask, lines)[0], light)
    return move_clean(prediction, change.to(prediction), t, scheduler)


def own_guidance(scale: float | Tensor, unet: Any) -> float | Tensor:
    """Of λ what guidance multiplies the network's own predictions by: of a `LayoutUNet`'s at most 1.

    Of log p(y|c) + (λ - 1) log p(c|y) (Paint by Example, section on similarity control) guidance takes the last term
    from the difference of two predictions. Of a network as small that is coarse, and likeness falls with it; here
    `draw_to_layout` takes it from the map of c, and above λ = 1 a step asks the network once.

    Args:
        scale: λ, one for all pictures or one each, (B,).
        unet: whose predictions are guided; for another U-Net λ stays as it is.
    """
    if not isinstance(unet, LayoutUNet):
        return scale
    return scale.clamp(max=1) if isinstance(scale, Tensor) else min(scale, 1.0)


def calm_beside(noise: Tensor, unet: Any, condition: Tensor, mask: Tensor, lines: Lines | None = None) -> Tensor:
    """Noise to start from, `TEMPERATURE` times as strong where a `LayoutUNet`'s map has no object.

    From weaker noise come more probable pictures (temperature: arXiv 1807.03039, section 6). The object's details are
    guided and drawn; of what lies around it a small network paints the probable and blotches the rest.

    Args:
        noise: (B, C, h, w).
        unet: whose map; for another U-Net the noise stays as it is.
        condition: (B, 1, D), or (1, 1, D) for all.
        mask: (B, 1, h, w) in [0, 1], the share of each cell that is repainted.
        lines: that the map is laid by, see `LayoutUNet.lay`.

    Returns:
        (B, C, h, w).
    """
    if not isinstance(unet, LayoutUNet):
        return noise
    return noise * (TEMPERATURE + (1 - TEMPERATURE) * object_share(unet, condition, mask, lines)).to(noise)


def continue_beside(
    picture: Tensor,
    unet: Any,
    source: Tensor,
    mask: Tensor,
    cells: Tensor,
    condition: Tensor,
    share: float = 1.0,
    lines: Lines | None = None,
) -> Tensor:
    """Let the surroundings go on, where a `LayoutUNet`'s map has no object.

    A network as small paints surroundings that are blurred and do not meet the hole's edge. So beside the object a
    result shows what `fill` continues, or between lines `fill_between`. An alpha of the map below the first of
    `BETWEEN` is beside it, above the second on it.

    Args:
        picture: as painted, (B, 3, H, W) in about [-1, 1].
        unet: whose map; with another U-Net the picture stays as it is.
        source: (B, 3, H, W) in [-1, 1].
        mask: (B, 1, H, W) in {0, 1}.
        cells: the same as the map is laid by, (B, 1, h, w) in [0, 1]: the share of each cell that is repainted.
        condition: (B, 1, D), or (1, 1, D) for all.
        share: of what is continued; the rest is as painted.
        lines: of the source, that the map is laid by.

    Returns:
        (B, 3, H, W), the same outside the mask; where that covers everything, there is nothing to continue.
    """
    if not isinstance(unet, LayoutUNet):
        return picture
    alpha = unet.lay(condition.expand(len(picture), -1, -1), cells, lines)[:, 3:]
    first, last = BETWEEN
    beside = share * mask.to(picture) * ((last - alpha) / (last - first)).clamp(0, 1).to(picture)
    holes = mask[:, 0].bool().cpu().numpy()
    filled = lines.continued() if lines is not None else None
    continued = [
        x[None] if hole.all() else image_tensor(filled[index] if filled else fill(pixels, hole)).to(x)
        for index, (x, pixels, hole) in enumerate(zip(picture, tensor_image(source), holes, strict=True))
    ]
    return cast(Tensor, picture + beside * (torch.cat(continued) - picture))


def object_share(unet: LayoutUNet, condition: Tensor, mask: Tensor, lines: Lines | None = None) -> Tensor:
    """How much of each cell the map's object fills, (B, 1, h, w) in [0, 1]; arguments as for `calm_beside`."""
    alpha = unet.lay(condition.expand(len(mask), -1, -1), mask, lines)[:, 3:].clamp(0, 1)
    return F.avg_pool2d(alpha, CELL)


def same(x: Tensor, y: Tensor) -> bool:
    """Whether two tensors hold the same; those of different devices or types do not."""
    return x.device == y.device and x.dtype == y.dtype and torch.equal(x, y)


def lay_into_hole(picture: Tensor, mask: Tensor, cell: int, places: Tensor | None = None) -> Tensor:
    """Lay a square picture over the square around a hole, whose side is the hole's longest; 0 lies outside of it.

    Args:
        picture: (B, C, s, s) float32.
        mask: (B, 1, h, w) in [0, 1], the share of each cell that is repainted; without any, the picture covers all.
        cell: pixels to a cell, per side.
        places: (B, 2, 3), see `alignment.Affine`: what lies elsewhere than it would by itself.

    Returns:
        (B, C, h cell, w cell).
    """
    ends = [reach(mask.float().amax(dim=(1, other))) for other in (2, 3)]
    side = torch.maximum(*(last - first for first, last in ends))
    x, y = (torch.arange(count * cell, device=mask.device)[None] for count in (mask.shape[3], mask.shape[2]))
    if places is None:
        x, y = x[:, None, :], y[:, :, None]
    else:
        pixels = torch.stack(torch.broadcast_tensors(x[:, None, :], y[:, :, None], torch.ones_like(x)[:, None]), dim=-1)
        x, y = (pixels.to(places) @ places[:, None].mT).unbind(-1)
    across, down = (
        ((position + 0.5) / cell - ((first + last) / 2)[..., None]) * 2 / side[..., None]
        for position, (first, last) in zip((x, y), ends, strict=True)
    )
    grid = torch.stack(torch.broadcast_tensors(across, down), dim=-1)
    return F.grid_sample(picture, grid, padding_mode="zeros", align_corners=False)


def reach(covered: Tensor) -> tuple[Tensor, Tensor]:
    """How far a hole reaches along one side.

    Args:
        covered: (B, n) in [0, 1], the most of each row or column of cells that is repainted: a partly covered cell at
            either end tells how far into it the hole reaches.

    Returns:
        Where it begins and where it ends, in cells, (B, 1) each.
    """
    count = covered.shape[1]
    position = torch.arange(count, device=covered.device, dtype=covered.dtype)
    inside = covered > 0
    first = torch.where(inside, position + 1 - covered, count).amin(1, keepdim=True)
    last = torch.where(inside, position + covered, 0).amax(1, keepdim=True)
    thin = last <= first  # a part of one cell: all of that cell, or of none: everything
    some = inside.any(1, keepdim=True)
    first = torch.where(thin, torch.where(inside, position, count).amin(1, keepdim=True) * some, first)
    last = torch.where(thin, torch.where(inside, position + 1, 0).amax(1, keepdim=True) + count * ~some, last)
    return first, last
