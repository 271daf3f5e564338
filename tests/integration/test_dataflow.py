"""A project as ModelBox users write it: condition, expand, collapse, joins and stream units in Python, over HTTP."""

from __future__ import annotations

import json
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from tests.integration.server import Server, write_graph

# Each unit: TOML keys of [base], input ports, output ports, body of its class.
UNITS: dict[str, tuple[str, list[str], list[str], str]] = {
    "parse": (
        "stream = true",
        ["in"],
        ["out"],
        """
    def data_pre(self, ctx):
        meta = modelbox.DataMeta()
        meta.set_private_string("language", "en")
        ctx.set_output_meta("out", meta)
        return modelbox.Status()
    def process(self, ctx):
        for buffer in ctx.input("in"):
            made = modelbox.Buffer(self.get_bind_device(), buffer.as_object())
            made.set("words", len(str(buffer).split()))
            ctx.output("out").push_back(made)
        return modelbox.Status.StatusCode.STATUS_SUCCESS
""",
    ),
    "has_words": (
        "condition = true\nstream = false",
        ["in"],
        ["yes", "no"],
        """
    def process(self, ctx):
        for buffer in ctx.input("in"):
            ctx.output("yes" if buffer.get("words") else "no").push_back(buffer)
        return modelbox.Status()
""",
    ),
    "split": (
        "expand = true\nstream = false",
        ["in"],
        ["word"],
        """
    def process(self, ctx):
        text = str(ctx.input("in")[0])
        out = ctx.output("word")
        for number, word in enumerate(text.split()):
            made = modelbox.Buffer(self.get_bind_device(), word)
            made.set("number", number)
            out.push_back(made)
        return modelbox.Status()
""",
    ),
    "shout": (
        "stream = false",
        ["in"],
        ["out"],
        """
    def process(self, ctx):
        language = ctx.get_input_meta("in").get_private_string("language")
        for buffer in ctx.input("in"):
            word = str(buffer)
            made = modelbox.Buffer(self.get_bind_device(), f"{word.upper()}.{language}")
            if word == "bad":
                made.set_error("Shout.Bad", "a bad word")
            ctx.output("out").push_back(made)
        return modelbox.Status()
""",
    ),
    "gather": (
        "collapse = true\nexception_visible = true",
        ["in"],
        ["out"],
        """
    def process(self, ctx):
        words = [f"<{b.get_error_code()}>" if b.has_error() else str(b) for b in ctx.input("in")]
        ctx.output("out").push_back(" ".join(words))
        return modelbox.Status()
""",
    ),
    "draw": (
        "stream = true",
        ["text", "words"],
        ["out"],
        """
    def process(self, ctx):
        for text, words in zip(ctx.input("text"), ctx.input("words")):
            made = modelbox.Buffer(self.get_bind_device(), f"{text} -> {words}")
            ctx.output("out").push_back(made)
        return modelbox.Status()
""",
    ),
    "empty": (
        "stream = false",
        ["in"],
        ["out"],
        """
    def process(self, ctx):
        for buffer in ctx.input("in"):
            ctx.output("out").push_back("nothing")
        return modelbox.Status()
""",
    ),
    "tail": (
        "stream = true",
        ["in"],
        ["out"],
        """
    def data_pre(self, ctx):
        ctx.set_private_int("count", 0)
        return modelbox.Status()
    def process(self, ctx):
        event = ctx.event()
        if event is not None:
            left = event.get_private_int("left")
            ctx.set_private("text", ctx.get_private("text") + "!")
            if left > 1:
                following = modelbox.FlowUnitEvent()
                following.set_private_int("left", left - 1)
                ctx.send_event(following)
                return modelbox.Status.StatusCode.STATUS_CONTINUE
            ctx.output("out").push_back(ctx.get_private("text"))
            return modelbox.Status.StatusCode.STATUS_SUCCESS
        ctx.set_private("text", str(ctx.input("in")[0]))
        event = modelbox.FlowUnitEvent()
        event.set_private_int("left", 3)
        ctx.send_event(event)
        return modelbox.Status.StatusCode.STATUS_CONTINUE
""",
    ),
}
GRAPH = """digraph words {
    rx [type=flowunit, flowunit=httpserver_sync_receive, device=cpu, endpoint="http://127.0.0.1:0/v1"]
    parse [type=flowunit, flowunit=parse, device=cpu]
    cond [type=flowunit, flowunit=has_words, device=cpu]
    split [type=flowunit, flowunit=split, device=cpu]
    shout [type=flowunit, flowunit=shout, device=cpu, batch_size=8, workers=2]
    gather [type=flowunit, flowunit=gather, device=cpu]
    draw [type=flowunit, flowunit=draw, device=cpu]
    empty [type=flowunit, flowunit=empty, device=cpu]
    tail [type=flowunit, flowunit=tail, device=cpu]
    tx [type=flowunit, flowunit=httpserver_sync_reply, device=cpu]
    rx:out_request_info -> parse:in
    parse:out -> cond:in
    cond:yes -> split:in
    cond:yes -> draw:text
    split:word -> shout:in
    shout:out -> gather:in
    gather:out -> draw:words
    cond:no -> empty:in
    draw:out -> tail:in
    empty:out -> tail:in
    tail:out -> tx:in_reply_info
}"""


def ports(side: str, names: list[str]) -> str:
    return f"[{side}]\n" + "".join(
        f'[{side}.{side}{number}]\nname = "{name}"\n' for number, name in enumerate(names, 1)
    )


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    folder: Path = tmp_path_factory.mktemp("words")
    for name, (base, inputs, outputs, code) in UNITS.items():
        (folder / name).mkdir()
        (folder / name / f"{name}.py").write_text(
            f"import _flowunit as modelbox\n\nclass Unit(modelbox.FlowUnit):\n{code}"
        )
        (folder / name / f"{name}.toml").write_text(
            f'[base]\nname = "{name}"\ntype = "python"\ndevice = "cpu"\nversion = "1.0.0"\ndescription = "{name}"\n'
            f'entry = "{name}@Unit"\n{base}\n{ports("input", inputs)}{ports("output", outputs)}'
        )
    server = Server(write_graph(folder, GRAPH), folder=folder)
    server.ready()
    yield server
    assert server.stop() == 0


@pytest.mark.parametrize(
    ("text", "answer"),
    [
        ("one two three", "one two three -> ONE.en TWO.en THREE.en!!!"),
        ("one bad two", "one bad two -> ONE.en <Shout.Bad> TWO.en!!!"),
        ("x", "x -> X.en!!!"),
        ("", "nothing!!!"),
        ("   ", "nothing!!!"),
    ],
)
def test_each_way_through_the_graph(server: Server, text: str, answer: str) -> None:
    status, body, _ = server.request("/v1", text.encode())
    assert (status, body.decode()) == (200, answer)


def test_many_requests_at_once(server: Server) -> None:
    texts = [" ".join(f"w{number}" for number in range(size % 7)) for size in range(60)]

    def ask(text: str) -> tuple[int, str]:
        status, body, _ = server.request("/v1", text.encode())
        return status, body.decode()

    with ThreadPoolExecutor(8) as pool:
        answers = list(pool.map(ask, texts))
    for text, (status, answer) in zip(texts, answers, strict=True):
        shouted = " ".join(f"{word.upper()}.en" for word in text.split())
        assert (status, answer) == (200, f"{text} -> {shouted}!!!" if text else "nothing!!!")


def test_a_failure_stays_in_its_request(server: Server) -> None:
    status, body, _ = server.request("/v1", b"\xff\xfe")  # parse cannot decode it
    assert status == 500
    assert json.loads(body)["error_code"] == "parse.ProcessError"
    assert server.request("/v1", b"fine")[:2] == (200, b"fine -> FINE.en!!!")
