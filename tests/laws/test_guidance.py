"""Laws of class labels and classifier-free guidance."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from helpers.checkpoints import CPU, save, tell, tiny_network
from helpers.grids import make_grid
from helpers.networks import Contraction, Labelled

from pint_diffusion.errors import InputError, NetworkError
from pint_diffusion.grid import NoiseSchedule
from pint_diffusion.models.conditional import condition, guided
from pint_diffusion.models.denoiser import Denoiser
from pint_diffusion.models.diffusers_checkpoint import load_checkpoint
from pint_diffusion.runtime.evaluator import Evaluator
from pint_diffusion.runtime.requests import Ask

S = 4
LABELS = [3, 0, 4, 1]
GRID = make_grid(NoiseSchedule(Labelled.alphas_cumprod), 8, 2)


def labelled(**changes) -> Labelled:
    return Labelled(CPU, torch.float64, **changes)


def batch(rows: int) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    draw = torch.Generator().manual_seed(rows)
    x = torch.randn(rows, *Labelled.shape, dtype=torch.float64, generator=draw)
    alpha_bar = torch.linspace(0.01, 0.9, rows, dtype=torch.float64)
    return x, torch.zeros(rows, dtype=torch.float64), alpha_bar


def alone(network: Labelled, given, labels: list[int]) -> torch.Tensor:
    """Rows of a network, each in a call of its own."""
    return torch.cat(
        [
            network(*(g[r : r + 1] for g in given), torch.tensor([label]))
            for r, label in enumerate(labels)
        ]
    )


def rescale_as_diffusers(guided, conditional, share):
    """What `rescale_noise_cfg` of its pipelines computes, row by row."""
    rows = []
    for row, kept in zip(guided.numpy(), conditional.numpy(), strict=True):
        rescaled = row * (np.std(kept, ddof=1) / np.std(row, ddof=1))
        rows.append(share * rescaled + (1 - share) * row)
    return torch.from_numpy(np.stack(rows))


@pytest.mark.parametrize("guidance", [-1.0, 0.0, 0.5, 3.0, 7.5])
@pytest.mark.parametrize("rescale", [0.0, 0.7, 1.0])
def test_guidance_is_that_of_two_separate_calls_and_makes_one(guidance, rescale):
    network, given = labelled(), batch(S)
    got = condition(network, LABELS, S, guidance, rescale)(*given)
    assert network.calls == [(2 * S, [5] * S + LABELS)]
    c, u = alone(network, given, LABELS), alone(network, given, [5] * S)
    expected = u + guidance * (c - u)
    if rescale:
        expected = rescale_as_diffusers(expected, c, rescale)
    torch.testing.assert_close(got, expected, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("guidance", [None, 1, 1.0])
def test_without_guidance_the_conditional_half_alone_is_evaluated(guidance):
    network, given = labelled(), batch(S)
    got = condition(network, LABELS, S, guidance)(*given)
    assert network.calls == [(S, LABELS)]
    assert torch.equal(got, alone(network, given, LABELS))


def test_guidance_tends_to_the_conditional_network():
    given = batch(S)
    exact = condition(labelled(), LABELS, S)(*given)
    nearly = condition(labelled(), LABELS, S, 1 + 1e-9)(*given)
    torch.testing.assert_close(nearly, exact, rtol=0, atol=1e-7)


def test_a_rescaled_row_has_the_spread_of_its_conditional_one():
    u, c = torch.randn(2, 5, 3, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    got = guided(u, c, 6.0, 1.0)
    torch.testing.assert_close(got.std((1, 2)), c.std((1, 2)))


@pytest.mark.parametrize("guidance", [None, 4.0])
@pytest.mark.parametrize("learned", [False, True])
def test_requests_in_one_call_keep_their_samples_labels(guidance, learned):
    network = labelled(learns_variance=learned)
    model = condition(network, LABELS, S, guidance, 0.3 if guidance else 0.0)
    evaluator = Evaluator(model, GRID, CPU, torch.float64, torch.float64)
    requests = [Ask("fine", 0, 0)(batch(S)[0] + i, GRID.levels[2 * i]) for i in range(3)]
    together = evaluator(requests)
    halves = 1 if guidance is None else 2
    assert [rows for rows, _ in network.calls] == [3 * S * halves]
    for request, got in zip(requests, together, strict=True):
        (expected,) = evaluator([request])
        for part, other in zip(got, expected, strict=True):
            if part is None:
                assert (other, learned) == (None, False)
            else:
                torch.testing.assert_close(part, other, rtol=1e-13, atol=1e-13)


@pytest.mark.parametrize("guidance", [None, 4.0])
def test_a_row_depends_on_itself_only(guidance):
    model = condition(labelled(), LABELS, S, guidance, 0.5 if guidance else 0.0)
    x, t, alpha_bar = batch(S)
    before = model(x, t, alpha_bar)
    x[1] = 9.0
    after = model(x, t, alpha_bar)
    kept = torch.arange(S) != 1
    torch.testing.assert_close(after[kept], before[kept], rtol=1e-13, atol=1e-13)
    assert not torch.equal(after[1], before[1])


def test_the_learned_variance_is_the_conditional_halfs_and_is_not_guided():
    network, given = labelled(learns_variance=True), batch(S)
    model = condition(network, LABELS, S, 5.0, 0.6)
    assert model.learns_variance
    got = model(*given)
    variance = alone(network, given, LABELS)[:, 1:]
    assert torch.equal(got[:, 1:], variance)
    plain = condition(labelled(), LABELS, S, 5.0, 0.6)(*given)
    torch.testing.assert_close(got[:, :1], plain, rtol=1e-13, atol=1e-13)
    requests = [Ask("fine", 0, 0)(given[0], GRID.levels[3])]
    (seen,) = Evaluator(model, GRID, CPU, torch.float64, torch.float64)(requests)
    assert seen.variance.shape == seen.x0.shape == given[0].shape


@pytest.mark.parametrize(
    ("labels", "samples", "expected"),
    [
        (None, 3, [0, 1, 2]),
        (None, 7, [0, 1, 2, 3, 4, 0, 1]),
        ([2], 3, [2, 2, 2]),
        ([2, 5], 5, [2, 5, 2, 5, 2]),
        ((4, 3, 2), 3, [4, 3, 2]),
    ],
)
def test_samples_take_the_labels_in_turn(labels, samples, expected):
    network = labelled()
    condition(network, labels, samples)(*batch(samples))
    assert network.calls == [(samples, expected)]


def test_without_a_null_class_all_labels_are_classes_and_the_user_may_name_one():
    network = labelled()
    network.null_class = None
    condition(network, None, 7)(*batch(7))
    condition(network, None, 2, 2.0, null_class=0)(*batch(2))
    assert network.calls == [(7, [0, 1, 2, 3, 4, 5, 0]), (4, [0, 0, 1, 2])]


def test_an_unconditional_network_stays_as_it_is():
    network = Contraction()
    assert condition(network, None, 3) is network


def test_a_conditioned_network_tells_what_its_network_tells():
    network = labelled()
    model = condition(network, None, 3, 2.0)
    assert isinstance(model, Denoiser)
    assert (model.shape, model.prediction, model.data_range) == ((1, 3, 2), "epsilon", (-1, 1))
    assert model.alphas_cumprod is network.alphas_cumprod
    assert not hasattr(model, "sigma_range")


WRONG = {
    "labels for no classes": (Contraction, {"labels": [1]}, "`labels`"),
    "guidance for no classes": (Contraction, {"guidance": 2.0}, "`guidance`"),
    "null class for no classes": (Contraction, {"null_class": 2}, "`null_class`"),
    "rescale for no classes": (Contraction, {"rescale": 0.5}, "`guidance_rescale`"),
    "no labels": (labelled, {"labels": []}, "0 labels for 4"),
    "more labels than samples": (labelled, {"labels": [0, 1, 2, 3, 4]}, "5 labels for 4"),
    "label too great": (labelled, {"labels": [0, 6]}, "0 to 5"),
    "label below zero": (labelled, {"labels": [-1]}, "0 to 5"),
    "null class too great": (labelled, {"null_class": 6}, "`null_class` has 6"),
    "guidance NaN": (labelled, {"guidance": math.nan}, "`guidance` is nan"),
    "guidance infinite": (labelled, {"guidance": math.inf}, "`guidance` is inf"),
    "rescale below zero": (labelled, {"guidance": 2.0, "rescale": -0.1}, "-0.1"),
    "rescale above one": (labelled, {"guidance": 2.0, "rescale": 1.1}, "1.1"),
    "rescale NaN": (labelled, {"guidance": 2.0, "rescale": math.nan}, "nan"),
    "rescale without guidance": (labelled, {"rescale": 0.5}, "no guidance"),
}


@pytest.mark.parametrize("case", WRONG)
def test_what_a_network_cannot_use_is_one_sentence(case):
    make, given, told = WRONG[case]
    with pytest.raises(InputError) as error:
        condition(make(), **{"labels": None, "samples": S, **given})
    assert told in tell(error)


def test_guidance_without_a_null_class_is_refused():
    network = labelled()
    network.null_class = None
    with pytest.raises(InputError, match="`null_class`") as error:
        condition(network, None, S, 2.0)
    tell(error)
    condition(network, None, S, 1.0)


@pytest.mark.parametrize("wrong", [lambda out: out[:S], lambda out: (out,), lambda out: out[1:]])
def test_a_guided_network_that_returns_other_rows_is_told(wrong):
    class Wrong(Labelled):
        def __call__(self, x, t, alpha_bar, labels):
            return wrong(super().__call__(x, t, alpha_bar, labels))

    model = condition(Wrong(CPU, torch.float64), None, S, 2.0)
    with pytest.raises(NetworkError, match="8 rows"):
        model(*batch(S))


@pytest.mark.parametrize("learned", [False, True])
def test_a_class_conditional_checkpoint_is_guided(learned, tmp_path):
    network = tiny_network(num_class_embeds=4, out_channels=1 + learned)
    folder = save(network, tmp_path / "net", "pipeline")
    loaded = load_checkpoint(folder, CPU, torch.float32)
    assert (loaded.classes, loaded.learns_variance) == (4, learned)
    model = condition(loaded, [0, 2], 3, 2.5, 0.4, null_class=3)
    x, t = torch.randn(6, 1, 8, 8), torch.linspace(0, 999, 6)
    got = model(x, t, torch.ones(6))
    labels = torch.tensor([0, 2, 0, 0, 2, 0])
    with torch.no_grad():
        c = network(x, t, class_labels=labels).sample
        u = network(x, t, class_labels=torch.full((6,), 3)).sample
    expected = rescale_as_diffusers(u[:, :1] + 2.5 * (c - u)[:, :1], c[:, :1], 0.4)
    torch.testing.assert_close(got[:, :1], expected, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(got[:, 1:], c[:, 1:], rtol=1e-4, atol=1e-5)
