"""The loop against answers known in closed form: data that is one point, and data that is Gaussian."""

import math
from itertools import islice, pairwise
from typing import Any

import pytest
import torch
from diffusers import DDIMScheduler, EulerDiscreteScheduler, PNDMScheduler
from hypothesis import given, settings
from hypothesis import strategies as st

from paint_by_example.errors import ModelError, UserError
from paint_by_example.sampling import (
    SCHEDULERS,
    add_noise,
    denoise,
    draw_batch,
    draw_noise,
    first_step,
    in_step,
    make_scheduler,
    move_clean,
    predict_clean,
    predict_noise,
    seeded_generators,
    timesteps,
)
from tests.tiny import seeded_noise

# np.array(tensor) in diffusers' DPM-Solver++ and UniPC, which torch will have to mend
pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation doesn't accept a copy:DeprecationWarning")

NAMES = list(SCHEDULERS)
PREDICTIONS = ["epsilon", "v_prediction", "sample"]
STEPS = [1, 2, 3, 4, 5, 7, 9, 14, 15, 27, 36, 37, 50, 61, 100]  # 61: diffusers counts to 62 with trailing spacing
RELEASED: dict[str, Any] = {  # scheduler_config.json of Fantasy-Studio/Paint-by-Example
    "beta_start": 0.00085,
    "beta_end": 0.012,
    "beta_schedule": "scaled_linear",
    "num_train_timesteps": 1000,
    "set_alpha_to_one": False,
    "skip_prk_steps": True,
    "steps_offset": 1,
}
SHAPE = (2, 3, 2)


def double_noise(*seeds):
    return seeded_noise(SHAPE, seeds, dtype=torch.float64)


def alpha_bar(scheduler, t):
    return scheduler.alphas_cumprod.double()[t]


def ideal(scheduler, mean, deviation=0.0):
    """The best prediction for data N(mean, deviation²), by Bayes: linear in z_t."""

    def predict(z_t, t):
        a, b = alpha_bar(scheduler, t).sqrt(), (1 - alpha_bar(scheduler, t)).sqrt()
        noise = b * (z_t - a * mean) / (a**2 * deviation**2 + b**2)
        z_0 = (z_t - b * noise) / a
        return {"epsilon": noise, "sample": z_0, "v_prediction": a * noise - b * z_0}[
            scheduler.config["prediction_type"]
        ]

    return predict


def tolerance(name):
    """DPM-Solver++ and UniPC compute in float32 whatever they are given."""
    return {"rtol": 0, "atol": 1e-10 if name in ("ddim", "pndm") else 3e-5}


def wavy(z_t, t):
    """Nothing a solver could get right by chance; each element by itself."""
    return torch.sin(3 * z_t) + 0.5 * torch.cos(z_t + t / 100)


# --- the loop, on one point ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("prediction_type", PREDICTIONS)
@pytest.mark.parametrize("name", NAMES)
def test_data_of_one_point_is_found_in_any_number_of_steps(name, prediction_type):
    scheduler = make_scheduler(name, {**RELEASED, "set_alpha_to_one": True, "prediction_type": prediction_type})
    point = 3 * double_noise(0)  # far outside of [-1, 1]: clipping would show
    for steps in STEPS:
        run = list(denoise(ideal(scheduler, point), double_noise(1, 2), scheduler, steps))
        torch.testing.assert_close(run[-1].z_t, point.expand(2, -1, -1, -1), **tolerance(name))
        assert len(run) == run[0].total == steps + (name == "pndm" and steps > 1)
        assert [step.index for step in run] == list(range(run[0].total))
        assert all(later.t <= step.t for step, later in pairwise(run))
        for step in run:  # a preview shows the point all along
            torch.testing.assert_close(step.z_0, point.expand(2, -1, -1, -1), rtol=0, atol=1e-3)


@pytest.mark.parametrize("prediction_type", PREDICTIONS)
@pytest.mark.parametrize("name", ["ddim", "pndm"])
def test_without_a_final_alpha_of_one_the_last_bit_of_noise_stays(name, prediction_type):
    scheduler = make_scheduler(name, {**RELEASED, "prediction_type": prediction_type})
    point, z_T = double_noise(0), double_noise(1)
    first = alpha_bar(scheduler, 0)
    for steps in STEPS:
        start = alpha_bar(scheduler, timesteps(scheduler, steps)[0])
        noise = (z_T - start.sqrt() * point) / (1 - start).sqrt()
        *_, last = denoise(ideal(scheduler, point), z_T, scheduler, steps)
        expected = first.sqrt() * point + (1 - first).sqrt() * noise
        torch.testing.assert_close(last.z_t, expected, **tolerance(name))


@given(
    name=st.sampled_from(NAMES),
    prediction_type=st.sampled_from(PREDICTIONS),
    spacing=st.sampled_from(["leading", "linspace", "trailing"]),
    steps_and_start=st.integers(1, 100).flatmap(lambda n: st.tuples(st.just(n), st.integers(0, n - 1))),
)
@settings(max_examples=60, deadline=None)
def test_a_run_may_start_at_any_of_its_levels(name, prediction_type, spacing, steps_and_start):
    steps, start = steps_and_start
    config = {**RELEASED, "set_alpha_to_one": True, "prediction_type": prediction_type, "timestep_spacing": spacing}
    scheduler = make_scheduler(name, config)
    point = double_noise(0)
    t = timesteps(scheduler, steps)[start]
    z_t = add_noise(point, double_noise(1), t, scheduler)
    run = list(denoise(ideal(scheduler, point), z_t, scheduler, steps, start=start))
    assert run[0].t == t
    assert len({step.t for step in run}) == steps - start
    torch.testing.assert_close(run[-1].z_t, point, **tolerance(name))


# --- the loop, on a Gaussian -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(("name", "low", "high"), [("ddim", 1.7, 2.3), ("dpm++", 2.5, 6), ("unipc", 2.5, 20)])
def test_convergence_to_the_probability_flow(name, low, high):
    """Half-way, t = 499, since the last step of all, to no noise at all, is of first order in any solver."""
    scheduler = make_scheduler(name, {**RELEASED, "timestep_spacing": "trailing"})
    mean, deviation, z_T = 0.7, 0.5, double_noise(1)

    def moments(t):
        a = alpha_bar(scheduler, t)
        return a.sqrt() * mean, (a * deviation**2 + 1 - a).sqrt()

    (m_T, s_T), (m_t, s_t) = moments(999), moments(499)
    exact = m_t + s_t * (z_T - m_T) / s_T  # the flow keeps quantiles
    errors = []
    for steps in (20, 40, 80):
        run = list(islice(denoise(ideal(scheduler, mean, deviation), z_T, scheduler, steps), steps // 2 + 1))
        assert run[-1].t == 499
        errors.append(float((run[-2].z_t - exact).abs().max()))
    assert low < errors[0] / errors[1] < high
    assert low < errors[1] / errors[2] < high


def test_ddim_draws_the_noise_of_equation_12():
    scheduler = make_scheduler("ddim", RELEASED)
    generators = seeded_generators([1, 2])
    z_t = draw_noise(SHAPE, generators, dtype=torch.float64)
    state = [generator.get_state() for generator in generators]
    eta = 0.6
    step = next(denoise(wavy, z_t, scheduler, 20, eta=eta, generators=generators))

    a, b = alpha_bar(scheduler, 951), alpha_bar(scheduler, 901)
    sigma = eta * ((1 - b) / (1 - a) * (1 - a / b)).sqrt()
    noise = wavy(z_t, torch.tensor(951))
    for generator, before in zip(generators, state, strict=True):
        generator.set_state(before)
    drawn = draw_noise(SHAPE, generators, dtype=torch.float64)
    expected = b.sqrt() * (z_t - (1 - a).sqrt() * noise) / a.sqrt() + (1 - b - sigma**2).sqrt() * noise + sigma * drawn
    torch.testing.assert_close(step.z_t, expected, rtol=0, atol=1e-12)


def test_pndm_is_plms():
    """Adams and Bashforth's coefficients on the noise (arXiv 2202.09778, equations 11 and 12), by hand."""
    scheduler = make_scheduler("pndm", RELEASED)
    z_T = double_noise(4)
    levels = [torch.tensor(t) for t in range(901, 0, -100)]
    alphas = [float(alpha_bar(scheduler, t)) for t in levels] + [float(alpha_bar(scheduler, 0))]

    def transfer(z, e, i):
        a, b = alphas[i], alphas[i + 1]
        denominator = math.sqrt(a) * (math.sqrt((1 - b) * a) + math.sqrt((1 - a) * b))
        return math.sqrt(b / a) * z - (b - a) / denominator * e

    e = [wavy(z_T, levels[0])]
    z = transfer(z_T, (e[0] + wavy(transfer(z_T, e[0], 0), levels[1])) / 2, 0)
    for i in range(1, 10):
        e.append(wavy(z, levels[i]))
        weights = {2: [3 / 2, -1 / 2], 3: [23 / 12, -16 / 12, 5 / 12]}.get(
            len(e), [55 / 24, -59 / 24, 37 / 24, -9 / 24]
        )
        z = transfer(z, sum(w * past for w, past in zip(weights, reversed(e), strict=False)), i)

    *_, last = denoise(wavy, z_T, scheduler, 10)
    torch.testing.assert_close(last.z_t, z, rtol=0, atol=1e-10)


@pytest.mark.parametrize("name", ["ddim", "pndm"])
def test_every_number_of_steps_from_1_to_100_against_a_reference(name):
    """Written out in float64: DDIM's step (arXiv 2010.02502, equation 12, σ = 0), for PLMS with noise extrapolated by
    Adams and Bashforth's coefficients after a first step of Heun's (arXiv 2202.09778, section 3.3)."""
    scheduler = make_scheduler(name, RELEASED)
    z_T = double_noise(4)
    extrapolation = [[], [3 / 2, -1 / 2], [23 / 12, -16 / 12, 5 / 12], [55 / 24, -59 / 24, 37 / 24, -9 / 24]]

    def step(z, e, a, b):
        return math.sqrt(b) * (z - math.sqrt(1 - a) * e) / math.sqrt(a) + math.sqrt(1 - b) * e

    for n in range(1, 101):
        levels = [1 + i * (1000 // n) for i in reversed(range(n))]
        alphas = [float(alpha_bar(scheduler, t)) for t in [*levels, 0]]
        z, history, asked = z_T, [], []
        for i, t in enumerate(levels):
            history.append(wavy(z, torch.tensor(t)))
            asked.append(t)
            e = history[-1]
            if name == "pndm" and i == 0 and n > 1:
                e = (e + wavy(step(z, e, *alphas[:2]), torch.tensor(levels[1]))) / 2
                asked.append(levels[1])
            elif name == "pndm" and i > 0:
                weights = extrapolation[min(i, 3)]
                e = sum(weight * past for weight, past in zip(weights, reversed(history), strict=False))
            z = step(z, e, *alphas[i : i + 2])
        run = list(denoise(wavy, z_T, scheduler, n))
        assert [taken.t for taken in run] == asked
        assert (run[-1].z_t - z).abs().max() < 1e-9, f"{n} steps"


def test_plms_extrapolates_noise_whatever_the_model_predicts():
    noise_model = make_scheduler("pndm", RELEASED)
    *_, expected = denoise(wavy, double_noise(4), noise_model, 12)
    for prediction_type in ("v_prediction", "sample"):
        scheduler = make_scheduler("pndm", {**RELEASED, "prediction_type": prediction_type})

        def same_model(z_t, t, scheduler=scheduler, prediction_type=prediction_type):
            noise = wavy(z_t, t)
            z_0 = predict_clean(z_t, noise, t, noise_model)
            if prediction_type == "sample":
                return z_0
            return alpha_bar(scheduler, t).sqrt() * noise - (1 - alpha_bar(scheduler, t)).sqrt() * z_0

        *_, last = denoise(same_model, double_noise(4), scheduler, 12)
        torch.testing.assert_close(last.z_t, expected.z_t, rtol=0, atol=1e-8)


# --- the loop, as a generator ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(("name", "eta"), [*((name, 0.0) for name in NAMES), ("ddim", 1.0)])
def test_a_seed_gives_the_same_bits_alone_and_in_a_batch(name, eta):
    scheduler = make_scheduler(name, RELEASED)

    def run(*seeds):
        generators = seeded_generators(seeds)
        *_, last = denoise(wavy, draw_noise((4, 5, 3), generators), scheduler, 7, eta=eta, generators=generators)
        return last.z_t

    together = run(3, 5, 9)
    assert torch.equal(together, torch.cat([run(3), run(5), run(9)]))
    assert not torch.equal(together[0], together[1])


def test_eta_adds_noise():
    scheduler, z_T = make_scheduler("ddim", RELEASED), double_noise(1)
    runs = [denoise(wavy, z_T, scheduler, 5, eta=eta, generators=seeded_generators([1])) for eta in (0.0, 0.5, 1.0)]
    ends = [list(run)[-1].z_t for run in runs]
    assert not torch.allclose(ends[0], ends[1])
    assert not torch.allclose(ends[1], ends[2])


@pytest.mark.parametrize("name", NAMES)
def test_runs_with_the_same_scheduler_do_not_disturb_one_another(name):
    scheduler = make_scheduler(name, RELEASED)
    config, before = dict(scheduler.config), {key: str(value) for key, value in vars(scheduler).items()}

    def two_runs():
        return [denoise(wavy, double_noise(1), scheduler, 6), denoise(wavy, double_noise(2), scheduler, 9)]

    alone = [[step.z_t for step in run] for run in two_runs()]
    runs = two_runs()
    together: list[list[torch.Tensor]] = [[], []]
    for _ in range(10):
        for run, states in zip(runs, together, strict=True):
            states.extend(step.z_t for step in islice(run, 1))
    for one, other in zip(alone, together, strict=True):
        assert torch.equal(torch.stack(one), torch.stack(other))
    assert dict(scheduler.config) == config
    assert {key: str(value) for key, value in vars(scheduler).items()} == before


@pytest.mark.parametrize("name", NAMES)
def test_the_model_is_asked_only_for_steps_that_are_taken(name):
    asked = []

    def predict(z_t, t):
        asked.append(int(t))
        return wavy(z_t, t)

    run = denoise(predict, double_noise(1), make_scheduler(name, RELEASED), 50)
    assert asked == []
    assert [step.t for step in islice(run, 3)] == asked
    assert len(asked) == 3


def test_no_graph_is_kept():
    weight = torch.ones((), dtype=torch.float64, requires_grad=True)
    run = list(denoise(lambda z_t, t: weight * z_t, double_noise(1), make_scheduler("ddim", RELEASED), 2))
    assert not run[-1].z_t.requires_grad
    assert torch.is_grad_enabled()


@pytest.mark.parametrize("name", NAMES)
def test_half_precision_stays_half(name):
    *_, last = denoise(wavy, seeded_noise(SHAPE, [1], dtype=torch.float16), make_scheduler(name, RELEASED), 5)
    assert last.z_t.dtype == last.z_0.dtype == torch.float16
    assert last.z_t.isfinite().all()


@pytest.mark.parametrize(
    ("name", "steps", "options", "message"),
    [
        ("ddim", 0, {}, "steps must be between 1 and 1000, got 0"),
        ("unipc", 1001, {}, "steps must be between 1 and 1000, got 1001"),
        ("pndm", 1000, {}, "take fewer"),  # 1, 2, .. 1000 with the released steps_offset, and there is no 1000
        ("dpm++", 10, {"start": 10}, "start must be between 0 and 9"),
        ("ddim", 10, {"start": -1}, "start must be between 0 and 9"),
        ("pndm", 10, {"eta": 0.5, "generators": seeded_generators([0])}, "eta is for ddim only"),
        ("ddim", 10, {"eta": 1.5, "generators": seeded_generators([0])}, "eta must be between 0 and 1"),
        ("ddim", 10, {"eta": 1.0}, "one generator per picture: 0 for 1"),
        ("ddim", 10, {"eta": 1.0, "generators": seeded_generators([0, 1])}, "one generator per picture: 2 for 1"),
    ],
)
def test_what_cannot_be_run_is_refused_in_a_line(name, steps, options, message):
    with pytest.raises(UserError, match=message) as refusal:
        next(denoise(wavy, double_noise(1), make_scheduler(name, RELEASED), steps, **options))
    assert "\n" not in str(refusal.value)


# --- schedulers ------------------------------------------------------------------------------------------------------


def test_timesteps_are_the_authors_for_the_released_model():
    assert timesteps(make_scheduler("pndm", RELEASED), 50).tolist() == list(range(981, 0, -20))
    assert timesteps(make_scheduler("ddim", RELEASED), 50).tolist() == list(range(981, 0, -20))


@pytest.mark.parametrize("name", ["dpm++", "unipc"])
def test_the_fast_solvers_start_at_the_noisiest_level(name):
    scheduler = make_scheduler(name, PNDMScheduler(**RELEASED))  # whose own spacing is "leading"
    for steps in range(1, 101):
        levels = timesteps(scheduler, steps)
        assert levels[0] == 999
        assert len(levels) == steps
        assert levels[-1] >= 0


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("prediction_type", PREDICTIONS)
def test_a_swap_keeps_what_the_model_was_trained_with(name, prediction_type):
    source = PNDMScheduler(**RELEASED, prediction_type=prediction_type)
    for config in (source, source.config, {**RELEASED, "prediction_type": prediction_type}):
        swapped = make_scheduler(name, config)
        assert torch.equal(swapped.alphas_cumprod, source.alphas_cumprod)
        assert swapped.config["prediction_type"] == prediction_type
        assert swapped.config["steps_offset"] == 1
        assert swapped.config["clip_sample"] is False
    back = make_scheduler("ddim", make_scheduler(name, source))  # through a class that knows neither key
    assert back.config["set_alpha_to_one"] is False
    assert back.config["clip_sample"] is False


def test_a_default_is_kept_where_the_other_class_has_another():
    assert make_scheduler("pndm", DDIMScheduler()).config["set_alpha_to_one"] is True
    assert make_scheduler("ddim", PNDMScheduler()).config["set_alpha_to_one"] is False
    assert make_scheduler("ddim", DDIMScheduler(clip_sample=True)).config["clip_sample"] is False
    assert make_scheduler("pndm", PNDMScheduler()).config["skip_prk_steps"] is True
    assert make_scheduler("ddim", {"beta_schedule": "scaled_linear"}).config["set_alpha_to_one"] is False


def test_dpm_solver_draws_nothing_from_torchs_own_generator():
    assert make_scheduler("dpm++", {"algorithm_type": "sde-dpmsolver++"}).config["algorithm_type"] == "dpmsolver++"


def test_what_is_not_known_is_named():
    name: Any = "euler"
    with pytest.raises(ModelError, match=r"'euler'.*ddim, pndm, dpm\+\+, unipc"):
        make_scheduler(name, RELEASED)
    scheduler: Any = EulerDiscreteScheduler()
    with pytest.raises(ModelError, match="EulerDiscreteScheduler"):
        next(denoise(wavy, double_noise(1), scheduler, 5))
    flow = make_scheduler("unipc", {**RELEASED, "prediction_type": "flow_prediction"})
    for convert in (predict_clean, predict_noise):
        with pytest.raises(ModelError, match="flow_prediction"):
            convert(double_noise(1), double_noise(2), torch.tensor(3), flow)


@pytest.mark.parametrize("prediction_type", PREDICTIONS)
@pytest.mark.parametrize("t", [torch.tensor(700), torch.tensor([0, 999])])
def test_noise_and_picture_are_told_apart(prediction_type, t):
    scheduler = make_scheduler("dpm++", {**RELEASED, "prediction_type": prediction_type})
    z_0, noise = double_noise(1, 2), double_noise(3, 4)
    z_t = add_noise(z_0, noise, t, scheduler)
    velocity = DDIMScheduler(**{k: v for k, v in RELEASED.items() if k != "skip_prk_steps"}).get_velocity(
        z_0, noise, t.expand(2)
    )
    prediction = {"epsilon": noise, "sample": z_0, "v_prediction": velocity}[prediction_type]
    torch.testing.assert_close(predict_clean(z_t, prediction, t, scheduler), z_0, rtol=0, atol=1e-6)
    torch.testing.assert_close(predict_noise(z_t, prediction, t, scheduler), noise, rtol=0, atol=1e-6)
    a = alpha_bar(scheduler, t).view(-1, 1, 1, 1)
    torch.testing.assert_close(z_t, a.sqrt() * z_0 + (1 - a).sqrt() * noise)


@pytest.mark.parametrize("prediction_type", PREDICTIONS)
@pytest.mark.parametrize("t", [torch.tensor(700), torch.tensor([20, 999])])
def test_a_prediction_is_moved_as_far_as_there_is_noise(prediction_type, t):
    scheduler = make_scheduler("dpm++", {**RELEASED, "prediction_type": prediction_type})
    z_t, prediction, way = double_noise(1, 2), double_noise(3, 4), double_noise(5, 6)
    before, after = (
        predict_clean(z_t, e, t, scheduler) for e in (prediction, move_clean(prediction, way, t, scheduler))
    )
    sigma = (1 - alpha_bar(scheduler, t)).sqrt().view(-1, 1, 1, 1)
    torch.testing.assert_close(after, before + sigma * way, rtol=0, atol=1e-6)


def test_what_is_computed_of_latents_is_of_their_type():
    t, scheduler = torch.tensor(300), make_scheduler("dpm++", RELEASED)
    z, e = double_noise(1).float(), double_noise(2).float()
    for computed in (f(z, e, t, scheduler) for f in (predict_clean, predict_noise, move_clean)):
        assert computed.dtype == torch.float32
    assert add_noise(z, e, t, scheduler).dtype == torch.float32


# --- noise -----------------------------------------------------------------------------------------------------------


def test_noise_belongs_to_its_seed():
    noise = seeded_noise((4, 64, 64), [3, 5, 9])
    assert torch.equal(noise[1:2], seeded_noise((4, 64, 64), [5]))
    assert torch.equal(noise.half(), seeded_noise((4, 64, 64), [3, 5, 9], dtype=torch.float16))
    assert torch.allclose(noise.mean((1, 2, 3)), torch.zeros(3), atol=0.05)
    assert torch.allclose(noise.std((1, 2, 3)), torch.ones(3), atol=0.05)
    assert not torch.equal(noise[0], noise[1])


def test_drawing_again_gives_new_noise_and_leaves_torchs_own_alone():
    generators = seeded_generators([3])
    before = torch.random.get_rng_state()
    assert not torch.equal(draw_noise(SHAPE, generators), draw_noise(SHAPE, generators))
    assert torch.equal(before, torch.random.get_rng_state())


def test_a_batch_is_drawn_in_one_go_where_it_shares_a_generator():
    (one,) = seeded_generators([3])
    whole = torch.randn(3, *SHAPE, generator=torch.Generator().manual_seed(3), dtype=torch.float16)
    assert torch.equal(draw_batch(SHAPE, [one] * 3, dtype=torch.float16), whole)
    each = [torch.randn(1, *SHAPE, generator=generator) for generator in seeded_generators([3, 4])]
    assert torch.equal(draw_batch(SHAPE, seeded_generators([3, 4])), torch.cat(each))


# --- runs in step, latents sent back, parts of a run ------------------------------------------------------------------


def run_of(seed, name="pndm"):
    return denoise(wavy, double_noise(seed), make_scheduler(name, RELEASED), 6)


@pytest.mark.parametrize("name", NAMES)
def test_runs_in_step_are_the_runs(name):
    steps = list(in_step([run_of(1, name), run_of(2, name)]))
    alone = [list(run_of(seed, name)) for seed in (1, 2)]
    assert len(steps) == len(alone[0])
    for index, step in enumerate(steps):
        assert (step.index, step.t, step.total) == (index, alone[0][index].t, len(steps))
        assert torch.equal(step.z_t, torch.cat([run[index].z_t for run in alone]))
        assert torch.equal(step.z_0, torch.cat([run[index].z_0 for run in alone]))


def test_latents_that_are_sent_take_the_place_of_those_yielded():
    run = in_step([run_of(1, "ddim"), run_of(2, "ddim")])
    first = next(run)
    sent = first.z_t.clone()
    sent[1] = 7
    second = run.send(sent)
    expected = run_of(2, "ddim")
    next(expected)
    assert torch.equal(second.z_t[1:], expected.send(torch.full_like(sent[1:], 7)).z_t)
    untouched = list(run_of(1, "ddim"))
    assert torch.equal(second.z_t[:1], untouched[1].z_t)
    assert len([second, *run]) == 5


@pytest.mark.parametrize(
    ("strength", "steps", "left_out"), [(1.0, 50, 0), (0.5, 50, 25), (0.3, 10, 7), (1e-6, 50, 49), (0.01, 1, 0)]
)
def test_strength_leaves_out_the_noisiest_levels(strength, steps, left_out):
    assert first_step(strength, steps) == left_out


@pytest.mark.parametrize("strength", [0, -0.1, 1.01, math.nan])
def test_a_strength_that_cannot_be(strength):
    with pytest.raises(UserError, match="strength must be above 0 and at most 1, got"):
        first_step(strength, 10)
