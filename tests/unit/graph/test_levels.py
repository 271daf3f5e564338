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
            "src expand join.a; src join.b; join sink",
            "g.toml:4:74: node:join has different level links, pls check the input links. (a <- expand:out <- src:out is at source src > expand expand; b <- src:out is at source src)",
        ),
        (
            "src collapse sink",
            "g.toml:4:48: node 'collapse': can't find a expand node for collapse (it is at source src)",
        ),
        (
            "src branch:yes collapse sink1; branch:no sink2",
            "g.toml:4:74: node 'collapse': can't find a expand node for collapse (it is at source src > condition branch:yes; the branches of branch must meet before)",
        ),
        (
            "src expand branch:yes collapse sink1; branch:no sink2",
            "g.toml:4:100: node 'collapse': can't find a expand node for collapse (it is at source src > expand expand > condition branch:yes; the branches of branch must meet before)",
        ),
        (
            "src expand1 expand2 collapse1 join.a; src join.b; join sink",
            "g.toml:4:133: node:join has different level links, pls check the input links. (a <- collapse1:out <- expand2:out <- expand1:out <- src:out is at source src > expand expand1; b <- src:out is at source src)",
        ),
        (
            "src branch:yes join.a; branch:no join.b; join sink",
            "g.toml:4:74: node 'join' ports 'a' and 'b': match from multi ports at branch, branch can not be if-else node (a <- branch:yes <- src:out is at source src > condition branch:yes; b <- branch:no <- src:out is at source src > condition branch:no)",
        ),
        (
            "src branch:yes expand sink; branch:no sink",
            "g.toml:4:100: node 'sink' port 'in': path branches have unmatched expand node 'expand': expand:out and branch:no (collapse it before the branches meet)",
        ),
        (
            "src branch:yes sink; branch:no sink; src sink",
            "g.toml:4:74: node 'sink' port 'in': One port links multi edges can not match at one port: branch:yes and branch:no and src:out (only the branches of one condition may meet: branch:yes is at source src > condition branch:yes; branch:no is at source src > condition branch:no; src:out is at source src)",
        ),
        (
            "src branch:yes work1 sink; branch:yes sink; branch:no sink",
            "g.toml:4:97: node 'sink' port 'in': One port links multi edges can not match at one port: work1:out and branch:yes and branch:no (only the branches of one condition may meet: work1:out is at source src > condition branch:yes; branch:yes is at source src > condition branch:yes; branch:no is at source src > condition branch:no)",
        ),
        (
            "src branch1:yes branch2:yes sink; branch2:no sink; branch1:no sink",
            "g.toml:4:102: node 'sink' port 'in': One port links multi edges can not match at one port: branch2:yes and branch2:no and branch1:no (only the branches of one condition may meet: branch2:yes is at source src > condition branch1:yes > condition branch2:yes; branch2:no is at source src > condition branch1:yes > condition branch2:no; branch1:no is at source src > condition branch1:no)",
        ),
        (
            "src1 join.a; src2 join.b; join sink",
            "g.toml:4:49: node:join has different level links, pls check the input links. (a <- src1:out is at source src1; b <- src2:out is at source src2)",
        ),
        (
            "src branch:yes work1 join.a; src join.b; join sink1; branch:no sink2",
            "g.toml:4:97: node:join has different level links, pls check the input links. (a <- work1:out <- branch:yes <- src:out is at source src > condition branch:yes; b <- src:out is at source src)",
        ),
        (
            "src branch:yes expand work1 join.a; branch:yes join.b; join sink; branch:no sink",
            "g.toml:4:123: node:join has different level links, pls check the input links. (a <- work1:out <- expand:out <- branch:yes <- src:out is at source src > condition branch:yes > expand expand; b <- branch:yes <- src:out is at source src > condition branch:yes)",
        ),
        (
            "src split:x branch1:yes work; split:y branch2:yes work sink1; branch1:no sink2; branch2:no sink3",
            "g.toml:4:99: node 'work' port 'in': One port links multi edges can not match at one port: branch1:yes and branch2:yes (only the branches of one condition may meet: branch1:yes is at source src > condition branch1:yes; branch2:yes is at source src > condition branch2:yes)",
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
