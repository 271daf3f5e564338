"""CPUs follow affinity and cgroup quotas, memory the machine and cgroup limits."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from modelboxd.cpus import cgroup_quota, cpu_count, memory_bytes


def group(root: Path, name: str, **files: str) -> None:
    directory = root / name
    directory.mkdir(parents=True, exist_ok=True)
    for key, text in files.items():
        (directory / key.replace("_", ".", 1)).write_text(text)


def test_v2_takes_the_smallest_quota_on_the_way_up(tmp_path: Path) -> None:
    member = tmp_path / "member"
    member.write_text("0::/a/b\n")
    root = tmp_path / "cgroup"
    group(root, "a/b", cpu_max="max 100000\n")
    group(root, "a", cpu_max="150000 100000\n")
    group(root, "", cpu_max="400000 100000\n")
    assert cgroup_quota(root, member) == 1.5
    assert cpu_count(root, member) == min(2, len(os.sched_getaffinity(0)))


def test_v1(tmp_path: Path) -> None:
    member = tmp_path / "member"
    member.write_text("4:cpu,cpuacct:/x\n3:memory:/y\n")
    root = tmp_path / "cgroup"
    directory = root / "cpu,cpuacct" / "x"
    directory.mkdir(parents=True)
    (directory / "cpu.cfs_quota_us").write_text("50000\n")
    (directory / "cpu.cfs_period_us").write_text("100000\n")
    assert cgroup_quota(root, member) == 0.5
    assert cpu_count(root, member) == 1


@pytest.mark.parametrize("text", ["", "0::/gone\n"])
def test_no_quota(tmp_path: Path, text: str) -> None:
    member = tmp_path / "member"
    member.write_text(text)
    assert cgroup_quota(tmp_path, member) == 0.0
    assert cpu_count(tmp_path, member) == len(os.sched_getaffinity(0))


def test_memory_takes_the_smallest_limit(tmp_path: Path) -> None:
    member, machine, root = tmp_path / "member", tmp_path / "meminfo", tmp_path / "cgroup"
    machine.write_text("MemTotal:        2048 kB\nMemFree:  1 kB\n")
    assert memory_bytes(root, tmp_path / "none", machine) == 2 << 20
    member.write_text("0::/a/b\n")
    group(root, "a/b", memory_max="max\n")
    assert memory_bytes(root, member, machine) == 2 << 20
    group(root, "a", memory_max="1048576\n")
    assert memory_bytes(root, member, machine) == 1 << 20
    member.write_text("4:cpu,cpuacct:/x\n3:memory:/y\n")
    group(root / "memory", "y", memory_limit_in_bytes="4096\n")
    assert memory_bytes(root, member, machine) == 4096
