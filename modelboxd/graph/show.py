"""The plan for people: a table, and DOT that Graphviz draws."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from dataclasses import dataclass, field

from modelboxd.graph.life import AUTO
from modelboxd.graph.model import Node, Plan


def plan_table(plan: Plan) -> str:
    """One line per node, steps numbered, and why each step ends where it ends."""
    rows: list[tuple[str, ...]] = [
        ("STEP", "RUNS", "NODE", "GROUP", "UNIT", "DEVICE", "KIND", "BATCH", "QUEUE", "ENDS BECAUSE")
    ]
    for step in plan.steps:
        for number, node in enumerate(step.nodes):
            is_last = number == len(step.nodes) - 1
            rows.append(
                (
                    str(step.index) if number == 0 else "",
                    _runs(step.kind, node) if number == 0 else "  fused",
                    node.name,
                    " > ".join(node.group),
                    f"{node.unit.name} {node.unit.version}".rstrip(),
                    node.unit.device,
                    node.unit.role,
                    str(node.batch_size),
                    str(max(node.queue_sizes.values())) if node.queue_sizes else str(node.queue_size_external),
                    step.reason if is_last else "",
                )
            )
    if not any(node.group for node in plan.graph.nodes.values()):
        rows = [(*row[:3], *row[4:]) for row in rows]
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    lines = ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows]
    return "\n".join([f"graph {plan.graph.name}: {len(plan.graph.nodes)} nodes in {len(plan.steps)} steps", *lines])


def _runs(kind: str, node: Node) -> str:
    if kind == "worker":
        workers = node.life.get("workers", 1)
        return f"python x{'auto' if workers == AUTO else workers}"
    return {"segment": "native", "builtin": node.unit.kind.value}.get(kind, kind)


def plan_dot(plan: Plan) -> str:
    """The plan as DOT: a cluster per group of the graph and per fused segment, ports on the edges."""
    lines = [
        f"digraph {_quote(plan.graph.name.replace(chr(92), '/') or 'plan')} {{",
        "  rankdir=LR; node [shape=box, fontname=Helvetica]",
    ]
    # A quoted name that ends in a backslash cannot be written in DOT.
    names = {name: name.replace("\\", f"/{rank}/") for rank, name in enumerate(plan.graph.nodes)}
    top = _Box("")
    for step in plan.steps:
        fused = len(step.nodes) > 1
        groups = {node.group for node in step.nodes}
        for node in step.nodes:
            box = top
            for name in node.group:
                box = box.boxes.setdefault((name, -1), _Box(name))
            note = ""
            if fused and len(groups) == 1:
                box = box.boxes.setdefault(("", step.index), _Box(f"segment {step.index}"))
            elif fused:
                note = f"\\nsegment {step.index}"  # over several groups
            label = f"{_label(node.name)}\\n{_label(node.unit.name)} ({node.unit.device}){note}"
            box.lines.append(f"{_quote(names[node.name])} [label={_quote(label)}]")
    lines += top.draw("  ", itertools.count())
    for node in plan.graph.nodes.values():
        for port, ends in node.targets.items():
            for end in ends:
                label = _label(f"{port} > {end.port}")
                lines.append(
                    f"  {_quote(names[node.name])} -> {_quote(names[end.node])} [label={_quote(label)}, fontsize=9]"
                )
    return "\n".join([*lines, "}"])


@dataclass(slots=True)
class _Box:
    """A cluster: nodes, and clusters inside."""

    label: str
    lines: list[str] = field(default_factory=list)
    boxes: dict[tuple[str, int], _Box] = field(default_factory=dict)  # name of a group or "", number of a step or -1

    def draw(self, indent: str, numbers: Iterator[int]) -> Iterator[str]:
        """Its lines of DOT; `numbers` make the names of clusters."""
        yield from (indent + line for line in self.lines)
        for box in self.boxes.values():
            label = _quote(_label(box.label))
            yield f"{indent}subgraph cluster_{next(numbers)} {{ label={label}; style=rounded"
            yield from box.draw(indent + "  ", numbers)
            yield indent + "}"


def _label(text: str) -> str:
    """A text as Graphviz draws it; a backslash in a label begins an escape."""
    return text.replace("\\", "\\\\")


def _quote(text: str) -> str:
    return '"' + text.replace('"', '\\"') + '"'
