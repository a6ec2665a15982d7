"""Guidance: a model and what it is told become a function of the latent alone."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeAlias

import torch
from torch import Tensor

from .errors import UserError

Predict: TypeAlias = Callable[[Tensor, Tensor], Tensor]
"""`predict(z_t, t)`: latents (B,C,h,w) and a 0-d timestep -> what the scheduler's `prediction_type` says, (B,C,h,w)."""

PredictWithCondition: TypeAlias = Callable[[Tensor, Tensor, Tensor], Tensor]
"""`predict(z_t, t, condition)`, with one (1,D) condition per latent."""


def guide(
    predict: PredictWithCondition,
    condition: Tensor,
    null_condition: Tensor,
    guidance_scale: float | Tensor,
    rescale: float = 0.0,
) -> Predict:
    """Close a conditional model over its condition, with classifier-free guidance (arXiv 2207.12598).

    Paint by Example (arXiv 2211.13227, section on similarity control) samples from log p(y|c) + (λ - 1) log p(c|y),
    which up to a constant is log p(y) + λ (log p(y|c) - log p(y)):

        e = e_null + λ (e_condition - e_null)

    Where λ = 1 for all pictures, only the conditional half is run. Otherwise `predict` is called once with a batch of
    2B: all B pictures with the null condition, then the same B with their own, in the authors' order.

    Args:
        predict: The model. It sees B or 2B latents and must repeat what else it closes over accordingly.
        condition: (B,1,D), or (1,1,D) for all pictures.
        null_condition: (1,1,D).
        guidance_scale: λ, one for all pictures or one each, (B,).
        rescale: φ, how far to bring the guided prediction's deviation back to that of the conditional one, which a
            large λ exceeds: e ← φ e std(e_condition) / std(e) + (1 - φ) e (arXiv 2305.08891, section 3.4).

    Raises:
        UserError: `rescale` is not in 0 .. 1.
    """
    if not 0 <= rescale <= 1:
        raise UserError(f"guidance_rescale must be between 0 and 1, got {rescale}")
    scale = torch.as_tensor(guidance_scale, dtype=torch.float64)  # () or (B,); double until it meets a prediction
    if bool((scale == 1).all()):
        return lambda z_t, t: predict(z_t, t, condition.expand(len(z_t), -1, -1))

    def guided(z_t: Tensor, t: Tensor) -> Tensor:
        conditions = torch.cat(
            [c.to(condition).expand(len(z_t), *condition.shape[1:]) for c in (null_condition, condition)]
        )
        t = torch.cat([t, t]) if t.ndim else t
        e_null, e_condition = predict(torch.cat([z_t, z_t]), t, conditions).chunk(2)
        e = e_null + scale.view(-1, 1, 1, 1).to(e_null) * (e_condition - e_null)
        if rescale > 0:
            wanted, found = (x.float().std((1, 2, 3), keepdim=True) for x in (e_condition, e))
            e = (rescale * wanted / found + (1 - rescale)).to(e) * e
        return e

    return guided


def check_interval(interval: tuple[float, float]) -> None:
    """Raise a `UserError` where an interval of noise levels is none within 0 .. 1."""
    if not 0 <= interval[0] <= interval[1] <= 1:
        raise UserError(f"guidance_interval must be two rising numbers between 0 and 1, got {interval}")


def within_interval(guided: Predict, unguided: Predict, interval: tuple[float, float], levels: int) -> Predict:
    """Guidance where it helps and nowhere else (arXiv 2404.07724).

    Args:
        guided: The model with guidance.
        unguided: The model with its condition alone, which costs half.
        interval: From which to which noise level there is guidance, as shares of the levels, 0 the cleanest.
        levels: That the schedule has.

    Raises:
        UserError: The interval is not one within 0 .. 1.
    """
    check_interval(interval)
    low, high = interval
    if (low, high) == (0, 1):
        return guided
    return lambda z_t, t: (guided if low * levels <= float(t) <= high * levels else unguided)(z_t, t)
