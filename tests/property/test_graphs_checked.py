"""What the generator calls a valid graph, modelboxd.graph must accept."""

from __future__ import annotations

from pathlib import Path

from modelboxd.graph.check import check_graph
from modelboxd.graph.loader import parse_graph
from tests.property.agreement import all_forms
from tests.property.case import dot
from tests.property.graphs import EVERYTHING, RandomPick, random_case
from tests.property.units import spec_of
from tests.unit.engine.harness import Registry, spec


def test_every_random_graph_passes_the_checks() -> None:
    specs = [spec_of(form, Path("native.so"), Path("python")) for form in all_forms()]
    specs += [spec("source", (), ("out",)), spec("source2", (), ("out", "other")), spec("sink", ("in",), ())]
    registry = Registry(specs)
    for number in range(300):
        text = dot(random_case(RandomPick(3, number), EVERYTHING))
        check_graph(parse_graph(f'[graph]\nformat = "graphviz"\ngraphconf = """{text}"""\n', "g.toml"), registry)
