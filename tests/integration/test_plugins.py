"""Service plugins in a real server: what they can do, and what becomes of those that fail."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

from tests.integration.server import LIMIT_S, TOP, Server
from tests.integration.test_control_socket import GRAPH, WAIT
from tests.integration.workers import write_unit
from tests.waiting import wait_for

HEAD = "import asyncio, threading\nfrom modelbox.plugin import HttpError, Plugin, Response\n"
GOOD = """
class Good(Plugin):
    name = "good"
    def init(self, config):
        self.config = config
        self.seen, self.states, self.ticks = [], [], 0
        service = self.service
        service.route("GET", "/good/config", self.show, role="read")
        service.route("POST", "/good/work/{word}", self.work, body={"type": "object", "properties": {"n": {"type": "integer"}},
            "required": ["n"], "additionalProperties": False}, answer={"type": "object"}, summary="Works")
        service.route("POST", "/good/blocking", self.blocking)
        service.route("GET", "/good/raw", lambda request: Response(b"x", 201, {"X-Word": request.query.get("w", "")}, "text/x"))
        service.route("GET", "/good/never", self.never, timeout_s=0.2)
        service.route("GET", "/good/raises", self.raises)
        service.route("GET", "/good/exits", self.exits)
        service.route("GET", "/good/refuses", self.refuses)
        service.route("GET", "/good/object", lambda request: object())
        service.route("GET", "/good/header", lambda request: Response("x", headers={"X-A": "a\\r\\nX-B: b"}))
        service.on_task(self.task_changed)
        service.on_job(self.job_changed)
        service.every(0.01, self.tick)
        service.every(0.01, self.bad_tick)
    async def start(self):
        await self.service.create_job("made", self.config["graph"])
    async def show(self, request):
        return {"word": self.config["word"], "ticks": self.ticks, "seen": self.seen, "states": self.states,
                "jobs": [job.id for job in self.service.jobs()]}
    async def work(self, request):
        task = await self.service.submit("made", {"input": request.params["word"] * request.json()["n"]})
        task = await self.service.result(task.id)
        return {"state": task.state, "text": task.outputs[0].text, "by": request.client}
    def blocking(self, request):
        task = self.service.run(self.service.submit("made", {"input": request.body}))
        return self.service.run(self.service.result(task.id)).outputs[0].data
    async def never(self, request):
        await asyncio.sleep(3600)
    def raises(self, request):
        raise ValueError("secret text")
    async def exits(self, request):
        raise SystemExit(3)
    def refuses(self, request):
        raise HttpError(418, "teapot", "no coffee here")
    def task_changed(self, task):
        self.seen.append(task.state)
        raise KeyError("callback")
    async def job_changed(self, job):
        self.states.append([job.id, job.state])
    async def tick(self):
        self.ticks += 1
    def bad_tick(self):
        raise OSError("timer")
    def stop(self):
        print("good was stopped", file=__import__("sys").stderr)
"""


def serve(folder: Path, *files: tuple[str, str], more: str = "", server: str = "init_timeout = 60\n") -> Server:
    write_unit(folder, "wait", WAIT)
    for name, text in files:
        (folder / name).write_text(HEAD + text)
    names = json.dumps([name for name, _ in files])
    return Server(folder=folder, config=f"[server]\n{server}[plugin]\nfiles = {names}\n{more}")


def good_options(folder: Path) -> str:
    graph = f'[driver]\ndir = ["{folder}"]\n[graph]\nformat = "graphviz"\ngraphconf = """{GRAPH.format(pipe="")}"""\n'
    return f'[plugin.good]\nword = "${{HOME}}"\ngraph = {json.dumps(graph)}\n'


def plugins(server: Server) -> dict[str, dict[str, Any]]:
    return {one["name"]: one for one in server.ask("GET", "/v1/plugins")[1]["plugins"]}


def test_what_a_plugin_can_do(tmp_path: Path) -> None:
    server = serve(tmp_path, ("good.py", GOOD), more=f"[driver]\napi_dir = []\n{good_options(tmp_path)}").ready()
    try:
        status, shown, _ = server.ask("GET", "/good/config")
        assert (status, shown["jobs"]) == (200, ["made"])
        assert shown["word"].startswith("/")  # ${HOME}
        assert wait_for(lambda: server.ask("GET", "/good/config")[1]["ticks"] > shown["ticks"])
        assert server.ask("POST", "/good/work/ab", {"n": 2})[1] == {"state": "succeeded", "text": "abab", "by": ""}
        seen = wait_for(lambda: len(found := server.ask("GET", "/good/config")[1]["seen"]) >= 3 and found)
        assert seen == ["queued", "running", "succeeded"]
        server.wait_for("plugin 'good': on_task Good.task_changed(): KeyError: 'callback' (")
        server.wait_for(f"plugin 'good': timer Good.bad_tick(): OSError: timer ({tmp_path}/good.py:")
        status, problem, _ = server.ask("POST", "/good/work/ab", {"n": "2"})
        assert (status, problem["code"], problem["errors"][0]["pointer"]) == (422, "not_valid", "/n")
        # jobs
        assert server.ask("POST", "/v1/jobs/made/stop")[0] == 200
        wait_for(lambda: ["made", "stopped"] in server.ask("GET", "/good/config")[1]["states"])
        assert server.ask("POST", "/v1/jobs/made/start")[0] == 200
        # the document
        document = server.ask("GET", "/openapi.json")[1]
        operation = document["paths"]["/good/work/{word}"]["post"]
        assert (operation["x-plugin"], operation["x-role"], operation["summary"]) == ("good", "operate", "Works")
        assert operation["requestBody"]["content"]["application/json"]["schema"]["required"] == ["n"]
        assert plugins(server)["good"]["state"] == "running"
        assert "POST /good/work/{word}" in plugins(server)["good"]["routes"]
    finally:
        assert server.stop() == 0
    assert any("good was stopped" in line for line in server.lines)


def test_calls_that_fail_cost_that_call_alone(tmp_path: Path) -> None:
    server = serve(tmp_path, ("good.py", GOOD), more=good_options(tmp_path)).ready()
    try:
        for path, status, code in (
            ("raises", 500, "plugin_failed"), ("exits", 500, "plugin_failed"), ("never", 504, "plugin_timed_out"),
            ("refuses", 418, "teapot"), ("object", 500, "plugin_failed"), ("header", 500, "plugin_failed"),
        ):  # fmt: skip
            got, problem, headers = server.ask("GET", f"/good/{path}")
            assert (got, problem["code"], headers["Content-Type"]) == (status, code, "application/problem+json"), path
            assert "secret" not in json.dumps(problem)
        server.wait_for(f"plugin 'good': route GET /good/raises: ValueError: secret text ({tmp_path}/good.py:")
        server.wait_for("plugin 'good': route GET /good/exits: RuntimeError: SystemExit: 3 (")
        server.wait_for("plugin 'good': route GET /good/never: no answer within 0.2 s")
        server.wait_for("a route returned object; dict, list, str, bytes, None or Response are possible")
        assert server.ask("POST", "/good/work/x", {"n": 1})[1]["text"] == "x"
        assert server.ask("DELETE", "/good/raises")[0] == 405
        assert server.ask("GET", "/good/nothing")[0] == 404
        view = plugins(server)["good"]
        assert (view["state"], view["failures"] >= 5) == ("running", True)
    finally:
        assert server.stop() == 0
    assert not [line for line in server.lines if "Traceback" in line or "internal error" in line]


STARTS = """class P(Plugin):
    def init(self, config):
        self.service.route('GET', '/sr', lambda r: 1)
    async def start(self):
        raise ValueError('start')
"""
BAD = {
    "imports": ("import nosuchmodule\n", r"ModuleNotFoundError: No module named 'nosuchmodule' \(\S+imports.py:3\)"),
    "syntax": ("def (\n", r"SyntaxError: .* \(\S+syntax.py:3\)"),
    "none": ("x = 1\n", r"none.py has no class that derives from modelbox.plugin.Plugin"),
    "initraises": ("class P(Plugin):\n    def init(self, config):\n        raise ValueError('no\\nway')\n",
                   r"init\(\): ValueError: no \| way \(\S+initraises.py:5\)"),
    "inithangs": ("class P(Plugin):\n    def init(self, config):\n        threading.Event().wait()\n",
                  r"init\(\) did not return within 1 s \(server.init_timeout\) \(\S+inithangs.py:5 in init\)"),
    "startraises": (STARTS,
                    r"start\(\): ValueError: start \(\S+startraises.py:7\)"),
    "exits": ("exit(5)\n", r"SystemExit: 5 \(\S+exits.py:3\)"),
    "shadows": ("class P(Plugin):\n    def init(self, config):\n        self.service.route('GET', '/v1/jobs', lambda r: 1)\n",
                r"init\(\): PluginError: route GET /v1/jobs: paths below /v1 are the server's own .*shadows.py:5\)"),
    "everywhere": ("class P(Plugin):\n    def init(self, config):\n        self.service.route('GET', '/{x}/y', lambda r: 1)\n",
                   r"route GET /\{x\}/y: a path is like /everywhere/orders/\{id\}, and begins with a word"),
    "schema": ("class P(Plugin):\n    def init(self, config):\n        self.service.route('POST', '/s', print, body={'if': 1})\n",
               r"route POST /s: the keyword if of JSON Schema is not supported"),
}  # fmt: skip
FINE = (
    "class P(Plugin):\n    def init(self, config):\n        self.service.route('GET', '/fine/x', lambda r: {'a': 1})\n"
)
BLOCKS = """import logging
class P(Plugin):
    def init(self, config):
        self.service.after(0.01, self.block)
    async def block(self):
        logging.getLogger("plugin.blocks").warning("blocks from now on")
        threading.Event().wait()
"""
SLOW_STOP = "class P(Plugin):\n    async def stop(self):\n        await asyncio.Event().wait()\n"


def test_plugins_that_fail_are_left_out(tmp_path: Path) -> None:
    files = [("fine.py", FINE), *((f"{name}.py", text) for name, (text, _) in BAD.items()), ("modelbox-plugin.so", "")]
    server = serve(tmp_path, *files, more="[plugin.nobody]\nx = 1\n", server="init_timeout = 1\n").ready()
    try:
        assert server.ask("GET", "/fine/x")[:2] == (200, {"a": 1})
        found = plugins(server)
        for name, (_, said) in BAD.items():
            line = server.wait_for(f"plugin '{name}' is left out: ")
            assert re.search(said, line), line
            assert found[name]["state"] == "failed" and found[name]["error"] in line
        server.wait_for(
            "modelbox-plugin.so is a ModelBox plugin in C++ or JavaScript; only Python plugins are supported"
        )
        server.wait_for("[plugin.nobody]: there is no plugin 'nobody'")
        assert server.ask("GET", "/sr")[0] == 404
        assert server.ask("GET", "/v1/jobs")[:2] == (200, {"jobs": []})
        assert found["fine"]["state"] == "running"
    finally:
        assert server.stop() == 0


def test_two_plugins_with_one_route(tmp_path: Path) -> None:
    server = serve(tmp_path, ("fine.py", FINE), ("same.py", FINE)).ready()
    try:
        found = plugins(server)
        assert sorted(one["state"] for one in found.values()) == ["failed", "running"]
        server.wait_for("there are two routes GET /fine/x")
        assert server.ask("GET", "/fine/x")[:2] == (200, {"a": 1})
    finally:
        assert server.stop() == 0


def test_a_plugin_that_does_not_stop(tmp_path: Path) -> None:
    server = serve(tmp_path, ("slow.py", SLOW_STOP), ("blocks.py", BLOCKS)).ready()
    server.wait_for("blocks from now on")
    assert server.ask("GET", "/v1/plugins")[0] == 200
    assert server.stop() == 0
    assert any("plugin 'slow': stop(): it did not return within 5 s" in line for line in server.lines)
    assert any("plugin 'blocks' blocks its event loop" in line for line in server.lines)


def test_entry_points_and_modules(tmp_path: Path, monkeypatch: Any) -> None:
    site = tmp_path / "site"
    (site / "shop-1.0.dist-info").mkdir(parents=True)
    (site / "shop-1.0.dist-info" / "METADATA").write_text("Metadata-Version: 2.1\nName: shop\nVersion: 1.0\n")
    (site / "shop-1.0.dist-info" / "entry_points.txt").write_text("[modelbox.plugins]\nshop = shop:Shop\n")
    text = "class Shop(Plugin):\n    def init(self, config):\n        self.service.route('GET', '/{}/x', lambda r: 'there')\n"
    (site / "shop.py").write_text(HEAD + text.format("shop"))
    (site / "store.py").write_text(HEAD + text.format("store"))
    monkeypatch.setenv("PYTHONPATH", str(site))
    server = Server(folder=tmp_path, config='[plugin]\nfiles = ["store"]\n').ready()
    try:
        found = plugins(server)
        assert [(name, one["state"]) for name, one in found.items()] == [("store", "running"), ("shop", "running")]
        assert found["shop"]["source"] == "modelbox.plugins: shop = shop:Shop"
    finally:
        assert server.stop() == 0
    server = Server(folder=tmp_path, config="[plugin]\nentry_points = false\n").ready()
    try:
        assert plugins(server) == {}
    finally:
        assert server.stop() == 0


def test_roles_and_limits_hold_for_plugins(tmp_path: Path) -> None:
    from modelboxd.tool.main import main as tool

    tokens = tmp_path / "tokens"
    assert tool(["token", "-file", str(tokens), "-create", "reader", "-role", "read"]) == 0
    text = FINE.replace(
        "lambda r: {'a': 1})",
        "lambda r: {'a': 1})\n        self.service.route('POST', '/fine/small', lambda r: r.body, max_body=10)",
    )
    server = serve(tmp_path, ("fine.py", text), server=f'init_timeout = 60\ntokens = "{tokens}"\n').ready()
    try:
        assert server.ask("GET", "/fine/x")[0] == 401
        assert server.ask("GET", "/fine/x", headers={"Authorization": "Bearer wrong"})[0] == 401
    finally:
        assert server.stop() == 0
    server = serve_plain(tmp_path).ready()
    try:
        assert server.ask("POST", "/fine/small", "x" * 11)[0] == 413
        assert server.ask("GET", "/fine/x", headers={"Host": "evil.example"})[0] == 403
    finally:
        assert server.stop() == 0


def serve_plain(folder: Path) -> Server:
    return Server(folder=folder, config='[plugin]\nfiles = "fine.py"\n')


def test_the_example_adapts_an_outside_service() -> None:
    done = subprocess.run(
        [sys.executable, str(TOP / "examples/json_service/demo.py")], capture_output=True, text=True, timeout=LIMIT_S
    )
    assert done.returncode == 0, done.stderr
    first, second, third = map(json.loads, done.stdout.splitlines())
    assert (first, second) == ({"id": 1, "items": 2, "cents": 599}, {"id": 2, "items": 0, "cents": 0})
    assert third["id"] == 3 and "TypeError" in third["error"]
