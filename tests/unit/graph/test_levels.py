"""Which branches, expands and collapses fit together."""

from __future__ import annotations

import pytest

from modelboxd.graph.levels import Levels
from tests.unit.graph.units import build, chain, problems


@pytest.mark.parametrize(
    "text",
    [
        "src expand work collapse join.a; src join.b; join sink",
        "src expand1 expand2 work1 collapse1 work2 collapse2 sink",
        "src expand1 expand2 work1 collapse1 join.a; expand1 join.b; join collapse2 sink",
        "src expand work sink",  # a level may stay open to the end
        "src branch:yes work1 sink; branch:no sink",
        "src branch:yes work1 sink1; branch:no work2 sink2",
        "src branch:yes stream sink; branch:no sink",
        "src branch1:yes branch2:yes work; branch2:no work work2 sink; branch1:no sink",
        "src branch:yes work1 work3; branch:no work3 join.a; src join.b; join sink",
        "src expand branch:yes work1 collapse; branch:no collapse sink",
        "src branch:yes split:x join.a; split:y join.b; join sink; branch:no sink",
        # The typical graph of ModelBox users: found or not, one task per box, drawn onto the picture.
        "src branch:yes expand work collapse join.a; branch:yes join.b; join sink; branch:no sink",
    ],
)
def test_accepted(text: str) -> None:
    build(chain(text))


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (
            "src branch:yes work1 join.a; src join.b; join sink1; branch:no sink2",
            "g.toml:4:97: node:join has different level links, pls check the input links. (a <- work1:out <- branch:yes <- src:out is at source src > condition branch:yes; b <- src:out is at source src)",
        ),
        (
            "src branch:yes expand work1 join.a; branch:yes join.b; join sink; branch:no sink",
            "g.toml:4:123: node:join has different level links, pls check the input links. (a <- work1:out <- expand:out <- branch:yes <- src:out is at source src > condition branch:yes > expand expand; b <- branch:yes <- src:out is at source src > condition branch:yes)",
        ),
        (
            "src branch:yes work1 work2 work3 work4 work5 work6 work7 join.a; src join.b; join sink1; branch:no sink2",
            "g.toml:4:235: node:join has different level links, pls check the input links. (a <- work7:out <- work6:out <- work5:out <- work4:out <- work3:out <- work2:out <- ... is at source src > condition branch:yes; b <- src:out is at source src)",
        ),
    ],
)
def test_refused(text: str, expected: str) -> None:
    assert problems(chain(text)) == [expected]


def test_inputs_of_a_graph_are_one_source() -> None:
    build("i [type=input]; j [type=input]; w [flowunit=join]; o [type=output]; i -> w:a; j:j -> w:b; w:out -> o")


def test_one_mistake_is_one_complaint() -> None:
    text = "src expand join1.a; src join1.b; join1 work1 join2.a; src join2.b; join2 collapse sink"
    assert len(problems(chain(text))) == 1


def test_levels_of_nodes() -> None:
    graph = build(chain("src expand branch:yes work1 work2; branch:no work2 collapse sink"))
    levels = Levels(graph.nodes, {}).of
    assert {name: str(level) for name, level in levels.items()} == {
        "src": "source src",
        "expand": "source src",
        "branch": "source src > expand expand",
        "work1": "source src > expand expand > condition branch:yes",
        "work2": "source src > expand expand",
        "collapse": "source src > expand expand",
        "sink": "source src",
    }


def test_a_node_called_input_is_a_source_of_its_own() -> None:
    dot = "input [flowunit=src]; i [type=input]; j [flowunit=join]; t [flowunit=sink]; input:out -> j:a; i -> j:b; j:out -> t:in"
    (message,) = problems(dot)
    assert "a <- input:out is at source input; b <- i:input is at type=input" in message


def test_outputs_of_the_graph_that_match() -> None:
    text = "input1 expand split:x output1; split:y output2; input2 join.a; input1 join.b; join output3"
    dot = chain(text).replace("output3 [type=output", "output3 [type=output, output_type=unmatch")
    assert [node.depth for node in build(dot).nodes.values() if node.unit.name == "output"] == [0, 1, 1]


def test_what_other_sources_send_to_outputs_is_dropped() -> None:
    graph = build(chain("src expand split:x output1; split:y collapse output2; input1 work output3"))  # fmt: skip
    assert [str(warning).split(": ", 1)[1] for warning in graph.warnings] == [
        "node 'output1': what source 'src' sends is dropped at type=output (outputs of a graph hand out what came in by its type=input nodes)",
        "node 'output2': what source 'src' sends is dropped at type=output (outputs of a graph hand out what came in by its type=input nodes)",
    ]


@pytest.mark.parametrize(
    ("opens", "closes"),
    [("expand{0}", "collapse{0}"), ("loop{0}:again", "loop{0}:done"), ("branch{0}:yes", "")],
)
def test_deep_nesting(opens: str, closes: str) -> None:
    """Nothing recurses."""
    count = 1000
    inner = [opens.format(number) for number in range(count)]
    outer = [closes.format(number) for number in reversed(range(count))] if closes else []
    text = " ".join(["src", *inner, "work", *outer, "sink"])
    if not closes:
        text += "".join(f"; branch{number}:no sink{number}" for number in range(count))
    graph = build(chain(text))
    assert graph.nodes["work"].depth == (0 if opens.startswith("loop") else count)
    assert graph.nodes["sink"].depth == (0 if closes else count)
