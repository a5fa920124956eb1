"""Laws of the models and of the one place that reads their output."""

from __future__ import annotations

import json
import math
import shutil
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from helpers.checkpoints import CPU, save, tell, tiny_network
from helpers.networks import Speaking
from helpers.walks import coefficients
from hypothesis import given
from hypothesis import strategies as st

import pint_diffusion
from pint_diffusion.errors import InputError, NetworkError
from pint_diffusion.grid import (
    FlowSchedule,
    Level,
    NoiseSchedule,
    SigmaSchedule,
    TimeGrid,
)
from pint_diffusion.models import find_source, kinds, load_denoiser
from pint_diffusion.models.denoiser import Denoiser, schedule_of
from pint_diffusion.models.diffusers_checkpoint import load_checkpoint
from pint_diffusion.models.factory import load_factory
from pint_diffusion.models.mixture import GaussianMixture, load_mixture
from pint_diffusion.numerics.prediction import (
    PREDICTION_TYPES,
    network_input,
    predict,
)
from pint_diffusion.runtime.evaluator import Evaluator, step_index
from pint_diffusion.runtime.requests import Ask

# --- Gaussian mixtures ---------------------------------------------------------------------------


def mixture_arrays(components: int, shape: tuple[int, ...]) -> dict[str, np.ndarray]:
    draw = np.random.default_rng(components)
    weights = draw.random(components) + 0.1
    return {
        "means": draw.uniform(-1, 1, (components, *shape)),
        "variances": draw.uniform(0.01, 0.5, components),
        "weights": weights / weights.sum(),
    }


def overlapping_arrays(components: int, shape: tuple[int, ...]) -> dict[str, np.ndarray]:
    """Components that share every sample, so that the last bit of each logit shows in eps."""
    arrays = mixture_arrays(components, shape)
    spread = 1 / math.sqrt(math.prod(shape))
    nearly_one = 1 + spread * arrays["variances"]
    return {**arrays, "means": spread * arrays["means"], "variances": nearly_one}


@pytest.mark.parametrize("alpha_bar", [1 - 1e-4, 0.9, 0.5, 0.01, 4e-5])
@pytest.mark.parametrize(("components", "shape"), [(1, (3,)), (4, (2, 3, 3)), (7, (1, 5, 5))])
def test_mixture_eps_is_the_score_of_its_density(components, shape, alpha_bar):
    arrays = mixture_arrays(components, shape)
    model = GaussianMixture(**arrays, device=CPU, dtype=torch.float64)
    a, s = math.sqrt(alpha_bar), math.sqrt(1 - alpha_bar)
    means, variances, weights = (torch.from_numpy(v) for v in arrays.values())
    noise = torch.randn(5, *shape, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    x = (a * means[torch.arange(5) % components] + s * noise).requires_grad_(True)
    scale = (a**2 * variances + s**2).sqrt().view(-1, *[1] * len(shape))
    inside = torch.distributions.Normal(a * means, scale).log_prob(x.unsqueeze(1))
    density = torch.logsumexp(inside.flatten(2).sum(2) + weights.log(), 1)
    (score,) = torch.autograd.grad(density.sum(), x)
    got = model(x.detach(), torch.zeros(5), torch.full((5,), alpha_bar, dtype=torch.float64))
    torch.testing.assert_close(got, -s * score, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.float16])
@pytest.mark.parametrize("make", [mixture_arrays, overlapping_arrays])
@pytest.mark.parametrize("rows", [2, 3, 17])
@pytest.mark.parametrize(
    ("components", "shape"), [(1, (1,)), (3, (3, 5, 7)), (5, (301,)), (2, (40_001,))]
)
def test_mixture_row_has_the_same_bits_in_every_batch(components, shape, rows, make, dtype):
    arrays = make(components, shape)
    model = GaussianMixture(**arrays, device=CPU, dtype=dtype)
    draw = torch.Generator().manual_seed(rows)
    x = torch.randn(rows, *shape, generator=draw).to(dtype)
    alpha_bar = torch.linspace(1e-3, 1.0, rows, dtype=torch.float64)
    t = torch.arange(rows)
    together = model(x, t, alpha_bar)
    for r in range(rows):
        alone = model(x[r : r + 1].clone(), t[r : r + 1], alpha_bar[r : r + 1])
        assert torch.equal(together[r : r + 1], alone)


def test_mixture_has_the_same_bits_on_any_number_of_threads():
    model = GaussianMixture(**overlapping_arrays(2, (70_001,)), device=CPU, dtype=torch.float64)
    x = torch.randn(1, 70_001, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    level = torch.tensor([0.3], dtype=torch.float64)
    threads = torch.get_num_threads()
    results = []
    try:
        for count in (1, 2, 3):
            torch.set_num_threads(count)
            results.append(model(x, level, level))
    finally:
        torch.set_num_threads(threads)
    assert torch.equal(results[0], results[1])
    assert torch.equal(results[0], results[2])


def test_mixture_takes_its_level_from_alpha_bar_and_not_from_t():
    model = GaussianMixture(**mixture_arrays(3, (4,)), device=CPU, dtype=torch.float64)
    x, level = torch.ones(2, 4, dtype=torch.float64), torch.tensor([0.2, 0.7])
    assert torch.equal(model(x, torch.tensor([0.0, 1]), level), model(x, torch.ones(2) * 9, level))


def test_mixture_computes_in_float64_and_rounds_once():
    arrays = mixture_arrays(3, (16,))
    exact, half = (
        GaussianMixture(**arrays, device=CPU, dtype=kind) for kind in (torch.float64, torch.float16)
    )
    x, level = torch.randn(4, 16).half(), torch.tensor([0.1, 0.4, 0.9, 0.99])
    assert torch.equal(half(x, level, level), exact(x, level, level).half())


def test_mixture_file_round_trip(tmp_path):
    arrays = mixture_arrays(3, (1, 4, 4))
    schedule = np.linspace(0.99, 0.01, 50)
    np.savez(tmp_path / "m.npz", **arrays, alphas_cumprod=schedule, data_range=[0, 2])
    model = load_denoiser(f"gmm:{tmp_path / 'm.npz'}", CPU, torch.float32)
    assert isinstance(model, Denoiser)
    assert (model.shape, model.prediction, model.data_range) == ((1, 4, 4), "epsilon", (0.0, 2.0))
    assert np.array_equal(model.alphas_cumprod, schedule)
    np.savez(tmp_path / "m.npz", **arrays)
    model = load_mixture(tmp_path / "m.npz", CPU, torch.float32)
    assert np.array_equal(model.alphas_cumprod, NoiseSchedule.ddpm_linear(1000).alphas_cumprod)
    assert model.data_range == (-1, 1)


WRONG_ARRAYS = {
    "no means": ({"means": None}, "means"),
    "no variances": ({"variances": None}, "variances"),
    "no weights": ({"weights": None}, "weights"),
    "nothing at all": ({"means": None, "variances": None, "weights": None}, "means"),
    "means without sample axes": ({"means": np.zeros(2)}, "means"),
    "scalar means": ({"means": np.float64(0)}, "means"),
    "empty samples": ({"means": np.zeros((2, 0))}, "means"),
    "no components": (
        {"means": np.zeros((0, 3)), "variances": np.zeros(0), "weights": np.zeros(0)},
        "means",
    ),
    "other K in means": ({"means": np.zeros((3, 4))}, "3 components"),
    "other K in variances": ({"variances": np.ones(3)}, "variances"),
    "other K in weights": ({"weights": np.full(4, 0.25)}, "weights"),
    "matrix of variances": ({"variances": np.ones((2, 2))}, "variances"),
    "zero variance": ({"variances": np.array([1.0, 0.0])}, "variances"),
    "negative variance": ({"variances": np.array([1.0, -1.0])}, "variances"),
    "negative weight": ({"weights": np.array([1.5, -0.5])}, "weights"),
    "weights of sum zero": ({"weights": np.zeros(2)}, "weights"),
    "weights of other sum": ({"weights": np.array([0.5, 0.50001])}, "weights"),
    "NaN mean": ({"means": np.full((2, 4), np.nan)}, "means"),
    "infinite variance": ({"variances": np.array([1.0, np.inf])}, "variances"),
    "NaN weight": ({"weights": np.array([np.nan, 1.0])}, "weights"),
    "complex means": ({"means": np.zeros((2, 4), complex)}, "complex128"),
    "text means": ({"means": np.array([["a"], ["b"]])}, "means"),
    "boolean weights": ({"weights": np.array([True, False])}, "weights"),
    "object means": ({"means": np.array([[None], [1]], dtype=object)}, "means"),
    "rising schedule": ({"alphas_cumprod": np.array([0.1, 0.9])}, "alphas_cumprod"),
    "NaN schedule": ({"alphas_cumprod": np.array([0.9, np.nan])}, "alphas_cumprod"),
    "complex schedule": ({"alphas_cumprod": np.array([0.9, 0.1j])}, "alphas_cumprod"),
    "scalar schedule": ({"alphas_cumprod": np.float64(0.5)}, "alphas_cumprod"),
    "falling data_range": ({"data_range": np.array([1.0, -1.0])}, "data_range"),
    "data_range of three": ({"data_range": np.array([0.0, 1.0, 2.0])}, "data_range"),
    "infinite data_range": ({"data_range": np.array([0.0, np.inf])}, "data_range"),
}


@pytest.mark.parametrize("case", WRONG_ARRAYS)
def test_a_wrong_array_is_one_sentence_naming_file_and_array(case, tmp_path):
    changes, told = WRONG_ARRAYS[case]
    arrays = {**mixture_arrays(2, (4,)), **changes}
    np.savez(tmp_path / "wrong.npz", **{k: v for k, v in arrays.items() if v is not None})
    with pytest.raises(InputError, match="wrong\\.npz") as error:
        load_mixture(tmp_path / "wrong.npz", CPU, torch.float32)
    assert told in tell(error)


def _single_array(file: Path) -> None:
    with open(file, "wb") as handle:
        np.save(handle, np.zeros(3))


def _damaged(file: Path) -> None:
    np.savez(file, **mixture_arrays(50, (50,)))
    content = bytearray(file.read_bytes())
    content[2000:2100] = b"x" * 100
    file.write_bytes(content)


def _truncated(file: Path) -> None:
    np.savez(file, **mixture_arrays(50, (50,)))
    file.write_bytes(file.read_bytes()[:5000])


def _no_arrays_inside(file: Path) -> None:
    import zipfile

    with zipfile.ZipFile(file, "w") as archive:
        for name in ("means", "variances", "weights"):
            archive.writestr(f"{name}.npy", "text")


def _pickle(file: Path) -> None:
    import pickle

    file.write_bytes(pickle.dumps({"means": 1}))


WRONG_FILES = {
    "empty": lambda file: file.write_bytes(b""),
    "text": lambda file: file.write_text("means: 0"),
    "half a zip header": lambda file: file.write_bytes(b"PK\x03\x04"),
    "pickle": _pickle,
    "single array": _single_array,
    "damaged": _damaged,
    "truncated": _truncated,
    "members that are no arrays": _no_arrays_inside,
    "directory": lambda file: file.mkdir(),
    "absent": lambda file: None,
}


@pytest.mark.parametrize("case", WRONG_FILES)
def test_a_wrong_mixture_file_is_one_sentence_naming_it(case, tmp_path):
    WRONG_FILES[case](tmp_path / "wrong.npz")
    with pytest.raises(InputError, match="wrong\\.npz") as error:
        load_mixture(tmp_path / "wrong.npz", CPU, torch.float32)
    tell(error)


def test_an_array_the_mixture_does_not_know_is_warned_about(tmp_path):
    np.savez(tmp_path / "m.npz", **mixture_arrays(2, (4,)), alphas_cumpord=np.ones(3))
    with pytest.warns(UserWarning, match="alphas_cumpord"):
        load_mixture(tmp_path / "m.npz", CPU, torch.float32)


# --- reading network outputs ---------------------------------------------------------------------


@pytest.mark.parametrize("kind", PREDICTION_TYPES)
def test_every_kind_of_output_tells_the_same_x0_and_eps(kind):
    draw = torch.Generator().manual_seed(3)
    x0, eps = (torch.randn(6, 2, 3, dtype=torch.float64, generator=draw) for _ in range(2))
    alpha_bar = torch.tensor([0.02, 0.1, 0.3, 0.5, 0.8, 0.98], dtype=torch.float64)
    a, s = (c.sqrt().view(-1, 1, 1) for c in (alpha_bar, 1 - alpha_bar))
    x = a * x0 + s * eps
    outputs = {"epsilon": eps, "v": a * eps - s * x0, "flow": eps - x0}
    got = predict(kind, x, outputs.get(kind, x0), *coefficients(x, alpha_bar))
    torch.testing.assert_close(got.x0, x0, rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(got.eps, eps, rtol=1e-12, atol=1e-12)
    assert got.variance is None
    sigma = s / (a + s)
    seen = {"flow": (1 - sigma) * x0 + sigma * eps, "denoised": x0 + s / a * eps}.get(kind, x)
    torch.testing.assert_close(
        network_input(kind, x, *coefficients(x, alpha_bar)), seen, rtol=1e-12, atol=1e-12
    )


@pytest.mark.parametrize("kind", ["flow", "v", "sample"])
def test_pure_noise_is_read_where_flow_begins(kind):
    draw = torch.Generator().manual_seed(3)
    x0, eps = (torch.randn(2, 3, dtype=torch.float64, generator=draw) for _ in range(2))
    nothing = torch.zeros(2, dtype=torch.float64)
    assert torch.equal(network_input(kind, eps, *coefficients(eps, nothing)), eps)
    output = {"flow": eps - x0, "v": -x0, "sample": x0}[kind]
    got = predict(kind, eps, output, *coefficients(eps, nothing))
    torch.testing.assert_close(got.x0, x0, rtol=1e-12, atol=1e-12)
    assert torch.equal(got.eps, eps)


@pytest.mark.parametrize("kind", PREDICTION_TYPES)
def test_twice_the_channels_are_a_learned_variance(kind):
    x, output, variance = torch.randn(3, 4, 2, 5, generator=torch.Generator().manual_seed(0))
    alpha_bar = torch.linspace(0.1, 0.9, 4)
    got = predict(kind, x, torch.cat([output, variance], dim=1), *coefficients(x, alpha_bar))
    plain = predict(kind, x, output, *coefficients(x, alpha_bar))
    assert torch.equal(got.x0, plain.x0)
    assert torch.equal(got.eps, plain.eps)
    assert torch.equal(got.variance, variance)


def evaluator(network, schedule=None, dtype=torch.float64) -> Evaluator:
    grid = TimeGrid((Level(9.0, 0.1), Level(4.0, 0.5), Level(-1.0, 1.0)), (0, 2))
    return Evaluator(network, grid, CPU, dtype, dtype, schedule)


@given(st.lists(st.floats(0.01, 0.99), min_size=1, max_size=4), st.integers(0, 99))
def test_a_mixture_says_the_same_in_all_five_ways(levels, seed):
    draw = torch.Generator().manual_seed(seed)
    requests = [
        Ask("fine", 0, 0)(
            torch.randn(2, *Speaking.shape, dtype=torch.float64, generator=draw), Level(5.0, level)
        )
        for level in levels
    ]
    expected = evaluator(Speaking("epsilon", CPU, torch.float64))(requests)
    for kind in PREDICTION_TYPES[1:]:
        got = evaluator(Speaking(kind, CPU, torch.float64))(requests)
        for part, other in zip(got, expected, strict=True):
            torch.testing.assert_close(part.x0, other.x0, rtol=1e-10, atol=1e-10)
            torch.testing.assert_close(part.eps, other.eps, rtol=1e-10, atol=1e-10)


class Listening:
    """A network that records its arguments."""

    shape = (2,)
    data_range = (-1.0, 1.0)
    learns_variance = False

    def __init__(self, prediction="epsilon"):
        self.prediction = prediction

    def __call__(self, x, t, alpha_bar):
        self.told = t.tolist()
        return torch.cat([x, x], dim=1) if self.learns_variance else x


def told(network, levels, schedule=None):
    evaluator(network, schedule)(
        [Ask("fine", 0, 0)(torch.ones(1, 2).double(), at) for at in levels]
    )
    return network.told


def test_networks_are_told_t_and_denoised_ones_sigma():
    levels = [Level(9.0, 0.2), Level(4.5, 0.5), Level(-0.5, 0.99)]
    for kind in PREDICTION_TYPES[:-1]:
        assert told(Listening(kind), levels) == [9.0, 4.5, 0.0]
    assert told(Listening("denoised"), levels) == pytest.approx([2.0, 1.0, math.sqrt(1 / 99)])


def test_a_coarse_network_is_told_the_timesteps_of_its_own_schedule():
    own = NoiseSchedule([0.9, 0.5, 0.1])
    levels = [Level(700.0, 0.5), Level(900.0, 0.1), Level(999.0, 1e-3), Level(3.0, 0.95)]
    assert told(Listening(), levels, own) == pytest.approx([1.0, 2.0, 2.0, 0.0])
    flow = FlowSchedule(10)
    assert told(Listening("flow"), [Level(999.0, 0.5)], flow) == pytest.approx([5.0])
    vast = SigmaSchedule(0.01, 80.0)
    assert told(Listening("denoised"), [Level(999.0, 0.5)], vast) == pytest.approx([1.0])


def test_a_network_of_learned_variance_must_return_twice_the_channels():
    network = Listening()
    network.learns_variance = True
    x = torch.ones(3, 2, dtype=torch.float64)
    (got,) = evaluator(network)([Ask("fine", 0, 0)(x, Level(9.0, 0.1))])
    assert torch.equal(got.variance, x)
    network.__class__ = type("Half", (Listening,), {"__call__": lambda self, x, t, alpha_bar: x})
    with pytest.raises(NetworkError, match="twice the channels"):
        evaluator(network)([Ask("fine", 0, 0)(x, Level(9.0, 0.1))])


def test_a_network_without_learned_variance_must_not_return_more_channels():
    network = type("Wide", (Listening,), {"__call__": lambda self, x, t, a: torch.cat([x, x], 1)})()
    with pytest.raises(NetworkError, match="one row per state"):
        evaluator(network)([Ask("fine", 0, 0)(torch.ones(3, 2).double(), Level(9.0, 0.1))])


def test_errors_name_the_step_even_above_the_first_level():
    grid = evaluator(None).grid
    levels = [Level(12.0, 0.01), Level(9.0, 0.1), Level(6.0, 0.3), Level(4.0, 0.5)]
    assert [step_index(grid, level) for level in levels] == [0, 0, 0, 1]


def test_the_schedule_is_what_the_network_tells():
    def schedule(prediction="epsilon", **attributes):
        return schedule_of(SimpleNamespace(prediction=prediction, **attributes))

    assert schedule(alphas_cumprod=[0.9, 0.1]).training_steps == 2
    assert schedule("flow", alphas_cumprod=[0.9, 0.1]).training_steps == 2
    assert schedule("flow").first == 1000
    assert schedule("flow", training_steps=50).first == 50
    edm = schedule("denoised", sigma_range=(0.1, 30))
    assert (edm.least, edm.first) == (0.1, 30)
    for kind in ("epsilon", "denoised"):
        with pytest.raises(InputError, match="alphas_cumprod") as error:
            schedule(kind)
        tell(error)


# --- diffusers checkpoints -----------------------------------------------------------------------


@pytest.fixture(scope="module")
def saved_checkpoint(tmp_path_factory):
    return save(tiny_network(), tmp_path_factory.mktemp("saved") / "net", "flat")


@pytest.fixture
def checkpoint(saved_checkpoint, tmp_path):
    return Path(shutil.copytree(saved_checkpoint, tmp_path / "net"))


def edit(file: Path, **changes) -> None:
    """Change keys of a JSON file; the value ... takes the key away."""
    config = {**json.loads(file.read_text()), **changes}
    file.write_text(json.dumps({k: v for k, v in config.items() if v is not ...}))


@pytest.mark.parametrize("layout", ["pipeline", "flat"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_checkpoint_gives_the_networks_own_output_to_the_bit(layout, dtype, tmp_path):
    network = tiny_network(sample_size=(8, 12))
    folder = save(network, tmp_path / "net", layout, prediction_type="v_prediction")
    model = load_denoiser(str(folder), CPU, dtype)
    assert isinstance(model, Denoiser)
    assert (model.shape, model.prediction, model.data_range) == ((1, 8, 12), "v", (-1, 1))
    assert not model.network.training
    assert not any(p.requires_grad for p in model.network.parameters())
    x = torch.randn(3, 1, 8, 12).to(dtype)
    t = torch.tensor([999.0, 0.0, 12.75])
    with torch.no_grad():
        expected = network.to(dtype=dtype)(x, t).sample
    got = model(x, t, torch.ones(3))
    assert got.dtype == dtype
    assert torch.equal(got, expected)
    assert not torch.equal(got, model(x, t.flip(0), torch.ones(3)))


def test_checkpoint_with_learned_variance_gives_both_halves(tmp_path):
    network = tiny_network(in_channels=2, out_channels=4)
    model = load_checkpoint(save(network, tmp_path / "net", "flat"), CPU, torch.float32)
    x, t = torch.randn(2, 2, 8, 8), torch.tensor([3.0, 700.0])
    with torch.no_grad():
        assert torch.equal(model(x, t, t), network(x, t).sample)
    assert model.learns_variance
    assert model.shape == (2, 8, 8)


def test_flow_checkpoint_is_told_t_sigma_and_steps_as_in_diffusers(tmp_path):
    from diffusers import FlowMatchEulerDiscreteScheduler

    network = tiny_network()
    network.save_pretrained(tmp_path)
    scheduler = FlowMatchEulerDiscreteScheduler(num_train_timesteps=400)
    scheduler.save_pretrained(tmp_path)
    model = load_checkpoint(tmp_path, CPU, torch.float32)
    assert (model.prediction, model.learns_variance, model.classes) == ("flow", False, None)
    schedule = schedule_of(model)
    scheduler.set_timesteps(sigmas=[1.0, 0.75, 0.5, 0.25])
    x = torch.randn(2, 1, 8, 8, generator=torch.Generator().manual_seed(0))
    z = x
    for t, after in zip(scheduler.timesteps, [0.75, 0.5, 0.25, 0.0], strict=True):
        with torch.no_grad():
            stepped = scheduler.step(network(z, t).sample, t, z).prev_sample
        here = Level(float(t), float(schedule.alpha_bar(float(t))))
        to_x = here.a + here.s  # x = (a + s) z
        (seen,) = evaluator(model, dtype=torch.float32)([Ask("fine", 0, 0)(to_x * z, here)])
        z = (1 - after) * seen.x0 + after * seen.eps
        torch.testing.assert_close(z, stepped, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("scheduler", ["EDMEulerScheduler", "EDMDPMSolverMultistepScheduler"])
@pytest.mark.parametrize("kind", ["epsilon", "v_prediction"])
def test_edm_checkpoint_is_preconditioned_as_in_diffusers(kind, scheduler, tmp_path):
    import diffusers

    network = tiny_network()
    network.save_pretrained(tmp_path)
    numbers = {"sigma_min": 0.01, "sigma_max": 50.0, "sigma_data": 0.7, "prediction_type": kind}
    scheduler = getattr(diffusers, scheduler)(**numbers)
    scheduler.save_pretrained(tmp_path)
    model = load_checkpoint(tmp_path, CPU, torch.float32)
    assert (model.prediction, model.sigma_range) == ("denoised", (0.01, 50.0))
    draw = torch.Generator().manual_seed(0)
    y = torch.randn(3, 1, 8, 8, generator=draw) * torch.tensor([0.9, 2, 50]).view(-1, 1, 1, 1)
    sigmas = torch.tensor([0.02, 1.5, 50.0])
    got = model(y, sigmas, torch.ones(3))
    for row, sigma in enumerate(sigmas):
        sample = y[row : row + 1]
        with torch.no_grad():
            output = network(
                scheduler.precondition_inputs(sample, sigma), scheduler.precondition_noise(sigma)
            ).sample
        expected = scheduler.precondition_outputs(sample, output, sigma)
        torch.testing.assert_close(got[row : row + 1], expected, rtol=1e-5, atol=1e-5)


def test_a_shifted_flow_scheduler_is_warned_about_and_loads(checkpoint):
    flow = {"_class_name": "FlowMatchEulerDiscreteScheduler", "shift": 3.0}
    edit(checkpoint / "scheduler_config.json", **flow)
    with pytest.warns(UserWarning, match="shift"):
        load_checkpoint(checkpoint, CPU, torch.float32)


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("epsilon", "epsilon"),
        ("v_prediction", "v"),
        ("sample", "sample"),
        ("flow_prediction", "flow"),
        (..., "epsilon"),
    ],
)
def test_checkpoint_tells_what_the_network_predicts(name, kind, checkpoint):
    edit(checkpoint / "scheduler_config.json", prediction_type=name)
    assert load_checkpoint(checkpoint, CPU, torch.float32).prediction == kind


@pytest.mark.parametrize(
    "keys",
    [
        {},
        {"num_train_timesteps": 50},
        {"beta_schedule": "scaled_linear", "beta_start": 0.00085, "beta_end": 0.012},
        {"beta_schedule": "squaredcos_cap_v2"},
        {"beta_schedule": "sigmoid"},
        {"trained_betas": [0.1, 0.2, 0.3]},
    ],
    ids=str,
)
def test_checkpoint_schedule_is_the_one_of_diffusers(keys, checkpoint):
    from diffusers import DDPMScheduler

    edit(checkpoint / "scheduler_config.json", **keys)
    got = load_checkpoint(checkpoint, CPU, torch.float32).alphas_cumprod
    assert got.dtype == np.float64
    assert np.array_equal(got, DDPMScheduler(**keys).alphas_cumprod.numpy())


@pytest.mark.parametrize("key", ["clip_sample", "thresholding"])
def test_a_clipping_scheduler_is_warned_about_and_loads(key, checkpoint):
    edit(checkpoint / "scheduler_config.json", **{key: True})
    with pytest.warns(UserWarning, match=key):
        load_checkpoint(checkpoint, CPU, torch.float32)


FLOW = {"_class_name": "FlowMatchEulerDiscreteScheduler"}
EDM = {"_class_name": "EDMEulerScheduler", "prediction_type": "epsilon"}
REFUSED = [
    ("config.json", {"_class_name": "UNet2DConditionModel"}, "text-conditional"),
    ("config.json", {"_class_name": ...}, "_class_name"),
    ("config.json", {"num_class_embeds": 10}, "class_embedding.weight"),
    ("config.json", {"num_class_embeds": 0}, "num_class_embeds"),
    ("config.json", {"num_class_embeds": "ten"}, "num_class_embeds"),
    ("config.json", {"class_embed_type": "timestep"}, "class_embed_type"),
    ("config.json", {"class_embed_type": "identity", "num_class_embeds": 3}, "class_embed_type"),
    ("config.json", {"time_embedding_type": "fourier"}, "time_embedding_type"),
    ("config.json", {"time_embedding_type": "learned"}, "time_embedding_type"),
    ("config.json", {"sample_size": None}, "sample_size"),
    ("config.json", {"sample_size": 0}, "sample_size"),
    ("config.json", {"sample_size": 8.5}, "sample_size"),
    ("config.json", {"sample_size": [8, 8, 8]}, "sample_size"),
    ("config.json", {"sample_size": 9}, "sample_size"),  # can't be halved
    ("config.json", {"in_channels": "one"}, "in_channels"),
    ("config.json", {"out_channels": 3}, "out_channels"),
    ("config.json", {"in_channels": 2, "out_channels": 2}, "weights"),
    ("config.json", {"block_out_channels": [8, 24]}, "weights"),
    ("config.json", {"mid_block_type": None}, "do not belong together"),
    ("config.json", {"down_block_types": 5}, "weights"),
    ("scheduler_config.json", {"prediction_type": "score"}, "prediction_type"),
    ("scheduler_config.json", {"prediction_type": ["v"]}, "prediction_type"),
    ("scheduler_config.json", {"rescale_betas_zero_snr": True}, "rescale_betas_zero_snr"),
    ("scheduler_config.json", {"use_flow_sigmas": True}, "flow"),
    ("scheduler_config.json", {"timestep_type": "continuous"}, "timestep_type"),
    ("scheduler_config.json", {"beta_schedule": ...}, "beta_schedule"),
    ("scheduler_config.json", {"beta_schedule": "zigzag"}, "zigzag"),
    ("scheduler_config.json", {"num_train_timesteps": ...}, "num_train_timesteps"),
    ("scheduler_config.json", {"num_train_timesteps": 0}, "schedule"),
    ("scheduler_config.json", {"num_train_timesteps": "many"}, "schedule"),
    ("scheduler_config.json", {"beta_end": 2.0}, "schedule"),
    ("scheduler_config.json", {"trained_betas": [0.1, "x"]}, "schedule"),
    ("scheduler_config.json", {**FLOW, "invert_sigmas": True}, "invert_sigmas"),
    ("scheduler_config.json", {**FLOW, "num_train_timesteps": 0}, "num_train_timesteps"),
    ("scheduler_config.json", {**EDM, "prediction_type": "sample"}, "prediction_type"),
    ("scheduler_config.json", {**EDM, "sigma_min": 90.0}, "sigma_range"),
    ("scheduler_config.json", {**EDM, "sigma_max": "vast"}, "noise levels"),
    ("scheduler_config.json", {**EDM, "sigma_data": 0.0}, "sigma_data"),
]


@pytest.mark.parametrize(("file", "changes", "told"), REFUSED, ids=str)
def test_a_configuration_that_cannot_be_sampled_is_refused(file, changes, told, checkpoint):
    edit(checkpoint / file, **changes)
    with pytest.raises(InputError, match=str(checkpoint)) as error:
        load_checkpoint(checkpoint, CPU, torch.float32)
    assert told in tell(error)


WEIGHTS = "diffusion_pytorch_model.safetensors"


@pytest.mark.parametrize("name", ["config.json", "scheduler_config.json", WEIGHTS])
@pytest.mark.parametrize("content", [None, b"", b"{", b"[]", b"\xff\xfe\x00", b"{}"])
def test_a_missing_or_broken_checkpoint_file_is_one_sentence(name, content, checkpoint):
    if content is None:
        (checkpoint / name).unlink()
    else:
        (checkpoint / name).write_bytes(content)
    with pytest.raises(InputError, match=str(checkpoint)) as error:
        load_checkpoint(checkpoint, CPU, torch.float32)
    tell(error)


def test_truncated_weights_are_one_sentence(checkpoint):
    content = (checkpoint / WEIGHTS).read_bytes()
    (checkpoint / WEIGHTS).write_bytes(content[: len(content) // 2])
    with pytest.raises(InputError, match="weights can't be loaded") as error:
        load_checkpoint(checkpoint, CPU, torch.float32)
    tell(error)


def test_pickled_weights_are_never_loaded(checkpoint):
    (checkpoint / WEIGHTS).unlink()
    tiny_network().save_pretrained(checkpoint, safe_serialization=False)
    with pytest.raises(InputError, match="pickled ones are never loaded"):
        load_checkpoint(checkpoint, CPU, torch.float32)


def test_a_latent_pipeline_is_refused(tmp_path):
    folder = save(tiny_network(), tmp_path / "net", "pipeline")
    (folder / "vqvae").mkdir()
    with pytest.raises(InputError, match="latent"):
        load_checkpoint(folder, CPU, torch.float32)


def test_without_diffusers_the_message_says_what_to_install(checkpoint, monkeypatch):
    monkeypatch.setitem(sys.modules, "diffusers", None)
    with pytest.raises(InputError, match=r"pip install 'pint-diffusion\[diffusers\]'"):
        load_checkpoint(checkpoint, CPU, torch.float32)


# --- factories -----------------------------------------------------------------------------------

GOOD = """
from dataclasses import dataclass
@dataclass
class Model:
    device: object
    dtype: object
    shape: tuple = (1, 4, 4)
    prediction: str = "v"
    alphas_cumprod: tuple = (0.9, 0.5, 0.1)
    data_range: tuple = (-1, 1)
    def __call__(self, x, t, alpha_bar):
        return x
def build(device, dtype):
    return Model(device, dtype)
"""


@pytest.mark.parametrize("form", ["path", "module"])
def test_a_factory_is_found_by_path_and_by_module(form, tmp_path, monkeypatch):
    (tmp_path / "my_own_network.py").write_text(GOOD)
    monkeypatch.syspath_prepend(tmp_path)
    name = tmp_path / "my_own_network.py" if form == "path" else "my_own_network"
    model = load_denoiser(f"{name}:build", CPU, torch.float64)
    assert isinstance(model, Denoiser)
    assert (model.device, model.dtype) == (CPU, torch.float64)


def returning(**changes) -> str:
    lines = [f"    model.{name} = {value}" for name, value in changes.items()]
    begin = ["def build(device, dtype):", "    model = Model(device, dtype)"]
    return "\n".join([GOOD, *begin, *lines, "    return model", ""])


WRONG_FACTORIES = {
    "raises": ("def build(device, dtype):\n    raise KeyError('weights')\n", "KeyError: 'weights'"),
    "exits": ("def build(device, dtype):\n    raise SystemExit(3)\n", "SystemExit: 3"),
    "raises two lines": ("def build(**_):\n    raise ValueError('a\\nb')\n", "ValueError: a b"),
    "takes nothing": ("def build():\n    pass\n", "TypeError"),
    "is not there": ("def other():\n    pass\n", "no function build"),
    "is a number": ("build = 3\n", "no function build"),
    "file does not compile": ("def build(:\n", "SyntaxError"),
    "file raises": ("1 / 0\n", "ZeroDivisionError"),
    "file imports what is not there": ("import no_such_module_anywhere\n", "ModuleNotFoundError"),
    "returns nothing": ("def build(**_):\n    pass\n", "NoneType"),
    "returns a class": (GOOD + "def build(**_):\n    return Model\n", "class Model"),
    "no attributes": ("def build(**_):\n    return len\n", "shape and prediction"),
    "shape is a list": (returning(shape="[1, 4, 4]"), "shape"),
    "shape is empty": (returning(shape="()"), "shape"),
    "shape has a zero": (returning(shape="(1, 0)"), "shape"),
    "shape has a float": (returning(shape="(1, 4.0)"), "shape"),
    "shape has a boolean": (returning(shape="(True,)"), "shape"),
    "prediction is unknown": (returning(prediction="'score'"), "score"),
    "prediction is a list": (returning(prediction="['v']"), "prediction"),
    "schedule rises": (returning(alphas_cumprod="(0.1, 0.9)"), "alphas_cumprod"),
    "schedule is text": (returning(alphas_cumprod="'linear'"), "linear"),
    "schedule is None": (returning(alphas_cumprod="None"), "alphas_cumprod"),
    "sigma_range falls": (returning(sigma_range="(80, 0.002)"), "sigma_range"),
    "classes is text": (returning(classes="'ten'"), "classes"),
    "classes is zero": (returning(classes="0"), "classes"),
    "null_class is no label": (returning(classes="10", null_class="10"), "null_class"),
    "null_class without classes": (returning(null_class="0"), "null_class"),
    "data_range falls": (returning(data_range="(1, -1)"), "data_range"),
    "data_range has NaN": (returning(data_range="(0, float('nan'))"), "data_range"),
    "data_range has three": (returning(data_range="(0, 1, 2)"), "ValueError"),
    "data_range is text": (returning(data_range="('0', '1')"), "data_range"),
}


@pytest.mark.parametrize("case", WRONG_FACTORIES)
def test_a_wrong_factory_is_one_sentence_naming_it(case, tmp_path):
    source, told = WRONG_FACTORIES[case]
    (tmp_path / "wrong.py").write_text(source)
    with pytest.raises(InputError, match="wrong\\.py:build") as error:
        load_factory(f"{tmp_path / 'wrong.py'}:build", CPU, torch.float32)
    assert told in tell(error)


@pytest.mark.parametrize("spec", ["no_such_module_anywhere:build", "json:no_such_function"])
def test_a_factory_that_is_not_there_is_one_sentence_naming_it(spec):
    with pytest.raises(InputError, match=spec) as error:
        load_denoiser(spec, CPU, torch.float32)
    tell(error)


# --- model names ---------------------------------------------------------------------------------


WRONG_NAMES = """
no/such/dir no.npz {}/some.npz gmm: gmm:no.npz gmm:{} : a: :b a:b:c gmm.npz:a-b no_such.py:build
.py:build
"""


@pytest.mark.parametrize("spec", [*WRONG_NAMES.split(), "", "a b:c", "a\0b", "x" * 5000])
def test_a_name_that_cannot_be_a_model_is_told_before_anything_is_loaded(spec, tmp_path):
    (tmp_path / "some.npz").write_bytes(b"")
    for function in (find_source, lambda spec: load_denoiser(spec, CPU, torch.float32)):
        with pytest.raises(InputError) as error:
            function(spec.replace("{}", str(tmp_path)))
        tell(error)


def test_an_unknown_name_is_answered_with_the_four_kinds():
    with pytest.raises(InputError, match=r"bundled.*diffusers.*gmm:FILE.*module:factory"):
        find_source("no/such/dir")


def test_no_name_means_the_bundled_network(checkpoint, monkeypatch):
    monkeypatch.setattr(kinds, "BUNDLED", checkpoint)
    assert isinstance(find_source(None)[0], kinds.Checkpoint)
    assert load_denoiser(None, CPU, torch.float32).shape == (1, 8, 8)
    monkeypatch.setattr(kinds, "BUNDLED", checkpoint / "gone")
    with pytest.raises(InputError, match="bundled network is missing"):
        find_source(None)


def test_importing_the_models_and_checking_a_name_imports_nothing_heavy(tmp_path):
    code = (
        "import sys; from pint_diffusion.models import find_source; find_source('.'); "
        "print(*[m for m in ('torch', 'mpi4py', 'h5py', 'diffusers') if m in sys.modules])"
    )
    root = Path(pint_diffusion.__file__).parents[1]
    run = subprocess.run(
        [sys.executable, "-c", code], cwd=root, capture_output=True, text=True, check=True
    )
    assert run.stdout.strip() == ""


def test_the_denoiser_protocol_wants_all_its_attributes():
    assert not isinstance(SimpleNamespace(shape=(1,)), Denoiser)
