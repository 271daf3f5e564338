"""The scripted unit as a user's Python unit: runs in worker processes, beside script.py."""

from __future__ import annotations

from typing import Any

import _flowunit as modelbox
from script import FORWARD, META_KEYS, Reply, Script

EVENT = "number"


class ScriptedUnit(modelbox.FlowUnit):
    def open(self, config: Any) -> Any:
        kind, inputs, outputs, collapse_all, framed = config.get_string("shape").split()
        self.inputs = [f"i{port}" for port in range(int(inputs))]
        seed = config.get_int("seed")
        back = config.get_int("back", 0)
        self.script = Script(
            kind, config.get_string("op"), seed, int(outputs), collapse_all == "1", back, config.get_int("meta", 0)
        )
        self.outputs = [f"o{port}" for port in range(int(outputs))]
        self.framed = kind in ("stream", "collapse") or framed == "1"
        self.stateless = kind in ("normal", "condition", "loop")
        self.raises = bool(seed % 2)  # a failed call is an exception or a status
        return modelbox.Status.StatusCode.STATUS_SUCCESS

    def _state(self, context: Any) -> dict[str, int]:
        if self.stateless:
            return {}
        state = context.get_private("state")
        if state is None:
            state = {}
            context.set_private("state", state)
        return state

    def process(self, data_context: Any) -> Any:
        event = data_context.event()
        inputs = [list(data_context.input(port)) for port in self.inputs]
        state = self._state(data_context)
        if event is not None:
            reply = self.script.event(state, event.get_private_int(EVENT))
        else:
            rows = [[_text(buffer) for buffer in row] for row in zip(*inputs, strict=True)]
            if self.script.sets_at_values(self.framed):
                self._mark(data_context, rows[0])
            reply = self.script.process(state, rows)
        if reply.failed:
            return self._fail()
        self._push(data_context, reply, inputs)
        for number in reply.events:
            sent = modelbox.FlowUnitEvent()
            sent.set_private_int(EVENT, number)
            data_context.send_event(sent)
        codes = modelbox.Status.StatusCode
        return codes.STATUS_CONTINUE if reply.more else codes.STATUS_SUCCESS

    def _mark(self, context: Any, texts: list[str]) -> None:
        meta = modelbox.DataMeta()
        for key, value in self.script.meta_of(texts).items():
            meta.set_private_string(key, value)
        for port in self.outputs:
            context.set_output_meta(port, meta)

    def data_pre(self, data_context: Any) -> Any:
        if self.script.sets_at_begin(self.framed):
            self._mark(data_context, [])
        if not self.script.begin(self._state(data_context)):
            return self._fail()
        return modelbox.Status()

    def data_post(self, data_context: Any) -> Any:
        self._push(data_context, self.script.end(self._state(data_context)), [])
        return modelbox.Status()

    def _fail(self) -> Any:
        if self.raises:
            raise RuntimeError("scripted")
        return modelbox.Status(modelbox.Status.StatusCode.STATUS_FAULT, "scripted")

    def _push(self, context: Any, reply: Reply, inputs: list[Any]) -> None:
        counts = [0] * self.script.outputs
        given = [context.get_input_meta(port) for port in self.inputs]
        metas = [{key: meta.get_private(key) for key in META_KEYS if meta.get_private(key)} for meta in given]
        for port, plain in reply.items:
            item = self.script.told(plain, metas)
            if item == FORWARD:
                buffer = inputs[0][counts[port]]
            elif item.startswith("!"):
                buffer = modelbox.Buffer(self.get_bind_device(), "")
                buffer.set_error(item[1:], "refused")
            else:
                buffer = modelbox.Buffer(self.get_bind_device(), item)
            context.output(f"o{port}").push_back(buffer)
            counts[port] += 1


def _text(buffer: Any) -> str:
    return f"!{buffer.get_error_code()}" if buffer.has_error() else str(buffer.as_object())
