"""The schedulers of diffusers as an independent reference for our solvers and spacings.

`theirs` is a pipeline's loop, `ours` the walk of a propagator over the levels that the scheduler
has in its own tables. Both get the same network, start and noise, and every state is compared, in
x = a x0 + s eps, relative to its largest entry. See docs/diffusers.md.
"""

from __future__ import annotations

import sys
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from helpers.runs import run

from pint_diffusion.errors import InputError
from pint_diffusion.grid import FlowSchedule, Level, NoiseSchedule, TimeGrid
from pint_diffusion.grid.file import read_grid, write_grid
from pint_diffusion.grid.spacing import Spacing
from pint_diffusion.models.denoiser import schedule_of
from pint_diffusion.numerics.noise import initial_noise
from pint_diffusion.runtime.evaluator import Evaluator
from pint_diffusion.runtime.requests import Ask
from pint_diffusion.runtime.world import LocalWorld
from pint_diffusion.solvers import SOLVERS, Propagator

diffusers = pytest.importorskip("diffusers")

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")

SAME = 1e-5
SHAPE = (1, 8, 8)
BETAS = {"beta_schedule": "linear", "beta_start": 1e-4, "beta_end": 0.02}
LINEAR = NoiseSchedule.ddpm_linear()


class Network:
    """A small fixed network u(x, t) under functions of t that make a prediction of any kind of it.

    x0 = a x - s u and eps = s x + a u, with a and s those of t: as tame as a trained network, at
    every level. A flow network returns u itself, a denoised one wraps it as EDM does.
    """

    shape = SHAPE
    data_range = (-1.0, 1.0)

    def __init__(self, kind: str, learns_variance: bool = False) -> None:
        self.prediction = kind
        self.learns_variance = learns_variance
        if kind == "denoised":
            self.sigma_range = (0.002, 80.0)
        elif kind != "flow":
            self.alphas_cumprod = LINEAR.alphas_cumprod
        torch.manual_seed(5)
        self.into, self.out = (
            torch.nn.Conv2d(1, 8, 3, padding=1),
            torch.nn.Conv2d(8, 2, 3, padding=1),
        )
        self.clock = torch.nn.Linear(8, 8)

    @torch.inference_mode()
    def __call__(self, x, t, alpha_bar=None):
        rows = t.double().view(-1, 1, 1, 1)
        if self.prediction == "denoised":  # x is y, t is sigma
            width = torch.sqrt(rows**2 + 0.25)
            u = self.bare((x / width).float(), t.log() / 4)
            return (0.25 / width**2 * x + 0.5 * rows / width * u).float()
        u, variance = self.inner(x, t).chunk(2, 1)
        a = np.sqrt(LINEAR.alpha_bar(np.clip(rows.numpy(), -1, 999)))
        a, s = torch.from_numpy(a), torch.from_numpy(np.sqrt(1 - a * a))
        if self.prediction == "epsilon":
            u = (s * x + a * u).float()
        elif self.prediction == "sample":
            u = (a * x - s * u).float()
        return torch.cat([u, variance.tanh()], 1) if self.learns_variance else u

    @torch.inference_mode()
    def bare(self, x, c_noise):
        """What the EDM schedulers wrap themselves."""
        return self.inner(x, 250 + 100 * c_noise)[:, :1]

    def inner(self, x, t):
        angle = t[:, None] * torch.tensor([0.5, 0.1, 0.02, 0.004])
        told = self.clock(torch.cat([angle.sin(), angle.cos()], 1))
        return 2 * self.out(torch.nn.functional.silu(self.into(x) + told[:, :, None, None]))


def noise_of(i: int) -> torch.Tensor:
    """Noise of step i, and with i = -1 the start."""
    return torch.randn(2, *SHAPE, generator=torch.Generator().manual_seed(100 + i))


@dataclass(frozen=True)
class Case:
    """A scheduler and what it is with us.

    Attributes
    ----------
    scheduler : str
        Class of diffusers.
    given : dict
        Its configuration.
    solver : str
        Ours.
    options : dict
        Of our solver.
    kind : str
        What the network predicts.
    step : dict
        Keyword arguments of the scheduler's step.
    form : {"x", "y", "z"}
        What its states are: x, x / a or x / (a + s).
    stages : {"one", "doubled", "pairs", "plms"}
        How its tables hold the levels of the walk: one by one; a level twice but for the first
        one; every second level inside a step; the second timestep twice.
    grids : sequence of (str, int)
        Spacings and steps, see `GRIDS`.
    """

    scheduler: str
    given: dict[str, Any]
    solver: str
    options: dict[str, Any] = field(default_factory=dict)
    kind: str = "epsilon"
    step: dict[str, Any] = field(default_factory=dict)
    form: str = "x"
    stages: str = "one"
    grids: tuple[tuple[str, int], ...] = ()
    learns_variance: bool = False


GRIDS = {
    "leading": {"timestep_spacing": "leading"},
    "trailing": {"timestep_spacing": "trailing"},
    "linspace": {"timestep_spacing": "linspace"},
    "karras": {"use_karras_sigmas": True, "timestep_spacing": "linspace"},
    "own": {},
}
ALL = tuple((grid, steps) for grid in GRIDS if grid != "own" for steps in (10, 30))
IN_T = ALL[:6]
EDGE = (*IN_T, ("linspace", 14), ("linspace", 15))
"""Multistep DPM-Solver++ ends walks of fewer than 15 steps with lower orders."""
OWN = (("own", 10), ("own", 30))
ALIGNED = (("leading", 10), ("leading", 30), ("trailing", 10), ("trailing", 20))
"""Grids on which the step T // N of DDIM and PNDM leads to the next timestep."""

PREDICTIONS = {
    "epsilon": {"prediction_type": "epsilon"},
    "v": {"prediction_type": "v_prediction"},
    "sample": {"prediction_type": "sample"},
    "flow": {"prediction_type": "flow_prediction", "use_flow_sigmas": True},
}
DDIM = {"clip_sample": False, **BETAS}
DPM = {**BETAS, "algorithm_type": "dpmsolver++"}
SDE = {**BETAS, "algorithm_type": "sde-dpmsolver++", "solver_order": 1}
LEAST = {**BETAS, "final_sigmas_type": "sigma_min"}

CASES = {
    "DDIM": Case("DDIMScheduler", DDIM, "ddim", grids=ALIGNED),
    "DDIM, v": Case("DDIMScheduler", DDIM, "ddim", kind="v", grids=ALIGNED[::3]),
    "DDIM, sample": Case("DDIMScheduler", DDIM, "ddim", kind="sample", grids=ALIGNED[::3]),
    "DDIM, eta 1": Case(
        "DDIMScheduler", DDIM, "ddim", {"eta": 1.0}, step={"eta": 1.0}, grids=ALIGNED
    ),
    "DDIM, eta 0.4, Stable Diffusion": Case(
        "DDIMScheduler",
        {**DDIM, "set_alpha_to_one": False, "steps_offset": 1},
        "ddim", {"eta": 0.4}, step={"eta": 0.4}, grids=ALIGNED[:2],
    ),
    "DDPM": Case("DDPMScheduler", DDIM, "ddpm", grids=IN_T),
    "DDPM, fixed_large": Case(
        "DDPMScheduler", {**DDIM, "variance_type": "fixed_large"},
        "ddpm", {"variance": "fixed_large"}, grids=(*IN_T[:2], *IN_T[4:]),
    ),
    "DDPM, learned_range": Case(
        "DDPMScheduler", {**DDIM, "variance_type": "learned_range"},
        "ddpm", {"variance": "learned_range"}, grids=(*IN_T[:2], *IN_T[4:]), learns_variance=True,
    ),
    "PNDM": Case(
        "PNDMScheduler", {**BETAS, "skip_prk_steps": True, "set_alpha_to_one": True},
        "pndm", stages="plms", grids=ALIGNED,
    ),
    "PNDM, Stable Diffusion": Case(
        "PNDMScheduler", {**BETAS, "skip_prk_steps": True, "steps_offset": 1},
        "pndm", stages="plms", grids=ALIGNED[:2],
    ),
    "Euler": Case("EulerDiscreteScheduler", BETAS, "euler", form="y", grids=ALL),
    "Euler, v": Case("EulerDiscreteScheduler", BETAS, "euler", kind="v", form="y", grids=ALL[1::3]),
    "EulerAncestral": Case(
        "EulerAncestralDiscreteScheduler", BETAS, "euler_ancestral", form="y", grids=IN_T
    ),
    "Heun": Case("HeunDiscreteScheduler", BETAS, "heun", form="y", stages="doubled", grids=ALL),
    "DPM-Solver++(1)": Case(
        "DPMSolverMultistepScheduler", {**DPM, "solver_order": 1}, "dpmpp_1", grids=ALL
    ),
    "DPM-Solver++(2M)": Case("DPMSolverMultistepScheduler", DPM, "dpmpp_2m", grids=ALL),
    "DPM-Solver++(2M), v": Case(
        "DPMSolverMultistepScheduler", DPM, "dpmpp_2m", kind="v", grids=ALL[1::3]
    ),
    "DPM-Solver++(2M), sigma_min": Case(
        "DPMSolverMultistepScheduler", {**DPM, **LEAST}, "dpmpp_2m", grids=EDGE
    ),
    "DPM-Solver++(3M)": Case(
        "DPMSolverMultistepScheduler", {**DPM, "solver_order": 3}, "dpmpp_3m", grids=ALL
    ),
    "DPM-Solver++(3M), sigma_min": Case(
        "DPMSolverMultistepScheduler", {**DPM, **LEAST, "solver_order": 3}, "dpmpp_3m", grids=EDGE
    ),
    "SDE-DPM-Solver++(1)": Case("DPMSolverMultistepScheduler", SDE, "sde_dpmpp_1", grids=ALL),
    "UniPC": Case("UniPCMultistepScheduler", BETAS, "unipc", grids=ALL),
    "UniPC, v": Case("UniPCMultistepScheduler", BETAS, "unipc", kind="v", grids=ALL[1::3]),
    "UniPC, 3": Case(
        "UniPCMultistepScheduler", {**BETAS, "solver_order": 3}, "unipc_3", grids=ALL
    ),
    "UniPC, 3, sigma_min": Case(
        "UniPCMultistepScheduler", {**LEAST, "solver_order": 3}, "unipc_3", grids=EDGE
    ),
    "DEIS": Case("DEISMultistepScheduler", BETAS, "deis", grids=IN_T),
    "DEIS, 3": Case(
        "DEISMultistepScheduler", {**BETAS, "solver_order": 3}, "deis_3", grids=IN_T[::2]
    ),
    "FlowMatchEuler": Case(
        "FlowMatchEulerDiscreteScheduler", {}, "flow_euler", kind="flow", form="z", grids=OWN
    ),
    "FlowMatchEuler, shift 3": Case(
        "FlowMatchEulerDiscreteScheduler", {"shift": 3.0}, "flow_euler", kind="flow", form="z",
        grids=OWN,
    ),
    "FlowMatchHeun": Case(
        "FlowMatchHeunDiscreteScheduler", {"shift": 3.0}, "flow_heun", kind="flow", form="z",
        stages="doubled", grids=OWN,
    ),
    "flow, DPM-Solver++(2M)": Case(
        "DPMSolverMultistepScheduler", DPM, "dpmpp_2m", kind="flow", form="z", grids=OWN
    ),
    "flow, UniPC": Case(
        "UniPCMultistepScheduler", BETAS, "unipc", kind="flow", form="z", grids=OWN
    ),
    "EDMEuler": Case(
        "EDMEulerScheduler", {}, "euler", kind="denoised", form="y", grids=OWN
    ),
    "KDPM2": Case(
        "KDPM2DiscreteScheduler", BETAS, "dpm2", form="y", stages="doubled", grids=ALL[::3]
    ),
    "EDM, DPM-Solver++(2M)": Case(
        "EDMDPMSolverMultistepScheduler", {}, "dpmpp_2m", kind="denoised", form="y", grids=OWN
    ),
}  # fmt: skip

STAGED = {
    "DPM-Solver++(2S)": Case(
        "DPMSolverSinglestepScheduler", {**DPM, "use_exponential_sigmas": True}, "dpmpp_2s",
        stages="pairs", grids=(("own", 11), ("own", 31)),
    ),
}  # fmt: skip
"""Solvers with a network evaluation inside a step, at a noise level that is on no grid."""


def make_scheduler(case: Case, grid: str, steps: int):
    kind = {} if "Flow" in case.scheduler else PREDICTIONS.get(case.kind, {})
    scheduler = getattr(diffusers, case.scheduler)(**kind, **GRIDS[grid], **case.given)
    scheduler.set_timesteps(steps)
    return scheduler


def levels_of(case: Case, scheduler) -> tuple[Level, ...]:
    """Read the walk's levels off the scheduler's float32 tables."""
    t = [*scheduler.timesteps.double().tolist(), -1.0]  # no network gets the last one
    if case.stages == "plms":
        del t[1]
    if not hasattr(scheduler, "sigmas"):
        ends_clean = getattr(scheduler, "final_alpha_cumprod", torch.tensor(1.0))
        alpha_bar = [*scheduler.alphas_cumprod[[int(at) for at in t[:-1]]].double(), ends_clean]
        return tuple(Level(a, float(b)) for a, b in zip(t, alpha_bar, strict=True))
    sigma = scheduler.sigmas.double().tolist()
    if case.stages == "doubled":
        t = [*t[:-1:2], -1.0]
        sigma = [sigma[0], *sigma[1::2]][: len(t)]  # KDPM2 has a zero too many
    elif case.stages == "pairs":
        t, sigma = [*t[:-1:2], -1.0], [*sigma[::2], sigma[-1]]
    if case.form == "z":
        alpha_bar = [(1 - f) ** 2 / ((1 - f) ** 2 + f * f) for f in sigma]
    else:
        alpha_bar = [1 / (1 + f * f) for f in sigma]
    return tuple(Level(a, b) for a, b in zip(t, alpha_bar, strict=True))


def theirs(case: Case, scheduler, network, start, monkeypatch) -> list[torch.Tensor]:
    """Run a pipeline's loop; return its states after every step of the walk, in its own form."""
    module = sys.modules[type(scheduler).__module__]
    x, states, i = start, [], 0
    if hasattr(module, "randn_tensor"):
        monkeypatch.setattr(module, "randn_tensor", lambda *a, **b: noise_of(i))
    calls = len(scheduler.timesteps)
    for call, t in enumerate(scheduler.timesteps):
        given = x
        if hasattr(scheduler, "scale_model_input"):
            given = scheduler.scale_model_input(x, t)
        output = network(given, t.float().repeat(len(x)))
        x = scheduler.step(output, t, x, **case.step).prev_sample
        ends = {"one": True, "plms": call > 0}.get(case.stages, call % 2 or call == calls - 1)
        if ends:
            states.append(x)
            i += 1
    return states


def ours(case: Case, levels, network, x, schedule, first=0) -> list[torch.Tensor]:
    """Walk in slices of one step, with what a solver carries in the boundary states.

    Step i has the noise of step ``first`` + i.
    """
    grid = TimeGrid(tuple(levels), tuple(range(len(levels))))
    solver = SOLVERS[case.solver](**case.options)
    walk = Propagator(solver, grid, schedule, lambda i: noise_of(first + i))
    evaluator = Evaluator(network, grid, x.device, x.dtype, x.dtype)

    async def evaluate(x, level):
        return evaluator([Ask("fine", 0, 0, 0)(x, level)])[0]

    state, states = walk.start(x), []
    for n in range(grid.slices):
        slice_walk = walk(evaluate, state, n, n)
        with pytest.raises(StopIteration) as done:
            slice_walk.send(None)
        state = done.value.value
        states.append(state[0])
    return states


def scale(form: str, level: Level) -> float:
    return {"x": 1.0, "y": level.a, "z": level.a + level.s}[form]


def apart(a, b) -> float:
    return float((a.double() - b.double()).abs().max() / b.double().abs().max())


class Pair:
    """Both walks over a scheduler's levels; ``theirs`` holds N + 1 states, in x."""

    def __init__(self, case: Case, grid: str, steps: int, monkeypatch, tables=None, noise=None):
        self.case = case
        self.scheduler = make_scheduler(case, grid, steps)
        if tables is not None:
            self.scheduler.sigmas = self.scheduler.sigmas.to(tables)
        self.levels = levels_of(case, self.scheduler)
        self.network = Network(case.kind, case.learns_variance)
        self.schedule = schedule_of(self.network)
        if isinstance(self.schedule, NoiseSchedule):
            self.schedule = NoiseSchedule(self.scheduler.alphas_cumprod.double())
        noise = noise_of(-1) if noise is None else noise
        start = noise * getattr(self.scheduler, "init_noise_sigma", 1.0)
        network = self.network.bare if case.kind == "denoised" else self.network
        states = theirs(case, self.scheduler, network, start, monkeypatch)
        forms = [scale(case.form, level) for level in self.levels]
        self.theirs = [x.double() * f for x, f in zip([start, *states], forms, strict=True)]

    def ours(self, levels=None, schedule=None) -> list[torch.Tensor]:
        """Our N + 1 states, from the same start."""
        start = self.theirs[0].float()
        levels, schedule = levels or self.levels, schedule or self.schedule
        return [start, *ours(self.case, levels, self.network, start, schedule)]

    def errors(self, levels=None, schedule=None) -> list[float]:
        states = self.ours(levels, schedule)
        return [apart(a, b) for a, b in zip(states, self.theirs, strict=levels is None)]


# --- What agrees ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "grid", "steps"),
    [(name, grid, steps) for name, case in CASES.items() for grid, steps in case.grids],
)
def test_every_state_is_the_schedulers(name, grid, steps, monkeypatch):
    assert max(Pair(CASES[name], grid, steps, monkeypatch).errors()) <= SAME


class CutOff(NoiseSchedule):
    """Tells whole timesteps, cut off."""

    def timestep(self, alpha_bar):
        return np.floor(super().timestep(alpha_bar))


@pytest.mark.parametrize(
    ("name", "grid", "steps"),
    [(name, grid, steps) for name, case in STAGED.items() for grid, steps in case.grids],
)
def test_solvers_with_stages_agree_once_the_network_is_told_the_same(
    name, grid, steps, monkeypatch
):
    """Inside a step the level is the same, but not the timestep that the network gets.

    DPMSolverSinglestep casts the timesteps of its grid of exponential spacing to int64 and so
    tells the network up to one training step less: `test_timesteps_are_cut_off`.
    """
    pair = Pair(STAGED[name], grid, steps, monkeypatch)
    same, own = max(pair.errors(schedule=CutOff(pair.schedule.alphas_cumprod))), max(pair.errors())
    assert same <= SAME
    assert 10 * same < own < 5e-2


WHOLE, LAST = {"whole_timesteps": True}, {"final": "least"}
SPACINGS = {
    "DDIM, leading": ("DDIM", "leading", {}, Spacing("leading", **WHOLE), SAME),
    "DDPM, trailing": ("DDPM", "trailing", {}, Spacing("trailing", **WHOLE), SAME),
    "DDPM, linspace": ("DDPM", "linspace", {}, Spacing("linspace", **WHOLE), SAME),
    "Euler, leading": ("Euler", "leading", {}, Spacing("leading", **WHOLE), SAME),
    "Euler, trailing": ("Euler", "trailing", {}, Spacing("trailing", **WHOLE), SAME),
    "Euler, linspace": ("Euler", "linspace", {}, Spacing("linspace"), SAME),
    "Heun, linspace": ("Heun", "linspace", {}, Spacing("linspace"), SAME),
    "Euler, Karras": ("Euler", "karras", {}, Spacing("karras"), SAME),
    "Heun, Karras": ("Heun", "karras", {}, Spacing("karras"), SAME),
    "Euler, exponential": (
        "Euler", "own", {"use_exponential_sigmas": True}, Spacing("exponential"), SAME
    ),
    "Euler, beta": ("Euler", "own", {"use_beta_sigmas": True}, Spacing("beta"), SAME),
    "2M, trailing": ("DPM-Solver++(2M)", "trailing", {}, Spacing("trailing", **WHOLE), SAME),
    "2M, Karras": ("DPM-Solver++(2M)", "karras", {}, Spacing("karras", **WHOLE), SAME),
    "2M, Lu": (
        "DPM-Solver++(2M)", "own", {"use_lu_lambdas": True}, Spacing("logsnr", **WHOLE), SAME
    ),
    "2M, leading": (
        "DPM-Solver++(2M)", "leading", {}, Spacing("dpm_leading", **WHOLE), SAME
    ),
    "2M, linspace": ("DPM-Solver++(2M)", "linspace", {}, Spacing("dpm_linspace", **WHOLE), SAME),
    "UniPC, linspace": ("UniPC", "linspace", {}, Spacing("dpm_linspace", **WHOLE), SAME),
    "2M, leading, sigma_min": (
        "DPM-Solver++(2M), sigma_min", "leading", {}, Spacing("leading", **WHOLE, **LAST), SAME
    ),
    "2M, linspace, sigma_min": (
        "DPM-Solver++(2M), sigma_min", "linspace", {}, Spacing("linspace", **WHOLE, **LAST), SAME
    ),
    "UniPC, trailing": ("UniPC", "trailing", {}, Spacing("trailing", **WHOLE), SAME),
    "UniPC, Karras": ("UniPC", "karras", {}, Spacing("karras", **WHOLE), SAME),
    "DEIS, linspace": ("DEIS", "linspace", {}, Spacing("linspace", **WHOLE, **LAST), SAME),
    "FlowMatchEuler": ("FlowMatchEuler", "own", {}, Spacing("linspace"), SAME),
    "EDMEuler, Karras": ("EDMEuler", "own", {}, Spacing("karras"), SAME),
    "EDM 2M, Karras": ("EDM, DPM-Solver++(2M)", "own", {}, Spacing("karras"), SAME),
}  # fmt: skip
"""Flags for the grid of a pipeline: case, its spacing, more of its settings, ours, bound."""


@pytest.mark.parametrize("steps", [10, 30])
@pytest.mark.parametrize("name", SPACINGS)
def test_our_spacing_makes_the_pipelines_walk(name, steps, monkeypatch):
    case, grid, given, spacing, bound = SPACINGS[name]
    case = replace(CASES[case], given={**CASES[case].given, **given})
    pair = Pair(case, grid, steps, monkeypatch)
    levels = spacing.levels(pair.schedule, steps)
    assert max(pair.errors(levels)) <= bound
    if case.kind != "denoised":
        for here, there in zip(levels[:-1], pair.levels[:-1], strict=True):
            assert max(here.t, 0) == pytest.approx(there.t, abs=2e-3)


FLAGS = {"spacing": "karras", "whole_timesteps": True, "solver": "dpmpp_2m"}


@pytest.mark.parametrize("method", ["sequential", "parareal"])
def test_flags_make_the_samples_of_a_pipeline(method, monkeypatch):
    """DPM-Solver++(2M) with Karras sigmas, from settings to the answer, in five slices."""
    given = {**FLAGS, "steps": 10, "slices": 5, "samples": 2, "seed": 4, "tolerance": 1e-300}
    noise = initial_noise(4, range(2), SHAPE, torch.float32)
    pair = Pair(CASES["DPM-Solver++(2M)"], "karras", 10, monkeypatch, noise=noise)
    pair.network.alphas_cumprod = pair.schedule.alphas_cumprod
    done = run(LocalWorld(), pair.network, **given, method=method)
    assert apart(done.answer, pair.theirs[-1]) <= SAME


@pytest.mark.parametrize("shift", [1.0, 3.0])
def test_sigmas_by_hand_are_the_trailing_spacing_of_flow_networks(shift):
    """Flux and its kin pass linspace(1, 1 / N, N); mu stands for a shift of exp(mu)."""
    steps, sigmas = 12, np.linspace(1, 1 / 12, 12)
    levels = Spacing("trailing", shift=shift).levels(FlowSchedule(), steps)
    kind = diffusers.FlowMatchEulerDiscreteScheduler
    plain, dynamic = kind(shift=shift), kind(use_dynamic_shifting=True)
    plain.set_timesteps(sigmas=sigmas)
    dynamic.set_timesteps(sigmas=sigmas, mu=float(np.log(shift)))
    for scheduler in (plain, dynamic):
        assert flow_sigmas(levels) == pytest.approx(scheduler.sigmas.tolist(), rel=1e-6)
        assert [x.t for x in levels[:-1]] == pytest.approx(scheduler.timesteps.tolist(), rel=1e-6)


def flow_sigmas(levels) -> list[float]:
    return [level.s / (level.a + level.s) for level in levels]


@pytest.mark.parametrize("grid", ["leading", "linspace"])
def test_a_grid_file_of_the_schedulers_timesteps_is_its_grid(grid, tmp_path, monkeypatch):
    """DPM-Solver++'s leading and linspace leave out t = 0, in N steps; ours of that name do not."""
    pair = Pair(CASES["DPM-Solver++(2M)"], grid, 10, monkeypatch)
    path = tmp_path / "grid.yaml"
    path.write_text(yaml.safe_dump({"t": [*pair.scheduler.timesteps.tolist(), -1]}))
    levels, _ = read_grid(path, pair.schedule)
    assert max(pair.errors(levels)) <= SAME
    spaced = Spacing(grid, whole_timesteps=True).levels(pair.schedule, 10)
    assert pair.errors(spaced)[-1] > 100 * SAME


# --- What does not, and why ----------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "grid", "steps", "astray"),
    [
        ("DDIM", "trailing", 30, 10),
        ("DDIM", "linspace", 10, 9),
        ("DDIM", "linspace", 50, 19),
        ("DDIM, eta 1", "trailing", 30, 10),
    ],
)
def test_ddim_lands_beside_the_next_timestep(name, grid, steps, astray, monkeypatch):
    """DDIMScheduler.step goes from t to t - T // N, whatever the spacing.

    The next step takes the state for one at the next timestep of the list. These are the same with
    leading, and with trailing where N divides T. With other grids the scheduler's trajectory is no
    walk over any levels, but a chain of steps of which some do not begin where the last one ended.
    Step by step ours is the same.
    """
    pair = Pair(CASES[name], grid, steps, monkeypatch)
    stride = 1000 // steps
    t = pair.scheduler.timesteps.tolist()
    lands = [max(at - stride, -1) for at in t]
    assert sum(a != b for a, b in zip(lands[:-1], t[1:], strict=True)) == astray
    assert max(pair.errors()) > 500 * SAME
    for i, (here, there) in enumerate(zip(t, lands, strict=True)):
        alpha_bar = pair.schedule.alpha_bar([here, there]).tolist()
        step = [Level(here, alpha_bar[0]), Level(there, alpha_bar[1])]
        start = pair.theirs[i].float()
        (end,) = ours(pair.case, step, pair.network, start, pair.schedule, first=i)
        assert apart(end, pair.theirs[i + 1]) <= SAME


@pytest.mark.parametrize(("grid", "steps"), [("trailing", 30), ("linspace", 50)])
def test_pndm_lands_there_too(grid, steps, monkeypatch):
    """Its rule is DDIM's. As its steps have a history there is no taking them one by one."""
    assert max(Pair(CASES["PNDM"], grid, steps, monkeypatch).errors()) > 500 * SAME


def test_trailing_timesteps_may_be_one_too_many(monkeypatch):
    """np.arange(T, 0, -T / N) has N + 1 entries for some N, by rounding; the last one is then -1.

    At that the schedulers with a table read the entry -1, which is the noisiest one, and divide a
    finished sample by its a, 1 / 157. All N steps before are ours.
    """
    steps = 61
    pair = Pair(CASES["DDPM"], "trailing", steps, monkeypatch)
    assert len(pair.scheduler.timesteps) == steps + 1
    assert pair.scheduler.timesteps[-1] == -1
    levels = Spacing("trailing", whole_timesteps=True).levels(pair.schedule, steps)
    assert max(pair.errors(levels)) <= SAME
    assert apart(pair.theirs[-2], pair.theirs[-1]) > 0.5


def test_ddpm_fixed_large_log_is_not_a_number(monkeypatch):
    """DDPMScheduler takes the root of the logarithm of the variance; we have no such option."""
    case = replace(CASES["DDPM"], given={**DDIM, "variance_type": "fixed_large_log"})
    assert Pair(case, "leading", 10, monkeypatch).theirs[1].isnan().all()


@pytest.mark.parametrize("steps", [10, 30])
def test_ddpm_with_a_large_variance_adds_noise_to_clean_data(steps, monkeypatch):
    """DDPMScheduler adds noise unless t is 0, and a trailing list ends above: at T / N - 1.

    Its step from there goes to clean data, and with fixed_large adds noise of variance beta
    = 1 - alpha_bar to it (with fixed_small 1e-20). We add none.
    """
    pair = Pair(CASES["DDPM, fixed_large"], "trailing", steps, monkeypatch)
    states, errors = pair.ours(), pair.errors()
    assert max(errors[:-1]) <= SAME
    noise = pair.levels[-2].s * noise_of(steps - 1)
    assert float(noise.std()) > 0.05
    assert apart(states[-1] + noise, pair.theirs[-1]) <= SAME


@pytest.mark.parametrize("steps", [10, 30])
def test_ddpm_with_a_learned_variance_adds_noise_to_clean_data(steps, monkeypatch):
    """As with fixed_large: between 1e-20 and beta, in the logarithm, as the network says."""
    errors = Pair(CASES["DDPM, learned_range"], "trailing", steps, monkeypatch).errors()
    assert max(errors[:-1]) <= SAME
    assert errors[-1] > SAME


def test_ddim_parallel_has_another_last_step(monkeypatch):
    """DDIMParallelScheduler.batch_step_no_noise ends in clean data whatever set_alpha_to_one says.

    `step` of the same object heeds it: with Stable Diffusion's settings they differ.
    """
    given = {**DDIM, "set_alpha_to_one": False, "steps_offset": 1}
    case = replace(CASES["DDIM"], scheduler="DDIMParallelScheduler", given=given)
    pair = Pair(case, "leading", 10, monkeypatch)
    assert max(pair.errors()) <= SAME
    before, t = pair.theirs[-2].float(), pair.scheduler.timesteps[-1:]
    output = pair.network(before, t.float().repeat(2))
    batch = pair.scheduler.batch_step_no_noise(output, t.repeat(2), before)
    assert apart(batch, pair.theirs[-1]) > 100 * SAME
    clean = [pair.levels[-2], Level(-1.0, 1.0)]
    (end,) = ours(case, clean, pair.network, before, pair.schedule)
    assert apart(batch, end) <= SAME


def test_flow_match_euler_shifts_its_own_sigmas_twice():
    """Without sigmas it spaces those between its shifted extremes and shifts them once more.

    With the same sigmas by hand they are shifted once, and so are ours. The greatest one is 1
    either way; the least is 9 / 3 times as large. A grid file walks its levels.
    """
    steps, shift = 20, 3.0
    scheduler = diffusers.FlowMatchEulerDiscreteScheduler(shift=shift)
    scheduler.set_timesteps(steps)
    twice = scheduler.sigmas.tolist()
    scheduler.set_timesteps(sigmas=np.linspace(1, 1e-3, steps))
    once = scheduler.sigmas.tolist()
    levels = Spacing("linspace", shift=shift).levels(FlowSchedule(), steps)
    assert flow_sigmas(levels) == pytest.approx(once, rel=1e-6)
    least = 1e-3
    for _ in range(2):
        least = shift * least / (1 + (shift - 1) * least)
    assert twice[-2] == pytest.approx(least, rel=1e-5)
    assert twice[-2] / once[-2] == pytest.approx(3, rel=0.02)


@pytest.mark.parametrize(("grid", "far"), [("linspace", 2e-5), ("trailing", 2e-5), ("leading", 0)])
def test_euler_starts_from_a_little_less_noise(grid, far, monkeypatch):
    """init_noise_sigma is sigma_max: the start is s times our noise, but for leading.

    With Stable Diffusion's betas, where sigma_max is 14.6, s is 0.9977.
    """
    pair = Pair(CASES["Euler"], grid, 10, monkeypatch)
    s = 1.0 if grid == "leading" else pair.levels[0].s
    assert apart(pair.theirs[0], s * noise_of(-1)) < 1e-6
    assert 1 - s == pytest.approx(far, abs=2e-6)


@pytest.mark.parametrize("name", ["DPM-Solver++(2M)", "UniPC", "DEIS"])
def test_timesteps_are_cut_off(name):
    """Multistep schedulers cast the timesteps of exponential and beta sigmas to int64.

    That tells the network up to one training step less than the level is at; those of Karras and
    Lu they round before. EulerDiscrete keeps the fraction. We keep or round them.
    """
    steps, extra = 30, {"use_exponential_sigmas": True}
    case = replace(CASES[name], given={**CASES[name].given, **extra})
    told = levels_of(case, make_scheduler(case, "own", steps))[:-1]
    euler = replace(CASES["Euler"], given={**BETAS, **extra})
    exact = levels_of(euler, make_scheduler(euler, "own", steps))[:-1]
    off = [b.t - a.t for a, b in zip(told, exact, strict=True)]
    assert [x.sigma for x in told] == pytest.approx([x.sigma for x in exact], rel=1e-6)
    assert all(-1e-3 <= d < 1 for d in off)
    assert max(off) > 0.8
    rounded = Spacing("exponential", whole_timesteps=True).levels(LINEAR, steps)[:-1]
    assert max(abs(a.t - b.t) for a, b in zip(rounded, exact, strict=True)) < 0.6


@pytest.mark.parametrize(
    ("name", "grid", "given"),
    [
        ("DEIS", "karras", {}),
        ("DDIM", "leading", {"set_alpha_to_one": False}),
        ("PNDM", "leading", {"set_alpha_to_one": False}),
    ],
)
def test_a_last_step_that_goes_nowhere(name, grid, given, tmp_path, monkeypatch):
    """Some settings end with a step of length zero, which costs an evaluation.

    DEIS with Karras sigmas repeats the last one; with set_alpha_to_one=False and without
    steps_offset, PNDM's default, t = 0 steps to itself. A grid file with such a step is refused;
    the walk without it is the same.
    """
    case = replace(CASES[name], given={**CASES[name].given, **given})
    pair = Pair(case, grid, 20, monkeypatch)
    assert apart(pair.theirs[-2], pair.theirs[-1]) < 1e-6
    path = tmp_path / "grid.yaml"
    write_grid(path, pair.levels, None)
    with pytest.raises(InputError, match="rise strictly"):
        read_grid(path, pair.schedule)
    assert max(pair.errors(pair.levels[:-1])) <= SAME


@pytest.mark.parametrize("grid", ["leading", "trailing", "linspace"])
def test_deis_3_loses_digits_to_its_float32_tables(grid, monkeypatch):
    """Its weights cancel the more the shorter the steps; with tables in float64 they do not."""
    case = CASES["DEIS, 3"]
    assert SAME < max(Pair(case, grid, 30, monkeypatch).errors()) < 5 * SAME
    assert max(Pair(case, grid, 30, monkeypatch, torch.float64).errors()) <= SAME / 10


# --- ParaDiGMS -----------------------------------------------------------------------------------


def theirs_in_windows(scheduler, network, noise, window, tolerance):
    """Rounds of ParaDiGMS with the batched step, sums of its increments as its pipeline makes them.

    Yields all N + 1 states. The window slides over what moved by no more than the tolerance, in
    units of the noise that its scheduler has for the step into a point, and one point more.
    """
    limits = [tolerance**2 * float(scheduler._get_variance(t)) for t in scheduler.timesteps]
    timesteps, begin = scheduler.timesteps, 0
    states = torch.stack([noise] * (len(timesteps) + 1))
    while begin < len(timesteps):
        end = min(begin + window, len(timesteps))
        block, t = states[begin:end], timesteps[begin:end, None].repeat(1, len(noise)).flatten()
        rows = block.flatten(0, 1)
        output = network(rows, t)
        stepped = scheduler.batch_step_no_noise(output, t, rows).reshape(block.shape)
        new = states[begin] + torch.cumsum(stepped - block, dim=0)
        moved = (new - states[begin + 1 : end + 1]).double().square().flatten(1).mean(1)
        still = [float(one) <= limit for one, limit in zip(moved, limits[begin:end], strict=True)]
        states[begin + 1 : end + 1] = new
        states[end + 1 :] = new[-1]
        begin += min(1 + [*still, False].index(False), window)
        yield states.clone()


@pytest.mark.parametrize(
    ("window", "tolerance"), [(1, 0), (5, 0), (20, 0), (5, 0.03), (5, 0.1), (20, 0.1)]
)
def test_paradigms_goes_through_the_states_of_the_batched_scheduler(window, tolerance, tmp_path):
    """Where that is right: with leading timesteps and a last alpha_bar of 1."""
    case = replace(CASES["DDIM"], scheduler="DDIMParallelScheduler")
    assert case.given.get("set_alpha_to_one", True)
    scheduler = make_scheduler(case, "leading", 20)
    network = Network(case.kind)
    write_grid(tmp_path / "grid.yaml", levels_of(case, scheduler), None)
    given = {"grid": tmp_path / "grid.yaml", "tolerance": tolerance, "batching": "off"}
    samples = 1 if tolerance else 2  # theirs slides by the slowest
    done = run(LocalWorld(), network, **given, method="paradigms", window=window, samples=samples)
    noise = done.plan.problem.noise
    rounds = list(theirs_in_windows(scheduler, network, noise, window, tolerance))
    assert apart(done.answer, rounds[-1][-1]) < SAME
    assert not tolerance or done.outcome.iterations == len(rounds) < 20
    for sample, stopped_at in enumerate(done.outcome.stopped_at if window == 20 else []):
        for k in range(1, stopped_at):  # what a round left to do are the points up to N - 1
            mine = [x for x in done.boundary[k, :-1, sample] if not x.isnan().any()]
            assert apart(torch.stack(mine), rounds[k - 1][-1 - len(mine) : -1, sample]) < SAME
