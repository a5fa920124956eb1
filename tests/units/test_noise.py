"""Noise is a function of seed, sample and step, whoever draws it and when."""

from __future__ import annotations

import threading

import pytest
import torch

from pint_diffusion.numerics import noise as module
from pint_diffusion.numerics.noise import StepNoise

SHAPE = (2, 3)


def step_noise(samples=3):
    return StepNoise(5, samples, SHAPE, torch.float32, torch.device("cpu"))


@pytest.mark.parametrize("order", [range(8), [3, 0, 4, 4, 7, 1, 2, 9, 3], [6, 5, 4, 3]])
def test_what_is_drawn_ahead_is_what_is_drawn_at_once(monkeypatch, order):
    expected = {i: step_noise()(i) for i in order}
    monkeypatch.setattr(module, "LARGE", 1)
    ahead = step_noise()
    for i in order:
        assert torch.equal(ahead(i), expected[i])


def test_the_next_steps_are_drawn_by_another_thread_which_ends_with_the_noise(monkeypatch):
    monkeypatch.setattr(module, "LARGE", 1)
    drawn_by, draw, before = {}, module._draw, set(threading.enumerate())

    def watched(seed, samples, shape, word):
        drawn_by[word - 1] = threading.current_thread()
        return draw(seed, samples, shape, word)

    monkeypatch.setattr(module, "_draw", watched)
    ahead = step_noise()
    for i in range(4):
        ahead(i)
    main = threading.current_thread()
    assert drawn_by[0] is main
    assert all(drawn_by[i] is not main for i in (1, 2, 3))
    started = set(threading.enumerate()) - before
    assert len(started) == 1
    del ahead
    for thread in started:
        thread.join(timeout=30)
        assert not thread.is_alive()


def test_small_noise_needs_no_thread():
    before = set(threading.enumerate())
    step_noise()(0)
    assert set(threading.enumerate()) == before


def test_a_sample_draws_the_same_beside_others():
    assert torch.equal(step_noise(3)(4)[:2], step_noise(2)(4))
