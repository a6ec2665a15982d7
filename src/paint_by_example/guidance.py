"""Guidance: a model and what it is told become a function of the latent alone."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import TypeAlias

import torch
from torch import Tensor

from .errors import UserError

Predict: TypeAlias = Callable[[Tensor, Tensor], Tensor]
"""`predict(z_t, t)`: latents (B,C,h,w) and a 0-d timestep -> what the scheduler's `prediction_type` says, (B,C,h,w)."""

PredictWithCondition: TypeAlias = Callable[[Tensor, Tensor, Tensor], Tensor]
"""`predict(z_t, t, condition)`, with one (1,D) condition per latent."""

PredictTold: TypeAlias = Callable[[Tensor, Tensor, Tensor, tuple[bool, ...]], Tensor]
"""`predict(z_t, t, condition, told)`: of n equal parts of the batch, whether each is told the source's structure."""

Second: TypeAlias = tuple[Tensor, float]
"""A second condition, (B,1,D) or (1,1,D), and its share w of what the conditions say."""


def guide(
    predict: PredictWithCondition,
    condition: Tensor,
    null_condition: Tensor,
    guidance_scale: float | Tensor,
    rescale: float = 0.0,
    second: Second | None = None,
) -> Predict:
    """Close a conditional model over its condition, with classifier-free guidance (arXiv 2207.12598).

    Paint by Example (arXiv 2211.13227, section on similarity control) samples from log p(y|c) + (λ - 1) log p(c|y),
    which up to a constant is log p(y) + λ (log p(y|c) - log p(y)):

        e = e_null + λ (e_condition - e_null)

    Where λ = 1 for all pictures, only the conditional half is run. Otherwise `predict` is called once with a batch of
    2B: all B pictures with the null condition, then the same B with their own, in the authors' order.

    With a second condition the two are composed (arXiv 2206.01714, equation 11, with weights λ (1 - w) and λ w), which
    is the same with e_condition = (1 - w) e_first + w e_second, and costs B more.

    Args:
        predict: The model. It sees B, 2B or 3B latents and must repeat what else it closes over accordingly.
        condition: (B,1,D), or (1,1,D) for all pictures.
        null_condition: (1,1,D).
        guidance_scale: λ, one for all pictures, one each, (B,), or one each place, (B,1,h,w).
        rescale: φ, how far to bring the guided prediction's deviation back to that of the conditional one, which a
            large λ exceeds: e ← φ e std(e_condition) / std(e) + (1 - φ) e (arXiv 2305.08891, section 3.4).
        second: A second condition; with w = 0 as without one.

    Raises:
        UserError: `rescale` or w is not in 0 .. 1.
    """
    check_share("guidance_rescale", rescale)
    conditions, mix = _mixed(condition, second)
    scale = torch.as_tensor(guidance_scale, dtype=torch.float64)  # double until it meets a prediction
    if bool((scale == 1).all()):
        return lambda z_t, t: mix(_ask(predict, z_t, t, conditions))

    def guided(z_t: Tensor, t: Tensor) -> Tensor:
        e_null, *predictions = _ask(predict, z_t, t, [null_condition.to(condition), *conditions])
        e_condition = mix(predictions)
        e = e_null + by_place(scale).to(e_null) * (e_condition - e_null)
        return _rescaled(e, e_condition, rescale)

    return guided


def guide_with_structure(
    predict: PredictTold,
    condition: Tensor,
    null_condition: Tensor,
    guidance_scale: float | Tensor,
    structure_scale: float,
    rescale: float = 0.0,
    second: Second | None = None,
) -> Predict:
    """Guidance by an exemplar c and by a structure s, each with a scale of its own.

    As InstructPix2Pix guides by a picture and a text (arXiv 2211.09800, equation 3), with λ for the exemplar and μ for
    the structure, which is told first:

        e = e(∅,∅) + μ (e(∅,s) - e(∅,∅)) + λ (e(c,s) - e(∅,s))

    With μ = 1 the first term is gone and it is `guide` of a model that is told the structure: two predictions. With
    μ = 0 the structure is dropped, from the last term too, and it is `guide` of one that is not. Otherwise there are
    three predictions, in one call with a batch of 3B: null without and with structure, then the condition with it.

    Args:
        predict: The model.
        condition: c, (B,1,D), or (1,1,D) for all pictures.
        null_condition: (1,1,D).
        guidance_scale: λ, one for all pictures, one each, (B,), or one each place, (B,1,h,w).
        structure_scale: μ.
        rescale: See `guide`.
        second: See `guide`.

    Raises:
        UserError: As `guide`, and where μ is no finite number.
    """
    if not math.isfinite(structure_scale):
        raise UserError(f"structure_scale must be a finite number, got {structure_scale}")
    if structure_scale in (0, 1):

        def all_told(z_t: Tensor, t: Tensor, condition: Tensor) -> Tensor:
            return predict(z_t, t, condition, (structure_scale == 1,))

        return guide(all_told, condition, null_condition, guidance_scale, rescale, second)

    check_share("guidance_rescale", rescale)
    conditions, mix = _mixed(condition, second)
    scale = torch.as_tensor(guidance_scale, dtype=torch.float64)
    nothing = null_condition.to(condition)
    told = (False, *[True] * (1 + len(conditions)))

    def guided(z_t: Tensor, t: Tensor) -> Tensor:
        def some_told(z_t: Tensor, t: Tensor, condition: Tensor) -> Tensor:
            return predict(z_t, t, condition, told)

        e_null, e_structure, *predictions = _ask(some_told, z_t, t, [nothing, nothing, *conditions])
        e_both = mix(predictions)
        e = e_null + structure_scale * (e_structure - e_null)
        e = e + by_place(scale).to(e) * (e_both - e_structure)
        return _rescaled(e, e_both, rescale)

    return guided


def _ask(predict: PredictWithCondition, z_t: Tensor, t: Tensor, conditions: Sequence[Tensor]) -> list[Tensor]:
    """The predictions for several conditions, all of them in one call; the null one stands for any number of tokens."""
    count, tokens = len(conditions), max(condition.shape[1] for condition in conditions)
    told = [condition.expand(len(z_t), tokens, -1) for condition in conditions]
    if count == 1:
        return [predict(z_t, t, told[0])]
    t = torch.cat([t] * count) if t.ndim else t
    return list(predict(torch.cat([z_t] * count), t, torch.cat(told)).chunk(count))


def _mixed(condition: Tensor, second: Second | None) -> tuple[list[Tensor], Callable[[Sequence[Tensor]], Tensor]]:
    """The conditions to ask for, and what makes one prediction of theirs."""
    other, share = (condition, 0.0) if second is None else second
    check_share("source_exemplar", share)
    if share == 0:
        return [condition], lambda predictions: predictions[0]
    return [condition, other.to(condition)], lambda predictions: torch.lerp(predictions[0], predictions[1], share)


def by_place(scale: Tensor) -> Tensor:
    """λ as it meets a prediction, (B,C,h,w): () and (B,) to (B,1,1,1), (B,1,h,w) as it is."""
    return scale if scale.ndim == 4 else scale.reshape(-1, 1, 1, 1)


def _rescaled(e: Tensor, e_condition: Tensor, rescale: float) -> Tensor:
    if rescale > 0:
        wanted, found = (x.float().std((1, 2, 3), keepdim=True) for x in (e_condition, e))
        e = (rescale * wanted / found + (1 - rescale)).to(e) * e
    return e


def check_share(name: str, share: float) -> None:
    """Raise a `UserError` where an option is no number within 0 .. 1."""
    if not 0 <= share <= 1:
        raise UserError(f"{name} must be between 0 and 1, got {share}")


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
