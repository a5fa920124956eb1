"""The settings of a run: one typed tree, from Python, or from a YAML file overridden by flags."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal, TypeAlias

from pydantic import BeforeValidator, Field, PositiveInt

from pint_diffusion.build.coarse import Coarse
from pint_diffusion.build.time_grid import MOST_STEPS
from pint_diffusion.errors import InputError
from pint_diffusion.methods import METHODS, AnyMethod, Parareal
from pint_diffusion.options import FREE, NEW
from pint_diffusion.runtime.device import Attention
from pint_diffusion.runtime.world import WORLDS
from pint_diffusion.settings.flags import FILES, GRID, RUN
from pint_diffusion.settings.network_and_levels import (
    SPACING_OPTIONS,
    OfNetwork,
    OfSpacing,
    SpacingName,
)
from pint_diffusion.settings.reading import FromFile
from pint_diffusion.solvers import DDIM, SOLVERS, AnySolver
from pint_diffusion.solvers.langevin import Corrector

TRANSPORTS = "auto", *WORLDS

if TYPE_CHECKING:
    TransportName: TypeAlias = str
else:
    TransportName = Literal[TRANSPORTS]


def off(value: Any) -> Any:
    """Take off for None."""
    return None if value == "off" else value


class SamplingSettings(OfNetwork, OfSpacing, FromFile):
    """What is sampled, from which network, on which grid, by which solver."""

    choices: ClassVar[dict[str, Any]] = {"solver": SOLVERS}

    steps: PositiveInt = Field(
        64, le=MOST_STEPS, json_schema_extra=GRID, description="fine steps N from noise to data"
    )
    spacing: SpacingName = Field(
        "trailing", json_schema_extra=GRID, description="where the noise levels of the steps lie"
    )
    grid: Path | None = Field(
        None,
        json_schema_extra=GRID,
        description="grid file with the noise levels, instead of --steps and --spacing",
    )
    solver: AnySolver = Field(
        DDIM(),
        json_schema_extra={"group": "solver"},
        description="solver of the fine steps, see docs/solvers.md, or a class of your own: "
        "module:Class or path/to/file.py:Class",
    )
    coarse: Coarse = Field(Coarse(), json_schema_extra={"group": "coarse solves"})
    corrector: Corrector = Field(Corrector(), json_schema_extra={"group": "corrector"})
    samples: PositiveInt = Field(16, json_schema_extra=RUN, description="samples S drawn at once")
    batching: Literal["auto", "off"] | PositiveInt = Field(
        "auto",
        json_schema_extra=RUN | FREE,
        description="evaluations in one network call: all that are ready, one (same bits on any "
        "number of ranks), or at most this many",
    )
    threads: PositiveInt | None = Field(
        None,
        json_schema_extra=RUN | FREE,
        description="CPU threads per rank; a share of the host's cores if not given, "
        "1 with --batching off",
    )
    tf32: bool = Field(
        False,
        json_schema_extra=RUN,
        description="round float32 products and convolutions to 10 bits on a GPU, which is faster",
    )
    attention: Attention = Field(
        "auto",
        json_schema_extra=RUN,
        description="the only kernel for attention that torch may take on a GPU; auto: any",
    )
    transport: TransportName = Field(
        "auto",
        json_schema_extra=RUN | FREE,
        description="how values move; mpi if a launcher started this process, else local",
    )
    force: bool = Field(
        False,
        json_schema_extra=FILES | NEW,
        description="overwrite what is in the folder",
    )

    def model_post_init(self, context: object) -> None:
        """Refuse levels that are said twice."""
        given = sorted(self.changed.keys() & {*SPACING_OPTIONS})
        if self.grid is not None and given:
            raise InputError(
                f"`grid` {self.grid} says where the levels lie, and so does `{given[0]}`: give one "
                "of the two"
            )

    @property
    def given_steps(self) -> int | None:
        """N as far as the settings name it; a grid file has its own."""
        named = self.grid is None or "steps" in self.model_fields_set
        return self.steps if named else None

    def told(self) -> dict[str, Any]:
        """Return every setting; N not, where a grid file has its own."""
        told = super().told()
        return told if self.grid is None else {k: v for k, v in told.items() if k != "steps"}


class Settings(SamplingSettings):
    """Draw samples from a diffusion model, parallel in time."""

    name: ClassVar[str] = "sample"
    choices: ClassVar[dict[str, Any]] = {"method": METHODS, "solver": SOLVERS}

    method: AnyMethod = Field(
        Parareal(),
        json_schema_extra={"group": "method"},
        description="sampling method, see docs/methods.md, or a class of your own: module:Class "
        "or path/to/file.py:Class",
    )
    watchdog: Annotated[float | None, BeforeValidator(off)] = Field(
        10.0,
        gt=0,
        allow_inf_nan=False,
        json_schema_extra=RUN | FREE,
        description="seconds of silence after which another rank is taken for lost and the job "
        "ended, at least twice its longest network call; or off",
    )
    warmup: bool = Field(
        False,
        json_schema_extra=RUN | FREE,
        description="make one network call per rank before the clock starts",
    )
    verify: bool = Field(
        False,
        json_schema_extra=RUN | FREE,
        description="also run the sequential sampler on rank 0, print error and speed-up",
    )
    stream: bool = Field(
        False,
        json_schema_extra=FILES | FREE,
        description="also draw the answer of every iteration, as soon as it is there",
    )
    keep: Literal["boundary", "final"] = Field(
        "boundary",
        json_schema_extra=FILES,
        description="what the files keep: all boundary states, or the samples",
    )
    checkpoint_every: float | None = Field(
        None,
        ge=0,
        allow_inf_nan=False,
        json_schema_extra=FILES | FREE,
        description="seconds from one iteration that is written to disk to the next, with --keep "
        "final; 0 for every one. If not given, every one; of a method in rounds, which has no use "
        "for old ones, as many as take a fifth of the time",
    )
    out: Path = Field(
        Path("pint_run"),
        json_schema_extra=FILES | NEW,
        description="folder for files and pictures",
    )

    def model_post_init(self, context: object) -> None:
        """Refuse settings that contradict one another."""
        super().model_post_init(context)
        if self.checkpoint_every and self.keep == "boundary":
            raise InputError(
                f"`checkpoint_every` {self.checkpoint_every:g} leaves iterations out, so it needs "
                "`keep` final"
            )
        if self.coarse.changed and not self.method.uses_coarse:
            raise InputError(
                f"`coarse_{next(iter(self.coarse.changed))}` is an option of coarse solves, and "
                f"the method {self.method.name} makes none: leave it out"
            )
