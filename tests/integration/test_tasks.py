"""Tasks through a real daemon: every way in and out, limits, ends, and what goes wrong."""

from __future__ import annotations

import http.client
import http.server
import json
import socket
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from tests.integration.server import LIMIT_S, TOP, Server, write_graph
from tests.integration.tasks import JOB, Rig

# ---- in and out --------------------------------------------------------------------------------------------------


def test_every_way_in_and_out(rigs: Any) -> None:
    rig: Rig = rigs()
    ask = rig.server.ask
    # JSON
    status, task, _ = ask("POST", JOB, {"inputs": {"in": {"values": ["ada", [1, 2.5], {"json": {"a": 1}}]}}})
    assert status == 200
    assert task["state"] == "succeeded"
    assert task["outputs"]["out"] == [
        {"text": "ADA"},
        {"data": [2.0, 5.0], "dtype": "float64", "shape": [2]},
        {"text": '{"A": 1}'},
    ]
    assert {node["name"]: node["values"] for node in task["nodes"]} == {"work": 3, "out": 3}
    assert task["peak_bytes"] >= 3 + 16 + 8
    assert 0 <= task["queue_time"] <= task["elapsed"]
    # raw
    assert rig.send(b"ada")[1]["outputs"] == {"out": [{"text": "ADA"}]}
    status, data, headers = rig.send(b"ada", Accept="text/plain")
    assert (status, data, headers["Content-Type"]) == (200, b"ADA", "text/plain; charset=utf-8")
    assert headers["Server"] == "modelbox"
    raw = "application/octet-stream"
    status, data, headers = rig.send(b"\1\0\2\0", "?dtype=int16&shape=2,1", raw, Accept=raw)
    assert (data, headers["X-Modelbox-Dtype"], headers["X-Modelbox-Shape"]) == (b"\2\0\4\0", "int16", "2,1")
    # the body of one input node, whatever its type
    assert rig.send(b'{"a": 1}', "?port=in", "application/json", Accept="text/plain")[1] == b'{"A": 1}'
    # multipart
    form = b"".join(
        b'--b\r\nContent-Disposition: form-data; name="in"%s\r\n\r\n%s\r\n' % part
        for part in (
            (b"", b"ada"),
            (b"\r\nContent-Type: application/json", b'{"values": ["b", "c"]}'),
            (b'\r\nContent-Type: application/octet-stream; dtype=uint8; shape="1,2"', b"\1\2"),
        )
    )
    status, task, _ = rig.send(form + b"--b--\r\n", kind="multipart/form-data; boundary=b")
    assert status == 200
    assert task["outputs"]["out"] == [
        {"text": "ADA"}, {"text": "B"}, {"text": "C"}, {"base64": "AgQ=", "dtype": "uint8", "shape": [1, 2]},
    ]  # fmt: skip
    # a large body and its answer, which are converted on a thread
    status, data, _ = rig.send(b"\1" * 3_000_000, kind=raw, Accept=raw)
    assert (status, data == b"\2" * 3_000_000) == (200, True)
    # what was told to who waited is not kept
    assert ask("GET", "/v1/tasks?limit=1")[1]["tasks"][0]["outputs_dropped"] is True


def test_polling_paging_and_forgetting(rigs: Any) -> None:
    rig: Rig = rigs()
    ask = rig.server.ask
    ids = [rig.start(str(number)) for number in range(5)]
    for number, task_id in enumerate(ids):
        assert rig.end(task_id)["outputs"]["out"] == [{"text": str(number)}]
    path = f"/v1/tasks/{ids[0]}/outputs/out"
    assert ask("GET", f"{path}/1")[0] == 404
    assert ask("GET", f"/v1/tasks/{ids[0]}/outputs/nope/0")[0] == 404
    first = ask("GET", f"{JOB}?limit=2&state=succeeded")[1]
    second = ask("GET", f"/v1/tasks?job=graph&limit=3&before={first['next']}")[1]
    assert [task["id"] for task in first["tasks"] + second["tasks"]] == ids[::-1]
    assert "next" not in second
    assert ask("GET", f"{JOB}?state=failed")[1] == {"tasks": []}
    assert ask("GET", "/v1/jobs/nope/tasks")[0] == 404
    assert ask("DELETE", f"/v1/tasks/{ids[0]}")[0] == 204
    status, problem, _ = ask("GET", f"/v1/tasks/{ids[0]}")
    assert (status, problem["code"]) == (404, "no_such_task")
    status, problem, _ = ask("POST", f"/v1/tasks/{ids[1]}/cancel")
    assert (status, problem["code"]) == (409, "task_state")
    # Prefer: an answer that comes in time is the result itself
    status, task, _ = rig.send(b"x", Prefer="respond-async, wait=50")
    assert (status, task["state"]) == (200, "succeeded")
    assert rig.send(b"x", Prefer="respond-async")[2]["Preference-Applied"] == "respond-async"


def test_several_inputs_and_outputs(rigs: Any) -> None:
    rig: Rig = rigs(extra="two [type=input]; more [type=output]; w2 [flowunit=work]; two -> w2:in; w2:out -> more")
    ask = rig.server.ask
    status, task, _ = ask("POST", JOB, {"inputs": {"in": "a", "two": "b"}})
    assert status == 200
    assert task["outputs"] == {"out": [{"text": "A"}], "more": [{"text": "B"}]}
    status, problem, _ = ask("POST", JOB, {"inputs": {"in": {"values": ["a", "b"]}, "two": "b"}})
    assert (status, problem["code"]) == (422, "not_valid")
    assert problem["detail"] == "two needs 2 values, as the others have; 1 came"
    assert rig.send(b"x")[1]["detail"] == "?port is missing: which of in, two gets the body?"
    # one value fails, the other node's does not: joined by position, the error is told
    status, task, _ = ask("POST", JOB, {"inputs": {"in": {"values": ["a", "bad"]}, "two": {"values": ["c", "d"]}}})
    assert (status, task["state"]) == (200, "succeeded")
    assert task["outputs"]["out"][0] == {"text": "A"}
    assert task["outputs"]["out"][1]["error"]["code"] == "work.ProcessError"


# ---- events ------------------------------------------------------------------------------------------------------


def events(server: Server, task_id: str, headers: dict[str, str] | None = None) -> Iterator[tuple[str, Any]]:
    connection = http.client.HTTPConnection("127.0.0.1", server.api, timeout=LIMIT_S)
    try:
        connection.request("GET", f"/v1/tasks/{task_id}/events", headers=headers or {})
        response = connection.getresponse()
        assert response.getheader("Content-Type") == "text/event-stream"
        kind = ""
        for line in response:
            key, _, value = line.decode().rstrip("\n").partition(": ")
            if key == "event":
                kind = value
            elif key == "data":
                yield kind, json.loads(value)
    finally:
        connection.close()


def test_events_come_as_they_happen(rigs: Any) -> None:
    rig: Rig = rigs()
    body = json.dumps({"inputs": {"in": {"values": ["a", "gate", "many"]}}}).encode()
    task_id = rig.send(body, "?mode=async", "application/json")[1]["id"]
    stream = events(rig.server, task_id)
    seen: list[tuple[str, Any]] = []
    for kind, value in stream:
        seen.append((kind, value))
        if kind == "output" and value["value"] == {"text": "A"}:
            break  # the gate is closed still
    rig.open_gate()
    seen += stream
    kinds = [kind for kind, _ in seen]
    assert kinds[0] == "state"
    assert kinds[-1] == "end"
    assert "progress" in kinds
    outputs = [value["value"] for kind, value in seen if kind == "output"]
    assert outputs == [{"text": "A"}, {"text": "GATE"}, {"left_out": 3_000_000}]
    assert seen[-1][1]["state"] == "succeeded"
    # again, from behind the second one
    later = [value["value"] for kind, value in events(rig.server, task_id, {"Last-Event-ID": "2"}) if kind == "output"]
    assert later == [{"left_out": 3_000_000}]
    status, data, _ = rig.send(b"many", Accept="text/plain")
    assert (status, len(data)) == (200, 3_000_000)


def test_readers_that_do_not_read_stop_nobody(rigs: Any) -> None:
    rig: Rig = rigs()
    body = json.dumps({"inputs": {"in": {"values": ["x" * 10_000] * 300}}}).encode()
    task_id = rig.send(body, "?mode=async", "application/json")[1]["id"]
    slow = []
    for _ in range(20):
        client = socket.create_connection(("127.0.0.1", rig.server.api))
        client.sendall(f"GET /v1/tasks/{task_id}/events HTTP/1.1\r\nHost: localhost\r\n\r\n".encode())
        slow.append(client)
    assert len([kind for kind, _ in events(rig.server, task_id) if kind == "output"]) == 300
    assert rig.send(b"x")[0] == 200
    for client in slow:
        client.close()


# ---- limits ------------------------------------------------------------------------------------------------------


def test_turns_priorities_and_a_full_queue(rigs: Any) -> None:
    rig: Rig = rigs("[tasks]\nmax_tasks = 1\nqueue = 3\n")
    ask = rig.server.ask
    gate = rig.start("gate")
    late, first, other = rig.start("c", "&priority=9"), rig.start("a", "&priority=1"), rig.start("b")
    status, problem, headers = rig.send(b"too many")
    assert (status, problem["code"], headers["Retry-After"]) == (429, "busy", "1")
    states = {task["id"]: task["state"] for task in ask("GET", "/v1/tasks")[1]["tasks"]}
    assert states == {gate: "running", late: "queued", first: "queued", other: "queued"}
    rig.open_gate()
    started = {task_id: rig.end(task_id)["started_at"] for task_id in (gate, first, other, late)}
    assert list(started) == sorted(started, key=started.__getitem__)
    assert rig.end(late)["queue_time"] > 0


def test_a_job_does_not_take_all_turns(rigs: Any) -> None:
    rig: Rig = rigs("[tasks]\nmax_tasks_job = 1\n")
    rig.start("gate")
    waiting = rig.start("x")
    dot = "digraph other { i [type=input]; w [flowunit=work]; o [type=output]; i -> w:in; w:out -> o }"
    graph = {"driver": {"dir": [str(rig.folder)]}, "graph": {"format": "graphviz", "graphconf": dot}}
    config = rig.server.ask("POST", "/v1/jobs", {"id": "other", "graph": graph})
    if config[0] != 201:  # its units are not in an allowed directory
        assert config[1]["code"] == "bad_graph"
    assert rig.server.ask("GET", f"/v1/tasks/{waiting}")[1]["state"] == "queued"
    rig.open_gate()
    assert rig.end(waiting)["state"] == "succeeded"


def test_time_limits(rigs: Any) -> None:
    rig: Rig = rigs("[tasks]\nmax_tasks = 1\n")
    running = rig.start("gate", "&timeout=0.3")
    waiting = rig.start("x", "&timeout=0.1")
    task = rig.end(waiting)
    assert (task["state"], task["error"]["code"]) == ("failed", "timed_out")
    assert "waited for its turn" in task["error"]["detail"]
    task = rig.end(running)
    assert task["error"] == {
        "code": "timed_out", "node": "work", "detail": "job 'graph': not done within 0.3 s; a call runs at node 'work'",
    }  # fmt: skip
    rig.open_gate()
    assert rig.send(b"x")[0] == 200


def test_results_are_bounded(rigs: Any) -> None:
    rig: Rig = rigs("[tasks]\nmemory = 8000000\nmax_result = 4000000\n")
    first = rig.start("many")
    assert "outputs" in rig.end(first)
    ids = [rig.start("many") for _ in range(3)]
    for task_id in ids:
        rig.end(task_id)
    dropped = rig.end(first)
    assert dropped["outputs_dropped"] is True and dropped["values_out"] > 0
    assert rig.server.ask("GET", f"/v1/tasks/{first}/outputs/out/0")[1]["code"] == "gone"
    assert rig.server.ask("GET", "/v1/stats/tasks")[1]["held_bytes"] <= 8_000_000
    body = json.dumps({"inputs": {"in": {"values": ["many", "many"]}}}).encode()
    status, problem, _ = rig.send(body, kind="application/json")
    assert (status, problem["code"], problem["node"]) == (422, "unit_failed", "out")
    assert "larger than 4000000 bytes" in problem["detail"]
    kept = rig.start("few")
    assert "outputs" in rig.end(kept)
    status, problem, _ = rig.send(b"x" * 9_000_000)
    assert (status, problem["code"]) == (503, "no_memory")
    # What a client says of a body that never comes costs nobody a result.
    for claimed, answer in ((7_999_999, b""), (99_999_999_999, b"HTTP/1.1 413")):
        with socket.create_connection(("127.0.0.1", rig.server.api), LIMIT_S) as sock:
            sock.sendall(f"POST {JOB} HTTP/1.1\r\nHost: localhost\r\nContent-Length: {claimed}\r\n\r\n".encode())
            if not answer:
                sock.shutdown(socket.SHUT_WR)
            assert sock.recv(12) == answer  # the first one was waited for
    assert "outputs" in rig.end(kept)


def test_results_expire(rigs: Any) -> None:
    rig: Rig = rigs("[tasks]\nkeep = 1\n")
    task_id = rig.start("x")
    stream = list(events(rig.server, task_id))
    assert stream[-1][0] == "end"
    gone = threading.Event()

    def ask() -> bool:
        return rig.server.ask("GET", f"/v1/tasks/{task_id}")[0] == 404

    for _ in range(600):
        if ask():
            gone.set()
            break
        gone.wait(0.05)
    assert gone.is_set()


# ---- ends --------------------------------------------------------------------------------------------------------


def test_cancelling(rigs: Any) -> None:
    rig: Rig = rigs("[tasks]\nmax_tasks = 1\n")
    ask = rig.server.ask
    running, waiting, deleted = rig.start("gate"), rig.start("x"), rig.start("y")
    for task_id in (waiting, running):
        status, task, _ = ask("POST", f"/v1/tasks/{task_id}/cancel")
        assert (status, task["state"], task["error"]["code"]) == (200, "cancelled", "cancelled")
    assert ask("DELETE", f"/v1/tasks/{deleted}")[0] == 204
    rig.open_gate()
    assert rig.send(b"x")[0] == 200


def test_a_client_that_goes_away_cancels(rigs: Any) -> None:
    rig: Rig = rigs()
    client = socket.create_connection(("127.0.0.1", rig.server.api))
    client.sendall(f"POST {JOB} HTTP/1.1\r\nHost: localhost\r\nContent-Length: 4\r\n\r\ngate".encode())

    def state() -> tuple[str, str]:
        tasks = rig.server.ask("GET", "/v1/tasks")[1]["tasks"]
        return (tasks[0]["id"], tasks[0]["state"]) if tasks else ("", "")

    while state()[1] != "running":
        pass
    client.close()
    task = rig.end(state()[0])
    assert (task["state"], task["error"]["detail"]) == ("cancelled", "the client that waited for it has gone")
    rig.open_gate()


def test_errors_name_the_node(rigs: Any) -> None:
    rig: Rig = rigs()
    status, problem, _ = rig.send(b"bad")
    assert (status, problem["code"], problem["node"], problem["unit_code"]) == (
        422, "unit_failed", "work", "work.ProcessError",
    )  # fmt: skip
    assert "no good" in problem["detail"]
    task = rig.end(rig.start("bad"))
    assert task["error"]["node"] == "work"
    assert task["outputs"]["out"][0]["error"]["node"] == "work"


def test_a_worker_that_dies_is_no_mistake_of_the_client(rigs: Any) -> None:
    rig: Rig = rigs("[python]\nmax_restarts = 2\n")
    for text in (b"die", b"die", b"refused"):  # the last one meets an open breaker
        status, problem, _ = rig.send(text)
        assert (status, problem["code"], problem["node"], problem["unit_code"]) == (
            502, "worker_lost", "work", "work.WorkerLost",
        )  # fmt: skip
    assert "out of service after 2 crashes in a row" in problem["detail"]


def test_stopping_the_job(rigs: Any) -> None:
    rig: Rig = rigs("[tasks]\nmax_tasks = 1\n[server]\ndrain_timeout = 1\n")
    running, waiting = rig.start("gate"), rig.start("x")
    with ThreadPoolExecutor(1) as pool:
        stopping = pool.submit(rig.server.ask, "POST", "/v1/jobs/graph/stop")
        task = rig.end(running)
        assert (task["state"], task["error"]["code"]) == ("failed", "stopping")
        assert task["error"]["detail"] == "job 'graph' was stopped before this was done"
        task = rig.end(waiting)
        assert (task["state"], task["error"]["code"]) == ("failed", "job_state")
        rig.open_gate()
        assert stopping.result()[0] == 200
    status, problem, _ = rig.send(b"x")
    assert (status, problem["code"]) == (409, "job_state")


def test_replacing_the_job_drains_its_tasks(rigs: Any) -> None:
    rig: Rig = rigs("[tasks]\nmax_tasks = 2\n", ", workers=2")
    running, waiting = rig.start("gate"), [rig.start("x") for _ in range(20)]
    write_graph(rig.folder, rig.dot(", workers=1"))
    assert rig.server.ask("POST", "/v1/reload")[1]["replaced"] == ["graph"]
    assert all(rig.end(task_id)["state"] == "succeeded" for task_id in waiting)
    assert rig.server.ask("GET", f"/v1/tasks/{running}")[1]["state"] == "running"
    rig.open_gate()
    assert rig.end(running)["state"] == "succeeded"


# ---- hostile -----------------------------------------------------------------------------------------------------


def test_hostile_requests(rigs: Any) -> None:
    rig: Rig = rigs("[tasks]\nmax_json = 100000\n")
    kind = "application/json"
    for body, status, text in (
        (b"{", 400, "is not JSON"),
        (b'{"inputs": {"in": [NaN]}}', 400, "NaN"),
        (b'{"inputs": {"in": ' + b"[" * 40000 + b"]" * 40000 + b"}}", 400, "deep"),
        (b'{"inputs": {"in": ' + b"[" * 400 + b"]" * 400 + b"}}", 422, "deep"),
        (b'{"inputs": {"in": "' + b"x" * 100000 + b'"}}', 413, "tasks.max_json"),
        (b'{"inputs": {"in": 1, "in": 2}}', 400, "twice"),
        (b'{"inputs": {"nope": 1}}', 422, "is no input node of job 'graph'; it has in"),
        (b'{"inputs": {}}', 422, "in needs a value"),
        (b'{"inputs": []}', 422, "must be an object such as"),
        (b'{"inputs": {"in": 1}, "timeout": 5}', 422, "/timeout is not known"),
        (b"[]", 422, "must be an object such as"),
        (b'{"inputs": {"in": "\\ud800"}}', 422, "surrogate"),
    ):
        got, problem, _ = rig.send(body, kind=kind)
        assert (got, text in problem["detail"]) == (status, True), (body[:60], problem)
    for options, text in (
        ("?priority=0", "?priority"), ("?timeout=0", "?timeout"), ("?mode=later", "?mode"), ("?x=1", "?x"),
        ("?dtype=int7", "?dtype"), ("?shape=1,-2", "?shape"), ("?timeout=nan", "?timeout"), ("?port=nope", "nope"),
        ("?webhook=http://127.0.0.1/", "webhook_hosts"),
    ):  # fmt: skip
        got, problem, _ = rig.send(b"x", options)
        assert (got, text in problem["detail"]) == (422, True), (options, problem)
    for body in (b"", b"--b", b"--b\r\n\r\n--b--", b"--b--"):
        got, problem, _ = rig.send(body, kind="multipart/form-data; boundary=b")
        assert got in (400, 422), (body, problem)
    assert rig.send(b"x", kind="multipart/form-data")[0] == 400
    assert rig.send(b"x")[0] == 200


def test_a_job_without_inputs(tmp_path: Path) -> None:
    graph = write_graph(
        tmp_path,
        """digraph g { rx [flowunit=httpserver_sync_receive, endpoint="http://127.0.0.1:0/x"]
        tx [flowunit=httpserver_sync_reply]; rx:out_request_info -> tx:in_reply_info }""",
        "plain.toml",
    )
    server = Server(graph, folder=tmp_path).ready()
    try:
        status, problem, _ = server.ask("POST", "/v1/jobs/plain/tasks", {"inputs": {"a": 1}})
        assert (status, problem["code"]) == (409, "no_inputs")
    finally:
        assert server.stop() == 0


# ---- the example -------------------------------------------------------------------------------------------------


def test_the_example(tmp_path: Path) -> None:
    server = Server(TOP / "examples/word_count/graph/word_count.toml", folder=tmp_path).ready()
    try:
        status, task, _ = server.ask(
            "POST", "/v1/jobs/word_count/tasks", {"inputs": {"text": {"values": ["To be or not to be", [1], ""]}}}
        )
        assert status == 200
        counts, wrong, empty = task["outputs"]["counts"]
        assert json.loads(counts["text"]) == {"to": 2, "be": 2, "or": 1, "not": 1}
        assert (wrong["error"]["node"], "this is no text" in wrong["error"]["detail"]) == ("count", True)
        assert json.loads(empty["text"]) == {}
    finally:
        assert server.stop() == 0
