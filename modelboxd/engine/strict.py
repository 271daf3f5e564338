"""Strict ports while a graph runs: values must be what the type of the port insists on (docs/graphs.md)."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import TYPE_CHECKING

from modelbox._core import ffi, lib
from modelbox.errors import UnitError

if TYPE_CHECKING:
    from modelboxd.engine.feed import CoreList
    from modelboxd.graph import model

BITS = {"string": lib.MB_TYPE_STRING, "tensor": lib.MB_TYPE_TENSOR, "image": lib.MB_TYPE_IMAGE}
ROOM = 128  # bytes of what was found


class Strict:
    """What one strict port insists on."""

    __slots__ = ("bits", "expected")

    def __init__(self, node: str, port: str, line: Sequence[str]) -> None:
        """`line`: the type and its ancestors."""
        self.bits = 0
        for name in line:
            self.bits |= BITS.get(name, 0)
        known = next((name for name in line if name in BITS), "")
        kind = line[0] if line[0] == known else f"{line[0]} (below {known})"
        self.expected = f"node '{node}' port '{port}': expected {kind}"

    def misfit(self, items: CoreList) -> UnitError | None:
        """What is wrong with the first value that does not fit, or None."""
        found = ffi.new("char[]", ROOM)
        at = lib.mb_list_misfit(items, self.bits, found, ROOM)
        if at < 0:
            return None
        return UnitError(f"{self.expected}, found {ffi.string(found).decode(errors='replace')}")


def strict_ports(node: str, ports: Sequence[str], lines: dict[str, list[str]]) -> list[Strict | None] | None:
    """Per port what it insists on; None where no port does."""
    made = [Strict(node, port, lines[port]) if port in lines else None for port in ports]
    made = [rule if rule is not None and rule.bits else None for rule in made]
    return made if any(made) else None


def strict_links(nodes: Sequence[model.Node]) -> list[tuple[int, int, str]]:
    """(number, types, what is expected) for each strict port between the nodes of a segment."""
    links = []
    for number, (node, following) in enumerate(pairwise(nodes)):
        given = strict_ports(node.name, [port.name for port in node.unit.outputs], node.strict_outputs)
        taken = strict_ports(following.name, [port.name for port in following.unit.inputs], following.strict_inputs)
        rules = [rule for rule in (*(given or ()), *(taken or ())) if rule is not None]
        if rules:
            bits = 0
            for rule in rules:
                bits |= rule.bits
            links.append((number, bits, rules[-1].expected))
    return links
