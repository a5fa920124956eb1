"""Solvers and the propagators built of them. A new solver is one function and one line here."""

from __future__ import annotations

from functools import partial
from math import inf

from pint_diffusion.solvers.adams import deis, pndm
from pint_diffusion.solvers.ddim import ddim, lambda_ddim
from pint_diffusion.solvers.ddpm import ddpm
from pint_diffusion.solvers.dpm_solver import dpmpp_1, dpmpp_2m, dpmpp_2s, dpmpp_3m, sde_dpmpp_1
from pint_diffusion.solvers.euler import dpm2, euler, euler_ancestral, heun
from pint_diffusion.solvers.exponential import ou_ode, ou_sde
from pint_diffusion.solvers.flow import flow_euler, flow_heun
from pint_diffusion.solvers.propagator import Propagator, knowing
from pint_diffusion.solvers.solver import Evaluate, Past, Solver, Stride
from pint_diffusion.solvers.unipc import unipc

CHURN = {"churn": 0.0, "churn_min": 0.0, "churn_max": inf, "churn_noise": 1.0}

SOLVERS: dict[str, Solver] = {
    "ddim": Solver(ddim, noise="eta", options={"eta": 0.0}),
    "lambda_ddim": Solver(lambda_ddim, options={"lam": 0.5}),
    "ddpm": Solver(ddpm, noise=True, options={"variance": "fixed_small"}),
    "euler": Solver(euler),
    "euler_ancestral": Solver(euler_ancestral, noise="eta", options={"eta": 1.0}),
    "heun": Solver(heun, order=2, evaluations=2, noise="churn", shifted="churn", options=CHURN),
    "dpm2": Solver(dpm2, order=2, evaluations=2),
    "dpmpp_1": Solver(dpmpp_1),
    "dpmpp_2s": Solver(dpmpp_2s, order=2, evaluations=2),
    "sde_dpmpp_1": Solver(sde_dpmpp_1, noise=True),
    "flow_euler": Solver(flow_euler),
    "flow_heun": Solver(flow_heun, order=2, evaluations=2),
    "ou_ode": Solver(ou_ode),
    "ou_sde": Solver(ou_sde, noise=True),
    "dpmpp_2m": Solver(dpmpp_2m, order=2, history=1),
    "dpmpp_3m": Solver(partial(dpmpp_3m, curvature=1.0), order=2, history=2),
    "dpmpp_3m_full": Solver(partial(dpmpp_3m, curvature=2.0), order=3, history=2),
    "unipc": Solver(partial(unipc, order=2), order=3, history=2),
    "unipc_3": Solver(partial(unipc, order=3), order=4, history=3),
    "deis": Solver(partial(deis, order=2), order=2, history=1),
    "deis_3": Solver(partial(deis, order=3), order=3, history=2),
    "pndm": Solver(pndm, order=2, history=3),
}
"""Solvers by the name they have on the command line."""

__all__ = ["SOLVERS", "Evaluate", "Past", "Propagator", "Solver", "Stride", "knowing"]
