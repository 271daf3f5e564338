"""Makes a failing case smaller: fewer sessions, values, nodes, plainer settings, as long as it still fails."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import replace

from tests.property.agreement import SINK
from tests.property.case import Case, CaseExit, CaseNode, reference_graph
from tests.reference.graph import Layout

ENOUGH_S = 60.0
TRIES = 3  # a race does not show every time


def smaller(case: Case, fails: Callable[[Case], bool]) -> Case:
    """The smallest case that was found; `case` itself when it does not fail again."""
    deadline = time.monotonic() + ENOUGH_S

    def still_fails(candidate: Case) -> bool:
        return any(fails(candidate) for _ in range(TRIES))

    changed = True
    while changed and time.monotonic() < deadline:
        changed = False
        for candidate in _candidates(case):
            if time.monotonic() > deadline:
                break
            if still_fails(candidate):
                case = candidate
                changed = True
                break
    return case


def _candidates(case: Case) -> Iterator[Case]:
    for number in range(len(case.sessions)):
        if len(case.sessions) > 1:
            yield replace(case, sessions=case.sessions[:number] + case.sessions[number + 1 :])
    for node in reversed(case.nodes):
        made = without(case, node)
        if made is not None:
            yield made
    if case.threads != 1:
        yield replace(case, threads=1)
    for number, session in enumerate(case.sessions):
        shorter = []
        if any(session.values):
            shorter.append(replace(session, values=tuple(items[: len(items) // 2] for items in session.values)))
            shorter.append(replace(session, values=tuple(items[:-1] for items in session.values)))
            shorter.append(replace(session, values=tuple(items[1:] for items in session.values)))
        if session.cut != 64:
            shorter.append(replace(session, cut=64))
        if session.cancel_after is not None:
            shorter.append(replace(session, cancel_after=None))
        for made in shorter:
            yield replace(case, sessions=(*case.sessions[:number], made, *case.sessions[number + 1 :]))
    for number, node in enumerate(case.nodes):
        plainer = [replace(node, **{key: value}) for key, value in PLAIN if getattr(node, key) != value]
        if node.form.sees:
            plainer.append(replace(node, form=replace(node.form, sees=False)))
        if node.form.impl != "builtin":
            plainer.append(replace(node, form=replace(node.form, impl="builtin", elementwise=False)))
        for made in plainer:
            yield replace(case, nodes=(*case.nodes[:number], made, *case.nodes[number + 1 :]))


PLAIN: tuple[tuple[str, object], ...] = (("op", "map"), ("meta", 0), ("batch", 1), ("queue", 32))


def without(case: Case, node: CaseNode) -> Case | None:
    """Leaves out a normal or stream node: its readers read its first input instead. None for others, whose level
    would stay open, and where a loop or a condition's branches would lose their one edge."""
    if node.form.kind not in ("normal", "stream"):
        return None
    own = {f"{node.name}:{port}" for port in node.form.output_ports}
    (instead, *others) = node.sources
    if not case.has_inputs and len(case.doors) == 1 and len(case.nodes) == 1:
        return None

    def moved(ends: tuple[str, ...]) -> tuple[str, ...]:
        return tuple(end for old in ends for end in (instead if old in own else (old,)))

    nodes = tuple(
        replace(other, sources=tuple(moved(port) for port in other.sources))
        for other in case.nodes
        if other is not node
    )
    if any(other.form.kind == "loop" and len(other.sources[0]) != 2 for other in nodes):
        return None
    exits: list[CaseExit] = []
    for exit in case.exits:
        ends = moved(exit.sources)
        if exit.sources != ends and any(ends == other.sources for other in case.exits):
            continue
        exits.append(replace(exit, sources=ends))
    read = {end for other in nodes for port in other.sources for end in port} | {e for x in exits for e in x.sources}
    for port in others:
        if not read & set(port):
            exits.append(CaseExit(f"t{len(case.exits) + len(exits)}", port))
    made = replace(case, nodes=nodes, exits=tuple(exits))
    return made if nodes and _is_valid(made) else None


def _is_valid(case: Case) -> bool:
    """Whether the rules of levels still hold, and everything hangs together."""
    try:
        Layout(reference_graph(case, SINK))
    except ValueError:
        return False
    group = {door.partition(":")[0]: {door.partition(":")[0]} for door in case.doors}
    group |= {node.name: {node.name} for node in case.nodes}
    for node in case.nodes:
        for end in (end for port in node.sources for end in port):
            joined = group[end.partition(":")[0]] | group[node.name]
            for name in joined:
                group[name] = joined
    return len({id(names) for names in group.values()}) == 1
