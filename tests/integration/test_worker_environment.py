"""What workers find around them: GPUs, threads of native libraries, names, a master that has touched nothing."""

from __future__ import annotations

import os
import re
import sys
from pathlib import Path

import pytest

from modelbox.errors import UnitError
from modelbox.spec import UnitKind, UnitSpec
from modelboxd.cpus import cpu_count
from modelboxd.workers import environment
from tests.integration.graphs import Graphs, write

SHOW = """
    def process(self, ctx):
        import os

        device = self.get_bind_device()
        for buffer in ctx.input("in"):
            names = str(buffer).split()
            text = " ".join(f"{name}={os.environ.get(name)}" for name in names)
            ctx.output("out").push_back(f"{device.get_device_desc()} {text}")
        return modelbox.Status()
"""


def run(graphs: Graphs, attributes: str, *texts: str) -> list[str]:
    job = graphs.run(
        f"s [flowunit=source]; u [flowunit=show{attributes}]; t [flowunit=sink]; s:out -> u:in; u:out -> t:in"
    )
    records = [graphs.bench.send(job, text) for text in texts]
    assert all(record.error() is None for record in records)
    return [line for record in records for line in record.got]


@pytest.mark.parametrize(
    ("attributes", "outer", "seen"),
    [
        (", device=cuda, deviceid=1", None, {"1"}),
        (', device="cuda:2,0"', None, {"2"}),
        (', device="cuda:2,0", workers=2', None, {"2", "0"}),
        (', device="npu:7;cuda:3;cpu"', None, {"3"}),
        (", device=cuda, deviceid=1", "4,6", {"6"}),
        (', device=cuda, deviceid="GPU-0a1b"', "4,6", {"GPU-0a1b"}),
        (", device=cuda", None, {"None"}),
        ("", "4,6", {"4"}),
        (", workers=2", "4,6", {"4", "6"}),
    ],
)
def test_the_gpu_that_a_worker_sees(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, attributes: str, outer: str | None, seen: set[str]
) -> None:
    monkeypatch.delenv(environment.GPUS, raising=False)
    if outer is not None:
        monkeypatch.setenv(environment.GPUS, outer)
    write(tmp_path, "show", SHOW, base="stream = true", device="cuda")
    graphs = Graphs(tmp_path)
    try:
        run(graphs, attributes)
        found = set()
        for _ in range(20):
            record = graphs.bench.send(graphs.bench.jobs[0], environment.GPUS)
            assert record.error() is None
            (line,) = record.got
            assert line.startswith("cuda:0 ")
            found.add(line.partition("=")[2])
        assert found <= seen
        if len(seen) == 1:
            assert found == seen
    finally:
        graphs.close()


def unit(device: str = "cpu", **variables: str) -> UnitSpec:
    return UnitSpec("u", device, "1.0.0", "", UnitKind.PYTHON, "u.toml", environment=tuple(variables.items()))


def test_which_gpu_and_which_share_each_worker_gets(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(environment, "DRIVER", str(tmp_path / "gpus"))

    def gpus(number: int, ids: list[str], ours: dict[str, str] | None = None) -> str | None:
        made = environment.of_worker(unit("cuda"), number, cpus=8, workers=3, device_ids=ids, ours=ours or {})
        return made.get(environment.GPUS)

    assert [gpus(number, ["2", "0"]) for number in range(3)] == ["2", "0", "2"]
    assert [gpus(number, ["1", "0"], {environment.GPUS: "5, 7"}) for number in range(2)] == ["7", "5"]
    assert gpus(0, []) is None
    assert [gpus(number, [], {environment.GPUS: "5, 7"}) for number in range(3)] == ["5", "7", "5"]
    for name in ("0000:3b:00.0", "0000:af:00.0"):
        (tmp_path / "gpus" / name).mkdir(parents=True)
    assert [gpus(number, []) for number in range(3)] == ["0", "1", "0"]
    with pytest.raises(
        UnitError, match=r"there is no cuda:2: CUDA_VISIBLE_DEVICES of the server has 2 devices \('5,7'\)"
    ):
        gpus(0, ["2"], {environment.GPUS: "5,7"})
    assert environment.GPUS not in environment.of_worker(unit(), 0, cpus=8, workers=1, device_ids=["1"], ours={})
    made = environment.of_worker(unit(MKL_NUM_THREADS="5", X="y"), 0, cpus=8, workers=3, ours={"OMP_NUM_THREADS": "7"})
    assert made == {
        "OMP_NUM_THREADS": "7",
        "OPENBLAS_NUM_THREADS": "7",
        "MKL_NUM_THREADS": "5",
        "NUMEXPR_NUM_THREADS": "7",
        "OPENCV_FOR_THREADS_NUM": "2",
        "X": "y",
    }
    made = environment.of_worker(unit(OMP_NUM_THREADS="4"), 0, cpus=8, workers=3, ours={"MKL_NUM_THREADS": "3"})
    assert list(made.values()) == ["4", "4", "3", "4", "2"]


LIBRARIES = """
    def process(self, ctx):
        import ctypes
        import sys

        assert not {"cv2", "onnxruntime", "torch"} & set(sys.modules)
        sys.path.insert(0, "FAKES")
        import cv2
        import onnxruntime
        import torch  # a fake one, which keeps what it is told

        maps = open("/proc/self/maps").read().split()
        blas = next(path for path in maps if "openblas" in path)
        library = ctypes.CDLL(blas)
        names = ("openblas_get_num_threads", "openblas_get_num_threads64_", "scipy_openblas_get_num_threads64_")
        blas_threads = next(getattr(library, name)() for name in names if hasattr(library, name))
        told = []
        original = onnxruntime.SessionOptions

        def session(**more):
            options = original()
            for name, value in more.items():
                setattr(options, name, value)
            try:
                onnxruntime.InferenceSession(b"no model", options)
            except Exception:
                pass
            return options.intra_op_num_threads

        for buffer in ctx.input("in"):
            found = [cv2.getNumThreads(), blas_threads, torch.told, session(), session(intra_op_num_threads=3)]
            ctx.output("out").push_back(repr(found))
        return modelbox.Status()
"""


@pytest.mark.parametrize("chosen", ["", "4"])
def test_native_threads_are_limited_without_importing_anything(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, chosen: str
) -> None:
    fakes = tmp_path / "fakes"
    fakes.mkdir()
    (fakes / "torch.py").write_text(
        "told = []\n\ndef set_num_threads(count):\n    told.append(count)\n\n\nset_num_interop_threads = set_num_threads\n"
    )
    for name in environment.THREAD_VARIABLES:
        monkeypatch.delenv(name, raising=False)
    more = (
        "\n[environment]\n" + "".join(f"{name} = {chosen}\n" for name in environment.THREAD_VARIABLES) if chosen else ""
    )
    write(tmp_path, "show", LIBRARIES.replace("FAKES", str(fakes)), base=f"stream = true{more}")
    graphs = Graphs(tmp_path)
    try:
        (line,) = run(graphs, "", "x")
    finally:
        graphs.close()
    share = int(chosen) if chosen else cpu_count()
    found = [int(word) for word in re.findall(r"\d+", line)]
    # OpenBLAS has at most as many threads as there are CPUs.
    assert found[1] in (share, min(share, os.cpu_count() or 1))
    del found[1]
    assert found == [share, share, share, share, 3]


def test_the_master_has_touched_no_gpu_library_before_it_forks(tmp_path: Path) -> None:
    write(tmp_path, "show", SHOW, base="stream = true")
    graphs = Graphs(tmp_path)
    try:
        run(graphs, "", "HOME")
        (pool,) = graphs.bench.engine._workers.values()
        assert pool._master is not None
        maps = Path(f"/proc/{pool._master.pid}/maps").read_text()
        assert "numpy" in maps  # what all need is there
        for name in ("libcuda", "libcudart", "libnvidia", "torch", "onnxruntime", "cv2", "tensorflow"):
            assert name not in maps
        assert len(list(Path(f"/proc/{pool._master.pid}/task").iterdir())) == 1  # fork() is safe
        assert Path(f"/proc/{pool._master.pid}/comm").read_text() == "mb-master\n"
        (worker,) = graphs.bench.jobs[0].steps[1].group.workers
        assert Path(f"/proc/{worker.pid}/comm").read_text() == "u#0\n"
        title = Path(f"/proc/{worker.pid}/cmdline").read_bytes().rstrip(b"\0").decode()
        assert title == "modelbox: python-worker test/u#0"
    finally:
        graphs.close()


def test_a_variable_must_be_a_text(tmp_path: Path) -> None:
    write(tmp_path, "show", SHOW, base="[environment]\nX = [1]")
    with pytest.raises(Exception, match=r"show\.toml:9: environment\.X is no variable with a text \(such as"):
        Graphs(tmp_path)
    assert sys.modules.get("torch") is None
