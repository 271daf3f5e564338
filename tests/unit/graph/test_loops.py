"""Loops: which port leads back, what the body may be, and levels in it."""

from __future__ import annotations

import pytest

from tests.unit.graph.units import build, chain


@pytest.mark.parametrize(
    ("text", "loops"),
    [
        ("src loop:again work loop; loop:done sink", {"loop": (0, 1)}),
        ("src loop:done work loop; loop:again sink", {"loop": (1, 1)}),
        ("src loop:again loop; loop:done sink", {"loop": (0, 1)}),  # an empty body
        ("loop:again work loop:done sink; src loop", {"loop": (0, 0)}),  # the edge from the body stands first
        ("src loop1:again loop2:again work1 loop2; loop2:done loop1:done sink", {"loop1": (0, 1), "loop2": (0, 1)}),
        ("src loop1:again work1 loop1:done loop2:done work2 loop2:again sink", {"loop1": (0, 1), "loop2": (1, 1)}),
        (
            "src loop1:again loop2:again loop3:again loop3:done loop2:done loop1:done sink",
            {"loop1": (0, 1), "loop2": (0, 1), "loop3": (0, 1)},
        ),
        ("src loop:again branch:yes work1 work2; branch:no work2 loop:done sink", {"loop": (0, 1)}),
        ("src loop:again expand work collapse loop:done sink", {"loop": (0, 1)}),
        ("src loop:again split:x join.a; split:y join.b; join loop:done sink", {"loop": (0, 1)}),
        ("src expand loop:again work loop:done collapse join.a; src join.b; join sink", {"loop": (0, 1)}),
        ("src branch:yes loop:again work loop:done sink; branch:no sink", {"loop": (0, 1)}),
    ],
)
def test_ports_and_lanes(text: str, loops: dict[str, tuple[int, int]]) -> None:
    graph = build(chain(text))
    found = {node.name: (node.loop_back, node.back_lane) for node in graph.nodes.values() if node.unit.loop}
    assert found == loops
    for name in loops:
        (lanes,) = graph.nodes[name].sources.values()
        ranks = [graph.nodes[end.node].priority for end in lanes]
        back = graph.nodes[name].back_lane
        assert ranks[back] >= graph.nodes[name].priority > ranks[1 - back]


def test_depths() -> None:
    graph = build(
        chain(
            "src loop1:again branch:yes work1 work2; branch:no work2 expand loop2:again work3 loop2:done collapse1 join.a;"
            "expand collapse2 join.b; join loop1:done work4 sink"
        )
    )
    assert {node.name: (node.depth, node.out_depth) for node in graph.nodes.values()} == {
        "src": (0, 0),
        "loop1": (0, 0),
        "branch": (0, 1),
        "work1": (1, 1),
        "work2": (0, 0),
        "expand": (0, 1),
        "loop2": (1, 1),
        "work3": (1, 1),
        "collapse1": (1, 0),
        "collapse2": (1, 0),
        "join": (0, 0),
        "work4": (0, 0),
        "sink": (0, 0),
    }
    assert sorted(graph.nodes["expand"].partners) == ["collapse1", "collapse2"]
    assert graph.nodes["collapse1"].opener == graph.nodes["collapse2"].opener == "expand"
    assert (graph.nodes["work1"].partners, graph.nodes["work1"].opener, graph.nodes["work1"].loop_back) == ([], "", -1)


def test_lanes_stand_in_the_order_of_the_file() -> None:
    graph = build(chain("src triage:three work3 sink; triage:one work1 sink; triage:two work2 sink"))
    assert [end.node for end in graph.nodes["sink"].sources["in"]] == ["work3", "work1", "work2"]


def test_a_loop_may_feed_a_loop_by_its_way_back() -> None:
    graph = build(chain("src loop1:again loop2:again work loop1:done sink; loop2:done loop2"))
    found = {node.name: (node.loop_back, node.back_lane) for node in graph.nodes.values() if node.unit.loop}
    assert found == {"loop1": (0, 1), "loop2": (1, 1)}


def test_a_collapse_counts_as_no_stream_unit() -> None:
    build(chain("src loop:again expand py_collapse loop:done sink"))
