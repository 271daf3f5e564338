"""httpserver_sync_reply: the first buffer of a session's stream is the answer to its HTTP request.

Ports: in: in_reply_info, any bytes; meta `status` (int) and `headers` (dict of str) are honoured.
An error buffer is answered at once with 500 and {"error_code", "error_msg"}.
"""

from __future__ import annotations

import logging
import re
from typing import Any

from modelbox import meta
from modelbox._core import ffi, lib
from modelbox.configuration import Configuration
from modelbox.errors import ConfigError
from modelboxd.engine.feed import CoreList
from modelboxd.engine.unit import Services, SessionView, SinkUnit
from modelboxd.graph.model import Node
from modelboxd.server.answer import FORBIDDEN, Headers
from modelboxd.server.reply import Reply, base_headers

log = logging.getLogger(__name__)

_NAME = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+")
_VALUE = re.compile(r"[^\x00-\x08\x0a-\x1f\x7f\ud800-\udfff]*")
KNOWN_MAX, KNOWN_SIZE = 256, 2048  # meta blocks; bytes of one


class HttpServerSyncReply(SinkUnit):
    inline = True

    def __init__(self, node: Node, config: Configuration, services: Services) -> None:
        super().__init__(node, config, services)
        try:
            self.headers = base_headers(config.get_string("content_type") or "txt")
        except ConfigError as error:
            raise ConfigError(f"node '{node.name}': {error.message}", where=node.where, hint=error.hint) from None
        # Graphs send the same meta again and again: what it means, by its bytes.
        self._known: dict[bytes, tuple[Any, Headers]] = {b"": (200, self.headers)}

    def receive(self, session: SessionView, items: CoreList) -> None:
        reply = session.private.get("reply")
        if reply.__class__ is not Reply:
            return  # answered already, or the session did not begin with an HTTP request
        buffer = items.items[0]
        if not buffer:
            buffer = next((items.items[at] for at in range(items.count) if items.items[at]), None)
            if buffer is None:
                return
        del session.private["reply"]
        if lib.mb_buffer_error(buffer, ffi.NULL, ffi.NULL):
            code, message = ffi.new("char **"), ffi.new("char **")
            lib.mb_buffer_error(buffer, code, message)
            reply.fail(500, _text(code[0]), _text(message[0]))
            return
        status, headers = self._meaning(buffer)
        if not isinstance(status, int) or not 200 <= status <= 599:
            text = "node '%s': meta status = %r is no HTTP status from 200 to 599"
            log.warning(text, self.node.name, status, extra=self.about)
            reply.fail(500, "Reply.BadStatus", f"node '{self.node.name}': meta status = {status!r} is no HTTP status")
            return
        size = lib.mb_buffer_size(buffer)
        reply.answer(status, headers, ffi.buffer(lib.mb_buffer_data(buffer), size) if size else b"")

    def _meaning(self, buffer: Any) -> tuple[Any, Headers]:
        """Status (unchecked) and headers that the meta of a buffer asks for."""
        size = ffi.new("uint64_t *")
        start = lib.mb_buffer_meta(buffer, size)
        block = ffi.buffer(start, size[0])[:] if size[0] else b""
        known = self._known.get(block)
        if known is not None:
            return known
        value = ffi.new("uint8_t **")
        if lib.mb_buffer_meta_get(buffer, b"endpoint", value, size) > 0:
            # A request that was passed through carries the request's headers; they are no reply headers.
            kind = lib.mb_buffer_meta_get(buffer, b"status", value, size)
            return (meta.decode_value(kind, ffi.buffer(value[0], size[0])[:]) if kind > 0 else 200), self.headers
        values = meta.decode(block)
        known = values.get("status", 200), self._headers(values.get("headers"))
        if len(block) <= KNOWN_SIZE:
            if len(self._known) >= KNOWN_MAX:
                self._known.clear()
            self._known[block] = known
        return known

    def _headers(self, given: Any) -> Headers:
        """Our headers with those of meta `headers`."""
        if not isinstance(given, dict) or not given:
            return self.headers
        headers = dict(self.headers.fields)
        names = {name.lower(): name for name in headers}
        for name, value in given.items():
            text = str(value)
            if not (isinstance(name, str) and _NAME.fullmatch(name) and _VALUE.fullmatch(text)):
                line = "node '%s': header %r is not well-formed and left out"
                log.warning(line, self.node.name, name, extra=self.about)
            elif name.lower() not in FORBIDDEN:
                headers.pop(names.get(name.lower(), name), None)
                headers[name] = text
        return Headers(headers)


def _text(text: Any) -> str:
    return str(ffi.string(text).decode(errors="replace"))
