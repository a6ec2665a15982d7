"""Guidance against its formulas, of a model that is one."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from paint_by_example.errors import UserError
from paint_by_example.guidance import guide, guide_with_structure, within_interval
from tests.tiny import seeded_noise


def noise(*seeds):
    return seeded_noise((2, 3, 2), seeds, dtype=torch.float64)


class Conditional:
    """A model that writes down what it is called with."""

    def __init__(self):
        self.calls = []

    def __call__(self, z_t, t, condition):
        self.calls.append((z_t, t, condition))
        return torch.sin(z_t) * t.view(-1, 1, 1, 1) / 1000 + condition.mean((1, 2)).view(-1, 1, 1, 1) * z_t


CONDITION = torch.tensor([[[0.5, 1.0]], [[-2.0, 0.3]], [[4.0, 1.0]]], dtype=torch.float64)  # (B,1,D)
NULL = torch.tensor([[[0.1, -0.4]]], dtype=torch.float64)
T = torch.tensor(420)


def predictions(z_t):
    model = Conditional()
    return model(z_t, T, CONDITION), model(z_t, T, NULL.expand(3, -1, -1))


@given(scale=st.floats(-20, 20, allow_subnormal=False))
@settings(max_examples=50, deadline=None)
def test_guidance_is_linear_in_its_scale(scale):
    z_t = noise(1, 2, 3)
    with_condition, without = predictions(z_t)
    guided = guide(Conditional(), CONDITION, NULL, scale)(z_t, T)
    torch.testing.assert_close(guided, without + scale * (with_condition - without), rtol=0, atol=1e-12)


def test_scale_zero_is_the_null_prediction():
    z_t = noise(1, 2, 3)
    assert torch.equal(guide(Conditional(), CONDITION, NULL, 0.0)(z_t, T), predictions(z_t)[1])


@pytest.mark.parametrize("scale", [1, 1.0, torch.ones(3)])
def test_scale_one_runs_the_conditional_half_alone(scale):
    z_t, model = noise(1, 2, 3), Conditional()
    assert torch.equal(guide(model, CONDITION, NULL, scale)(z_t, T), predictions(z_t)[0])
    assert [len(z) for z, _, _ in model.calls] == [3]


def test_one_call_with_the_null_half_first():
    z_t, model = noise(1, 2, 3), Conditional()
    guide(model, CONDITION, NULL, 5.0)(z_t, T)
    [(seen, _, conditions)] = model.calls
    assert torch.equal(seen, torch.cat([z_t, z_t]))
    assert torch.equal(conditions, torch.cat([NULL, NULL, NULL, CONDITION]))


def test_each_picture_may_have_its_own_scale():
    z_t = noise(1, 2, 3)
    scales = [0.0, 1.0, 7.3]
    together = guide(Conditional(), CONDITION, NULL, torch.tensor(scales, dtype=torch.float64))(z_t, T)
    for i, scale in enumerate(scales):
        alone = guide(Conditional(), CONDITION[i : i + 1], NULL, scale)(z_t[i : i + 1], T)
        torch.testing.assert_close(together[i : i + 1], alone, rtol=0, atol=1e-14)


def test_each_place_may_have_its_own_scale():
    z_t = noise(1, 2)
    scale = torch.ones(2, 1, *z_t.shape[-2:], dtype=torch.float64)
    scale[..., 1:] = 4.0
    found = guide(Conditional(), CONDITION[:2], NULL, scale)(z_t, T)
    for value, columns in ((1.0, slice(0, 1)), (4.0, slice(1, None))):
        alone = guide(Conditional(), CONDITION[:2], NULL, value)(z_t, T)
        torch.testing.assert_close(found[..., columns], alone[..., columns], rtol=0, atol=1e-14)


def test_each_picture_may_be_at_its_own_timestep():
    z_t, t = noise(1, 2, 3), torch.tensor([10, 500, 900])
    together = guide(Conditional(), CONDITION, NULL, 3.0)(z_t, t)
    for i in range(3):
        alone = guide(Conditional(), CONDITION[i : i + 1], NULL, 3.0)(z_t[i : i + 1], t[i : i + 1])
        torch.testing.assert_close(together[i : i + 1], alone, rtol=0, atol=1e-14)


def test_guidance_keeps_the_precision_of_the_model():
    z_t = noise(1, 2, 3).half()
    assert guide(Conditional(), CONDITION.half(), NULL.float(), 5.0)(z_t, T).dtype == torch.float16


@pytest.mark.parametrize("rescale", [0.0, 0.7, 1.0])
def test_rescaling_brings_the_deviation_back(rescale):
    z_t = noise(1, 2, 3)
    plain = guide(Conditional(), CONDITION, NULL, 7.0)(z_t, T)
    e = guide(Conditional(), CONDITION, NULL, 7.0, rescale)(z_t, T)
    wanted, without = predictions(z_t)[0].std((1, 2, 3)), plain.std((1, 2, 3))
    torch.testing.assert_close(e.std((1, 2, 3)), rescale * wanted + (1 - rescale) * without, rtol=1e-6, atol=0)
    ratio = e / plain  # the same for all values of a picture
    torch.testing.assert_close(ratio, ratio[:, :1, :1, :1].expand_as(ratio), rtol=1e-9, atol=0)


@pytest.mark.parametrize("rescale", [-0.1, 1.1, math.nan])
def test_a_rescaling_that_cannot_be(rescale):
    with pytest.raises(UserError, match="guidance_rescale must be between 0 and 1"):
        guide(Conditional(), CONDITION, NULL, 7.0, rescale)


def test_the_null_condition_stands_for_as_many_tokens_as_there_are():
    z_t, model = noise(1, 2, 3), Conditional()
    several = CONDITION.repeat(1, 4, 1)
    torch.testing.assert_close(
        guide(model, several, NULL, 5.0)(z_t, T),
        guide(Conditional(), several, NULL.repeat(1, 4, 1), 5.0)(z_t, T),
    )
    assert [len(z) for z, _, _ in model.calls] == [6]


SECOND = torch.tensor([[[2.0, -1.0]]], dtype=torch.float64)


def test_a_second_condition_takes_its_share_of_the_first_ones_place():
    z_t, model = noise(1, 2, 3), Conditional()
    e = guide(model, CONDITION, NULL, 5.0, second=(SECOND, 0.25))(z_t, T)
    first, null = predictions(z_t)
    other = Conditional()(z_t, T, SECOND.expand(3, -1, -1))
    torch.testing.assert_close(e, null + 5 * (0.75 * first + 0.25 * other - null), rtol=0, atol=1e-12)
    assert [len(z) for z, _, _ in model.calls] == [9]
    alone = guide(model, CONDITION, NULL, 1.0, second=(SECOND, 0.25))(z_t, T)
    torch.testing.assert_close(alone, 0.75 * first + 0.25 * other, rtol=0, atol=1e-12)


def test_a_second_condition_without_a_share_changes_nothing():
    z_t, model = noise(1, 2, 3), Conditional()
    e = guide(model, CONDITION, NULL, 5.0, second=(SECOND, 0.0))(z_t, T)
    assert torch.equal(e, guide(Conditional(), CONDITION, NULL, 5.0)(z_t, T))
    assert [len(z) for z, _, _ in model.calls] == [6]


class Structured(Conditional):
    """What sees the structure in some parts of its batch."""

    def __call__(self, z_t, t, condition, told=(False,)):
        e = super().__call__(z_t, t, condition)
        self.told = told
        seen = torch.cos(3 * z_t) + 0.3 * condition.mean((1, 2)).view(-1, 1, 1, 1)
        flags = torch.tensor(told, dtype=z_t.dtype).repeat_interleave(len(z_t) // len(told))
        return e + flags.view(-1, 1, 1, 1) * seen


def both(z_t, condition, told):
    return Structured()(z_t, T, condition.expand(3, -1, -1), (told,))


@given(scale=st.floats(-9, 9, allow_subnormal=False), structure_scale=st.floats(1.1, 9, allow_subnormal=False))
@settings(max_examples=30, deadline=None)
def test_two_guidances_are_their_formula(scale, structure_scale):
    z_t, model = noise(1, 2, 3), Structured()
    e = guide_with_structure(model, CONDITION, NULL, scale, structure_scale)(z_t, T)
    e_null, e_s, e_cs = both(z_t, NULL, False), both(z_t, NULL, True), both(z_t, CONDITION, True)
    expected = e_null + structure_scale * (e_s - e_null) + scale * (e_cs - e_s)
    torch.testing.assert_close(e, expected, rtol=0, atol=1e-11)
    assert [len(z) for z, _, _ in model.calls] == [9]
    assert model.told == (False, True, True)


@pytest.mark.parametrize(("structure_scale", "told"), [(1.0, True), (0.0, False)])
def test_a_structure_of_scale_one_takes_two_predictions_and_of_scale_zero_it_is_dropped(structure_scale, told):
    z_t, model = noise(1, 2, 3), Structured()
    e = guide_with_structure(model, CONDITION, NULL, 5.0, structure_scale)(z_t, T)
    e_null, e_condition = both(z_t, NULL, told), both(z_t, CONDITION, told)
    torch.testing.assert_close(e, e_null + 5 * (e_condition - e_null), rtol=0, atol=1e-12)
    assert [len(z) for z, _, _ in model.calls] == [6]


def test_a_structure_that_says_nothing_changes_nothing_at_any_scale():
    z_t, model = noise(1, 2, 3), Conditional()
    expected = guide(model, CONDITION, NULL, 5.0, 0.5, (SECOND, 0.5))(z_t, T)
    for structure_scale in (0.0, 0.4, 1.0, 3.0):
        e = guide_with_structure(
            lambda z_t, t, condition, told: model(z_t, t, condition),
            *(CONDITION, NULL, 5.0, structure_scale, 0.5, (SECOND, 0.5)),
        )(z_t, T)
        torch.testing.assert_close(e, expected)


@pytest.mark.parametrize("second", [(SECOND, -0.1), (SECOND, 1.1), (SECOND, math.nan)])
def test_a_share_that_cannot_be(second):
    with pytest.raises(UserError, match="source_exemplar must be between 0 and 1"):
        guide(Conditional(), CONDITION, NULL, 7.0, second=second)


@pytest.mark.parametrize("scale", [math.nan, math.inf])
def test_a_structure_scale_that_cannot_be(scale):
    with pytest.raises(UserError, match="structure_scale must be a finite number"):
        guide_with_structure(Structured(), CONDITION, NULL, 7.0, scale)


def test_guidance_outside_of_its_interval_costs_one_prediction():
    z_t, seen = noise(1), []

    def note(name):
        def predict(z, t):
            seen.append(name)
            return z + t

        return predict

    predict = within_interval(note("guided"), note("unguided"), (0.2, 0.8), 1000)
    for t in (100, 200, 500, 800, 900):
        assert torch.equal(predict(z_t, torch.tensor(t)), z_t + t)
    assert seen == ["unguided", "guided", "guided", "guided", "unguided"]
    seen.clear()
    predict = within_interval(note("guided"), note("unguided"), (0.5, 0.5), 1000)
    for t in (499, 500, 501):
        predict(z_t, torch.tensor(t))
    assert seen == ["unguided", "guided", "unguided"]
    everywhere = note("guided")
    assert within_interval(everywhere, note("unguided"), (0, 1), 1000) is everywhere


@pytest.mark.parametrize("interval", [(0.8, 0.2), (-0.1, 0.5), (0.5, 1.1), (math.nan, 1.0)])
def test_an_interval_that_cannot_be(interval):
    with pytest.raises(UserError, match="guidance_interval must be two rising numbers between 0 and 1"):
        within_interval(lambda z, t: z, lambda z, t: z, interval, 1000)
