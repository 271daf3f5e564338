"""/v2: the Open Inference Protocol (KServe v2) for jobs that are models, with the binary tensor data extension."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from aiohttp import web

from modelboxd.api.problems import Problem
from modelboxd.api.routes import JSON, Answers, Body, Call, Param, Route, answer, nothing, parse_json
from modelboxd.api.schema import flag, list_of, number, record, ref, text
from modelboxd.api.tokens import Role
from modelboxd.graph.tensors import DATATYPES
from modelboxd.inference.json_codec import read_request, write_answer
from modelboxd.inference.model import Model
from modelboxd.inference.service import SMALL
from modelboxd.inference.views import config_view, index_view, model_view, server_view, stats_view
from modelboxd.server.answer import SECURITY_HEADERS, Answer, Headers, json_answer

if TYPE_CHECKING:
    from modelboxd.api.app import Api
    from modelboxd.inference.request import Request, Tensor

SUBJECT = "Inference protocol"
BYTES = "application/octet-stream"
LENGTH = "Inference-Header-Content-Length"
_BINARY = Headers({**SECURITY_HEADERS, "Content-Type": BYTES})


def error_answer(problem: Problem) -> Answer:
    """Errors as the protocol has them."""
    return json_answer(problem.status, {"error": problem.detail}, dict(problem.headers), close=problem.close)


class _Handlers:
    def __init__(self, api: Api) -> None:
        self._api = api
        self._inference = api.inference

    def _model(self, call: Call) -> Model:
        return self._inference.model(call.path["name"], call.path.get("version", ""))

    def _given(self, call: Call, schema: str) -> dict[str, Any]:
        """The JSON of a request, whatever Content-Type it has: clients of the protocol send none. Raises Problem."""
        if not call.body:
            return {}
        value = parse_json(call.body)
        errors = self._api.schemas.errors(ref(schema), value)
        if errors:
            raise Problem(400, "bad_request", f"{errors[0][0] or 'the body'} {errors[0][1]}")
        return dict(value)

    # ---- what there is ------------------------------------------------------------------------------------------

    async def server(self, _: Call) -> web.StreamResponse:
        return answer(server_view())

    async def model(self, call: Call) -> web.StreamResponse:
        return answer(model_view(self._model(call)))

    async def ready(self, call: Call) -> web.StreamResponse:
        model = self._model(call)
        troubles = model.job.troubles()
        if troubles:
            raise Problem(503, "busy", f"model '{model.name}': node '{troubles[0][0]}': {troubles[0][1]}")
        return answer({"name": model.name, "ready": True})

    async def config(self, call: Call) -> web.StreamResponse:
        return answer(config_view(self._model(call)))

    async def stats(self, call: Call) -> web.StreamResponse:
        model = self._model(call)
        return answer({"model_stats": [stats_view(model, self._inference.counts(model))]})

    async def all_stats(self, _: Call) -> web.StreamResponse:
        models = [self._inference.model(item.name) for item in self._inference.all() if not item.reason]
        return answer({"model_stats": [stats_view(model, self._inference.counts(model)) for model in models]})

    async def index(self, call: Call) -> web.StreamResponse:
        only_ready = bool(self._given(call, "ModelIndexQuery").get("ready", False))
        return answer([index_view(item) for item in self._inference.all() if not (only_ready and item.reason)])

    # ---- control ------------------------------------------------------------------------------------------------

    async def load(self, call: Call) -> web.StreamResponse:
        if self._given(call, "ModelControl").get("parameters"):
            text_ = "parameters of load are not supported: a model is a job, PUT /v1/jobs/ID gives it another graph"
            raise Problem(400, "bad_request", text_)
        await self._api.run(self._inference.load, self._inference.job_of(call.path["name"]))
        return nothing(200)

    async def unload(self, call: Call) -> web.StreamResponse:
        await self._api.run(self._inference.unload, self._inference.job_of(call.path["name"]))
        return nothing(200)

    async def refuse(self, call: Call) -> web.StreamResponse:
        raise Problem(400, "bad_request", refusal(call.request.rel_url.raw_path))

    # ---- inference ----------------------------------------------------------------------------------------------

    async def infer(self, call: Call) -> web.StreamResponse:
        model = self._model(call)
        self._inference.check_room(model, self._api.length(call.request, INFER))
        data = await self._api.read(call.request, INFER) or b""
        length = head_length(call.request, len(data))
        if length > self._api.settings.tasks.max_json:
            text_ = f"the JSON is larger than {self._api.settings.tasks.max_json} bytes (tasks.max_json)"
            raise Problem(413, "too_large", f"{text_}; send large tensors in binary form")
        if length <= SMALL:
            request = _read(data, length)
        else:
            request = await self._api.run(_read, data, length)
        tensors = await self._inference.infer(model, request)
        if sum(tensor.size for tensor in tensors) <= SMALL:
            made = _write(model, request, tensors)
        else:
            made = await self._api.run(_write, model, request, tensors)
        return made.response()


def _read(data: bytes | bytearray, length: int) -> Request:
    view = memoryview(data)
    return read_request(parse_json(bytes(view[:length])), view[length:])


def _write(model: Model, request: Request, tensors: list[Tensor]) -> Answer:
    body, length = write_answer(model, request, tensors)
    if not length:
        return Answer(200, _JSON, body)
    # Content-Type tells nothing of the JSON in front; the protocol has this header for it.
    return Answer(200, Headers({**_BINARY.fields, LENGTH: str(length)}), body)


_JSON = Headers({**SECURITY_HEADERS, "Content-Type": JSON})


def head_length(request: web.BaseRequest, size: int) -> int:
    """How many bytes of a body of `size` bytes are JSON. Raises Problem."""
    given = request.headers.getall(LENGTH, [])
    if not given:
        return size
    word = given[0]
    if len(given) > 1 or not (word.isascii() and word.isdigit() and len(word) < 16):
        raise Problem(400, "bad_request", f"{LENGTH} must be one whole number")
    if int(word) > size:
        raise Problem(400, "bad_request", f"{LENGTH} is {word}, the body has {size} bytes")
    if int(word) == 0:
        raise Problem(400, "bad_request", f"{LENGTH} is 0: requests without JSON are not supported")
    return int(word)


def refusal(what: str) -> str:
    """Why an extension is not there."""
    if "memory" in what.lower():
        return "shared memory of clients is not accepted; send the tensors themselves"
    if "trac" in what.lower():
        return "the trace extension is not supported; times of every node are at /v1/stats"
    return "the logging extension is not supported; [log] of modelbox.conf says what is logged"


# ---- the document ---------------------------------------------------------------------------------------------

_FREE = {"type": "object", "description": "Names and their values."}
_COUNT = {"ns": number("Nanoseconds in all.", integer=True), "count": number("How often.", integer=True)}
_SIDE = list_of(ref("ModelTensor"))
SCHEMAS = {
    "ServerMetadata": record(
        {
            "name": text("modelbox."),
            "version": text("Its version."),
            "extensions": list_of(text(), "What is there beside the protocol itself."),
        }
    ),
    "ModelTensor": record(
        {
            "name": text("Its name."),
            "datatype": text("Type of its elements.", enum=list(DATATYPES)),
            "shape": list_of(number(integer=True), "-1 where any size will do."),
        }
    ),
    "ModelMetadata": record(
        {
            "name": text("The model."),
            "versions": list_of(text(), "Its version."),
            "platform": text("modelbox_graph."),
            "inputs": _SIDE,
            "outputs": _SIDE,
        }
    ),
    "ModelReady": record({"name": text("The model."), "ready": flag("It takes requests.")}),
    "ModelConfigTensor": record(
        {
            "name": text("Its name."),
            "data_type": text("Type of its elements."),
            "dims": list_of(number(integer=True), "Without the batch; -1 where any size will do."),
        }
    ),
    "ModelConfig": record(
        {
            "name": text("The model."),
            "platform": text("modelbox_graph."),
            "backend": text("modelbox."),
            "max_batch_size": number("The largest batch; 0: tensors have none.", integer=True),
            "input": list_of(ref("ModelConfigTensor")),
            "output": list_of(ref("ModelConfigTensor")),
            "model_transaction_policy": _FREE,
        }
    ),
    "InferenceTime": record(_COUNT),
    "ModelStats": record(
        {
            "name": text("The model."),
            "version": text("Its version."),
            "last_inference": number("Milliseconds since 1970; 0 = never.", integer=True),
            "inference_count": number("Inferences; a batch of 8 counts 8.", integer=True),
            "execution_count": number("Requests that succeeded.", integer=True),
            "inference_stats": {
                "type": "object",
                "additionalProperties": ref("InferenceTime"),
                "description": "success, fail, queue, compute_input, compute_infer, compute_output.",
            },
            "batch_stats": list_of(_FREE, "Empty; batches of nodes are in /v1/stats."),
        }
    ),
    "AllModelStats": record({"model_stats": list_of(ref("ModelStats"))}),
    "ModelIndexQuery": record({}, {"ready": flag("Only those that are ready.")}),
    "ModelIndexEntry": record(
        {
            "name": text("The model."),
            "version": text("Its version."),
            "state": text("Whether it can be used.", enum=["READY", "UNAVAILABLE"]),
            "reason": text("Why not; empty when it is ready."),
        }
    ),
    "ModelControl": record({}, {"parameters": _FREE}),
    "InferInput": {
        "type": "object",
        "required": ["name", "datatype", "shape"],
        "properties": {
            "name": text("An input of the model."),
            "datatype": text("As the model's.", enum=list(DATATYPES)),
            "shape": list_of(number(integer=True, minimum=1), "With the batch in front, if the model has one."),
            "data": {"type": "array", "description": "The elements, flat or in nested lists."},
            "parameters": {**_FREE, "description": "binary_data_size: its bytes stand behind the JSON."},
        },
    },
    "InferWanted": {
        "type": "object",
        "required": ["name"],
        "properties": {
            "name": text("An output of the model."),
            "parameters": {**_FREE, "description": "binary_data: its bytes are to stand behind the JSON."},
        },
    },
    "InferRequest": {
        "type": "object",
        "required": ["inputs"],
        "properties": {
            "id": text("Comes back in the answer.", maxLength=1024),
            "parameters": {
                **_FREE,
                "description": "priority: 1 (first) to 10; timeout: microseconds; binary_data_output: all outputs.",
            },
            "inputs": list_of(ref("InferInput"), "All inputs of the model."),
            "outputs": list_of(ref("InferWanted"), "What is wanted; all where it is not given."),
        },
    },
    "InferOutput": record(
        {
            "name": text("The output."),
            "datatype": text("Type of its elements.", enum=list(DATATYPES)),
            "shape": list_of(number(integer=True), "Its shape."),
        },
        {"data": {"type": "array", "description": "The elements, flat."}, "parameters": _FREE},
    ),
    "InferAnswer": record(
        {
            "model_name": text("The model."),
            "model_version": text("Its version."),
            "outputs": list_of(ref("InferOutput")),
        },
        {"id": text("As in the request.")},
    ),
    "InferError": record({"error": text("What went wrong.")}),
}
INFER = Body(
    ref("InferRequest"), (JSON, BYTES), checked=False, streamed=True, compressed=True,
    help=f"JSON; with {LENGTH}, so many bytes of JSON and the tensors behind it. gzip and deflate are taken.",
)  # fmt: skip
INFER_HELP = f"""`binary_data_size` in the parameters of an input says how many bytes behind the JSON are its data, in
the order of the inputs; `{LENGTH}` says where the JSON ends. An output with `binary_data`
comes the same way. docs/inference-protocol.md has examples."""
NAME = Param(
    "name", text("The name of a model.", minLength=1, maxLength=64), "The model: the id of its job, or its name."
)
VERSION = Param("version", text("A version.", minLength=1, maxLength=32), "Its version.")
REFUSED = ("systemsharedmemory", "cudasharedmemory", "xpusharedmemory", "logging", "trace")


def routes(api: Api) -> list[Route]:
    """The routes of this subject."""
    do = _Handlers(api)

    def get(
        path: str, handler: Any, name: str, summary: str, schema: Any, problems: tuple[int, ...] = (404, 409)
    ) -> Route:
        params = (*([NAME] if "{name}" in path else []), *([VERSION] if "{version}" in path else []))
        return Route(
            "GET", path, handler, name, summary, Role.READ, {200: Answers("It is there.", schema)}, problems, SUBJECT,
            params, shape=error_answer,
        )  # fmt: skip

    made = [get("/v2", do.server, "serverMetadata", "The server", ref("ServerMetadata"), ())]
    for prefix, suffix in (("/v2/models/{name}", ""), ("/v2/models/{name}/versions/{version}", "Version")):
        params = (NAME, VERSION) if suffix else (NAME,)
        made += [
            get(prefix, do.model, f"modelMetadata{suffix}", "A model and its tensors", ref("ModelMetadata")),
            get(f"{prefix}/ready", do.ready, f"modelReady{suffix}", "Whether a model is ready", ref("ModelReady")),
            get(f"{prefix}/config", do.config, f"modelConfig{suffix}", "Configuration of a model", ref("ModelConfig")),
            get(f"{prefix}/stats", do.stats, f"modelStats{suffix}", "Statistics of a model", ref("AllModelStats")),
            Route(
                "POST", f"{prefix}/infer", do.infer, f"infer{suffix}", "Inference", Role.OPERATE,
                {200: Answers("The outputs.", ref("InferAnswer"))}, (404, 409, 422, 429, 502, 503, 504), SUBJECT,
                params, (), INFER, INFER_HELP, error_answer,
            ),
        ]  # fmt: skip
    made.append(
        get("/v2/models/stats", do.all_stats, "allModelStats", "Statistics of all models", ref("AllModelStats"))
    )
    made.append(
        Route(
            "POST", "/v2/repository/index", do.index, "modelIndex", "All models", Role.READ,
            {200: Answers("Ready or not.", list_of(ref("ModelIndexEntry")))}, (), SUBJECT,
            body=Body(ref("ModelIndexQuery"), checked=False, required=False), shape=error_answer,
        )
    )  # fmt: skip
    for verb, handler, what in (("load", do.load, "Starts the job"), ("unload", do.unload, "Drains and stops the job")):
        made.append(
            Route(
                "POST", f"/v2/repository/models/{{name}}/{verb}", handler, f"{verb}Model", f"{what} of a model",
                Role.ADMIN, {200: Answers("It is done.")}, (404, 409), SUBJECT, (NAME,),
                body=Body(ref("ModelControl"), checked=False, required=False), shape=error_answer,
            )
        )  # fmt: skip
    for word in REFUSED:  # not in the document: they are there to say no
        for method in ("GET", "POST"):
            for at, path in enumerate(
                (f"/v2/{word}/{{rest*}}", f"/v2/models/{{name}}/{word}/{{rest*}}", f"/v2/{word}")
            ):
                made.append(
                    Route(
                        method, path, do.refuse, f"{method}{word}{at}", "Refused", Role.READ, {}, shape=error_answer,
                    )
                )  # fmt: skip
    return made
