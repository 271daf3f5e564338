"""`make bench`: how fast this is, as ratios to hand-written baselines that run in the same call.

Every row is the median of interleaved rounds. A ratio above 1 means better than the baseline (for the round trip:
below 1 is better, since it is a time).
"""

from __future__ import annotations

import argparse
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np

from common import TOP, Bench, free_port, interleaved, table, wait_port
from inference import inference
from kinds import kinds
from ocr import ocr
from tasks import tasks
from trips import batches, cores, round_trip

from modelbox._core import lib
from modelbox._core.memory import new_list
from modelbox.buffer import Buffer
from modelboxd.cpus import cpu_count
from modelboxd.engine.feed import copy_list

ROUNDS = 5
Row = tuple[str, str, str, str, str]
HEAD: Row = ("BENCHMARK", "MODELBOX", "BASELINE", "RATIO", "GOAL")


# ---- eight native units ---------------------------------------------------------------------------------


def chain() -> list[Row]:
    """8 pass-through units, chunks of 32, against the same calls in a C loop."""
    with tempfile.TemporaryDirectory() as scratch:
        plugin, program = f"{scratch}/modelbox_pass.so", f"{scratch}/loop"
        include = ["-I", str(TOP / "csrc/include"), "-I", str(TOP / "csrc/src")]
        here = TOP / "benchmarks"
        flags = ["cc", "-O2", "-std=gnu11", *include]
        subprocess.run([*flags, "-fPIC", "-shared", str(here / "pass_unit.c"), "-o", plugin], check=True)
        sources = [str(path) for path in (TOP / "csrc/src").glob("*.c")]
        subprocess.run([*flags, *sources, str(here / "chain_loop.c"), "-o", program, "-pthread", "-ldl"], check=True)
        nodes = [f"p{number}" for number in range(8)]
        dot = "s [flowunit=feeder]; t [flowunit=drain, queue_size=100000]; s:out -> p0:in; p7:out -> t:in;"
        dot += ";".join(f"{node} [flowunit=pass, batch_size=32, queue_size=100000]" for node in nodes)
        dot += ";" + ";".join(f"{a}:out -> {b}:in" for a, b in zip(nodes, nodes[1:], strict=False))
        bench = Bench(dot, [Path(scratch)])
        source = new_list(32)
        for _ in range(32):
            buffer = bench.pool.new(64)
            lib.mb_buffer_seal(buffer)
            lib.mb_list_push(source, lib.mb_buffer_ref(buffer))

        def engine() -> float:
            chunks = 6000
            session, ended = bench.session()
            start = time.perf_counter()
            for _ in range(chunks):
                while bench.job.steps[1].counts[0] > 60_000:
                    time.sleep(0)  # the source waits for room, as back-pressure would make it
                bench.entry.send_list(session, "out", copy_list(source))
            bench.entry.send_list(session, "out", new_list(0), end=True)
            ended.wait()
            assert session.private["count"] == chunks * 32
            return chunks * 32 / (time.perf_counter() - start)

        def loop() -> float:
            return float(subprocess.run([program, plugin], check=True, capture_output=True, text=True).stdout)

        ours, theirs = interleaved(ROUNDS, engine, loop)
        bench.close()
    return [
        (
            "8 native units, chunks of 32",
            f"{ours / 1e6:.2f} M/s",
            f"C loop {theirs / 1e6:.2f} M/s",
            f"{ours / theirs:.2f}",
            ">= 0.50",
        )
    ]


# ---- HTTP -------------------------------------------------------------------------------------------------------

SERVER = """
import sys
from aiohttp import web

def hello(text):
    return f"hello, {text.strip() or 'world'}\\n"

async def handle(request):
    return web.Response(text=hello(await request.text()))

app = web.Application()
app.router.add_route("*", "/hello", handle)
if sys.argv[2] == "uvloop":
    import uvloop
    uvloop.install()
web.run_app(app, host="127.0.0.1", port=int(sys.argv[1]), access_log=None, print=None)
"""


def wrk(port: int, connections: int) -> float:
    """Requests per second of `wrk` for two seconds; every answer must be good."""
    done = subprocess.run(
        ["wrk", "-t1", f"-c{connections}", "-d2", f"http://127.0.0.1:{port}/hello"],
        check=True,
        capture_output=True,
        text=True,
    ).stdout
    assert "Non-2xx" not in done, done
    return float(next(line for line in done.split("\n") if "Requests/sec" in line).split()[-1])


def http() -> list[Row]:
    """examples/hello_world against an aiohttp server that calls the same function."""
    if subprocess.run(["which", "wrk"], capture_output=True).returncode:
        return [("hello_world over HTTP", "skipped", "the load tool wrk is not installed", "", ">= 1.00")]
    ports = [free_port() for _ in range(3)]
    rows = []
    with tempfile.TemporaryDirectory() as scratch:
        example = TOP / "examples/hello_world"
        graph = (example / "graph/hello_world.toml").read_text().replace("7770", str(ports[0]))
        (Path(scratch) / "graph.toml").write_text(graph.replace("../flowunit", str(example / "flowunit")))
        (Path(scratch) / "server.py").write_text(SERVER)
        python = sys.executable
        commands = [
            [python, "-m", "modelboxd", "-V", "--graph", f"{scratch}/graph.toml"],
            [python, f"{scratch}/server.py", str(ports[1]), "asyncio"],
            [python, f"{scratch}/server.py", str(ports[2]), "uvloop"],
        ]
        servers = [subprocess.Popen(command, stderr=subprocess.DEVNULL, cwd=TOP) for command in commands]
        try:
            for port in ports:
                wait_port(port)
            for connections in (1, 16, 64):
                ours, plain, fast = interleaved(ROUNDS, *[lambda p=p: wrk(p, connections) for p in ports])
                name = f"hello_world, {connections} connection{'s' * (connections > 1)}"
                rows.append((name, f"{ours:.0f}/s", f"aiohttp {plain:.0f}/s", f"{ours / plain:.2f}", ">= 1.00"))
                rows.append((name, f"{ours:.0f}/s", f"aiohttp on uvloop {fast:.0f}/s", f"{ours / fast:.2f}", ""))
        finally:
            for server in servers:
                server.send_signal(signal.SIGTERM)
            for server in servers:
                server.wait(30)
    return rows


# ---- pictures -----------------------------------------------------------------------------------------------------

MEAN, SCALE = (103.5, 116.3, 123.7), (0.0174, 0.0175, 0.0171)


def opencv_loop(path: str, count: int) -> None:
    """One process of the baseline: waits for a line, works, prints its rate."""
    import cv2

    cv2.setNumThreads(1)
    mean, scale = np.float32(MEAN), np.float32(SCALE)
    data = np.frombuffer(Path(path).read_bytes(), np.uint8)
    print("ready", flush=True)
    sys.stdin.readline()
    begin = time.perf_counter()
    for _ in range(count):
        image = cv2.resize(cv2.imdecode(data, cv2.IMREAD_COLOR), (224, 224))
        _ = (image.astype(np.float32) - mean) * scale
    print(count / (time.perf_counter() - begin), flush=True)


def pictures() -> list[Row]:
    """JPEG decode, resize, mean, normalize against one OpenCV loop per core."""
    import cv2

    photo = cv2.imread(str(next((TOP / ".venv").glob("lib/python3*/site-packages/skimage/data/astronaut.png"))))
    jpeg = cv2.imencode(
        ".jpg", cv2.resize(photo, (1280, 960), interpolation=cv2.INTER_CUBIC), [cv2.IMWRITE_JPEG_QUALITY, 90]
    )[1].tobytes()
    mean, scale = ",".join(map(str, MEAN)), ",".join(map(str, SCALE))
    bench = Bench(
        f"""s [flowunit=feeder]; d [flowunit=image_decoder]; r [flowunit=resize, image_width=224, image_height=224]
        m [flowunit=mean, mean="{mean}"]; n [flowunit=normalize, standard_deviation_inverse="{scale}"]; t [flowunit=drain]
        s:out -> d:in_encoded_image; d:out_image -> r:in_image; r:out_image -> m:in_data; m:out_data -> n:in_data; n:out_data -> t:in"""
    )
    count, cores = 150, cpu_count()
    source = new_list(1)
    core = Buffer(None, np.frombuffer(jpeg, np.uint8)).to_core(bench.pool)
    lib.mb_buffer_seal(core)
    lib.mb_list_push(source, lib.mb_buffer_ref(core))

    def engine() -> float:
        session, ended = bench.session()
        start = time.perf_counter()
        for _ in range(count * cores):
            bench.entry.send_list(session, "out", copy_list(source))
        bench.entry.send_list(session, "out", new_list(0), end=True)
        ended.wait()
        assert session.private["count"] == count * cores
        return count * cores / (time.perf_counter() - start)

    def loops() -> float:
        with tempfile.NamedTemporaryFile(suffix=".jpg") as file:
            file.write(jpeg)
            file.flush()
            command = [sys.executable, __file__, "--opencv", file.name, str(count)]
            pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
            children: list[Any] = [subprocess.Popen(command, **pipes) for _ in range(cores)]
            for child in children:
                child.stdout.readline()
            for child in children:
                child.stdin.write("go\n")
                child.stdin.flush()
            return sum(float(child.communicate()[0]) for child in children)

    ours, theirs = interleaved(ROUNDS, engine, loops)
    bench.close()
    name = f"JPEG 1280x960 decode+resize+normalise, {cores} cores"
    return [(name, f"{ours:.0f}/s", f"{cores} OpenCV loops {theirs:.0f}/s", f"{ours / theirs:.2f}", ">= 0.90")]


def main() -> None:
    parts = {
        "chain": chain,
        "kinds": kinds,
        "round_trip": round_trip,
        "batches": batches,
        "cores": cores,
        "http": http,
        "pictures": pictures,
        "ocr": ocr,
        "tasks": tasks,
        "inference": inference,
    }
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("parts", nargs="*", choices=[[], *parts], help="only these (default: all)")
    chosen = parser.parse_args().parts or list(parts)
    rows: list[Row] = [HEAD]
    for name in chosen:
        print(f"running {name} ...", file=sys.stderr, flush=True)
        rows += parts[name]()
    table(rows)


if __name__ == "__main__":
    if sys.argv[1:2] == ["--opencv"]:
        opencv_loop(sys.argv[2], int(sys.argv[3]))
    else:
        main()
