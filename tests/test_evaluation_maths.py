"""Metrics on features, in float64: against closed forms, and against libraries on fixed random features."""

import json
import math
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from safetensors.numpy import save_file
from scipy import linalg
from sklearn.mixture import GaussianMixture
from torchmetrics.image.fid import _compute_fid
from torchmetrics.image.kid import poly_mmd

from paint_by_example.errors import MaskError, UserError
from paint_by_example.evaluation import frechet, mmd, quality
from paint_by_example.evaluation.frechet import frechet_distance, trace_root
from paint_by_example.evaluation.likeness import cosine, painted_box, painted_box_original, retrieval
from paint_by_example.evaluation.result import interval, mean_figure
from paint_by_example.evaluation.statistics import Moments, read_space
from tests.oracle.metrics import SIZES, equal, features

STORED = json.loads((Path(__file__).parent / "data" / "oracle_metrics.json").read_text())
Array = NDArray[np.float64]


def covariance(dimension: int, seed: int) -> Array:
    x = np.random.default_rng(seed).normal(size=(2 * dimension, dimension))
    return np.asarray(x.T @ x / len(x))


def moments(mean: Array, matrix: Array, count: int = 1000) -> Moments:
    made = Moments(len(mean))
    made.count, made.mean, made.scatter = count, mean, matrix * (count - 1)
    return made


# --- statistics -------------------------------------------------------------------------------------------------------


def test_moments_are_numpys() -> None:
    x = np.random.default_rng(0).normal(5, 2, size=(200, 7))
    made = Moments.of(x)
    assert made.count == 200
    np.testing.assert_allclose(made.mean, x.mean(0), rtol=1e-13)
    np.testing.assert_allclose(made.covariance(), np.cov(x, rowvar=False), rtol=1e-12)


@pytest.mark.parametrize("cuts", [[50], [1, 2, 199], [0, 100, 100]])
def test_moments_in_parts_are_those_of_the_whole(cuts: list[int]) -> None:
    x = np.random.default_rng(1).normal(1e4, 1, size=(200, 5))  # far from zero, where sums of squares lose digits
    whole, merged = Moments.of(x), Moments(5)
    for part in np.split(x, cuts):
        merged.merge(Moments.of([part]) if len(part) else Moments(5))
    assert merged.count == whole.count
    np.testing.assert_allclose(merged.mean, whole.mean, rtol=1e-14)
    np.testing.assert_allclose(merged.covariance(), whole.covariance(), rtol=1e-8)
    np.testing.assert_allclose(Moments.of(np.split(x, cuts)).covariance(), whole.covariance(), rtol=1e-8)


def test_moments_survive_their_file(tmp_path: Path) -> None:
    made = Moments.of(np.random.default_rng(2).normal(size=(20, 4)))
    file = tmp_path / "a" / "new" / "statistics.safetensors"
    made.save(file, "inception-v3")
    again = Moments.load(file, "inception-v3")
    assert again.count == 20
    assert (again.mean == made.mean).all()
    assert (again.scatter == made.scatter).all()
    with pytest.raises(UserError, match="are of inception-v3, not of dinov2"):
        Moments.load(file, "dinov2")
    (tmp_path / "other.safetensors").write_bytes(b"nothing")
    with pytest.raises(UserError, match="cannot read statistics"):
        read_space(tmp_path / "other.safetensors")
    save_file({"mean": made.mean, "scatter": made.scatter}, tmp_path / "other.safetensors")
    with pytest.raises(UserError, match="from .*other.safetensors: it holds no mean, scatter and count$"):
        read_space(tmp_path / "other.safetensors")


def test_no_moments_of_nothing() -> None:
    with pytest.raises(UserError, match="no pictures"):
        Moments.of([])
    with pytest.raises(UserError, match="at least 2"):
        Moments.of(np.ones((1, 3))).covariance()
    assert Moments.of(np.array([[0.0], [2.0]])).covariance() == [[2]]


# --- Fréchet ----------------------------------------------------------------------------------------------------------


def test_frechet_of_diagonal_gaussians() -> None:
    a, b = np.array([1.0, 4.0, 9.0]), np.array([4.0, 1.0, 16.0])
    found = frechet_distance(moments(np.zeros(3), np.diag(a)), moments(np.array([3.0, 0, 4.0]), np.diag(b)))
    assert found == pytest.approx(25 + ((np.sqrt(a) - np.sqrt(b)) ** 2).sum(), rel=1e-12)


def test_frechet_of_scaled_covariances() -> None:
    matrix = covariance(12, 3)
    found = frechet_distance(moments(np.zeros(12), matrix), moments(np.zeros(12), 4 * matrix))
    assert found == pytest.approx(np.trace(matrix), rel=1e-12)  # (1 + 4 - 2 * 2) tr C


def test_frechet_of_one_direction_each() -> None:
    """Both matrices have rank 1, at 60 degrees: tr (C1 C2)^½ is the cosine, and no Cholesky factor exists."""
    u, v = np.array([1.0, 0, 0]), np.array([0.5, math.sqrt(0.75), 0])
    found = frechet_distance(moments(np.zeros(3), np.outer(u, u)), moments(np.zeros(3), np.outer(v, v)))
    assert found == pytest.approx(1, rel=1e-12)


def test_frechet_of_a_set_and_itself_is_zero() -> None:
    for dimension in (10, 100):  # more and fewer pictures than features
        made = Moments.of(np.random.default_rng(4).normal(size=(50, dimension)))
        assert abs(frechet_distance(made, made)) < 1e-10


@pytest.mark.parametrize("kind", SIZES)
def test_frechet_is_the_libraries(kind: str) -> None:
    x, y = features(kind)
    a, b = Moments.of(x), Moments.of(y)
    found = frechet_distance(a, b)
    assert found == pytest.approx(frechet_distance(b, a), rel=1e-12)
    # The root of a singular product has an error of eps^½ in theirs.
    for library in ("torch-fidelity", "clean-fid"):
        assert found == pytest.approx(STORED[kind][f"{library} frechet"], rel=1e-6 if kind == "singular" else 1e-12)
    mine = [torch.from_numpy(part) for one in (a, b) for part in (one.mean, one.covariance())]
    assert found == pytest.approx(float(_compute_fid(*mine)), rel=1e-6)


@pytest.mark.parametrize("kind", SIZES)
def test_both_ways_to_the_trace_are_one(kind: str) -> None:
    first, second = (Moments.of(part).covariance() for part in features(kind))
    exact = float(np.trace(linalg.sqrtm(first @ second)).real)
    assert trace_root(first, second) == pytest.approx(exact, rel=1e-6)
    assert frechet.nuclear(first, second) == pytest.approx(exact, rel=1e-6)


def test_the_quick_way_to_the_trace_is_taken_where_no_eigenvalue_is_noise(monkeypatch: pytest.MonkeyPatch) -> None:
    almost = np.diag([1, 1e-20, 1e-20])  # has a Cholesky factor, and roots of its noise that add up to 2e-10
    assert trace_root(almost, np.eye(3)) == pytest.approx(1, abs=1e-12)
    monkeypatch.setattr(frechet, "nuclear", lambda first, second: pytest.fail("the slow way"))
    assert trace_root(covariance(5, 1), np.eye(5)) > 0


def test_frechet_refuses_what_is_no_statistics() -> None:
    good = moments(np.zeros(2), np.eye(2))
    with pytest.raises(UserError, match="cannot be compared"):
        frechet_distance(good, moments(np.zeros(3), np.eye(3)))
    with pytest.raises(UserError, match="not finite"):
        frechet_distance(good, moments(np.array([0, np.nan]), np.eye(2)))
    with pytest.raises(UserError, match="eigenvalue -1"):
        frechet_distance(moments(np.zeros(2), np.diag([1.0, -1.0])), good)


@pytest.mark.parametrize("size", [(30, 8), (10, 40)])  # the root is taken the one or the other way round
def test_bootstrap_of_frechet_is_the_distance_of_resamples(size: tuple[int, int]) -> None:
    rng = np.random.default_rng(5)
    x, reference = rng.normal(size=size), Moments.of(rng.normal(0.2, 1.1, size=(60, size[1])))
    again = np.random.default_rng(7)
    drawn = [x[again.integers(len(x), size=len(x))] for _ in range(3)]
    expected = [frechet_distance(Moments.of(one), reference) for one in drawn]
    np.testing.assert_allclose(frechet.bootstrap(x, reference, seed=7)[:3], expected, rtol=1e-8)


# --- kernels ----------------------------------------------------------------------------------------------------------


def test_mmd_of_two_points_each() -> None:
    """Kernel xy on numbers: unbiased and biased estimates by hand."""
    x, y = np.array([[1.0], [3.0]]), np.array([[2.0], [5.0]])
    unbiased, biased, _ = mmd.squared_mmd(x, y, lambda a, b: a @ b.T, resamples=2)
    assert unbiased == pytest.approx(3 + 10 - 2 * (2 - 0) * 3.5)
    assert biased == pytest.approx((2 - 3.5) ** 2)


@pytest.mark.parametrize("kind", SIZES)
def test_mmd_is_the_libraries(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    x, y = equal(*features(kind))
    for block in (512, 7):  # sums over blocks are those over all
        monkeypatch.setattr(mmd, "BLOCK", block)
        found, _, _ = mmd.squared_mmd(x, y, mmd.cubic, resamples=1)
        assert found == pytest.approx(STORED[kind]["torch-fidelity cubic"], rel=1e-10)
        assert found == pytest.approx(STORED[kind]["clean-fid cubic"], rel=1e-10)
        assert found == pytest.approx(float(poly_mmd(torch.from_numpy(x), torch.from_numpy(y))), rel=1e-10)
        found, _, _ = mmd.squared_mmd(x, y, mmd.gaussian, resamples=1)
        assert found == pytest.approx(STORED[kind]["torch-fidelity gaussian"], rel=1e-10)


def test_cmmd_is_biased_and_of_directions() -> None:
    rng = np.random.default_rng(6)
    x, y = rng.normal(size=(20, 5)), rng.normal(0.5, 1, size=(30, 5))
    u, v = (one / np.linalg.norm(one, axis=1, keepdims=True) for one in (x, y))

    def mean(a: Array, b: Array) -> float:
        return float(np.mean([[math.exp(-((p - q) ** 2).sum() / 200) for q in b] for p in a]))

    expected = 1000 * (mean(u, u) + mean(v, v) - 2 * mean(u, v))
    figure = mmd.cmmd(10 * x, y)  # lengths do not count
    assert figure.value == pytest.approx(expected, rel=1e-9)
    assert figure.low is not None
    assert figure.high is not None
    assert figure.low < figure.value < figure.high
    assert mmd.cmmd(x, x).value == pytest.approx(0, abs=1e-9)


def test_bootstrap_of_mmd_is_the_distance_of_resamples_without_pairs_of_one() -> None:
    rng = np.random.default_rng(8)
    x, y = rng.normal(size=(6, 3)), rng.normal(size=(5, 3))
    _, _, draws = mmd.squared_mmd(x, y, mmd.cubic, seed=3, resamples=2)
    again = np.random.default_rng(3)
    of_x, of_y = (again.multinomial(n, np.full(n, 1 / n), 2) for n in (6, 5))
    for draw, weights, others in zip(draws, of_x, of_y, strict=True):
        i, j = np.repeat(np.arange(6), weights), np.repeat(np.arange(5), others)
        own = [
            mmd.cubic(one, one)[np.ix_(rows, rows)][rows[:, None] != rows[None]].mean()
            for one, rows in ((x, i), (y, j))
        ]
        assert draw == pytest.approx(own[0] + own[1] - 2 * mmd.cubic(x[i], y[j]).mean(), rel=1e-10)


def test_kid_is_about_zero_for_one_population() -> None:
    rng = np.random.default_rng(9)
    same = mmd.kid(rng.normal(size=(200, 16)), rng.normal(size=(200, 16)))
    other = mmd.kid(rng.normal(size=(200, 16)), rng.normal(0.5, 1, size=(200, 16)))
    assert same.low is not None
    assert same.high is not None
    assert same.low < 0 < same.high
    assert other.low is not None
    assert other.low > same.high


def test_kernels_refuse_what_cannot_be_compared() -> None:
    with pytest.raises(UserError, match="at least 2"):
        mmd.kid(np.ones((1, 3)), np.ones((5, 3)))
    with pytest.raises(UserError, match="of one length"):
        mmd.kid(np.ones((5, 3)), np.ones((5, 4)))


# --- quality score ----------------------------------------------------------------------------------------------------


def test_quality_is_a_gaussians_likelihood_scaled_and_clipped(tmp_path: Path) -> None:
    """One component of unit variance: -D/2 log 2π - r²/2; the scale is 300, what is below 0 scores 0."""
    mixture = GaussianMixture(1)
    mixture.weights_, mixture.means_ = np.ones(1), np.zeros((1, 2))
    model = quality.Quality(mixture, "clip-vit-b-32")
    for precision, expected in ((1.0, -math.log(2 * math.pi)), (math.exp(100), 200 - math.log(2 * math.pi))):
        mixture.precisions_cholesky_ = np.eye(2)[None] * precision
        scores = quality.quality_scores(model, np.zeros((3, 2)))
        np.testing.assert_allclose(scores, max(expected, 0) / 3, rtol=1e-12)
    mixture.precisions_cholesky_ = np.eye(2)[None] * math.exp(200)
    assert quality.quality_scores(model, np.zeros((1, 2))) == [100]


def test_quality_survives_its_file_and_counts_every_picture(tmp_path: Path) -> None:
    rng = np.random.default_rng(10)
    x = rng.normal(size=(80, 3)) * 1e-12 + rng.integers(0, 3, (80, 1)) * 1e-11
    fitted = quality.fit_quality(x * 1e9, "clip-vit-b-32", components=3)
    quality.save_quality(fitted, tmp_path / "qs.safetensors")
    again = quality.load_quality(tmp_path / "qs.safetensors")
    assert (again.space, again.span) == ("clip-vit-b-32", (0, 300))
    shown = x[:77] * 1e9  # fills no batch of 50
    scores = quality.quality_scores(again, shown)
    assert len(scores) == 77
    np.testing.assert_array_equal(scores, np.clip(fitted.mixture.score_samples(shown) / 300, 0, 1) * 100)
    assert 0 < scores.mean() < 100
    with pytest.raises(UserError, match="features of 3 numbers, got 4"):
        quality.quality_scores(again, np.zeros((1, 4)))


def test_in_other_features_the_scale_comes_from_pictures_that_were_not_fitted_to(tmp_path: Path) -> None:
    """Of a fit to as many pictures as numbers, those fitted to are far likelier than any other: they set no scale."""
    rng = np.random.default_rng(3)
    x, others = rng.normal(size=(400, 20)), rng.normal(size=(400, 20))
    fitted = quality.fit_quality(x, "dinov2")
    assert len(fitted.mixture.weights_) == 2  # ten pictures to each of 20 numbers: 400 / 200
    assert len(quality.fit_quality(rng.normal(size=(5000, 2)), "dinov2").mixture.weights_) == 20
    quality.save_quality(fitted, tmp_path / "qs.safetensors")
    scores = quality.quality_scores(quality.load_quality(tmp_path / "qs.safetensors"), others)
    assert 35 < scores.mean() < 80
    assert ((scores == 0) | (scores == 100)).mean() < 0.2
    assert quality.quality_scores(fitted, others + 9).max() == 0


def test_quality_refuses_what_is_no_mixture(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="20 components needs more pictures, got 19"):
        quality.fit_quality(np.zeros((19, 2)), "clip-vit-b-32", 20)
    Moments.of(np.random.default_rng(0).normal(size=(5, 2))).save(tmp_path / "a.safetensors", "dinov2")
    with pytest.raises(UserError, match="holds no mixture"):
        quality.load_quality(tmp_path / "a.safetensors")
    with pytest.raises(UserError, match="cannot read the mixture"):
        quality.load_quality(tmp_path / "none.safetensors")


# --- likeness ---------------------------------------------------------------------------------------------------------


def test_cosine_by_hand() -> None:
    found = cosine(np.array([[3.0, 4.0], [1.0, 0.0], [0.0, 0.0]]), np.array([[4.0, 3.0], [-2.0, 0.0], [1.0, 0.0]]))
    np.testing.assert_allclose(found, [24 / 25, -1, 0], atol=1e-15)


def test_retrieval_takes_what_all_have_in_common_away() -> None:
    gallery = np.array([[10.0, 1.0], [10.0, -1.0], [12.0, 0.0], [8.0, 0.0]])
    boxes = np.array([[10.0, 0.2], [10.4, -0.5], [10.0, -5.0]])
    rank, alike = retrieval(boxes, gallery, np.array([0, 2, 0]))
    assert rank.tolist() == [0, 1, 3]
    np.testing.assert_allclose(alike, [1, 0.4 / math.hypot(0.5, 0.4), -1], atol=1e-12)


def test_the_authors_box_loses_the_last_row_and_column() -> None:
    picture = np.arange(6 * 8 * 3, dtype=np.uint8).reshape(6, 8, 3)
    mask = np.zeros((6, 8), bool)
    mask[1:5, 2:7] = True
    assert (painted_box(picture, mask) == picture[1:5, 2:7]).all()
    assert (painted_box_original(picture, mask) == picture[1:4, 2:6]).all()
    for small in (np.zeros((6, 8), bool), mask & (np.arange(8) == 2)):
        with pytest.raises(MaskError):
            painted_box_original(picture, small)


# --- intervals --------------------------------------------------------------------------------------------------------


def test_interval_of_a_mean_is_about_two_standard_errors() -> None:
    values = np.random.default_rng(11).normal(3, 1, size=400)
    figure = mean_figure(values)
    assert figure.value == pytest.approx(values.mean())
    assert figure.low is not None
    assert figure.high is not None
    assert figure.high - figure.low == pytest.approx(2 * 1.96 * values.std() / 20, rel=0.1)


def test_intervals_cover_as_often_as_they_say() -> None:
    rng = np.random.default_rng(12)
    hits = 0
    for _ in range(200):
        figure = mean_figure(rng.exponential(size=60))
        assert figure.low is not None
        assert figure.high is not None
        hits += figure.low <= 1 <= figure.high
    assert 0.89 <= hits / 200 <= 0.99


def test_an_interval_lies_around_its_value_however_biased_the_draws() -> None:
    figure = interval(5.0, np.array([9.0, 10.0, 11.0]), 10)
    assert figure.value == 5
    assert figure.low == pytest.approx(4.05)
    assert figure.high == pytest.approx(5.95)
    assert interval(5.0, np.array([]), 10).low is None
    assert interval(5.0, np.array([4.0, 6.0]), 1).high is None
