"""Attributes that only some nodes have, what they may be, and what becomes of them elsewhere."""

from __future__ import annotations

import dataclasses
import re
from pathlib import Path

import pytest

from modelboxd.graph.check import GraphDefaults, check_graph
from modelboxd.graph.life import AUTO, OPTIONS, Life
from modelboxd.graph.loader import parse_graph
from modelboxd.graph.model import Node
from modelboxd.settings import PythonSettings
from tests.unit.graph.units import Registry, build, problems

LOOP = "s [flowunit=src]; w [flowunit=loop]; t [flowunit=sink]; s:out -> w:in; w:again -> w:in; w:done -> t:in"


def work(attributes: str) -> str:
    return f"s [flowunit=src]; w [{attributes}]; t [flowunit=sink]; s:out -> w:in; w:out -> t:in"


def node(attributes: str, dot: str = "") -> Node:
    graph = build(work(attributes) + dot)
    assert not graph.warnings
    return graph.nodes["w"]


def refused(attributes: str) -> str:
    (message,) = problems(work(attributes))
    return message.split(": ", 1)[1]


@pytest.mark.parametrize(
    ("text", "size"),
    [
        ("0", 0), ("1", 1), ("4096", 4096), ("512K", 512 << 10), ("64M", 64 << 20), ("2G", 2 << 30), ("64m", 64 << 20),
        ("64 MiB", 64 << 20), ("3 KB", 3 << 10), ("1024G", 1 << 40),
    ],
)  # fmt: skip
def test_queue_bytes(text: str, size: int) -> None:
    assert node(f'flowunit=work, queue_bytes="{text}"').queue_bytes == size


@pytest.mark.parametrize("text", ["x", "-1", "1.5M", "1025G", "4T", "", "9999999999999G", "²K"])
def test_queue_bytes_refused(text: str) -> None:
    assert refused(f'flowunit=work, queue_bytes="{text}"') == (
        f"node 'w': queue_bytes='{text}' is out of range (bytes, or such as 512K, 64M, 2G; 0 is no limit, 1024G the most)"
    )


def test_queue_bytes_of_the_graph() -> None:
    assert node("flowunit=work", '; queue_bytes="1M"').queue_bytes == 1 << 20
    assert node("flowunit=work, queue_bytes=0", '; queue_bytes="1M"').queue_bytes == 0
    (message,) = problems(work("flowunit=work") + "; queue_bytes=big")
    assert "the graph: queue_bytes='big' is out of range" in message
    spec = parse_graph(
        f'[graph]\nformat = "graphviz"\ngraphconf = """digraph g {{ {work("flowunit=work")} }}"""', "g.toml"
    )
    graph = check_graph(spec, Registry(), GraphDefaults(queue_bytes=7))
    assert [node.queue_bytes for node in graph.nodes.values()] == [7, 7, 7]


def test_batches() -> None:
    made = node('flowunit=work, batch_size=8, max_queue_delay_us=500, preferred_batch_sizes="8, 2,4,2"')
    assert (made.max_queue_delay_us, made.preferred_batch_sizes) == (500, (2, 4, 8))
    made = node("flowunit=work")
    assert (made.max_queue_delay_us, made.preferred_batch_sizes) == (0, ())


@pytest.mark.parametrize(
    ("attributes", "message"),
    [
        (
            "batch_size=4, preferred_batch_sizes=8",
            "preferred_batch_sizes='8' is out of range (whole numbers from 1 to the batch size of the node, 4)",
        ),
        (
            'preferred_batch_sizes="1,,2"',
            "preferred_batch_sizes='1,,2' is out of range (whole numbers from 1 to the batch size of the node, 8)",
        ),
        (
            "preferred_batch_sizes=0",
            "preferred_batch_sizes='0' is out of range (whole numbers from 1 to the batch size of the node, 8)",
        ),
        (
            "max_queue_delay_us=-1",
            "max_queue_delay_us='-1' is out of range (a whole number from 0 to 60000000)",
        ),
        (
            "max_queue_delay_us=60000001",
            "max_queue_delay_us='60000001' is out of range (a whole number from 0 to 60000000)",
        ),
    ],
)
def test_batches_refused(attributes: str, message: str) -> None:
    assert refused(f"flowunit=work, {attributes}") == f"node 'w': {message}"


def test_loop_limit() -> None:
    assert build(LOOP).nodes["w"].loop_limit == 1000
    graph = build(LOOP.replace("flowunit=loop", "flowunit=loop, loop_limit=1000000"))
    assert (graph.nodes["w"].loop_limit, graph.nodes["w"].options, graph.warnings) == (1_000_000, {}, [])
    for text in ("0", "1000001", "many"):
        (message,) = problems(LOOP.replace("flowunit=loop", f"flowunit=loop, loop_limit={text}"))
        assert (
            message.split(": ", 1)[1]
            == f"node 'w': loop_limit='{text}' is out of range (a whole number from 1 to 1000000)"
        )


@pytest.mark.parametrize("word", ["oldest", "newest"])
def test_drop(word: str) -> None:
    graph = build(f"s [flowunit=src, drop={word}]; t [flowunit=sink]; s:out -> t:in")
    assert [(node.drop, node.options) for node in graph.nodes.values()] == [(word, {}), ("", {})]
    graph = build(f"s [type=input, drop={word}]; t [flowunit=sink]; s -> t:in")
    assert (graph.nodes["s"].drop, graph.warnings) == (word, [])


def test_words() -> None:
    dot = "s [type=input, input_type={}]; o [type=output, output_type={}]; s -> o"
    for one in ("match", "unmatch"):
        for two in ("match", "unmatch"):
            graph = build(dot.format(one, two))
            assert [node.match for node in graph.nodes.values()] == [one == "match", two == "match"]
    assert [node.match for node in build("s [type=input]; o [type=output]; s -> o").nodes.values()] == [True, True]
    assert [message.split(": ", 1)[1] for message in problems(dot.format("mtch", "no"))] == [
        "node 's': Invalid Input Type 'mtch' (match or unmatch)",
        "node 'o': Invalid Output Type 'no' (match or unmatch)",
    ]
    (message,) = problems("s [type=input, drop=all]; o [type=output]; s -> o")
    assert message == "g.toml:4:48: node 's': Invalid Drop 'all' (oldest or newest)"


@pytest.mark.parametrize(
    ("attribute", "place"),
    [
        ("drop=oldest", "sources and type=input"),
        ("loop_limit=5", "loop units"),
        ("input_type=match", "type=input"),
        ("output_type=never", "type=output"),
    ],
)
def test_the_wrong_place_is_a_warning(attribute: str, place: str) -> None:
    graph = build(work(f"flowunit=work, {attribute}"))
    key = attribute.split("=")[0]
    assert [str(warning).split(": ", 1)[1] for warning in graph.warnings] == [
        f"node 'w': {key} has no meaning here, it is ignored (it is for {place})"
    ]
    assert (graph.nodes["w"].drop, graph.nodes["w"].options) == ("", {})


@pytest.mark.parametrize("key", ["max_queue_delay_us", "preferred_batch_sizes"])
def test_units_that_take_no_batches(key: str) -> None:
    graph = build(LOOP.replace("flowunit=loop", f"flowunit=loop, {key}=1"))
    assert [str(warning) for warning in graph.warnings] == [
        f"g.toml:4:{65 + len(key)}: node 'w': {key} has no meaning here, it is ignored (it is for normal units)"
    ]


def test_a_python_unit_may_have_options_of_these_names() -> None:
    made = node("flowunit=py, drop=5, loop_limit=x, output_type=y")
    assert made.options == {"drop": "5", "loop_limit": "x", "output_type": "y"}
    assert (made.drop, made.loop_limit, made.match) == ("", 1000, True)


def test_a_misspelt_one_is_a_warning() -> None:
    graph = build(LOOP.replace("flowunit=loop", "flowunit=loop, loop_limt=5"))
    assert [str(warning).split(": ", 1)[1] for warning in graph.warnings] == [
        "node 'w': unit loop has no option 'loop_limt', it is ignored (did you mean 'loop_limit'?)"
    ]


def test_what_is_not_plain_takes_one_buffer() -> None:
    graph = build("batch_size=16; " + LOOP)
    assert [node.batch_size for node in graph.nodes.values()] == [16, 1, 16]


@pytest.mark.parametrize(
    ("attribute", "near"),
    [
        ("devicdid", "deviceid"),
        ("batchsize", "batch_size"),
        ("levle", "level"),
        ("queue_sizes", "queue_size"),
        ("nmae", "name"),
    ],
)
def test_an_option_of_a_python_unit_that_is_almost_another(attribute: str, near: str) -> None:
    graph = build(work(f"flowunit=own, {attribute}=2"))
    (warning,) = graph.warnings
    text = f"node 'w': unit own declares no option '{attribute}', it gets it all the same (did you mean '{near}'?)"
    assert str(warning).endswith(text)
    assert graph.nodes["w"].options[attribute] == "2"


@pytest.mark.parametrize("attribute", ["other", "level1", "label", "image_width", "shape"])
def test_other_options_of_a_python_unit_are_its_own_affair(attribute: str) -> None:
    assert not build(work(f"flowunit=own, {attribute}=2")).warnings


# ---- life of workers ---------------------------------------------------------------------------------------


PY = "flowunit=py, "


@pytest.mark.parametrize(
    ("text", "life"),
    [
        ("workers=4", {"workers": 4}),
        ("workers=auto", {"workers": AUTO}),
        ('restart="on-failure", max_restarts=0', {"restart": "on-failure", "max_restarts": 0}),
        ("process_timeout_ms=250, memory_limit_mb=512", {"process_timeout_ms": 250, "memory_limit_mb": 512}),
        ("heartbeat_timeout_ms=0, orphan_timeout_ms=5", {"heartbeat_timeout_ms": 0, "orphan_timeout_ms": 5}),
        ("reload=true", {"reload": True}),
        ("max_requests=1000, restart_window_s=60", {"max_requests": 1000, "restart_window_s": 60}),
    ],
)
def test_life_of_workers(text: str, life: dict[str, object]) -> None:
    made = node(PY + text)
    assert made.life == life
    assert made.options == {}  # the unit does not see them
    assert Life(workers=7).having(made.life).workers == life.get("workers", 7)


@pytest.mark.parametrize(
    ("text", "hint"),
    [
        ("workers=0", "a whole number from 1 to 1024, or auto"),
        ("workers=many", "a whole number from 1 to 1024, or auto"),
        ("reload=often", "true or false"),
        ("restart=sometimes", "never, on-failure or always"),
        ('process_timeout_ms="1s"', "a whole number from 0 to 604800000"),
        ("restart_cooldown_s=0", "a whole number from 1 to 604800"),
    ],
)
def test_life_of_workers_refused(text: str, hint: str) -> None:
    key, _, value = text.partition("=")
    assert refused(PY + text) == f"node 'w': {key}='{value.strip(chr(34))}' is out of range ({hint})"


def test_life_of_workers_elsewhere_and_misspelt() -> None:
    (warning,) = build(work("flowunit=work, max_requests=5")).warnings
    assert "max_requests has no meaning here, it is ignored (it is for Python units)" in str(warning)
    (warning,) = build(work(PY + "max_request=5")).warnings
    assert "did you mean 'max_requests'?" in str(warning)


def test_defaults_of_life_are_the_same_everywhere() -> None:
    assert PythonSettings().life == Life()
    assert {name: option.default for name, option in OPTIONS.items()} == dataclasses.asdict(Life())
    pages = [Path(__file__).parents[3] / "docs" / page for page in ("python-units.md", "configuration.md", "graphs.md")]
    for page in pages:
        assert not [name for name in OPTIONS if f"`{name}`" not in page.read_text()], page
    rows = dict(re.findall(r"\n\| `(\w+)` \| .* \| `?([\w-]+)`? \|(?=\n)", pages[0].read_text()))
    words = {name: {n: word for word, n in option.names.items()} for name, option in OPTIONS.items()}
    shown = {name: str(words[name].get(option.default, option.default)).lower() for name, option in OPTIONS.items()}
    assert shown == rows
