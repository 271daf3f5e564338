"""Statistics of a real daemon, beside what the kernel, ps and top say."""

from __future__ import annotations

import http.client
import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from prometheus_client import Metric
from prometheus_client.parser import text_string_to_metric_families

from tests.integration.server import LIMIT_S, Server
from tests.integration.tasks import Rig

NAMES = {
    "modelbox_info", "modelbox_uptime_seconds", "modelbox_process_cpu_seconds", "modelbox_process_resident_memory_bytes",
    "modelbox_process_shared_memory_bytes", "modelbox_process_threads", "modelbox_process_open_fds",
    "modelbox_process_start_time_seconds", "modelbox_device_use_ratio", "modelbox_device_memory_bytes",
    "modelbox_device_available_bytes", "modelbox_pool_arenas", "modelbox_pool_arena_bytes", "modelbox_pool_used_bytes",
    "modelbox_pool_block_bytes", "modelbox_pool_peak_bytes", "modelbox_pool_live_buffers", "modelbox_pool_allocations",
    "modelbox_pool_failures", "modelbox_pool_guard_faults", "modelbox_tasks_running", "modelbox_tasks_waiting",
    "modelbox_tasks_held_bytes", "modelbox_tasks_ended", "modelbox_job_info", "modelbox_job_running",
    "modelbox_job_sessions", "modelbox_job_queue_bytes", "modelbox_node_buffers_in", "modelbox_node_buffers_out",
    "modelbox_node_failed", "modelbox_node_dropped", "modelbox_node_queue_length", "modelbox_node_queue_bytes",
    "modelbox_node_running", "modelbox_node_queue_seconds", "modelbox_node_compute_seconds",
    "modelbox_node_copy_seconds", "modelbox_node_batch_size", "modelbox_workers", "modelbox_workers_ready",
    "modelbox_worker_calls", "modelbox_worker_restarts", "modelbox_worker_recycled", "modelbox_worker_breaker_open",
}  # fmt: skip


@pytest.fixture
def rig(tmp_path: Path) -> Iterator[Rig]:
    made = Rig(tmp_path)
    yield made
    assert made.server.stop() == 0


def page(server: Server) -> dict[str, Metric]:
    connection = http.client.HTTPConnection("127.0.0.1", server.api, timeout=LIMIT_S)
    try:
        connection.request("GET", "/metrics")
        response = connection.getresponse()
        assert response.status == 200
        assert response.getheader("Content-Type") == "text/plain; version=0.0.4; charset=utf-8"
        return {family.name: family for family in text_string_to_metric_families(response.read().decode())}
    finally:
        connection.close()


def by_pid(family: Metric) -> dict[int, float]:
    return {int(sample.labels["pid"]): sample.value for sample in family.samples}


def value(family: Metric, **labels: str) -> float:
    (found,) = [s.value for s in family.samples if labels.items() <= s.labels.items() and not s.name.endswith("bucket")]
    return float(found)


def ps(pids: list[int]) -> dict[int, dict[str, float]]:
    """Resident memory in bytes, threads, and CPU seconds, by ps."""
    columns = "pid=,rss=,nlwp=,cputimes="
    lines = subprocess.run(
        ["ps", "-o", columns, "-p", ",".join(map(str, pids))], capture_output=True, text=True, check=True
    )
    found = {}
    for line in lines.stdout.splitlines():
        pid, rss, threads, cpu = map(int, line.split())
        found[pid] = {"rss": rss * 1024, "threads": threads, "cpu": cpu}
    return found


def top(pids: list[int]) -> dict[int, tuple[float, float]]:
    """RES and SHR in bytes, by top."""
    command = ["top", "-b", "-n", "1", "-E", "k", "-e", "k", "-p", ",".join(map(str, pids))]
    text = subprocess.run(command, capture_output=True, text=True, check=True, env={**os.environ, "TERM": "dumb"})
    lines = text.stdout.splitlines()
    start = next(number for number, line in enumerate(lines) if line.split()[:1] == ["PID"])
    names = lines[start].split()
    rows = [line.split() for line in lines[start + 1 :] if line.strip()]
    return {int(row[0]): tuple(float(row[names.index(name)]) * 1024 for name in ("RES", "SHR")) for row in rows}  # type: ignore[return-value]


def test_processes_are_as_the_kernel_has_them(rig: Rig) -> None:
    assert rig.send(b"ada")[0] == 200
    families = page(rig.server)
    rss = by_pid(families["modelbox_process_resident_memory_bytes"])
    shared = by_pid(families["modelbox_process_shared_memory_bytes"])
    threads = by_pid(families["modelbox_process_threads"])
    cpu = by_pid(families["modelbox_process_cpu_seconds"])
    descriptors = by_pid(families["modelbox_process_open_fds"])
    assert rig.server.process.pid in rss
    roles = {sample.labels["role"] for sample in families["modelbox_process_threads"].samples}
    assert roles == {"daemon", "python-master", "python-worker"}
    told = ps(list(rss))
    assert told.keys() == rss.keys()
    for pid, row in told.items():
        assert abs(rss[pid] - row["rss"]) <= 8 << 20, pid
        assert abs(threads[pid] - row["threads"]) <= 4, pid  # threads for the API come as they are needed
        assert abs(cpu[pid] - row["cpu"]) <= 3, pid
        assert abs(descriptors[pid] - len(os.listdir(f"/proc/{pid}/fd"))) <= 8, pid
    if shutil.which("top"):
        for pid, (resident, common) in top(list(rss)).items():
            assert abs(rss[pid] - resident) <= 8 << 20, pid
            assert abs(shared[pid] - common) <= 8 << 20, pid


def test_counters_agree_with_what_was_sent(rig: Rig) -> None:
    before = page(rig.server)
    assert value(before["modelbox_node_buffers_in"], node="work") == 0
    for _ in range(7):
        assert rig.send(b"ada")[0] == 200
    assert rig.send(b"bad")[0] == 422
    body = b'{"inputs": {"in": {"values": ["a", "b", "c"]}}}'
    assert rig.send(body, kind="application/json")[0] == 200
    after = page(rig.server)
    assert after.keys() == NAMES
    about = {"job": "graph", "node": "work"}
    assert value(after["modelbox_node_buffers_in"], **about) == 11
    assert value(after["modelbox_node_buffers_out"], **about) == 11
    assert value(after["modelbox_node_failed"], **about) == 1
    assert value(after["modelbox_node_queue_length"], **about) == 0
    for name in ("queue", "compute", "copy"):
        samples = {
            s.name: s.value for s in after[f"modelbox_node_{name}_seconds"].samples if s.labels["node"] == "work"
        }
        assert samples[f"modelbox_node_{name}_seconds_count"] == 11, name  # batch_size = 1: a turn each
        assert 0 < samples[f"modelbox_node_{name}_seconds_sum"] < LIMIT_S
    assert value(after["modelbox_tasks_ended"], job="graph", state="succeeded") == 8
    assert value(after["modelbox_tasks_ended"], job="graph", state="failed") == 1
    assert value(after["modelbox_workers_ready"], **about) == 1
    assert value(after["modelbox_job_info"], job="graph", state="running", origin="file") == 1
    for name, family in after.items():
        assert family.documentation
        if family.type == "counter" and name in before:
            for sample in before[name].samples:
                assert value(family, **sample.labels) >= sample.value, name


def test_json(rig: Rig) -> None:
    ask = rig.server.ask
    assert rig.send(b"ada")[0] == 200
    everything: dict[str, Any] = ask("GET", "/v1/stats")[1]
    assert everything.keys() == {"uptime_seconds", "processes", "devices", "memory", "tasks", "jobs"}
    assert [device["kind"] for device in everything["devices"]] == ["cpu"]
    for part, member in (("processes", "processes"), ("devices", "devices"), ("jobs", "jobs")):
        assert ask("GET", f"/v1/stats/{part}")[1][member], part
    assert ask("GET", "/v1/stats/memory")[1]["allocations"] > 0
    assert ask("GET", "/v1/stats/tasks")[1]["ended"] == {"graph": {"succeeded": 1}}
    job = ask("GET", "/v1/jobs/graph/stats")[1]
    work = next(node for node in job["nodes"] if node["name"] == "work")
    assert (work["kind"], work["units"], work["buffers_in"]) == ("worker", ["work"], 1)
    spread = work["compute_seconds"]
    assert spread["count"] == 1
    assert spread["mean"] / 1.3 <= spread["p50"] <= spread["p99"] <= spread["mean"] * 1.3
    assert work["workers"]["workers"] == 1
    assert ask("GET", "/v1/jobs/nope/stats")[0] == 404
    assert ask("POST", "/v1/jobs/graph/stop")[0] == 200
    assert ask("GET", "/v1/jobs/graph/stats")[1]["nodes"] == []


def test_busy_processes_are_told(rig: Rig) -> None:
    """CPU time of the worker moves as the kernel's does."""
    worker = next(
        p for p in rig.server.ask("GET", "/v1/stats/processes")[1]["processes"] if p["role"] == "python-worker"
    )
    assert (worker["job"], worker["node"]) == ("graph", "work")
    while worker["cpu_seconds"] < 0.2:
        assert rig.send(b"a" * 2_000_000)[0] == 200
        processes = rig.server.ask("GET", "/v1/stats/processes")[1]["processes"]
        worker = next(p for p in processes if p["pid"] == worker["pid"])
    fields = Path(f"/proc/{worker['pid']}/stat").read_text().rpartition(")")[2].split()
    seconds = (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")
    assert 0 <= seconds - worker["cpu_seconds"] <= 0.2
    assert worker["shmem_bytes"] > 0
