"""What this process may use: CPUs by affinity and the cgroup's quota, memory by the machine and the cgroup's limit."""

from __future__ import annotations

import math
import os
import re
from pathlib import Path


def cpu_count(cgroup_root: Path = Path("/sys/fs/cgroup"), membership: Path = Path("/proc/self/cgroup")) -> int:
    """At least 1. A quota of 1.5 CPUs counts as 2: a thread too many beats an idle half CPU."""
    cpus = len(os.sched_getaffinity(0))
    quota = cgroup_quota(cgroup_root, membership)
    return max(1, min(cpus, math.ceil(quota))) if quota else cpus


def memory_bytes(
    cgroup_root: Path = Path("/sys/fs/cgroup"),
    membership: Path = Path("/proc/self/cgroup"),
    machine: Path = Path("/proc/meminfo"),
) -> int:
    """Bytes of memory: the machine's or the smallest limit of this process's cgroups, whichever is less.

    Reads memory.max of cgroup v2 and memory.limit_in_bytes of v1.
    """
    found = re.search(r"^MemTotal:\s+(\d+) kB", _read(machine), re.MULTILINE)
    limits = [int(found[1]) << 10] if found else []
    for directory in _own_groups(cgroup_root, membership, "memory"):
        for name in ("memory.max", "memory.limit_in_bytes"):
            text = _read(directory / name)
            if text.isdecimal() and int(text) > 0:
                limits.append(int(text))
    return min(limits, default=1 << 30)


def cgroup_quota(cgroup_root: Path, membership: Path) -> float:
    """The smallest CPU quota from this process's cgroup up to the root, in CPUs; 0.0 = none.

    Reads cpu.max of cgroup v2 and cpu.cfs_quota_us of v1 (Linux, Documentation/admin-guide/cgroup-v2.rst).
    """
    quotas = []
    for directory in _own_groups(cgroup_root, membership, "cpu"):
        quota = _quota_v2(directory) or _quota_v1(directory)
        if quota:
            quotas.append(quota)
    return min(quotas, default=0.0)


def _own_groups(cgroup_root: Path, membership: Path, controller: str) -> list[Path]:
    try:
        lines = membership.read_text().splitlines()
    except OSError:
        return []
    groups = []
    for line in lines:
        _, controllers, name = line.split(":", 2)
        if controllers == "":
            base = cgroup_root
        elif controller in controllers.split(","):
            base = cgroup_root / controllers
        else:
            continue
        path = base / name.lstrip("/")
        # Inside a container the path may name a group of the host that is not visible here; its parents are.
        groups += [group for group in (path, *path.parents) if group == base or base in group.parents]
    return groups


def _quota_v2(directory: Path) -> float:
    text = _read(directory / "cpu.max").split()
    if len(text) != 2 or text[0] == "max":
        return 0.0
    return int(text[0]) / int(text[1])


def _quota_v1(directory: Path) -> float:
    quota, period = _read(directory / "cpu.cfs_quota_us"), _read(directory / "cpu.cfs_period_us")
    if not quota or not period or int(quota) <= 0:
        return 0.0
    return int(quota) / int(period)


def _read(path: Path) -> str:
    try:
        return path.read_text().strip()
    except OSError:
        return ""
