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
THREAD_VARIABLES = (
    "OMP_NUM_THREADS",
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
    share = str(max(1, cpus // workers))
    made = {name: ours.get(name, share) for name in THREAD_VARIABLES}
    if unit.device == "cuda" and device_ids:
        made[GPUS] = _gpu(device_ids[number % len(device_ids)], ours.get(GPUS))
    return made | dict(unit.environment)


def _gpu(wanted: str, visible: str | None) -> str:
    """The one that a worker sees; numbers count among those that the server sees."""
    if visible is None:
        return wanted
    there = [name.strip() for name in visible.split(",") if name.strip()]
    if not wanted.isdigit():
        return wanted
    if int(wanted) >= len(there):
        raise UnitError(
            f"deviceid {wanted}: {GPUS} of the server has {len(there)} devices ({visible!r})", hint="they count from 0"
        )
    return there[int(wanted)]
