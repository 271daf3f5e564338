"""Starting with something wrong: one clear line, an exit code that is not 0, no traceback."""

from __future__ import annotations

import os
import re
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.integration.server import LIMIT_S, TOP, Server, http_graph, with_api, write_graph
from tests.integration.test_http import ECHO
from tests.integration.workers import write_unit


def modelbox(*arguments: str, env: dict[str, str] | None = None) -> tuple[int, str, str]:
    done = subprocess.run(
        [sys.executable, "-m", "modelboxd", *arguments],
        capture_output=True, text=True, timeout=LIMIT_S, cwd=TOP, env={**os.environ, **(env or {})},
    )  # fmt: skip
    assert "Traceback" not in done.stderr
    return done.returncode, done.stdout, done.stderr


def fails(graph: Path, config: str = "") -> str:
    """Starts the daemon on a graph; returns the lines it said, without log lines."""
    arguments = ["-f", "--graph", str(graph)]
    path = graph.parent / "modelbox.conf"
    path.write_text(config or with_api(f'[log]\npath = "{graph.parent}/modelbox.log"\n', graph.parent))
    code, _, errors = modelbox("-c", str(path), *arguments)
    assert code in (1, 78), errors
    return errors


DOT = """digraph g {
  rx [flowunit=httpserver_sync_receive, endpoint="http://127.0.0.1:0/v1"]
  u [flowunit=unit]
  tx [flowunit=httpserver_sync_reply]
  rx:out_request_info -> u:in
  u:out -> tx:in_reply_info
}"""


@pytest.mark.parametrize(
    ("change", "text"),
    [
        (("[flowunit=unit]", "[flowunit=unit"), ":8:6: unexpected '[' in the graph, expected"),
        (("digraph g {", "digraph g { ]"), ":5:28: unexpected ']' in the graph, expected"),
        (("flowunit=unit", "flowunit=unitt"), "node 'u': create flowunit 'unitt' failed. can not find flowunit"),
        (("flowunit=unit", "flowunit=unit, device=cuda"), "it exists for: cpu 1.0.0; check 'device'"),
        (("u:in", "u:inn"), ":9:3: dst port is not exist, node: u port: inn (did you mean 'in'?"),
        (("  u:out -> tx:in_reply_info\n", ""), "node 'u' port 'out': out port is not connect."),
        (("u:out -> tx:in_reply_info", "u:out -> tx:in_reply_info; rx:out_request_info -> tx:in_reply_info"),
         "One port links multi edges can not match at one port: u:out and rx:out_request_info"),
        (("rx:out_request_info -> u:in\n", "rx:out_request_info -> x:in; x:out -> u:in; x [flowunit=resize]\n"),
         "src port is not exist, node: x port: out"),
        (("/v1", "/v1?a=b"), "option endpoint='http://127.0.0.1:0/v1?a=b' is not allowed (http://host:port/path"),
        (("endpoint=\"http://127.0.0.1:0/v1\"", ""), "option 'endpoint' of httpserver_sync_receive is missing"),
        (("endpoint=\"http://127.0.0.1:0/v1\"", "endpoint=\"nonsense\""), "option endpoint='nonsense' is not allowed (http://host:port/path"),
        (("127.0.0.1:0", "127.0.0.1:99999"), "port 0 to 65535"),
    ],
)  # fmt: skip
def test_graph_errors(tmp_path: Path, change: tuple[str, str], text: str) -> None:
    write_unit(tmp_path, "unit", ECHO)
    assert change[0] in DOT
    errors = fails(write_graph(tmp_path, DOT.replace(*change)))
    assert text in errors
    assert str(tmp_path) in errors or "create flowunit" in errors


def test_type_mismatch(tmp_path: Path) -> None:
    errors = fails(
        write_graph(
            tmp_path,
            """digraph g { rx [flowunit=httpserver_sync_receive, endpoint="http://127.0.0.1:0/v1"]
            u [flowunit=resize, image_width=5, image_height=5]; tx [flowunit=httpserver_sync_reply]
            rx:out_request_info -> u:in_image; u:out_image -> tx:in_reply_info }""",
        )
    )
    assert "type mismatch: rx:out_request_info gives buff, u:in_image takes image" in errors


def test_warnings_are_told_with_errors(tmp_path: Path) -> None:
    """A misspelt key is often why something is missing."""
    graph = write_graph(tmp_path, DOT)
    graph.write_text(graph.read_text().replace("dir = ", "dri = "))
    code, _, errors = modelbox("--check", str(graph))
    warning, problem = errors.splitlines()
    assert (code, "warning: " in warning, "driver.dri is not known (did you mean dir?)" in warning) == (78, True, True)
    assert "can not find flowunit [type: any, name: unit]" in problem
    said = fails(graph)
    assert "can not find flowunit [type: any, name: unit]" in said
    assert "driver.dri is not known (did you mean dir?)" in (tmp_path / "modelbox.log").read_text()


def test_cycle(tmp_path: Path) -> None:
    write_unit(tmp_path, "unit", ECHO)
    graph = write_graph(
        tmp_path,
        """digraph g { rx [flowunit=httpserver_sync_receive, endpoint="http://127.0.0.1:0/v1"]
        a [flowunit=unit]; b [flowunit=unit]; tx [flowunit=httpserver_sync_reply]
        rx:out_request_info -> tx:in_reply_info; a:out -> b:in; b:out -> a:in }""",
    )
    graph.write_text(graph.read_text().replace("[graph]", "[graph]\nstrict = false"))
    errors = fails(graph)
    assert "not all node union" in errors or "cycle: a -> b -> a" in errors


def test_toml_syntax(tmp_path: Path) -> None:
    graph = tmp_path / "graph.toml"
    graph.write_text('[graph]\nformat = graphviz"\n')
    assert f"{graph}:2:10: Invalid value" in fails(graph)


@pytest.mark.parametrize(
    ("line", "replacement", "text"),
    [
        ('entry = "unit@Unit"', "", 'unit.toml: base.entry is missing (add entry = "module@Class" to [base])'),
        ('entry = "unit@Unit"', 'entry = "unit"', "unit.toml:7: base.entry = 'unit' is not of the form module@Class"),
        ('entry = "unit@Unit"', 'entry = "unit@Other"', "has no class 'Other' (flow units in it: Unit)"),
        ('entry = "unit@Unit"', 'entry = "gone@Unit"', "there is no gone.py in"),
        ('name = "unit"', 'name = "unit', "unit.toml:2:"),
    ],
)
def test_unit_toml_errors(tmp_path: Path, line: str, replacement: str, text: str) -> None:
    write_unit(tmp_path, "unit", ECHO)
    toml = tmp_path / "unit/unit.toml"
    assert line in toml.read_text()
    toml.write_text(toml.read_text().replace(line, replacement))
    assert text in fails(write_graph(tmp_path, DOT))


def test_module_that_does_not_import(tmp_path: Path) -> None:
    write_unit(tmp_path, "unit", "import nowhere_to_be_found\n")
    errors = fails(write_graph(tmp_path, DOT))
    assert errors.count("ModuleNotFoundError: No module named 'nowhere_to_be_found'") == 1
    assert "unit.py:1" in errors


MODEL = """[base]
name = "unit"
type = "inference"
virtual_type = "{virtual}"
device = "cpu"
version = "1.0.0"
description = "model"
entry = "model.onnx"
[input]
[input.input1]
name = "in"
[output]
[output.output1]
name = "out"
"""


@pytest.mark.parametrize(
    ("virtual", "model", "text"),
    [
        ("onnx", None, "model.onnx does not exist"),
        ("onnx", b"no model", "model.onnx cannot be loaded"),
        ("tensorrt", b"x", "current environment does not support the inference type: 'tensorrt:cpu'"),
    ],
)
def test_model_errors(tmp_path: Path, virtual: str, model: bytes | None, text: str) -> None:
    (tmp_path / "unit.toml").write_text(MODEL.format(virtual=virtual))
    if model is not None:
        (tmp_path / "model.onnx").write_bytes(model)
    graph = http_graph(tmp_path, "unit")
    # An HTTP body is no tensor; the type check would complain first.
    graph.write_text(
        graph.read_text().replace("u:in;", "d:in_encoded_image; d [flowunit=image_decoder]; d:out_image -> u:in;")
    )
    assert text in fails(graph)


def test_port_in_use(tmp_path: Path) -> None:
    write_unit(tmp_path, "unit", ECHO)
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        sock.listen()
        port = sock.getsockname()[1]
        graph = http_graph(tmp_path, "unit")
        graph.write_text(graph.read_text().replace("127.0.0.1:0", f"127.0.0.1:{port}"))
        assert f"node 'rx': cannot listen on 127.0.0.1:{port}: " in fails(graph)


def test_unwritable_log(tmp_path: Path) -> None:
    write_unit(tmp_path, "unit", ECHO)
    (tmp_path / "file").touch()
    errors = fails(write_graph(tmp_path, DOT), f'[log]\npath = "{tmp_path}/file/x.log"\n')
    assert f"log.path: {tmp_path}/file/x.log cannot be written: " in errors


@pytest.mark.parametrize(
    ("config", "text"),
    [
        ("[engine]\nthreds = 2\n", "modelbox.conf:2: engine.threds is not known (did you mean 'threads'?)"),
        ("[engin]\n", "modelbox.conf:1: section [engin] is not known (did you mean 'engine'?)"),
        ("[engine]\nthreads = -1\n", "modelbox.conf:2: engine.threads = -1 is too small (at least 0)"),
        ("[engine]\nthreads = 100000\n", "modelbox.conf:2: engine.threads = 100000 is too large (at most 1024)"),
        ("[engine]\ncpus = [4096]\n", "modelbox.conf:2: engine.cpus: '4096' is no CPU of this process (it has: "),
        ('[engine]\ncpus = ["a"]\n', "modelbox.conf:2: engine.cpus: 'a' is no CPU of this process (it has: "),
        ('[log]\nlevel = "LOUD"\n', "modelbox.conf:2: log.level = 'LOUD' is not allowed (one of DEBUG"),
        ('[server]\nip = "${NOWHERE_SET}"\n', "modelbox.conf:2: environment variable NOWHERE_SET is not set"),
        ("[server\n", "modelbox.conf:1:8:"),
    ],
)
def test_configuration_errors(tmp_path: Path, config: str, text: str) -> None:
    write_unit(tmp_path, "unit", ECHO)
    assert text in fails(write_graph(tmp_path, DOT), config)


def test_missing_files(tmp_path: Path) -> None:
    code, _, errors = modelbox("-c", str(tmp_path / "none.conf"), "-f")
    assert (code, "none.conf: cannot be read: No such file" in errors) == (78, True)
    code, _, errors = modelbox("-V", "--graph", str(tmp_path / "none.toml"))
    assert code == 78
    assert "none.toml: cannot be read: No such file" in errors


def test_check_prints_the_plan_and_warnings(tmp_path: Path) -> None:
    write_unit(tmp_path, "unit", ECHO)
    graph = write_graph(tmp_path, DOT.replace('/v1"', '/v1", time_out=5'))
    code, out, errors = modelbox("--check", str(graph))
    assert code == 0
    assert "3 nodes in 3 steps" in out
    assert "has no option 'time_out', it is ignored (did you mean 'time_out_ms'?)" in errors
    code, out, _ = modelbox("--check", str(graph), "--dot")
    assert code == 0
    drawn = subprocess.run(["dot", "-Tsvg"], input=out, capture_output=True, text=True)
    assert drawn.returncode == 0
    assert "<svg" in drawn.stdout


@pytest.mark.parametrize(
    ("config", "text"),
    [
        ('[server]\nip = "0.0.0.0"', "server.ip"),
        ('[server]\ncert = "none.pem"\nkey = "none.key"', "modelbox.conf:2: certificate or key file"),
        ('[acl]\nallow = ["1.2.3"]', "modelbox.conf:2: acl.allow: '1.2.3' is no address"),
        ('[engine]\ncpus = ["9999"]', "modelbox.conf:2: engine.cpus: '9999' is no CPU"),
    ],
)
def test_check_finds_what_would_keep_the_server_from_starting(tmp_path: Path, config: str, text: str) -> None:
    write_graph(tmp_path, DOT)
    conf = tmp_path / "modelbox.conf"
    conf.write_text(f"{config}\n[control]\nenable = false\n")
    code, out, errors = modelbox("-c", str(conf), "--check")
    assert (code, text in errors, "is good" in out) == (78, True, False), errors
    code, _, started = modelbox("-c", str(conf), "-V")
    assert (code, text in started) == (78, True), started


def test_a_folder_of_graphs_that_is_not_there(tmp_path: Path) -> None:
    """Told by --check and when the server starts, which may be before it comes."""
    conf = tmp_path / "modelbox.conf"
    text = f"server.flow_path: there is no directory {tmp_path}/flows, so no graph starts from it ("
    server = Server(folder=tmp_path, config=f'[server]\nflow_path = "{tmp_path}/flows"\n').ready()
    try:
        code, _, errors = modelbox("-c", str(conf), "--check")
        assert (code, text in errors, f"{conf}:" in errors) == (0, True, True), errors
        (tmp_path / "flows").mkdir()
        assert text not in modelbox("-c", str(conf), "--check")[2]
    finally:
        assert server.stop() == 0
    assert text in "\n".join(server.lines)


def test_check_finds_that_a_package_is_missing(tmp_path: Path) -> None:
    (tmp_path / "double").mkdir()
    (tmp_path / "double" / "double.onnx").touch()
    (tmp_path / "double" / "double.toml").write_text(
        '[base]\nname = "double"\ntype = "inference"\nvirtual_type = "onnx"\ndevice = "cpu"\nversion = "1.0.0"\n'
        'description = "x"\nentry = "double.onnx"\n[input.input1]\nname = "x"\n[output.output1]\nname = "y"\n'
    )
    dot = "digraph g { a [type=input] b [type=output] m [flowunit=double] a -> m:x; m:y -> b }"
    graph = write_graph(tmp_path, dot)
    hidden = tmp_path / "hidden"
    hidden.mkdir()
    # As where it is not installed: no import finds it.
    (hidden / "sitecustomize.py").write_text('import sys\nsys.modules["onnxruntime"] = sys.modules["grpc"] = None\n')
    conf = tmp_path / "modelbox.conf"
    conf.write_text("[inference]\ngrpc = true\n")
    environment = {**os.environ, "PYTHONPATH": str(hidden)}
    command = [sys.executable, "-m", "modelboxd", "-c", str(conf), "--check"]
    done = subprocess.run([*command, str(graph)], capture_output=True, text=True, cwd=TOP, env=environment)
    assert done.returncode == 78
    expected = rf"{re.escape(str(graph))}:\d+:\d+: node 'm': onnxruntime is not installed \(apt install modelbox-onnx"
    assert re.search(expected, done.stderr), done.stderr
    done = subprocess.run(command, capture_output=True, text=True, cwd=TOP, env=environment)
    assert done.returncode == 78
    assert "modelbox.conf:2: inference.grpc = true needs" in done.stderr and "python3-grpcio" in done.stderr
    assert modelbox("--check", str(graph))[0] == 0


def test_a_signal_is_heard_while_a_unit_opens(tmp_path: Path) -> None:
    started = tmp_path / "started"
    code = (
        ECHO
        + f"""
    def open(self, config):
        import signal
        open({str(started)!r}, "w").close()
        signal.pause()
"""
    )
    write_unit(tmp_path, "unit", code)
    process = subprocess.Popen(
        [sys.executable, "-m", "modelboxd", "-V", "--graph", str(write_graph(tmp_path, DOT))],
        stderr=subprocess.PIPE, text=True, cwd=TOP,
    )  # fmt: skip
    end = time.monotonic() + LIMIT_S
    while not started.exists():
        assert time.monotonic() < end
    process.terminate()
    _, errors = process.communicate(timeout=LIMIT_S / 3)  # well before the time that a unit may take to open
    assert process.returncode == 0
    assert "stopping by SIGTERM before the start was over" in errors
    assert "Traceback" not in errors


@pytest.mark.parametrize("text", ["a = " + "[" * 5000, '{"a": ' + "[" * 100_000])
def test_deep_nesting(tmp_path: Path, text: str) -> None:
    graph = tmp_path / "graph.toml"
    graph.write_text(text)
    assert "the file is nested too deeply" in fails(graph)


def test_version_and_help() -> None:
    assert modelbox("--version")[1].startswith("modelbox ")
    assert "--check" in modelbox("-h")[1]


def test_pid_file_lock_and_background(tmp_path: Path) -> None:
    write_unit(tmp_path, "unit", ECHO)
    config = tmp_path / "modelbox.conf"
    config.write_text(with_api(f'[log]\npath = "{tmp_path}/modelbox.log"\n', tmp_path))
    pid_file = tmp_path / "modelbox.pid"
    arguments = ["-c", str(config), "-p", str(pid_file), "--graph", str(write_graph(tmp_path, DOT))]
    assert modelbox(*arguments)[0] == 0  # the first process ends, the daemon goes on
    log = tmp_path / "modelbox.log"
    import psutil

    end = time.monotonic() + LIMIT_S
    while not log.exists() or "is ready" not in log.read_text():
        assert time.monotonic() < end, log.read_text() if log.exists() else "no log"
    process = psutil.Process(int(pid_file.read_text()))
    code, _, errors = modelbox(*arguments, "-f")
    assert code == 78
    assert "Server is already running." in errors
    process.terminate()
    process.wait(LIMIT_S)
    assert not pid_file.exists()
