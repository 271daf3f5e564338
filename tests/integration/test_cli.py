"""The commands `modelbox` and `modelbox-tool` as their users meet them: output, exit codes, background, signals."""

from __future__ import annotations

import json
import os
import pwd
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import tomllib
from pathlib import Path

import psutil
import pytest

from modelboxd import cli
from modelboxd.tool import main as tool_module
from tests.integration.server import LIMIT_S, TOP, Server, http_graph, with_api
from tests.integration.test_bad_start import modelbox
from tests.integration.test_http import ECHO
from tests.integration.workers import write_unit
from tests.waiting import wait_for

HANGS = """import threading
import modelbox
class Unit(modelbox.FlowUnit):
    def open(self, config):
        threading.Event().wait()
    def process(self, context):
        return modelbox.Status()
"""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    write_unit(tmp_path, "unit", ECHO)
    (tmp_path / "modelbox.conf").write_text(with_api(f'[log]\npath = "{tmp_path}/modelbox.log"\n', tmp_path))
    return tmp_path


def started(pid_file: Path) -> psutil.Process:
    return psutil.Process(int(pid_file.read_text()))


# ---- what is printed, and the exit code --------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "code", "text"),
    [
        (["-c", "{}/none.conf", "-f"], 78, "none.conf: cannot be read: No such file or directory"),
        (["-c", "{}/bad.conf", "-f"], 78, "bad.conf:2: engine.threds is not known (did you mean 'threads'?)"),
        (["-c", "{}/bad.conf"], 78, "bad.conf:2: engine.threds is not known (did you mean 'threads'?)"),
        (["-c", "{}/bad.conf", "--print-config"], 78, "bad.conf:2: engine.threds is not known"),
        (["-c", "{}/bad.conf", "--check"], 78, "bad.conf:2: engine.threds is not known"),
        (["-c", "{}/modelbox.conf", "-f", "--graph", "{}/none.toml"], 78, "none.toml: cannot be read: No such file"),
        (["-c", "{}/modelbox.conf", "--graph", "{}/none.toml"], 78, "none.toml: cannot be read: No such file"),
        (["-c", "{}/modelbox.conf", "--check", "{}/none.toml"], 78, "none.toml: cannot be read: No such file"),
        (["-c", "{}/modelbox.conf", "--check", "--graph", "{}/none.toml"], 78, "none.toml: cannot be read"),
        (["-c", "{}/modelbox.conf", "-f", "-u", "no-such-user"], 78, "user 'no-such-user' does not exist"),
        (["-c", "{}/modelbox.conf", "-u", "no-such-user"], 78, "user 'no-such-user' does not exist"),
        (["-c", "{}/modelbox.conf", "-f", "-p", "{}/none/x.pid"], 78, "x.pid cannot be written: No such file"),
    ],
)
def test_one_line_and_no_more(folder: Path, arguments: list[str], code: int, text: str) -> None:
    (folder / "bad.conf").write_text("[engine]\nthreds = 1\n")
    got, out, errors = modelbox(*(argument.format(folder) for argument in arguments))
    (line,) = errors.splitlines()
    assert line.startswith("modelbox: ")
    assert (got, text in line, out) == (code, True, "")


@pytest.mark.parametrize("arguments", [["--nonsense"], ["--dot"], ["-c"], ["stray"]])
def test_usage(arguments: list[str]) -> None:
    code, _, errors = modelbox(*arguments)
    assert code == cli.EX_USAGE
    assert errors.startswith("usage: modelbox ")


def test_print_config_says_where_a_value_is_from(folder: Path) -> None:
    code, out, errors = modelbox("-c", str(folder / "modelbox.conf"), "--print-config")
    assert (code, errors) == (0, "")
    assert f'path = "{folder}/modelbox.log"  # {folder}/modelbox.conf:2\n' in out
    assert "init_timeout = 720\n" in out


def test_a_reader_that_stops_reading(folder: Path) -> None:
    for command in (["modelboxd", "--print-config"], ["modelboxd.tool.main", "driver", "-info", "-details"]):
        read, write = os.pipe()
        os.close(read)
        done = subprocess.run(
            [sys.executable, "-m", *command], stdout=write, stderr=subprocess.PIPE, text=True, cwd=TOP
        )
        os.close(write)
        assert (done.returncode, done.stderr) == (1, "")


@pytest.mark.parametrize("verbose", [False, True])
def test_a_bug_is_one_line_and_its_traceback_only_on_demand(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], verbose: bool
) -> None:
    def broken(_: object) -> int:
        raise RuntimeError("one\ntwo")

    monkeypatch.setattr(cli, "_main", broken)
    assert cli.main(["-V"] if verbose else []) == cli.EX_FAILED
    errors = capsys.readouterr().err
    assert errors.endswith("modelbox: internal error: RuntimeError: one\\ntwo; please report this\n")
    assert ("Traceback" in errors) == verbose
    monkeypatch.setattr(tool_module, "_driver", broken)
    assert tool_module.main(["driver"]) == 1
    errors = capsys.readouterr().err
    assert "internal error: RuntimeError" in errors
    assert "Traceback" not in errors


def test_an_error_goes_to_the_log_as_well(folder: Path) -> None:
    modelbox("-c", str(folder / "modelbox.conf"), "-f", "--graph", str(folder / "none.toml"))
    assert "][ERROR][" in (folder / "modelbox.log").read_text()
    code, _, errors = modelbox("-V", "--graph", str(folder / "none.toml"))
    assert code == 78
    assert errors.count("none.toml") == 1  # on the screen it is a log line


# ---- background --------------------------------------------------------------------------------------------


def test_background(folder: Path) -> None:
    pid_file = folder / "modelbox.pid"
    pid_file.write_text("999999\n")  # left by a server that was killed
    arguments = ["-c", str(folder / "modelbox.conf"), "-p", str(pid_file), "--graph", str(http_graph(folder, "unit"))]
    assert modelbox(*arguments) == (0, "", "")  # and nobody holds on to the pipes that it was started with
    server = started(pid_file)
    try:
        assert "is ready: 1 jobs" in (folder / "modelbox.log").read_text()  # it is, when the command returns
        assert os.getsid(server.pid) not in (os.getsid(0), server.pid)
        for process in (server, *server.children(recursive=True)):
            links = {os.readlink(f"/proc/{process.pid}/fd/{fd}") for fd in (0, 1, 2)}
            assert not any("tty" in link or "pts" in link for link in links)
        first, *others = (os.readlink(f"/proc/{server.pid}/fd/{fd}") for fd in (0, 1, 2))
        assert first == "/dev/null"
        assert len(set(others)) == 1 and others[0].startswith("pipe:")  # into the log
        code, _, errors = modelbox(*arguments)
        assert (code, errors) == (78, f"modelbox: Server is already running. ({pid_file} is locked)\n")
        assert pid_file.read_text() == f"{server.pid}\n"
    finally:
        server.terminate()
        server.wait(LIMIT_S)
    assert not pid_file.exists()


def test_a_server_killed_while_it_starts(folder: Path) -> None:
    write_unit(folder, "hangs", HANGS)
    pid_file = folder / "modelbox.pid"
    command = [sys.executable, "-m", "modelboxd", "-c", str(folder / "modelbox.conf"), "-p", str(pid_file)]
    starter = subprocess.Popen(
        [*command, "--graph", str(http_graph(folder, "hangs"))], stderr=subprocess.PIPE, text=True, cwd=TOP
    )
    wait_for(lambda: pid_file.exists() and pid_file.read_text())
    server = started(pid_file)
    wait_for(lambda: server.children())  # it waits for the unit
    assert starter.poll() is None
    server.kill()
    _, errors = starter.communicate(timeout=LIMIT_S)
    assert (starter.returncode, errors) == (1, "modelbox: the server was killed while it started\n")


def test_an_unwritable_log_is_told_before_going_to_the_background(folder: Path) -> None:
    (folder / "modelbox.conf").write_text(with_api(f'[log]\npath = "{folder}/modelbox.conf/x.log"\n', folder))
    code, _, errors = modelbox("-c", str(folder / "modelbox.conf"))
    assert code == 78
    assert errors.startswith(f"modelbox: log.path: {folder}/modelbox.conf/x.log cannot be written: ")
    assert len(errors.splitlines()) == 1


def test_a_screen_needs_the_foreground(folder: Path) -> None:
    (folder / "modelbox.conf").write_text(with_api('[log]\ntarget = "screen"\n', folder))
    code, _, errors = modelbox("-c", str(folder / "modelbox.conf"))
    assert (code, 'log.target = "screen" needs a server in the foreground' in errors) == (78, True)


# ---- supervisors, users ------------------------------------------------------------------------------------


def test_below_systemd_it_stays_and_tells(folder: Path) -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sock:
        sock.bind(str(folder / "notify"))
        sock.settimeout(LIMIT_S)
        server = subprocess.Popen(
            [sys.executable, "-m", "modelboxd", "-c", str(folder / "modelbox.conf"), "--graph", str(http_graph(folder, "unit"))],
            env={**os.environ, "NOTIFY_SOCKET": str(folder / "notify")}, cwd=TOP,
        )  # fmt: skip
        assert sock.recv(1000) == b"STATUS=Starting 1 of 1: graph.toml"
        assert sock.recv(1000) == b"READY=1\nSTATUS=1 jobs run: graph"
        assert server.poll() is None
        server.send_signal(signal.SIGTERM)
        assert sock.recv(1000) == b"STOPPING=1\nSTATUS=Stopping by SIGTERM: draining"
        assert server.wait(LIMIT_S) == 0


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can become another user")
def test_another_user_owns_the_log_and_can_rotate_it() -> None:
    nobody = pwd.getpwnam("nobody")
    place = Path(tempfile.mkdtemp(prefix="modelbox-test-"))  # pytest's own folders are closed to others
    code = f"""
import logging, os
from modelboxd import cli, logs
from modelboxd.settings import LogSettings
logs.set_up(LogSettings(path="{place}/made/x.log", size=4096, num=1))
cli._become("nobody", "")
for number in range(100):
    logging.getLogger("x").info("line %d", number)
print(os.geteuid(), os.getegid(), os.environ["USER"])
"""
    try:
        place.chmod(0o755)
        done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=TOP, timeout=LIMIT_S)
        assert (done.stdout, done.stderr) == (f"{nobody.pw_uid} {nobody.pw_gid} nobody\n", "")
        files = sorted(place.glob("made/*"))
        assert [path.name for path in files] == ["x.log", "x.log.1"]
        assert {path.stat().st_uid for path in files} == {nobody.pw_uid}
    finally:
        shutil.rmtree(place)


# ---- modelbox-tool -----------------------------------------------------------------------------------------


def tool(capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, str, str]:
    try:
        code = tool_module.main(arguments)
    except SystemExit as end:  # argparse
        code = int(end.code or 0)
    out, errors = capsys.readouterr()
    assert "Traceback" not in errors
    return code, out, errors


@pytest.fixture(autouse=True)
def private_cache(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    cache = tmp_path_factory.getbasetemp() / "tool-cache"
    cache.mkdir(mode=0o700, exist_ok=True)
    monkeypatch.setenv("MODELBOX_CACHE_DIR", str(cache))


def test_list_of_drivers(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code, out, _ = tool(capsys, "driver", "-info", "-path", str(folder))
    lines = out.splitlines()
    assert code == 0
    assert lines[0].split() == ["Class", "Name", "Type", "Version", "Path"]
    assert ["DRIVER-FLOWUNIT", "unit", "cpu", "1.0.0", str(folder / "unit/unit.toml")] in [
        line.split() for line in lines
    ]
    _, out, _ = tool(capsys, "driver", "-info", "-type", "flowunit")
    assert out.split("\n")[0].split() == [
        "FlowunitName", "DeviceType", "GroupType", "DriverName", "Version", "InputPort", "OutputPort",
    ]  # fmt: skip
    assert any(line.split()[::5] == ["resize", "in_image"] for line in out.splitlines() if line)


@pytest.mark.parametrize(
    "arguments",
    [
        ["driver", "-info", "-details", "-name", "resize"],
        ["driver", "--info", "--details", "--name=resize"],
        ["driver", "-inf", "-detail", "-name=resize"],
        ["driver", "-i", "-d", "-n", "resize"],
    ],
)
def test_options_as_getopt_reads_them(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    code, out, _ = tool(capsys, *arguments)
    assert code == 0
    assert out.startswith("-----")
    for text in (
        "flowunit name   : resize\ntype            : cpu\n",
        "version         : ",
        "inputs\n  input index   : 1\n    name        : in_image\n    type        : image\n    device      : cpu\n",
        "outputs\n  output index  : 1\n    name        : out_image\n    device      : cpu\n",
        "interpolation",
    ):
        assert text in out
    assert "packed_planar_transpose" not in out


def test_json_and_what_cannot_be_used(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (folder / "broken.toml").write_text("[base\n")
    (folder / "modelbox_cut.so").write_bytes(b"\x7fELF")
    _, out, _ = tool(capsys, "driver", "-info", "-format-json", "-path", str(folder))
    data = json.loads(out)
    (unit,) = (unit for unit in data["flowunits"] if unit["name"] == "unit")
    assert (unit["kind"], [port["name"] for port in unit["inputports"]]) == ("python", ["in"])
    assert sorted(data["problems"])[0].startswith(f"{folder}/broken.toml:1:6: ")
    assert f"{folder}/modelbox_cut.so: is truncated" in data["problems"]
    _, out, _ = tool(capsys, "driver", "-info", "-path", str(folder))
    assert f"not usable: {folder}/modelbox_cut.so: is truncated" in out


def test_directories_of_a_graph_and_names_that_are_not_there(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    graph = http_graph(folder, "unit")
    assert tool(capsys, "driver", "-info", "-conf", str(graph), "-name", "unit")[0] == 0
    code, _, errors = tool(capsys, "driver", "-info", "-name", "resise")
    assert (code, "did you mean resize?" in errors) == (1, True)
    code, _, errors = tool(capsys, "driver", "-info", "-conf", str(folder / "none.toml"))
    assert (code, errors) == (1, f"modelbox-tool: {folder}/none.toml: cannot be read: No such file or directory\n")


def test_values_of_the_configuration(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    conf = folder / "m.conf"
    conf.write_text('[server]\nport = "1200"\n[log]\nscreen = true\n[driver]\ndir = ["/a", "/b"]\n')
    for key, value in (
        ("server.port", "1200"), ("log.screen", "true"), ("driver.dir", "/a /b"), ("driver.skip-default", "false"),
        ("server.ip", "127.0.0.1"),
    ):  # fmt: skip
        assert tool(capsys, "server", "-conf", str(conf), "-get-conf-value", key) == (0, f"{value}\n", "")
    code, _, errors = tool(capsys, "server", "-conf", str(conf), "-get-conf-value", "server.prt")
    assert (code, errors) == (1, "modelbox-tool: server.prt is not known (did you mean 'server.port'?)\n")
    code, _, errors = tool(capsys, "server", "-conf", str(folder / "none"), "-get-conf-value", "server.port")
    assert (code, "cannot be read" in errors) == (1, True)


def test_check_port(capsys: pytest.CaptureFixture[str]) -> None:
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        place = f"127.0.0.1:{sock.getsockname()[1]}"
        sock.listen()
        code, _, errors = tool(capsys, "server", "-check-port", place)
        assert (code, errors) == (2, f"modelbox-tool: {place}: Address already in use\n")
    assert tool(capsys, "server", "-check-port", place) == (0, "", "")
    for text in ("127.0.0.1", "127.0.0.1:", "127.0.0.1:70000", "127.0.0.1:x", ""):
        code, _, errors = tool(capsys, "server", "-check-port", text)
        assert (code, "is not of the form host:port" in errors) == (1, True)


def test_help_and_version_of_the_tool(capsys: pytest.CaptureFixture[str]) -> None:
    assert tool(capsys, "-v")[1].startswith("modelbox-tool ")
    assert "driver" in tool(capsys, "help")[1]
    assert "--get-conf-value" in tool(capsys, "help", "server")[1]
    assert tool(capsys)[0] == 1
    assert tool(capsys, "server")[0] == 1
    assert tool(capsys, "nonsense")[0] == 2


def test_what_belongs_to_later_versions_says_so(capsys: pytest.CaptureFixture[str]) -> None:
    for arguments in (
        ["key", "-pass", "-n"], ["template", "-flowunit", "-name", "x"], ["template", "-project", "-name", "x"], ["develop", "-s"],
    ):  # fmt: skip
        code, out, errors = tool(capsys, *arguments)
        assert (code, out) == (1, "")
        assert errors.startswith(f"modelbox-tool: {arguments[0]}: ") and "not supported by this version" in errors
        assert len(errors.splitlines()) == 1
    assert (
        tool(capsys, "driver", "-info", "-type", "model")[2]
        == "modelbox-tool: driver: -type model is not known (flowunit)\n"
    )


def test_a_template_of_a_plugin_runs(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    made = folder / "src/service-plugin/my-shop/my_shop.py"
    words = ["template", "-service-plugin", "-name", "my-shop", "-project-path", str(folder)]
    code, out, _ = tool(capsys, *words)
    assert (code, out.splitlines()[0]) == (0, f"{made}")
    assert tool(capsys, *words)[::2] == (2, f"modelbox-tool: template: {made} is there already\n")
    assert tool(capsys, "template", "-service-plugin", "-name", "A B")[0] == 1
    assert tool(capsys, "template", "-service-plugin")[0] == 1
    server = Server(folder=folder, config=f'[plugin]\nfiles = ["{made}"]\n').ready()
    try:
        assert server.ask("GET", "/my-shop/hello/Ada", None)[:2] == (200, {"text": "hello, Ada"})
    finally:
        assert server.stop() == 0


def test_a_server_that_does_not_run(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    none = folder / "none.sock"
    for command in (["stat", "-all"], ["log", "-getlevel"], ["stack"], ["drain"]):
        code, out, errors = tool(capsys, "server", "-conn", str(none), *command)
        assert (code, out) == (1, "")
        assert errors.startswith(f"modelbox-tool: no server runs: there is no control socket {none} (")
        assert len(errors.splitlines()) == 1
    assert tool(capsys, "server", "-conf", "/none", "stack")[2].startswith("modelbox-tool: /none: cannot be read")
    none.touch()
    assert "no server runs: its control socket" in tool(capsys, "server", "-conn", str(none), "stack")[2]
    code, _, errors = tool(capsys, "server", "log", "-setlevel", "WARNING")
    assert (code, errors) == (1, "modelbox-tool: server log: there is no level 'WARNING' (did you mean WARN?)\n")
    assert "say -getlevel or -setlevel" in tool(capsys, "server", "log")[2]


def test_root_and_logs_of_the_tool(
    folder: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MODELBOX_ROOT", str(folder))
    assert tool(capsys, "-get-modelbox-root") == (0, f"{folder}\n", "")
    monkeypatch.delenv("MODELBOX_ROOT")
    assert tool(capsys, "-get-modelbox-root")[1] == "/\n"

    def logged(*options: str) -> str:
        code = "import sys; from modelboxd.tool.main import main; sys.exit(main())"
        command = [sys.executable, "-c", code, *options, "driver", "-info", "-path", str(folder)]
        done = subprocess.run(command, capture_output=True, text=True, cwd=TOP)
        assert done.returncode == 0
        return done.stderr

    (folder / "broken.toml").write_text("[base\n")
    assert logged() == ""
    assert "broken.toml" in logged("-verbose") and " flow units in " in logged("-verbose")
    only = logged("-verbose", "-log-level", "warn")
    assert "broken.toml" in only and " flow units in " not in only
    assert logged("-log-path", str(folder / "tool.log")) == ""
    assert "broken.toml" in (folder / "tool.log").read_text()
    code, _, errors = tool(capsys, "-log-path", str(folder / "broken.toml/x"), "driver", "-info")
    assert (code, "cannot be written" in errors) == (1, True)


def test_flow_convert(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    graph = http_graph(folder, "unit")
    code, out, _ = tool(capsys, "flow", "-conf-convert", "-path", str(graph), "-out-format", "json")
    assert code == 0
    (folder / "graph.json").write_text(out)
    code, back, _ = tool(capsys, "flow", "-conf-convert", "-path", str(folder / "graph.json"), "-out-format=toml")
    assert (code, tomllib.loads(back)) == (0, tomllib.loads(graph.read_text()))
    (folder / "bad.toml").write_text("[graph\n")
    code, _, errors = tool(capsys, "flow", "-conf-convert", "-path", str(folder / "bad.toml"))
    assert (code, errors.startswith(f"modelbox-tool: {folder}/bad.toml:1:7: ")) == (1, True)
    assert tool(capsys, "flow")[0] == 1


def test_flow_run(folder: Path) -> None:
    command = [sys.executable, "-m", "modelboxd.tool.main", "flow", "-run"]
    good = http_graph(folder, "unit")
    with subprocess.Popen(
        [*command, str(good)], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd=TOP
    ) as run:
        assert run.stdout is not None and run.stderr is not None
        for line in run.stderr:
            if "is ready: 1 jobs" in line:
                break
        run.terminate()
        assert run.stdout.read() == f"run flow {good} success\n"
        run.stderr.read()
        assert run.wait(LIMIT_S) == 0
    done = subprocess.run([*command, str(folder / "none.toml")], capture_output=True, text=True, cwd=TOP)
    assert (done.returncode, done.stdout) == (1, f"run flow {folder}/none.toml failed\n")
    assert "none.toml: cannot be read" in done.stderr
