"""The methods of the gRPC service: bytes in, bytes out."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from modelboxd.api.inflate import inflate
from modelboxd.api.problems import Problem
from modelboxd.api.tokens import Role
from modelboxd.inference import wire
from modelboxd.inference.proto import messages
from modelboxd.inference.service import SMALL
from modelboxd.inference.views import config_view, index_view, model_view, server_view, stats_view

if TYPE_CHECKING:
    from modelboxd.api.app import Api
    from modelboxd.inference.model import Model

HEALTH = "/grpc.health.v1.Health/Check"
_SERVING, _NOT_SERVING = b"\x08\x01", b"\x08\x02"  # HealthCheckResponse, its only field
FINAL = "triton_enable_empty_final_response"  # the client wants to hear when no more answers follow
Function = Callable[[bytes], Awaitable[bytes]]


@dataclass(slots=True)
class Streamed:
    """What is known of a request in a stream, for its answer when it fails."""

    id: str = ""


class Calls:
    """All methods. They raise Problem and ModelBoxError."""

    def __init__(self, api: Api) -> None:
        self._api = api
        self._inference = api.inference
        self._messages = messages()
        self.service = self._messages.service

    def path(self, method: str) -> str:
        """As gRPC has it."""
        return f"/{self.service}/{method}"

    def unary(self) -> dict[str, tuple[Role, Function]]:
        """The methods of one message each way, by path, and who may call them."""
        there: dict[str, tuple[Role, Function]] = {
            "ServerLive": (Role.NONE, self.live),
            "ServerReady": (Role.NONE, self.ready),
            "ModelReady": (Role.READ, self.model_ready),
            "ServerMetadata": (Role.READ, self.server_metadata),
            "ModelMetadata": (Role.READ, self.model_metadata),
            "ModelInfer": (Role.OPERATE, self.infer),
            "ModelConfig": (Role.READ, self.model_config),
            "ModelStatistics": (Role.READ, self.model_statistics),
            "RepositoryIndex": (Role.READ, self.index),
            "RepositoryModelLoad": (Role.ADMIN, self.load),
            "RepositoryModelUnload": (Role.ADMIN, self.unload),
        }
        return {self.path(name): item for name, item in there.items()} | {HEALTH: (Role.NONE, self.health)}

    # ---- messages -------------------------------------------------------------------------------------------------

    async def _plain(self, data: bytes) -> bytes:
        """A message as it was before the client compressed it. No message of this protocol begins like gzip or zlib."""
        if data[:2] == b"\x1f\x8b" or (data[:1] == b"\x78" and len(data) > 6):
            return await self._api.run(inflate, data, self._api.settings.server.max_body)
        return data

    async def _read(self, method: str, data: bytes) -> Any:
        data = await self._plain(data)
        limit = self._api.settings.tasks.max_json
        if len(data) > limit:
            raise Problem(413, "too_large", f"the message is larger than {limit} bytes (tasks.max_json)")
        return wire.parse(getattr(self._messages, self._messages.methods[method][0]), data)

    def _answer(self, method: str, **values: Any) -> bytes:
        made = getattr(self._messages, self._messages.methods[method][1])(**values)
        return bytes(made.SerializeToString())

    # ---- what there is ----------------------------------------------------------------------------------------

    async def live(self, _: bytes) -> bytes:
        return self._answer("ServerLive", live=True)

    async def ready(self, _: bytes) -> bytes:
        return self._answer("ServerReady", ready=not self._api.jobs.troubles())

    async def health(self, data: bytes) -> bytes:
        """grpc.health.v1: of the server, or of a model by its name."""
        view = memoryview(data)
        name = b"".join(bytes(view[value:end]) for number, _, value, end in wire.fields(view) if number == 1)
        if name in (b"", self.service.encode()):
            return _NOT_SERVING if self._api.jobs.troubles() else _SERVING
        model = self._inference.model(name.decode(errors="replace"))  # one that is not there is an error
        return _NOT_SERVING if model.job.troubles() else _SERVING

    async def model_ready(self, data: bytes) -> bytes:
        asked = await self._read("ModelReady", data)
        return self._answer("ModelReady", ready=self._inference.is_ready(asked.name, asked.version))

    async def server_metadata(self, _: bytes) -> bytes:
        return self._answer("ServerMetadata", **server_view())

    async def model_metadata(self, data: bytes) -> bytes:
        asked = await self._read("ModelMetadata", data)
        return self._answer("ModelMetadata", **model_view(self._inference.model(asked.name, asked.version)))

    async def model_config(self, data: bytes) -> bytes:
        asked = await self._read("ModelConfig", data)
        return self._answer("ModelConfig", config=config_view(self._inference.model(asked.name, asked.version)))

    async def model_statistics(self, data: bytes) -> bytes:
        asked = await self._read("ModelStatistics", data)
        if asked.name:
            models: list[Model] = [self._inference.model(asked.name, asked.version)]
        else:
            models = [self._inference.model(item.name) for item in self._inference.all() if not item.reason]
        views = [stats_view(model, self._inference.counts(model)) for model in models]
        return self._answer("ModelStatistics", model_stats=views)

    async def index(self, data: bytes) -> bytes:
        asked = await self._read("RepositoryIndex", data)
        views = [index_view(item) for item in self._inference.all() if not (asked.ready and item.reason)]
        return self._answer("RepositoryIndex", models=views)

    # ---- control ------------------------------------------------------------------------------------------------

    async def load(self, data: bytes) -> bytes:
        asked = await self._read("RepositoryModelLoad", data)
        if asked.parameters:
            text = "parameters of load are not supported: a model is a job, PUT /v1/jobs/ID gives it another graph"
            raise Problem(400, "bad_request", text)
        await self._api.run(self._inference.load, self._inference.job_of(asked.model_name))
        return b""

    async def unload(self, data: bytes) -> bytes:
        asked = await self._read("RepositoryModelUnload", data)
        await self._api.run(self._inference.unload, self._inference.job_of(asked.model_name))
        return b""

    # ---- inference ------------------------------------------------------------------------------------------------

    async def infer(self, data: bytes) -> bytes:
        return b"".join(await self._infer(data, Streamed()))

    async def stream_infer(self, data: bytes, streamed: Streamed) -> bytes:
        """The answer as it is in a stream."""
        return b"".join(wire.in_stream(await self._infer(data, streamed, stream=True)))

    def stream_error(self, streamed: Streamed, text: str) -> bytes:
        """An error as an answer in a stream."""
        return self._answer("ModelStreamInfer", error_message=text, infer_response={"id": streamed.id})

    async def _infer(self, data: bytes, streamed: Streamed, *, stream: bool = False) -> list[bytes]:
        data = await self._plain(data)
        limit = self._api.settings.tasks.max_json
        if not self._api.runtime.listeners.bodies.take(len(data)):
            raise Problem(503, "busy", "too much is being received at once, try again later")
        try:
            message, raw = wire.split(data, limit)
            streamed.id = message.id[:1024]
            model = self._inference.model(message.model_name, message.model_version)
            if len(data) - sum(map(len, raw)) <= SMALL:
                request = wire.read_request(message, raw)
            else:
                request = await self._api.run(wire.read_request, message, raw)
            request.size = len(data)
            final = stream and FINAL in message.parameters and message.parameters[FINAL].bool_param
            tensors = await self._inference.infer(model, request)
        finally:
            self._api.runtime.listeners.bodies.give(len(data))
        return wire.write_answer(model, request, tensors, final=final)
