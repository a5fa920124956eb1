"""The laws again on the bundled network: a real UNet in float32."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from helpers.runs import run, run_alone

from pint_diffusion.runtime.world import LocalWorld

EXACT = {"batching": "off", "steps": 16, "slices": 8, "samples": 1}


@pytest.mark.parametrize("placement", ["root", "slice"])
def test_bits_and_history_do_not_depend_on_ranks_transport_or_placement(world, placement):
    done = run(world, **EXACT, placement=placement, tolerance=0.5)
    alone = run_alone(world, **EXACT, tolerance=0.5)
    assert torch.equal(done.boundary, alone.boundary)
    assert np.array_equal(done.outcome.changes, alone.outcome.changes)
    assert done.outcome.iterations == alone.outcome.iterations


@pytest.mark.parametrize("placement", ["root", "slice"])
def test_after_m_iterations_the_answer_is_the_sequential_one_to_the_bit(world, placement):
    done = run(world, **EXACT, placement=placement, tolerance=1e-300)
    walk = run_alone(world, **EXACT, method="sequential")
    assert torch.equal(done.answer, walk.answer)


def test_batching_changes_float32_answers_by_rounding_only(world):
    given = EXACT | {"steps": 32, "samples": 2}
    single = run(world, **given, tolerance=1e-300, max_iterations=4)
    batched = run(world, **(given | {"batching": "auto"}), tolerance=1e-300, max_iterations=4)
    difference = (batched.boundary - single.boundary).abs().max().item()
    print(f"batched against one at a time: largest difference {difference:.1e}")
    assert difference < 1e-3


@pytest.mark.parametrize("dtype", ["float64", "float32", "bfloat16"])
def test_states_keep_at_least_float32_whatever_the_network_computes_in(dtype):
    done = run(LocalWorld(), **(EXACT | {"dtype": dtype, "method": "sequential"}))
    assert done.answer.dtype == (torch.float64 if dtype == "float64" else torch.float32)
    exact = run(LocalWorld(), **(EXACT | {"dtype": "float64", "method": "sequential"}))
    error = (done.answer - exact.answer).abs().mean().item()
    assert error < {"float64": 1e-12, "float32": 1e-4, "bfloat16": 0.1}[dtype]


def test_samples_look_like_clothes_on_a_black_ground():
    """Fashion-MNIST pictures: inside the data range, dark corners, a bright middle."""
    answer = run(LocalWorld(), steps=25, samples=8, method="sequential").answer
    assert answer.abs().max() < 1.5
    assert answer[:, 0, :2, :2].mean() < -0.9
    assert answer[:, 0, 8:20, 8:20].mean() > -0.5
