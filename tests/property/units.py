"""The scripted units of random graphs in all their forms: for the interpreter, built-in, native, Python.

A Form is what a unit is (kind, ports, flags); Script (script.py) is what it does, told by a node's options.
"""

from __future__ import annotations

import subprocess
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from modelbox.buffer import Buffer
from modelbox.errors import UnitError
from modelbox.spec import FlowType, OptionSpec, PortSpec, UnitKind, UnitSpec
from modelbox.status import StatusCode
from modelboxd.engine.unit import BuiltinUnit
from tests.property.script import FORWARD, Reply, Script
from tests.reference import interpreter as ref
from tests.unit.engine.harness import CPU, text_buffer

HERE = Path(__file__).parent
ROOT = HERE.parent.parent
LETTERS = {"normal": "n", "stream": "s", "condition": "c", "expand": "x", "collapse": "k", "loop": "l"}
MAX_BATCH = 64
NATIVE_OPTIONS = (OptionSpec("op", default="map"), OptionSpec("seed", "int", "0"), OptionSpec("back", "int", "0"))


@dataclass(frozen=True)
class Form:
    """`impl` is builtin, native or python; `stream` of an expand; ports are i0, i1, ... and o0, o1, ..."""

    impl: str
    kind: str
    inputs: int
    outputs: int
    sees: bool = False
    stream: bool = False
    collapse_all: bool = True
    elementwise: bool = False

    @property
    def framed(self) -> bool:
        """Whether data_pre is called once for a stream or sub-stream."""
        return self.kind in ("stream", "collapse") or self.stream

    @property
    def name(self) -> str:
        flags = "e" * self.sees + "s" * self.stream + "p" * (not self.collapse_all) + "w" * self.elementwise
        base = f"{self.impl}_{LETTERS[self.kind]}_{self.inputs}_{self.outputs}"
        return f"{base}_{flags}" if flags else base

    @property
    def input_ports(self) -> tuple[str, ...]:
        return tuple(f"i{port}" for port in range(self.inputs))

    @property
    def output_ports(self) -> tuple[str, ...]:
        return tuple(f"o{port}" for port in range(self.outputs))


# ---- for the interpreter -------------------------------------------------------------------------------------------


def reference_unit(form: Form, script: Script) -> ref.Unit:
    def push(call: ref.Call, reply: Reply) -> None:
        first = next(iter(call.inputs.values()), [])
        for port, item in reply.items:
            item = script.told(item, list(call.metas.values()))
            made: Any = ref.Err(item[1:], "refused") if item.startswith("!") else item
            call.outputs[f"o{port}"].append(first[0] if item == FORWARD else made)

    def mark(call: ref.Call, texts: Sequence[str]) -> None:
        for port in form.output_ports:
            call.set_output_meta(port, script.meta_of(texts))

    def process(call: ref.Call) -> str:
        if call.event is not None:
            reply = script.event(call.state, call.event)
        else:
            rows = list(zip(*call.inputs.values(), strict=True))
            texts = [[f"!{item.code}" if isinstance(item, ref.Err) else item for item in row] for row in rows]
            if script.sets_at_values(form.framed):
                mark(call, texts[0])
            reply = script.process(call.state, texts)
        if reply.failed:
            raise ref.Failed("scripted")
        push(call, reply)
        for event in reply.events:
            call.send_event(event)
        return ref.CONTINUE if reply.more else ref.SUCCESS

    def begin(call: ref.Call) -> None:
        if script.sets_at_begin(form.framed):
            mark(call, [])
        if not script.begin(call.state):
            raise ref.Failed("scripted")

    return ref.Unit(
        form.name,
        ref.Kind(form.kind),
        process,
        form.input_ports,
        form.output_ports,
        begin=begin,
        end=lambda call: push(call, script.end(call.state)),
        sees_errors=form.sees,
        stream=form.stream,
        collapse_all=form.collapse_all,
    )


# ---- for the engine ------------------------------------------------------------------------------------------------


def spec_of(form: Form, native: Path | None = None, python: Path | None = None) -> UnitSpec:
    """The UnitSpec of a form; `native` is the library, `python` the folder with the units' TOML files."""
    kind = UnitKind(form.impl)
    roles = {role: form.kind == role for role in ("condition", "expand", "collapse")}
    if form.kind == "loop":
        roles["loop"] = True
    path = {"builtin": Path("scripted.toml"), "native": native, "python": python and python / f"{form.name}.toml"}
    shape = (
        {"shape": f"{form.kind} {form.inputs} {form.outputs} {int(form.collapse_all)} {int(form.stream)}"}
        if python
        else {}
    )
    return UnitSpec(
        name=form.name,
        device="cpu",
        version="1.0.0",
        description="scripted",
        kind=kind,
        path=str(path[form.impl] or ""),
        inputs=tuple(PortSpec(port) for port in form.input_ports),
        outputs=tuple(PortSpec(port) for port in form.output_ports),
        options=NATIVE_OPTIONS if form.impl == "native" else (),
        open_options=form.impl != "native",
        flow_type=FlowType.STREAM if form.kind == "stream" or form.stream else FlowType.NORMAL,
        collapse_all=form.collapse_all,
        exception_visible=form.sees,
        elementwise=form.elementwise,
        max_batch_size=MAX_BATCH,
        entry="worker_unit@ScriptedUnit" if form.impl == "python" else "",
        config=shape if form.impl == "python" else {},
        **roles,
    )


def builtin_class(form: Form) -> type[BuiltinUnit]:
    class Scripted(BuiltinUnit):
        def open(self) -> None:
            options = self.node.options
            self.script = Script(
                form.kind,
                options["op"],
                int(options["seed"]),
                form.outputs,
                form.collapse_all,
                int(options.get("back", "0")),
                int(options.get("meta", "0")),
            )

        def _state(self, call: Any) -> dict[str, int]:
            if form.kind in ("normal", "condition", "loop"):
                return {}
            stream = getattr(call, "stream", None)
            private = call.session.private if stream is None else stream.private
            return private.setdefault(self.node.name, {})

        def process(self, call: Any) -> StatusCode:
            state = self._state(call)
            event = getattr(call, "event", None)
            inputs = [list(call.input(port)) for port in form.input_ports]
            if event is not None:
                reply = self.script.event(state, event["number"])
            else:
                rows = [texts_of(row) for row in zip(*inputs, strict=True)]
                if self.script.sets_at_values(form.framed):
                    self._mark(call, rows[0])
                reply = self.script.process(state, rows)
            if reply.failed:
                raise UnitError("scripted")
            self._push(call, reply, inputs)
            for number in reply.events:
                call.send_event({"number": number})
            return StatusCode.STATUS_CONTINUE if reply.more else StatusCode.STATUS_SUCCESS

        def _mark(self, call: Any, texts: Sequence[str]) -> None:
            for port in form.output_ports:
                call.set_output_meta(port, self.script.meta_of(texts))

        def stream_begin(self, call: Any) -> None:
            if self.script.sets_at_begin(form.framed):
                self._mark(call, [])
            if not self.script.begin(self._state(call)):
                raise UnitError("scripted")

        def stream_end(self, call: Any) -> None:
            self._push(call, self.script.end(self._state(call)), [])

        def _push(self, call: Any, reply: Reply, inputs: Sequence[Sequence[Buffer]]) -> None:
            metas = [call.input_meta(port) for port in form.input_ports]
            reply.items = [(port, self.script.told(item, metas)) for port, item in reply.items]
            for at, buffers in enumerate(made_buffers(reply, form.outputs, inputs)):
                for buffer in buffers:
                    call.output(f"o{at}").push_back(buffer)

    return Scripted


def texts_of(row: Sequence[Buffer]) -> list[str]:
    return [f"!{buffer.get_error_code()}" if buffer.has_error() else str(buffer) for buffer in row]


def made_buffers(reply: Reply, outputs: int, inputs: Sequence[Sequence[Buffer]]) -> list[list[Buffer]]:
    """The buffers of a reply, per port. The n-th FORWARD of a port can only be resolved by counting positions:
    units that forward give one item per position."""
    made: list[list[Buffer]] = [[] for _ in range(outputs)]
    for port, item in reply.items:
        if item == FORWARD:
            buffer = inputs[0][len(made[port])]
        elif item.startswith("!"):
            buffer = Buffer(CPU, "")
            buffer.set_error(item[1:], "refused")
        else:
            buffer = text_buffer(item)
        made[port].append(buffer)
    return made


class Sink(BuiltinUnit):
    """Records what it is given: session.private["seen"][node] has a list per stream or sub-stream."""

    inline = True

    def process(self, call: Any) -> None:
        stream = getattr(call, "stream", None)
        own = call.session.private if stream is None else stream.private
        key = f"list of {self.node.name}"
        if key not in own:
            own[key] = []
            call.session.private["seen"].setdefault(self.node.name, []).append(own[key])
        own[key] += values_of(call.input("in"))


def values_of(buffers: Any) -> list[ref.Value]:
    return [
        ref.Err(buffer.get_error_code(), buffer.get_error_msg()) if buffer.has_error() else str(buffer)
        for buffer in buffers
    ]


def comparable(values: Sequence[Any]) -> list[Any]:
    """Without what is left open: an error's depth, and the message where the engine has made it. Holes are not
    handed out."""
    plain: list[Any] = []
    for value in values:
        if isinstance(value, ref.Err):
            made = value.code.endswith((".ProcessError", ".DataPreError", ".LoopLimit"))
            plain.append(replace(value, depth=None, message="" if made else value.message))
        elif value is not ref.HOLE:
            plain.append(value)
    return plain


# ---- native and Python -----------------------------------------------------------------------------------------------


def build_native(folder: Path) -> Path:
    """Compiles script.c against the plugin header alone."""
    library = folder / "modelbox_script.so"
    flags = [
        "-std=c11",
        "-O1",
        "-g",
        "-fPIC",
        "-shared",
        "-fvisibility=hidden",
        "-Wall",
        "-Wextra",
        "-Werror",
    ]
    command = ["cc", *flags, f"-I{ROOT / 'csrc/include'}", str(HERE / "script.c"), "-o", str(library)]
    subprocess.run(command, check=True)
    return library


def write_python(folder: Path, forms: Sequence[Form]) -> None:
    """The Python units as a user would lay them out: one module, a TOML per form."""
    for source in ("script.py", "worker_unit.py"):
        (folder / source).write_text((HERE / source).read_text())
    for form in forms:
        lines = [
            "[base]",
            f'name = "{form.name}"',
            'type = "python"',
            'device = "cpu"',
            'version = "1.0.0"',
            'description = "scripted"',
            'entry = "worker_unit@ScriptedUnit"',
            f"stream = {str(form.kind == 'stream' or form.stream).lower()}",
            f"exception_visible = {str(form.sees).lower()}",
            f"max_batch_size = {MAX_BATCH}",
            f"collapse_all = {str(form.collapse_all).lower()}",
        ]
        if form.kind not in ("normal", "stream"):
            lines.append(f"{form.kind} = true")
        for side, ports in (("input", form.input_ports), ("output", form.output_ports)):
            for number, port in enumerate(ports, 1):
                lines += [f"[{side}.{side}{number}]", f'name = "{port}"']
        (folder / f"{form.name}.toml").write_text("\n".join(lines) + "\n")


class Workshop:
    """The folder with what was compiled and written, for one run of tests."""

    def __init__(self) -> None:
        self._folder = tempfile.TemporaryDirectory(prefix="modelbox-random-")
        self.folder = Path(self._folder.name)
        self._native: Path | None = None

    def native(self) -> Path:
        if self._native is None:
            self._native = build_native(self.folder)
        return self._native

    def close(self) -> None:
        self._folder.cleanup()
