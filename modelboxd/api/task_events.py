"""What happens to a task, as server-sent events."""

from __future__ import annotations

import asyncio
import json
import re
import time
from collections.abc import AsyncIterator
from typing import TYPE_CHECKING, Any

from aiohttp import web

from modelboxd.api.problems import Problem
from modelboxd.api.routes import EVENTS, Call
from modelboxd.api.task_json import TOLD_MAX, task_json
from modelboxd.server.answer import SECURITY_HEADERS, SERVER
from modelboxd.tasks.model import Task
from modelboxd.tasks.values import to_json

if TYPE_CHECKING:
    from modelboxd.api.app import Api

STREAMS_MAX = 256  # clients that listen to events at once
WRITE_S = 30.0  # how long a client may leave an event unread
PROGRESS_S, QUIET_S = 0.5, 15.0  # between two events of progress; between two signs of life


class Events:
    """All clients that listen."""

    def __init__(self, api: Api) -> None:
        self._tasks = api.tasks
        self._streams = 0

    async def serve(self, call: Call) -> web.StreamResponse:
        """The handler of the route."""
        task = self._tasks.find(call.path["task"])
        first = call.query.get("from", 0)
        last_id = call.request.headers.get("Last-Event-ID", "")
        if re.fullmatch(r"[0-9]{1,9}", last_id):
            first = int(last_id)
        if self._streams >= STREAMS_MAX:
            raise Problem(503, "busy", f"{STREAMS_MAX} clients listen to events already", {"Retry-After": "5"})
        self._streams += 1
        try:
            return await self._stream(call, task, first)
        finally:
            self._streams -= 1

    async def _stream(self, call: Call, task: Task, first: int) -> web.StreamResponse:
        headers = {
            **SECURITY_HEADERS,
            "Content-Type": EVENTS,
            "Cache-Control": "no-store",
            "Server": SERVER,
        }
        response = web.StreamResponse(headers=headers)
        await response.prepare(call.request)
        try:
            async for block in self._blocks(task, first):
                # A reader that does not read holds one event, not the task.
                async with asyncio.timeout(WRITE_S):
                    await response.write(block)
            await response.write_eof()
        except (TimeoutError, ConnectionError):
            if call.request.transport is not None:
                call.request.transport.abort()
        return response

    async def _blocks(self, task: Task, first: int) -> AsyncIterator[bytes]:
        """The events of a task until its end."""
        told, state, progress = first, "", ""
        told_at = time.monotonic()
        while True:
            block = b""
            if task.state.value != state:
                state = task.state.value
                if not task.is_over:
                    block += _event("state", {"task": task.id, "state": state})
            while told < len(task.outputs):
                output = task.outputs[told]
                told += 1
                value = to_json(output) if output.size <= TOLD_MAX else {"left_out": len(output.data)}
                yield block + _event("output", {"node": output.node, "value": value}, told)
                block, told_at = b"", time.monotonic()
            now = time.monotonic()
            if task.is_over:
                yield block + _event("end", task_json(task, now, outputs_max=-1))
                return
            made = task_json(task, now, outputs_max=-1)
            seen = json.dumps([made["nodes"], made["values_out"]])
            if seen != progress:
                progress = seen
                names = ("elapsed", "values_out", "peak_bytes", "nodes")
                block += _event("progress", {name: made[name] for name in names})
            elif not block and now - told_at >= QUIET_S:
                block = b": still there\n\n"
            if block:
                told_at = now
                yield block
            await _change(task, PROGRESS_S)


async def _change(task: Task, limit_s: float) -> None:
    """Waits for the next change, not longer than `limit_s`."""
    try:
        async with asyncio.timeout(limit_s):
            await task.change()
    except TimeoutError:
        return


def _event(kind: str, value: dict[str, Any], number: int = 0) -> bytes:
    mark = f"id: {number}\n" if number else ""
    return f"{mark}event: {kind}\ndata: {json.dumps(value)}\n\n".encode()
