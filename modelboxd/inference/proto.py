"""Message classes out of open_inference.proto, made when they are needed.

Generated code only suits the protobuf that it was generated for (Debian has 3.21, others 4 to 6); descriptors suit all
of them. So the .proto file is read here, the part of its grammar that it uses, and protobuf makes the classes. They
have a pool of their own: other code in the process may know messages of the same names.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

FILE = Path(__file__).with_name("open_inference.proto")
_TOKEN = re.compile(r'//[^\n]*|"[^"]*"|[A-Za-z_][\w.]*|[0-9]+|[{}()<>=;,]|(\S)')
_SCALARS = {
    "double": 1, "float": 2, "int64": 3, "uint64": 4, "int32": 5, "bool": 8, "string": 9, "bytes": 12, "uint32": 13,
}  # fmt: skip
_MESSAGE, _ENUM, _OPTIONAL, _REPEATED = 11, 14, 1, 3


class Reader:
    """A recursive descent over the words of a file. Raises ValueError for what it does not know."""

    def __init__(self, text: str, name: str) -> None:
        from google.protobuf import descriptor_pb2

        self._words = _words(text)
        self._word = next(self._words, "")
        self._types: dict[str, int] = {}  # name -> message or enum
        self._later: list[tuple[Any, str, str]] = []  # fields whose types may come later: field, type, scope
        self.file: Any = descriptor_pb2.FileDescriptorProto(name=name, syntax="proto3")
        # method -> (request, answer, is the request a stream, is the answer one)
        self.methods: dict[str, tuple[str, str, bool, bool]] = {}
        self.service = ""

    def read(self) -> Reader:
        while self._word:
            word = self._next()
            if word == "syntax":
                self._all("=", '"proto3"', ";")
            elif word == "package":
                self.file.package = self._next()
                self._all(";")
            elif word == "message":
                self._message(self.file.message_type.add(), "")
            elif word == "enum":
                self._enum(self.file.enum_type.add())
            elif word == "service":
                self._service()
            else:
                raise ValueError(f"{word!r} is not understood")
        for field, kind, scope in self._later:
            self._resolve(field, kind, scope)
        return self

    def _next(self) -> str:
        word, self._word = self._word, next(self._words, "")
        return word

    def _all(self, *words: str) -> None:
        for word in words:
            found = self._next()
            if found != word:
                raise ValueError(f"{found!r} stands where {word!r} should")

    def _accept(self, word: str) -> bool:
        if self._word != word:
            return False
        self._next()
        return True

    def _message(self, made: Any, scope: str) -> None:
        made.name = self._next()
        scope = f"{scope}.{made.name}" if scope else made.name
        self._types[scope] = _MESSAGE
        self._all("{")
        while not self._accept("}"):
            word = self._next()
            if word == "message":
                self._message(made.nested_type.add(), scope)
            elif word == "oneof":
                made.oneof_decl.add(name=self._next())
                self._all("{")
                while not self._accept("}"):
                    self._field(made, self._next(), scope, _OPTIONAL).oneof_index = len(made.oneof_decl) - 1
            elif word == "map":
                self._map(made, scope)
            elif word == "repeated":
                self._field(made, self._next(), scope, _REPEATED)
            else:
                self._field(made, word, scope, _OPTIONAL)

    def _field(self, made: Any, kind: str, scope: str, label: int) -> Any:
        field = made.field.add(name=self._next(), label=label)
        self._all("=")
        field.number = int(self._next())
        self._all(";")
        self._later.append((field, kind, scope))
        return field

    def _map(self, made: Any, scope: str) -> None:
        """A map is a list of entries: messages with key and value."""
        self._all("<")
        key = self._next()
        self._all(",")
        value = self._next()
        self._all(">")
        name = "".join(part.capitalize() for part in self._word.split("_")) + "Entry"
        entry = made.nested_type.add(name=name)
        entry.options.map_entry = True
        self._types[f"{scope}.{name}"] = _MESSAGE
        for number, (word, kind) in enumerate((("key", key), ("value", value)), 1):
            field = entry.field.add(name=word, number=number, label=_OPTIONAL)
            self._later.append((field, kind, scope))
        self._field(made, name, scope, _REPEATED)

    def _enum(self, made: Any) -> None:
        made.name = self._next()
        self._types[made.name] = _ENUM
        self._all("{")
        while not self._accept("}"):
            value = made.value.add(name=self._next())
            self._all("=")
            value.number = int(self._next())
            self._all(";")

    def _service(self) -> None:
        self.service = f"{self.file.package}.{self._next()}"
        self._all("{")
        while not self._accept("}"):
            self._all("rpc")
            name = self._next()
            request, streams = self._side()
            self._all("returns")
            answer, answers = self._side()
            self._all("{", "}")
            self.methods[name] = request, answer, streams, answers

    def _side(self) -> tuple[str, bool]:
        self._all("(")
        word = self._next()
        stream = word == "stream"
        kind = self._next() if stream else word
        self._all(")")
        return kind, stream

    def _resolve(self, field: Any, kind: str, scope: str) -> None:
        if kind in _SCALARS:
            field.type = _SCALARS[kind]
            return
        while f"{scope}.{kind}" not in self._types and scope:
            scope = scope.rpartition(".")[0]
        full = f"{scope}.{kind}" if scope else kind
        if full not in self._types:
            raise ValueError(f"there is no type {kind}")
        field.type = self._types[full]
        field.type_name = f".{self.file.package}.{full}"


def _words(text: str) -> Iterator[str]:
    for match in _TOKEN.finditer(text):
        if match[1]:
            raise ValueError(f"{match[1]!r} is not understood")
        if not match[0].startswith("//"):
            yield match[0]


class Messages:
    """The classes of a .proto file: `messages.ModelInferRequest`; and its methods."""

    def __init__(self, read: Reader) -> None:
        from google.protobuf import descriptor_pool, message_factory

        pool = descriptor_pool.DescriptorPool()
        pool.AddSerializedFile(read.file.SerializeToString())
        make = getattr(message_factory, "GetMessageClass", None) or message_factory.MessageFactory(pool).GetPrototype
        self.service, self.methods = read.service, read.methods
        for message in read.file.message_type:
            made = make(pool.FindMessageTypeByName(f"{read.file.package}.{message.name}"))
            setattr(self, message.name, made)

    def __getattr__(self, name: str) -> Any:
        raise AttributeError(f"there is no message {name}")


@functools.cache
def messages() -> Messages:
    """Those of the protocol. Raises ImportError without protobuf."""
    return Messages(Reader(FILE.read_text(), FILE.name).read())
