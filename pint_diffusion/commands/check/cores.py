"""Cores: how many each rank may use, and how many threads it would start on them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from pint_diffusion.commands.check.facts import Facts, by_host
from pint_diffusion.commands.check.finding import Finding


def binding(facts: Sequence[Facts]) -> Iterator[Finding]:
    """Warn where ranks share fewer cores than there are ranks, on a host that has more."""
    for host, ranks in by_host(facts).items():
        cores = _cores(ranks)
        there = ranks[0].host_cores
        if len(cores) < min(len(ranks), there):
            yield Finding(
                "cores",
                "warn",
                f"{len(ranks)} ranks share {len(cores)} of the {there} cores of {host}",
                "bind each rank to cores of its own (srun --cpus-per-task=N, mpiexec --bind-to "
                "none)",
            )


def cores(facts: Sequence[Facts]) -> Iterator[Finding]:
    """Warn where ranks share cores: then the speed-up of a run means nothing."""
    bound = list(binding(facts))
    yield from bound
    for host, ranks in by_host(facts).items():
        shared = _cores(ranks)
        if len(shared) < len(ranks) and not bound:
            yield Finding(
                "cores",
                "warn",
                f"{len(ranks)} ranks share {len(shared)} cores on {host}",
                "fine for a trial; no speed-up without a core, or a GPU, for each rank",
            )


def omp_threads(facts: Sequence[Facts]) -> Iterator[Finding]:
    """Compare OMP_NUM_THREADS with a rank's share of its host's cores."""
    for host, ranks in by_host(facts).items():
        shared = _cores(ranks)
        share = max(1, len(shared) // len(ranks))
        threads = {one.variables.get("OMP_NUM_THREADS", "").split(",")[0] for one in ranks}
        most = max((int(value) for value in threads if value.isdecimal()), default=0)
        if most > share:
            yield Finding(
                "OMP_NUM_THREADS",
                "warn",
                f"OMP_NUM_THREADS is {most}, but a rank's share on {host} is {share} of "
                f"{len(shared)} core(s)",
                f"set OMP_NUM_THREADS={share}",
            )


def _cores(ranks: Sequence[Facts]) -> set[int]:
    """Return all cores that ranks may run on."""
    return set[int]().union(*(one.cores for one in ranks))
