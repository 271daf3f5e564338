"""The environment of worker processes: threads of native libraries, GPUs, and what the unit's TOML says.

What the user has set in the server's environment counts more than what is reckoned here; the unit's `[environment]`
counts most.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence

from modelbox.errors import UnitError
from modelbox.spec import UnitSpec

GPUS = "CUDA_VISIBLE_DEVICES"
DRIVER = "/proc/driver/nvidia/gpus"  # has a folder per GPU
OMP = "OMP_NUM_THREADS"
LIKE_OMP = ("OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "NUMEXPR_NUM_THREADS")  # these libraries look at OMP's, too
THREAD_VARIABLES = (
    OMP,
    "OPENBLAS_NUM_THREADS",
    "MKL_NUM_THREADS",
    "NUMEXPR_NUM_THREADS",
    "OPENCV_FOR_THREADS_NUM",
)


def of_worker(
    unit: UnitSpec,
    number: int,
    *,
    cpus: int,
    workers: int,
    device_ids: Sequence[str] = (),
    ours: Mapping[str, str] = os.environ,
) -> dict[str, str]:
    """What is set for worker `number` of `workers` that share `cpus`. Raises UnitError for a GPU that is not there."""
    asked = {**ours, **dict(unit.environment)}
    share = str(max(1, cpus // workers))
    omp = asked.get(OMP, share)
    made = {name: asked.get(name, omp if name in LIKE_OMP else share) for name in THREAD_VARIABLES}
    if unit.device == "cuda":
        visible = ours.get(GPUS)
        ids = device_ids or [str(found) for found in range(_count(visible))]
        if ids:
            made[GPUS] = _gpu(ids[number % len(ids)], visible)
    return made | dict(unit.environment)


def _count(visible: str | None) -> int:
    """How many GPUs the server sees; 0 where that is not known."""
    if visible is not None:
        return len(_names(visible))
    try:
        return len(os.listdir(DRIVER))
    except OSError:  # no NVIDIA driver, or one that does not tell
        return 0


def _names(visible: str) -> list[str]:
    return [name.strip() for name in visible.split(",") if name.strip()]


def _gpu(wanted: str, visible: str | None) -> str:
    """The one that a worker sees; numbers count among those that the server sees."""
    if visible is None:
        return wanted
    there = _names(visible)
    if not wanted.isdigit():
        return wanted
    if int(wanted) >= len(there):
        text = f"there is no cuda:{wanted}: {GPUS} of the server has {len(there)} devices ({visible!r})"
        raise UnitError(text, hint="they count from 0")
    return there[int(wanted)]
