"""From noise to a latent: the schedulers, and the denoising loop as a generator.

A model is a callable `predict(z_t, t)`; a sampler is a function of a callable. What the model is conditioned on and how
strongly is closed over by `guidance.guide`, so the loop below never mentions it:

    generators = seeded_generators(seeds)
    z_T = draw_noise((4, 64, 64), generators)
    for step in denoise(guide(unet, condition, null_condition, 5.0), z_T, make_scheduler("pndm", config), 50):
        show(step.z_0, step.index + 1, step.total)

Symbols: z_t = √ᾱ_t z_0 + √(1 - ᾱ_t) ε with ε ~ N(0, 1) and ᾱ_t the scheduler's `alphas_cumprod`; λ is `guidance_scale`.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Generator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal, TypeAlias, cast

import torch
from diffusers import DDIMScheduler, DPMSolverMultistepScheduler, PNDMScheduler, UniPCMultistepScheduler
from torch import Tensor

from .errors import ModelError, UserError
from .guidance import Predict

DrawNoise: TypeAlias = Callable[[Sequence[int], Sequence[torch.Generator], torch.device | str, torch.dtype], Tensor]
"""`draw(shape, generators, device, dtype)`: (C,h,w) of one picture, B generators -> N(0, 1), (B,C,h,w)."""

Run: TypeAlias = Generator["Step", Tensor | None, None]
"""Yields steps; latents that are sent to it, (B,C,h,w), take the place of the step's `z_t`."""

Scheduler: TypeAlias = DDIMScheduler | PNDMScheduler | DPMSolverMultistepScheduler | UniPCMultistepScheduler
SchedulerName: TypeAlias = Literal["ddim", "pndm", "dpm++", "unipc"]

SCHEDULERS: dict[SchedulerName, type[Scheduler]] = {
    "ddim": DDIMScheduler,  # arXiv 2010.02502; with eta=1 the ancestral sampler of DDPM
    "pndm": PNDMScheduler,  # arXiv 2202.09778 without its Runge-Kutta start, which is PLMS: the authors' sampler
    "dpm++": DPMSolverMultistepScheduler,  # arXiv 2211.01095, the multistep solver of order two (2M)
    "unipc": UniPCMultistepScheduler,  # arXiv 2302.04867
}


@dataclass(frozen=True)
class Step:
    """One evaluation of the model and the step taken with it.

    Attributes:
        index: 0 .. total - 1.
        total: Evaluations in this run; one more than its steps for PLMS, which evaluates its second level twice.
        t: The timestep the model was asked about.
        z_t: The latents after the step, (B,C,h,w).
        z_0: The clean latents as the model saw them in this step, (B,C,h,w), for previews.
    """

    index: int
    total: int
    t: int
    z_t: Tensor
    z_0: Tensor


# ---------------------------------------------------------------------------------------------------------------------
# Noise


def seeded_generators(seeds: Sequence[int]) -> list[torch.Generator]:
    """One generator per picture, on the CPU whatever the device: a seed means the same noise everywhere."""
    return [torch.Generator().manual_seed(seed) for seed in seeds]


def draw_noise(
    shape: Sequence[int],
    generators: Sequence[torch.Generator],
    device: torch.device | str = "cpu",
    dtype: torch.dtype = torch.float32,
) -> Tensor:
    """Draw standard normal noise, each picture's from its own generator, so that it does not depend on the batch.

    It is drawn in float32 whatever `dtype`: torch's streams differ between precisions, and a seed should not.

    Args:
        shape: (C,h,w) of one picture.
        generators: B of them; each is moved on, so that drawing again gives new noise.
        device: Where the result goes; it is drawn on the generator's.
        dtype: What the result is rounded to.

    Returns:
        (B,C,h,w), N(0, 1).
    """
    return torch.stack(
        [
            torch.randn(*shape, generator=generator, device=generator.device).to(device, dtype)
            for generator in generators
        ]
    )


def draw_batch(
    shape: Sequence[int],
    generators: Sequence[torch.Generator],
    device: torch.device | str = "cpu",
    dtype: torch.dtype = torch.float32,
) -> Tensor:
    """Draw as diffusers does: in `dtype`, and where all pictures share a generator, in one go for the whole batch.

    Arguments and result are those of `draw_noise`. On the CPU in float32 the two agree wherever C h w is a multiple of
    16; on a GPU a draw for two pictures is not two draws for one.
    """
    first = generators[0]
    if all(generator is first for generator in generators):
        draws = [(len(generators), first)]
    else:
        draws = [(1, generator) for generator in generators]
    return torch.cat(
        [
            torch.randn(count, *shape, generator=generator, device=generator.device, dtype=dtype).to(device)
            for count, generator in draws
        ]
    )


# ---------------------------------------------------------------------------------------------------------------------
# Schedulers


def make_scheduler(name: SchedulerName, config: Scheduler | Mapping[str, Any]) -> Scheduler:
    """Make a scheduler for the noise schedule that a model was trained with.

    Args:
        name: Which solver.
        config: The scheduler that came with the model, or its config; it is only read. Keep it for the next swap:
            the result for "dpm++" and "unipc" has another `timestep_spacing`.

    Raises:
        ModelError: There is no solver of that name.
    """
    if name not in SCHEDULERS:
        raise ModelError(f"unknown scheduler {name!r}; choose one of {', '.join(SCHEDULERS)}")

    # from_config drops every key listed under `_use_default_values` in favour of the *new* class's default. Between
    # these classes defaults differ (set_alpha_to_one: PNDM False, DDIM True; timestep_spacing: leading, linspace), so
    # all keys are passed as if they had been set. A key that is missing means what it means for the released model.
    given = config if isinstance(config, Mapping) else config.config
    settings = {"set_alpha_to_one": False} | {key: value for key, value in given.items() if not key.startswith("_")}
    settings["clip_sample"] = False  # DDIM's default is True, but latents, unlike pixels, have no fixed range
    if name == "pndm":
        settings["skip_prk_steps"] = True
    if name in ("dpm++", "unipc"):
        # "leading" starts below the noisiest level (10 steps: at t = 901), where the model expects to see something of
        # the picture, but is given pure noise; that grows worse the fewer the steps, and few steps are what these two
        # are for. "trailing" starts at the last timestep for any number (arXiv 2305.08891, section 3.3). DDIM and
        # PLMS keep what the config says: their pictures should be those of the authors' code.
        settings["timestep_spacing"] = "trailing"
        settings["solver_order"] = 2  # 3 is unstable under guidance, says arXiv 2211.01095
    if name == "dpm++":
        settings["algorithm_type"] = "dpmsolver++"  # the sde variants would draw from torch's global generator
    return cast(Scheduler, SCHEDULERS[name].from_config(settings))


def default_steps(scheduler: Scheduler) -> int:
    """How many steps a run takes if nobody says: the authors' 50 for DDIM and PLMS, 20 for the two of second order."""
    return 50 if isinstance(scheduler, DDIMScheduler | PNDMScheduler) else 20


def first_step(strength: float, steps: int) -> int:
    """How many of the noisiest levels a run leaves out that changes its source by `strength`, for `denoise(start=...)`.

    Args:
        strength: Share of the levels that is visited; 1 starts from noise alone. One level is always visited.
        steps: Noise levels to visit, were it from the first.

    Raises:
        UserError: `strength` is not above 0 and at most 1.
    """
    if not 0 < strength <= 1:
        raise UserError(f"strength must be above 0 and at most 1, got {strength}")
    return min(steps - round(steps * strength), steps - 1)


def timesteps(scheduler: Scheduler, steps: int) -> Tensor:
    """List the noise levels that a run visits, the noisiest first.

    A latent noised to element `start` is what `denoise(start=start)` begins with.

    Returns:
        (steps,), int64 on the CPU, strictly falling within 0 .. num_train_timesteps - 1.

    Raises:
        UserError: `steps` is below one or more than the schedule has.
    """
    return _set_up(scheduler, steps)[1]


def _set_up(scheduler: Scheduler, steps: int) -> tuple[Any, Tensor]:
    """Copy a scheduler and set the copy up for a run, in which the i-th of n levels is called timestep n - 1 - i.

    The copy is what lets two runs share a scheduler: diffusers' solvers keep their history in themselves.

    Returns:
        The copy, and the timesteps of the levels, (steps,).
    """
    solver: Any = copy.deepcopy(scheduler)  # Any: what the four have in common has no type in diffusers
    if not any(isinstance(solver, known) for known in SCHEDULERS.values()):
        raise ModelError(f"cannot sample with {type(solver).__name__}; make one of {', '.join(SCHEDULERS)} from it")
    last = solver.config.num_train_timesteps - 1
    if not 1 <= steps <= last + 1:
        raise UserError(f"steps must be between 1 and {last + 1}, got {steps}")

    if isinstance(solver, PNDMScheduler):
        solver.register_to_config(skip_prk_steps=True)
    solver.set_timesteps(steps)

    # "trailing" counts down by 1000 / n in floating point and for some n (61 and 121 among them) does not stop in time:
    # there is one timestep too many, -1. Hence [:steps], here and below.
    levels = solver.timesteps.cpu().unique().flip(0)[:steps]  # unique: PNDM lists its second level twice
    if len(levels) < steps or levels[0] > last:  # "leading" with steps_offset 1 runs over the end for 1000 steps
        raise UserError(f"{steps} steps do not fit into this model's timesteps; take fewer")

    if isinstance(solver, DDIMScheduler | PNDMScheduler):
        # Both step from t to t - num_train_timesteps // n. With other than "leading" spacing that is not the next
        # timestep unless n divides 1000: for 7 trailing steps they go from 999 to 857, then on from 856. So the solver
        # gets a schedule of just the n levels, where the next is always one below, and below 0 its final alpha.
        # In double, since PLMS subtracts neighbouring alphas.
        solver.alphas_cumprod = solver.alphas_cumprod.double().cpu()[levels.flip(0)]
        solver.final_alpha_cumprod = solver.final_alpha_cumprod.double()
        solver.register_to_config(num_train_timesteps=steps)
        solver.num_inference_steps = steps
    else:
        solver.timesteps = solver.timesteps[:steps]
        solver.sigmas = torch.cat([solver.sigmas[:steps], solver.sigmas[-1:]])
    return solver, levels


# ---------------------------------------------------------------------------------------------------------------------
# The loop


@torch.no_grad()
def denoise(
    predict: Predict,
    z_T: Tensor,
    scheduler: Scheduler,
    steps: int,
    *,
    eta: float = 0.0,
    generators: Sequence[torch.Generator] | None = None,
    start: int = 0,
    draw: DrawNoise = draw_noise,
) -> Run:
    """Go from noise to a clean latent, yielding every step; to cancel, stop iterating.

    Latents that are sent to it take the place of those it yielded.

    `scheduler` is only read: any number of runs may share it, also at once. Errors are raised at the first step.

    Args:
        predict: The model, called once per step.
        z_T: Where to start, (B,C,h,w): noise, or with `start` the latent to vary, noised to `timesteps(...)[start]`.
        scheduler: One of `make_scheduler`.
        steps: Noise levels to visit, were it from the first.
        eta: Noise added in each step, 0 (none) to 1 (as much as DDPM); DDIM only.
        generators: Those that drew `z_T`, one per picture; needed where `eta` > 0.
        start: How many of the noisiest levels to leave out, 0 .. steps - 1.
        draw: Where the noise of `eta` comes from.

    Raises:
        UserError: A number is out of its range, or `eta` does not go with the scheduler.
        ModelError: The scheduler, or its prediction type, is none of those known here.
    """
    solver, levels = _set_up(scheduler, steps)
    if not 0 <= start < steps:
        raise UserError(f"start must be between 0 and {steps - 1} for {steps} steps, got {start}")
    if not 0 <= eta <= 1:
        raise UserError(f"eta must be between 0 and 1, got {eta}")
    if eta > 0 and not isinstance(solver, DDIMScheduler):
        raise UserError(f"eta is for ddim only, and this is {type(solver).__name__}; set eta to 0 or use ddim")
    if eta > 0 and len(generators or ()) != len(z_T):
        raise UserError(f"eta > 0 needs one generator per picture: {len(generators or ())} for {len(z_T)} pictures")

    visits = list(range(start, steps))
    if isinstance(solver, PNDMScheduler):
        # PLMS has no history to begin with. So its first step is Heun's: to the second level and, with the mean of the
        # noise predicted at both ends, there again. (Cutting diffusers' own list short, as for image to image, would
        # lose that second visit, but not its rule.)
        visits[1:1] = visits[1:2]
        # The history is one of noise. diffusers would extrapolate v as it comes and convert the result, which is not
        # the same, and cannot convert "sample" at all; so noise is what it gets.
        solver.register_to_config(prediction_type="epsilon")
    elif not isinstance(solver, DDIMScheduler):
        solver.set_begin_index(start)  # these two count steps, whatever timestep they are told

    z_t = z_T
    for index, visit in enumerate(visits):
        t = levels[visit]
        prediction = predict(z_t, t.to(z_t.device))
        z_0 = predict_clean(z_t, prediction, t, scheduler)

        if isinstance(solver, PNDMScheduler):
            prediction = predict_noise(z_t, prediction, t, scheduler)
        stochastic = {}
        if eta > 0 and generators:
            # Equation 12 of arXiv 2010.02502, with σ_t = η times that of DDPM (equation 16).
            stochastic = {"eta": eta, "variance_noise": draw(z_t.shape[1:], generators, z_t.device, z_t.dtype)}
        z_t = solver.step(prediction, steps - 1 - visit, z_t, **stochastic).prev_sample

        sent = yield Step(index=index, total=len(visits), t=int(t), z_t=z_t, z_0=z_0)
        if sent is not None:
            z_t = sent.to(z_t)


def in_step(runs: Sequence[Run]) -> Run:
    """Take the steps of several runs of one length together, yielding each as one step of all their pictures.

    Kernels differ between sizes of batch, and so do the last bits of what they give. A picture that has a run of its
    own comes out the same, bit for bit, whatever else is made at once.

    Args:
        runs: At least one; not started yet.
    """
    taken = [next(run) for run in runs]
    while True:
        z_t, z_0 = (torch.cat([getattr(step, name) for step in taken]) for name in ("z_t", "z_0"))
        sent = yield replace(taken[0], z_t=z_t, z_0=z_0)
        parts = [None] * len(runs) if sent is None else sent.split([len(step.z_t) for step in taken])
        try:
            taken = [run.send(part) for run, part in zip(runs, parts, strict=True)]
        except StopIteration:
            return


# ---------------------------------------------------------------------------------------------------------------------
# z_t, z_0, ε and v. The schedulers' own add_noise will not do: those of DPM-Solver++ and UniPC look t up in the wrong
# direction before set_timesteps, and in the run's schedule after it.


def add_noise(z_0: Tensor, noise: Tensor, t: Tensor, scheduler: Scheduler) -> Tensor:
    """√ᾱ_t z_0 + √(1 - ᾱ_t) ε, equation 4 of arXiv 2006.11239.

    Args:
        z_0: Clean latents, (B,C,h,w).
        noise: ε ~ N(0, 1), (B,C,h,w).
        t: (B,) or 0-d, in 0 .. num_train_timesteps - 1.
        scheduler: Gives ᾱ.

    Returns:
        z_t, (B,C,h,w).
    """
    signal, sigma = scales(t, scheduler, z_0)
    return signal * z_0 + sigma * noise


def predict_clean(z_t: Tensor, prediction: Tensor, t: Tensor, scheduler: Scheduler) -> Tensor:
    """What z_0 would be if the prediction were right; v is √ᾱ_t ε - √(1 - ᾱ_t) z_0 (arXiv 2202.00512, appendix D).

    Args:
        z_t: (B,C,h,w).
        prediction: ε, v or z_0 as `prediction_type` says, (B,C,h,w).
        t: (B,) or 0-d.
        scheduler: Gives ᾱ and `prediction_type`.

    Returns:
        z_0, (B,C,h,w).

    Raises:
        ModelError: The prediction type is none of epsilon, v_prediction and sample.
    """
    signal, sigma = scales(t, scheduler, z_t)
    match scheduler.config["prediction_type"]:
        case "epsilon":
            return (z_t - sigma * prediction) / signal
        case "v_prediction":
            return signal * z_t - sigma * prediction
        case "sample":
            return prediction
        case other:
            raise ModelError(f"unknown prediction type {other!r}; expected epsilon, v_prediction or sample")


def predict_noise(z_t: Tensor, prediction: Tensor, t: Tensor, scheduler: Scheduler) -> Tensor:
    """What ε would be if the prediction were right; arguments, shapes and errors are those of `predict_clean`."""
    signal, sigma = scales(t, scheduler, z_t)
    match scheduler.config["prediction_type"]:
        case "epsilon":
            return prediction
        case "v_prediction":
            return signal * prediction + sigma * z_t
        case "sample":
            return (z_t - signal * prediction) / sigma
        case other:
            raise ModelError(f"unknown prediction type {other!r}; expected epsilon, v_prediction or sample")


def move_clean(prediction: Tensor, way: Tensor, t: Tensor, scheduler: Scheduler) -> Tensor:
    """The prediction that gives z_0 + σ_t way in place of z_0, σ_t = √(1 - ᾱ_t); otherwise as `predict_clean`.

    Args:
        prediction: ε, v or z_0, (B,C,h,w).
        way: (B,C,h,w).
        t: (B,) or 0-d.
        scheduler: Gives ᾱ and `prediction_type`.

    Raises:
        ModelError: The prediction type is none of epsilon, v_prediction and sample.
    """
    signal, sigma = scales(t, scheduler, prediction)
    match scheduler.config["prediction_type"]:
        case "epsilon":
            return prediction - signal * way
        case "v_prediction":
            return prediction - way
        case "sample":
            return prediction + sigma * way
        case other:
            raise ModelError(f"unknown prediction type {other!r}; expected epsilon, v_prediction or sample")


def scales(t: Tensor, scheduler: Scheduler, like: Tensor) -> tuple[Tensor, Tensor]:
    """√ᾱ_t and √(1 - ᾱ_t), (B,1,1,1) or (1,1,1,1), in the precision and on the device of `like`."""
    alpha_bar = scheduler.alphas_cumprod[t.to(scheduler.alphas_cumprod.device)].double().view(-1, 1, 1, 1)
    return alpha_bar.sqrt().to(like), (1 - alpha_bar).sqrt().to(like)
