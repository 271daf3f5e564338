"""Jobs over the API of a real daemon: their life, restarts, reloading, replacing under load."""

from __future__ import annotations

import http.client
import signal
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.integration.replacing import DOT, answering, replace_under_load
from tests.integration.server import LIMIT_S, Server, http_graph
from tests.integration.test_http import ECHO
from tests.integration.workers import write_unit
from tests.waiting import Gate

ECHO_GRAPH = {"graph": {"format": "graphviz", "graphconf": DOT}}
ECHO_TOML = f'[graph]\nformat = "graphviz"\ngraphconf = """{DOT}"""\n'


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Server]:
    (tmp_path / "graph").mkdir()
    made = Server(config="[server]\n", folder=tmp_path).ready()
    yield made
    made.stop()


def again(folder: Path) -> Server:
    return Server(config="[server]\n", folder=folder).ready()


def post(port: int, path: str, body: bytes) -> tuple[int, bytes]:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=LIMIT_S)
    try:
        connection.request("POST", path, body)
        response = connection.getresponse()
        return response.status, response.read()
    finally:
        connection.close()


def test_the_life_of_a_job(server: Server) -> None:
    assert server.ask("GET", "/v1/jobs")[:2] == (200, {"jobs": []})
    status, job, headers = server.ask("POST", "/v1/jobs", {"id": "my_echo", "graph": ECHO_TOML})
    assert (status, job["state"], job["origin"], job["graph"]) == (201, "running", "api", "echo")
    assert headers["Location"] == "/v1/jobs/my_echo"
    assert [(node["name"], node["unit"]) for node in job["nodes"]] == [
        ("rx", "httpserver_sync_receive"),
        ("tx", "httpserver_sync_reply"),
    ]
    server.wait_for("node 'rx' listens")
    assert post(server.port, "/x", b"abc") == (200, b"abc")
    status, problem, headers = server.ask("POST", "/v1/jobs", {"id": "my_echo", "graph": ECHO_GRAPH})
    assert (status, problem["code"], headers["Content-Type"]) == (409, "job_exists", "application/problem+json")
    status, job, _ = server.ask("POST", "/v1/jobs/my_echo/stop")
    assert (status, job["state"]) == (200, "stopped")
    with pytest.raises(ConnectionRefusedError):
        post(server.port, "/x", b"abc")
    assert server.ask("POST", "/v1/jobs/my_echo/stop")[1]["code"] == "job_state"
    assert server.ask("POST", "/v1/jobs/my_echo/start")[1]["state"] == "running"
    assert server.ask("POST", "/v1/jobs/my_echo/start")[1]["code"] == "job_state"
    assert server.ask("DELETE", "/v1/jobs/my_echo")[:2] == (204, None)
    for method, path in (("GET", ""), ("DELETE", ""), ("POST", "/start"), ("POST", "/stop")):
        status, problem, _ = server.ask(method, "/v1/jobs/my_echo" + path)
        assert (status, problem["code"]) == (404, "no_such_job")
    assert server.ask("PUT", "/v1/jobs/my_echo", {"graph": ECHO_GRAPH})[0] == 404


def test_the_routes_of_modelbox(server: Server) -> None:
    base = "/v1/modelbox/job"
    for path in (base, base + "/"):
        job_id = f"job{len(path)}"
        status, body, headers = server.ask(
            "PUT", path, {"job_id": job_id, "job_graph": ECHO_GRAPH, "job_graph_format": "json"}
        )
        assert (status, body, headers["X-Frame-Options"]) == (201, None, "DENY")
        assert server.ask("GET", f"{base}/{job_id}")[:2] == (
            200,
            {"job_id": job_id, "job_status": "RUNNING", "job_error_msg": ""},
        )
    assert (
        server.ask("PUT", base, {"job_id": "with_toml", "job_graph": ECHO_TOML, "job_graph_format": "toml"})[0] == 201
    )
    listed = server.ask("GET", f"{base}/list/all")[1]["job_list"]
    assert [(job["job_id"], job["job_status"]) for job in listed] == [
        ("job16", "RUNNING"), ("job17", "RUNNING"), ("with_toml", "RUNNING"),
    ]  # fmt: skip
    assert server.ask("DELETE", f"{base}/list/job16")[:2] == (204, None)
    assert server.ask("DELETE", f"{base}/job17")[:2] == (204, None)

    def error(method: str, path: str, value: Any = None) -> tuple[int, str]:
        status, body, _ = server.ask(method, path, value)
        assert set(body) == {"error_code", "error_msg"}
        return status, body["error_code"]

    assert error("GET", f"{base}/job16") == (404, "MODELBOX_002")
    assert error("DELETE", f"{base}/job16") == (404, "MODELBOX_002")
    assert error("GET", f"{base}/list/other") == (500, "MODELBOX_006")
    assert error("GET", f"{base}/a/b/c") == (500, "MODELBOX_006")
    assert error("PUT", base, {"job_graph": ECHO_GRAPH}) == (400, "MODELBOX_003")
    assert error("PUT", base, {"job_id": "aa"}) == (400, "MODELBOX_004")
    assert error("PUT", base, {"job_id": "with_toml", "job_graph": ECHO_GRAPH}) == (400, "MODELBOX_005")
    assert error("PUT", base, [1]) == (400, "MODELBOX_006")
    assert error("PUT", base, {"job_id": "aa", "job_graph": "x", "job_graph_format": "yaml"}) == (400, "MODELBOX_006")
    for bad in ("a", "../x", ".a", "a b", "x" * 65, "a/b"):
        assert error("PUT", base, {"job_id": bad, "job_graph": ECHO_GRAPH}) == (400, "MODELBOX_007")
    broken = {"graph": {"format": "graphviz", "graphconf": "digraph { a [flowunit=nowhere] }"}}
    assert error("PUT", base, {"job_id": "broken", "job_graph": broken}) == (400, "MODELBOX_008")
    status, job, _ = server.ask("GET", f"{base}/broken")
    assert (status, job["job_status"]) == (200, "FAILED")
    assert "create flowunit 'nowhere' failed" in job["job_error_msg"]
    assert error("PUT", base, {"job_id": "broken", "job_graph": ECHO_GRAPH}) == (400, "MODELBOX_005")
    assert server.ask("DELETE", f"{base}/broken")[0] == 204
    assert server.ask("PUT", base, {"job_id": "broken", "job_graph": ECHO_GRAPH})[0] == 201


def test_a_graph_that_is_wrong_leaves_nothing(server: Server) -> None:
    graph = {"graph": {"format": "graphviz", "graphconf": "digraph { a [flowunit=nowhere]; b [flowunit=resize] }"}}
    status, problem, _ = server.ask("POST", "/v1/jobs", {"id": "broken", "graph": graph})
    assert (status, problem["code"]) == (422, "bad_graph")
    assert "create flowunit 'nowhere' failed" in problem["errors"][0]["detail"]
    assert server.ask("GET", "/v1/jobs")[1] == {"jobs": []}
    assert server.ask("POST", "/v1/jobs", {"id": "broken", "graph": ECHO_GRAPH})[0] == 201
    status, problem, _ = server.ask("PUT", "/v1/jobs/broken", {"graph": graph})
    assert (status, problem["code"]) == (422, "bad_graph")
    assert server.ask("GET", "/v1/jobs/broken")[1]["state"] == "running"


def test_what_a_graph_of_the_api_may_not(server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_unit(tmp_path / "graph", "unit", ECHO)
    (tmp_path / "x.dot").write_text(DOT)
    for extra, text in (
        ({"driver": {"dir": [str(tmp_path / "graph")]}}, "is not allowed for jobs made over the API"),
        ({"driver": {"dir": "../../../../etc"}}, "is not allowed for jobs made over the API"),
        (
            {"graph": {"format": "graphviz", "graphconffilepath": str(tmp_path / "x.dot")}},
            "graphconffilepath is not allowed",
        ),
        ({"flow": {"desc": "${HOME}"}}, "${HOME}: the environment is not to be read"),
        ({"graph": {"format": "graphviz", "graphconf": [DOT, "// ${PATH}"]}}, "${PATH}: the environment is not"),
    ):
        status, problem, _ = server.ask("POST", "/v1/jobs", {"id": "bad", "graph": {**ECHO_GRAPH, **extra}})
        assert (status, problem["code"], text in problem["detail"]) == (422, "bad_graph", True), problem


def test_directories_that_are_allowed(tmp_path: Path) -> None:
    (tmp_path / "units").mkdir()
    write_unit(tmp_path / "units/mine", "unit", answering("hi"))
    (tmp_path / "units/way_out").symlink_to(tmp_path)
    server = Server(config=f'[driver]\napi_dir = "{tmp_path}/units"\n', folder=tmp_path).ready()
    try:
        dot = DOT.replace(
            "rx:out_request_info -> tx:in_reply_info",
            "u [flowunit=unit]; rx:out_request_info -> u:in; u:out -> tx:in_reply_info",
        )
        graph = {"driver": {"dir": [f"{tmp_path}/units/mine"]}, "graph": {"format": "graphviz", "graphconf": dot}}
        assert server.ask("POST", "/v1/jobs", {"id": "mine", "graph": graph})[0] == 201
        assert post(server.port, "/x", b"") == (200, b"hi")
        for wrong in (f"{tmp_path}/units/../graph", f"{tmp_path}/units/way_out/graph", f"{tmp_path}/units2"):
            graph["driver"] = {"dir": [wrong]}
            assert server.ask("POST", "/v1/jobs", {"id": "other", "graph": graph})[0] == 422
    finally:
        server.stop()


def test_jobs_survive_a_kill(server: Server, tmp_path: Path) -> None:
    for job_id in ("runs", "stopped", "deleted"):
        assert server.ask("POST", "/v1/jobs", {"id": job_id, "graph": ECHO_GRAPH})[0] == 201
    assert server.ask("POST", "/v1/jobs/stopped/stop")[0] == 200
    assert server.ask("DELETE", "/v1/jobs/deleted")[0] == 204
    other = {**ECHO_GRAPH, "flow": {"desc": "the new one"}}
    assert server.ask("PUT", "/v1/jobs/runs", {"graph": other})[0] == 200
    created = server.ask("GET", "/v1/jobs/runs")[1]["created_at"]
    server.kill()
    second = again(tmp_path)
    try:
        jobs = {job["id"]: job for job in second.ask("GET", "/v1/jobs")[1]["jobs"]}
        assert {job_id: job["state"] for job_id, job in jobs.items()} == {"runs": "running", "stopped": "stopped"}
        assert (jobs["runs"]["description"], jobs["runs"]["created_at"]) == ("the new one", created)
        assert second.ask("POST", "/v1/jobs/stopped/start")[1]["state"] == "running"
    finally:
        assert second.stop() == 0
    third = again(tmp_path)
    try:
        assert [job["state"] for job in third.ask("GET", "/v1/jobs")[1]["jobs"]] == ["running", "running"]
    finally:
        third.stop()


def test_one_server_per_state_directory(server: Server, tmp_path: Path) -> None:
    second = Server(config="[server]\n", folder=tmp_path)
    assert second.process.wait(LIMIT_S) == 78
    second.wait_for("is used by another server")


def reload(server: Server, how: str) -> Any:
    if how == "post":
        status, done, _ = server.ask("POST", "/v1/reload")
        assert status == 200
        return done
    before = sum("graph files were read again" in line for line in server.lines)
    server.process.send_signal(signal.SIGHUP)
    server.wait_until(lambda lines: sum("graph files were read again" in line for line in lines) > before)
    return None


@pytest.mark.parametrize("how", ["post", "hangup"])
def test_reload(server: Server, tmp_path: Path, how: str) -> None:
    folder = tmp_path / "graph"

    def jobs() -> dict[str, Any]:
        return {job["id"]: job for job in server.ask("GET", "/v1/jobs")[1]["jobs"]}

    for name in ("same", "changes", "goes"):
        (folder / f"{name}.toml").write_text(ECHO_TOML)
    done = reload(server, how)
    if done:
        assert done == {
            "added": ["changes", "goes", "same"],
            "replaced": [],
            "removed": [],
            "unchanged": [],
            "failed": {},
        }
    before = jobs()
    assert {job["state"] for job in before.values()} == {"running"} and len(before) == 3
    (folder / "changes.toml").write_text(ECHO_TOML + '[flow]\ndesc = "new"\n')
    (folder / "goes.toml").unlink()
    (folder / "comes.toml").write_text(ECHO_TOML)
    done = reload(server, how)
    if done:
        assert done == {
            "added": ["comes"],
            "replaced": ["changes"],
            "removed": ["goes"],
            "unchanged": ["same"],
            "failed": {},
        }
    after = jobs()
    assert set(after) == {"same", "changes", "comes"}
    assert after["same"]["started_at"] == before["same"]["started_at"]
    assert after["changes"]["started_at"] > before["changes"]["started_at"]
    assert after["changes"]["description"] == "new"
    (folder / "changes.toml").write_text("[graph\n")
    done = reload(server, how)
    if done:
        assert list(done["failed"]) == ["changes"] and "changes.toml:1:7: " in done["failed"]["changes"]
    assert f"job 'changes': {folder}/changes.toml:1:7: " in server.wait_for("job 'changes': ")
    assert {**jobs()["changes"], "draining": 0} == {**after["changes"], "draining": 0}
    status, problem, _ = server.ask("DELETE", "/v1/jobs/same")
    assert (status, problem["code"]) == (409, "job_state")
    status, problem, _ = server.ask("PUT", "/v1/jobs/same", {"graph": ECHO_GRAPH})
    assert (status, problem["code"]) == (409, "job_state")


@pytest.mark.parametrize("how", ["post", "hangup"])
def test_files_that_failed_are_tried_again_on_reload(server: Server, tmp_path: Path, how: str) -> None:
    """What is wrong with a graph may be mended elsewhere, in a unit: its own file need not change."""

    def failed() -> Any:
        return server.ask("GET", "/v1/jobs/waits")[1]

    http_graph(tmp_path / "graph", "late", name="waits.toml")
    reload(server, how)
    first = failed()
    assert first["state"] == "failed" and "name: late" in first["error"]
    (tmp_path / "graph" / "late.wrong").mkdir()
    (tmp_path / "graph" / "late.wrong" / "late.toml").write_text("[base\n")
    done = reload(server, how)
    assert failed()["state"] == "failed" and "late.toml:1" in failed()["error"]
    if done:
        assert done["failed"] == {"waits": failed()["error"]} and done["unchanged"] == []
    (tmp_path / "graph" / "late.wrong" / "late.toml").unlink()
    write_unit(tmp_path / "graph", "late", ECHO)
    done = reload(server, how)
    assert (failed()["state"], failed()["error"]) == ("running", "")
    if done:
        assert (done["replaced"], done["failed"]) == (["waits"], {})
    started = failed()["started_at"]
    done = reload(server, how)
    assert failed()["started_at"] == started
    if done:
        assert (done["unchanged"], done["replaced"]) == (["waits"], [])


def test_replacing_under_load_loses_nothing(tmp_path: Path) -> None:
    replace_under_load(tmp_path, 10)


def test_a_graph_with_other_endpoints_takes_only_those_of_both(server: Server) -> None:
    assert server.ask("POST", "/v1/jobs", {"id": "echo", "graph": ECHO_GRAPH})[0] == 201
    server.wait_for("node 'rx' listens")
    first = server.port
    other = {"graph": {"format": "graphviz", "graphconf": DOT.replace("/x", "/y")}}
    assert server.ask("PUT", "/v1/jobs/echo", {"graph": other})[0] == 200
    server.wait_for("job 'echo' stopped")
    with pytest.raises(ConnectionRefusedError):
        post(first, "/x", b"")
    assert post(server.port, "/y", b"abc") == (200, b"abc")


def test_replacing_starts_a_job_that_was_stopped(server: Server) -> None:
    assert server.ask("POST", "/v1/jobs", {"id": "echo", "graph": ECHO_GRAPH})[0] == 201
    assert server.ask("POST", "/v1/jobs/echo/stop")[0] == 200
    assert server.ask("PUT", "/v1/jobs/echo", {"graph": ECHO_TOML})[1]["state"] == "running"
    assert post(server.port, "/x", b"abc") == (200, b"abc")


def test_units_cannot_listen_where_the_api_does(server: Server) -> None:
    dot = DOT.replace("127.0.0.1:0", f"127.0.0.1:{server.api}")
    graph = {"graph": {"format": "graphviz", "graphconf": dot}}
    status, problem, _ = server.ask("POST", "/v1/jobs", {"id": "echo", "graph": graph})
    assert status == 422
    assert "is used by the API of this server" in problem["detail"]


SLOW = """
import _flowunit as modelbox, os, time
class Unit(modelbox.FlowUnit):
    def open(self, config):
        open(config.get_string("until"), "rb", 0).read(1)
        return modelbox.Status.StatusCode.STATUS_SUCCESS
    def process(self, context):
        for item in context.input("in"):
            context.output("out").push_back(item)
        return modelbox.Status.StatusCode.STATUS_SUCCESS
"""


def test_ready_tells_the_truth(tmp_path: Path) -> None:
    (tmp_path / "graph").mkdir()
    write_unit(tmp_path / "graph", "unit", SLOW)
    http_graph(tmp_path / "graph", "unit", attrs=f'until="{tmp_path}/go"', name="slow.toml")
    go = Gate(tmp_path / "go")
    server = Server(config="[server]\n", folder=tmp_path)
    try:
        server.wait_for("the API listens")
        for path in ("/health", "/v2/health"):
            assert server.ask("GET", f"{path}/live")[:2] == (200, {"live": True})
            status, body, _ = server.ask("GET", f"{path}/ready")
            assert (status, body) == (503, {"ready": False, "reasons": [{"reason": "jobs are being started"}]})
        ends = time.monotonic() + LIMIT_S
        while server.ask("GET", "/v1/jobs/slow")[0] == 404:
            assert time.monotonic() < ends
        assert server.ask("GET", "/v1/jobs/slow")[1]["state"] == "starting"
        go.open()
        server.ready()
        assert server.ask("GET", "/health/ready")[:2] == (200, {"ready": True, "reasons": []})
    finally:
        go.open()
        assert server.stop() == 0
