"""Networks for tests: slow, broken, deadly. Used as ``path/to/networks.py:factory``."""

from __future__ import annotations

import ctypes
import os
import signal
import sys
import time

import numpy as np
import torch

from pint_diffusion.models.mixture import GaussianMixture


class Contraction:
    """A smooth stand-in for a network on pairs of numbers; ``act`` happens in every call."""

    shape = (2,)
    prediction = "sample"
    data_range = (-1.0, 1.0)
    alphas_cumprod = np.cumprod(1 - np.linspace(1e-4, 0.02, 1000))

    def __init__(self, act=None, seconds=0.0):
        self.calls = 0
        self.act = act
        self.seconds = seconds

    def __call__(self, x, t, alpha_bar):
        self.calls += 1
        time.sleep(self.seconds)
        out = torch.tanh(2 * x)
        return self.act(self.calls, out) if self.act else out


def rank() -> int:
    return int(os.environ.get("PMI_RANK", 0))


def on(where: int, call: int, what):
    """Do something on one rank from one call on."""
    return lambda calls, out: what(out) if rank() == where and calls >= call else out


def slow(device, dtype):
    """Sleeps 100 ms."""
    return Contraction(seconds=0.1)


def nan_late(device, dtype):
    """Returns NaN from the 12th call on, on the last of up to 4 ranks."""
    where = 3 if "PMI_RANK" in os.environ else 0
    return Contraction(on(where, 12, lambda out: out * float("nan")), 0.01)


def nan_early(device, dtype):
    """Returns NaN from the second call on, on rank 1."""
    return Contraction(on(1, 2, lambda out: out * float("nan")), 0.01)


def nan_in_the_walk(device, dtype):
    """Enough calls for a parallel run of 2 slices of 4 steps, not for the walk after it."""
    limit = 6 if "PMI_RANK" in os.environ else 12
    return Contraction(on(0, limit, lambda out: out * float("nan")))


def fast(device, dtype):
    return Contraction()


def zeros(device, dtype):
    """Sees nothing in anything."""
    return Contraction(lambda calls, out: 0 * out)


def large(device, dtype):
    """States of 16 KB per sample."""
    network = Contraction()
    network.shape = (64, 64)
    return network


def wrong_shape(device, dtype):
    return Contraction(on(0, 3, lambda out: out[:, :1]), 0.01)


def not_a_tensor(device, dtype):
    return Contraction(lambda calls, out: (out,))


def raises(device, dtype):
    def act(out):
        raise ZeroDivisionError("the user's own mistake")

    return Contraction(on(2, 6, act), 0.05)


def leaves(device, dtype):
    return Contraction(on(1, 6, lambda out: sys.exit(0)))


def killed(device, dtype):
    return Contraction(on(2, 6, lambda out: os.kill(os.getpid(), signal.SIGKILL)), 0.05)


def exits(device, dtype):
    return Contraction(on(1, 6, lambda out: os._exit(17)), 0.05)


def keep_the_lock(seconds):
    """Wait for ever for a mutex, in a library that keeps Python's lock: no handler can run."""
    mutex, library = ctypes.create_string_buffer(64), ctypes.PyDLL(None)
    for _ in range(2):
        library.pthread_mutex_lock(mutex)


def spin(seconds):
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        pass


STUCK = {"sleeps": time.sleep, "spins": spin, "keeps_the_lock": keep_the_lock}


def stuck(how):
    """Never returns from the 6th call on, or that of STUCK_AT, on the rank that STUCK_ON names."""
    call = int(os.environ.get("STUCK_AT", "6"))
    where = int(os.environ["STUCK_ON"])

    def act(out):
        STUCK[how](1000)
        return out

    return Contraction(on(where, call, act), 0.05)


def sleeps(device, dtype):
    return stuck("sleeps")


def spins(device, dtype):
    return stuck("spins")


def keeps_the_lock(device, dtype):
    return stuck("keeps_the_lock")


def never_loads(device, dtype):
    """Does not come to an end on the rank that STUCK_ON names, on every one with -1."""
    where = int(os.environ["STUCK_ON"])
    if where in (rank(), -1):
        STUCK[os.environ["STUCK_HOW"]](1000)
    return Contraction()


class StopsAll(BaseException):
    """An exception that is no Exception."""


def raises_what_is_no_exception(device, dtype):
    """Raises in the 6th call, on the last of up to 4 ranks."""
    where = 3 if "PMI_RANK" in os.environ else 0
    kind = {"GeneratorExit": GeneratorExit, "StopsAll": StopsAll}[os.environ["RAISES"]]

    def act(out):
        raise kind("enough")

    return Contraction(on(where, 6, act), 0.02)


def mixture(device, dtype):
    """Five Gaussians over (1, 3, 2) pictures."""
    draw = np.random.default_rng(7)
    means = draw.uniform(-1, 1, (5, 1, 3, 2))
    return GaussianMixture(means, np.full(5, 0.05), np.full(5, 0.2), device=device, dtype=dtype)


class Speaking:
    """The mixture, taking and returning what a network of some kind does."""

    shape = (1, 3, 2)
    data_range = (-1.0, 1.0)

    def __init__(self, kind, device, dtype):
        self.prediction = kind
        self.mixture = mixture(device, dtype)
        if kind == "denoised":
            self.sigma_range = (0.002, 80.0)
        elif kind != "flow":
            self.alphas_cumprod = self.mixture.alphas_cumprod

    def __call__(self, given, t, alpha_bar):
        if self.prediction == "denoised":  # knows no alpha_bar
            alpha_bar = 1 / (1 + t.double() ** 2)
        alpha_bar = alpha_bar.clamp(min=1e-12)  # a flow starts at zero, where x0 is not in eps
        a, s = (c.sqrt().to(given)[:, None, None, None] for c in (alpha_bar, 1 - alpha_bar))
        x = given * {"flow": a + s, "denoised": a}.get(self.prediction, 1)
        eps = self.mixture(x, t, alpha_bar)
        x0 = (x - s * eps) / a
        outputs = {"epsilon": eps, "v": a * eps - s * x0, "flow": eps - x0}
        return outputs.get(self.prediction, x0)


def edm(device, dtype):
    return Speaking("denoised", device, dtype)


def flow(device, dtype):
    return Speaking("flow", device, dtype)


class Labelled:
    """The mixture's components as classes; the label 5 stands for all of them."""

    shape = (1, 3, 2)
    prediction = "epsilon"
    data_range = (-1.0, 1.0)
    alphas_cumprod = Contraction.alphas_cumprod
    classes = 6
    null_class = 5

    def __init__(self, device, dtype, learns_variance=False):
        whole = mixture(device, dtype)
        means = whole._means.reshape(5, *self.shape).cpu().numpy()
        alone = [
            GaussianMixture(means[i : i + 1], [0.05], [1.0], device=device, dtype=dtype)
            for i in range(5)
        ]
        self.parts = [*alone, whole]
        self.learns_variance = learns_variance
        self.calls = []

    def __call__(self, x, t, alpha_bar, labels):
        self.calls.append((len(x), labels.tolist()))
        assert labels.dtype == torch.int64
        out = torch.stack([part(x, t, alpha_bar) for part in self.parts])
        out = out[labels, torch.arange(len(x))]
        variance = torch.tanh(x + labels[:, None, None, None])
        return torch.cat([out, variance], dim=1) if self.learns_variance else out


def labelled(device, dtype):
    return Labelled(device, dtype)


def labelled_with_variance(device, dtype):
    return Labelled(device, dtype, learns_variance=True)


def stiff(device="cpu", dtype=torch.float64):
    """A mixture of narrow modes far from each other: variances of 1e-4, standard deviation 4."""
    means = np.array([[[[-6.0, 5.0]]], [[[6.0, -4.0]]], [[[5.0, 6.0]]]])
    return GaussianMixture(means, np.full(3, 1e-4), np.full(3, 1 / 3), torch.device(device), dtype)
