"""Guidance against its formulas, of a model that is one."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from paint_by_example.errors import UserError
from paint_by_example.guidance import guide
from paint_by_example.sampling import seeded_noise


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
