"""A plan into tables, on one machine or many: store, leases, executors, driver, status."""

from relscale._lazy import room

__all__ = [
    "store",
    "folders",
    "leases",
    "workers",
    "clusters",
    "slurm",
    "ray_dask",
    "executors",
    "jobs",
    "recovery",
    "outputs",
    "attempts",
    "driver",
    "prepare",
    "suite",
    "multihost",
    "status",
    "parts",
    "verify",
]


def __getattr__(name: str) -> object:
    return room(__name__, __all__, name)


def __dir__() -> list[str]:
    return sorted(__all__)
