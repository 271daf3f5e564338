"""inference_onnx: ONNX models by onnxruntime, behind unit TOMLs with virtual_type = "onnx".

Ports:   named as the model's tensors; buffers carry meta `shape` (without the batch) and `type`
Batch:   buffers of one shape are stacked to [N] + shape when the model's first dimension is free; when it is fixed
         they run so many at a time (one by one for 1; what is missing is filled up and thrown away); a buffer whose
         shape has the model's rank and begins with 1 is taken as it is
Outputs: split along dimension 0, meta shape (without the batch) and type, nothing else; of a model whose batch is
         fixed at 1, an output that does not begin with 1 is handed on whole
Errors:  a buffer that does not fit becomes an error buffer `<unit>.ProcessError`; the others of its batch go on
Options: intra_op_num_threads, inter_op_num_threads (0 = by the CPUs of this process and its cgroup)
Source:  ONNX Runtime Python API, InferenceSession and SessionOptions
"""

from __future__ import annotations

import difflib
import logging
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from modelbox.buffer import Buffer
from modelbox.configuration import Configuration
from modelbox.device import CPU
from modelbox.errors import ConfigError, UnitError
from modelboxd.engine.unit import BuiltinUnit, PortTensor, Services, UnitCall
from modelboxd.graph.model import Node

log = logging.getLogger(__name__)

Array = npt.NDArray[Any]
Row = list[Array]  # what belongs to one buffer, per port
_DTYPES = {
    "tensor(float)": np.float32,
    "tensor(double)": np.float64,
    "tensor(float16)": np.float16,
    "tensor(int8)": np.int8,
    "tensor(uint8)": np.uint8,
    "tensor(int16)": np.int16,
    "tensor(uint16)": np.uint16,
    "tensor(int32)": np.int32,
    "tensor(uint32)": np.uint32,
    "tensor(int64)": np.int64,
    "tensor(uint64)": np.uint64,
    "tensor(bool)": np.bool_,
}
# Words of `type` in [input.inputN], in any case; types of the tree of port types ("tensor") leave it to the model.
_WORDS = {
    "FLOAT": np.float32,
    "FLOAT32": np.float32,
    "DOUBLE": np.float64,
    "FLOAT64": np.float64,
    "FLOAT16": np.float16,
    "INT8": np.int8,
    "UINT8": np.uint8,
    "INT16": np.int16,
    "UINT16": np.uint16,
    "INT": np.int32,
    "INT32": np.int32,
    "UINT32": np.uint32,
    "LONG": np.int64,
    "INT64": np.int64,
    "UINT64": np.uint64,
    "BOOL": np.bool_,
}

_TREE = ("raw", "buff", "string", "tensor", "image")  # docs/graphs.md; a file with [types] has all words checked


class OnnxInference(BuiltinUnit):
    def __init__(self, node: Node, config: Configuration, services: Services) -> None:
        super().__init__(node, config, services)
        self._session: Any = None
        self._inputs: list[Any] = []
        self._outputs: list[str] = []
        self._tensors: dict[str, PortTensor] = {}
        self._dtypes: dict[str, Any] = {}
        self._batch = 0  # the model's first dimension where it is a number
        self._single = False  # a batch of one is part of the model's shape
        # As many runs at once as there are CPUs without their intra-op share: more only fight for them.
        self._slots: threading.Semaphore | None = None

    # ---- opening ---------------------------------------------------------------------------------------

    def open(self) -> None:
        model = Path(self.node.unit.entry)
        if not model.is_file():
            raise ConfigError(f"node '{self.node.name}': model file {model} does not exist", hint=self.node.unit.path)
        if self.node.unit.base.get("encryption"):
            raise ConfigError(
                f"node '{self.node.name}': encrypted models cannot be read",
                hint=f"[encryption] in {self.node.unit.path}",
            )
        try:
            import onnxruntime as ort
        except ImportError:
            raise ConfigError(
                f"node '{self.node.name}': onnxruntime is not installed",
                hint="apt install modelbox-onnx, or pip install 'modelbox[onnx]'",
            ) from None
        cpus = self.services.cpus
        intra = self._threads("intra_op_num_threads") or cpus
        options = ort.SessionOptions()
        options.intra_op_num_threads = intra
        options.inter_op_num_threads = self._threads("inter_op_num_threads") or 1
        options.log_severity_level = 3
        # Threads that spin between runs would keep the CPUs from everything else.
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        options.add_session_config_entry("session.inter_op.allow_spinning", "0")
        try:
            self._session = ort.InferenceSession(str(model), options, providers=["CPUExecutionProvider"])
        except Exception as error:  # onnxruntime has many exception classes and no common base
            text = str(error).split("\n")[0]
            raise ConfigError(f"node '{self.node.name}': model {model} cannot be loaded: {text}") from None
        self._slots = threading.Semaphore(max(1, cpus // intra))
        self._match_ports()

    def _threads(self, key: str) -> int:
        text = self.config.get_string(key, "0")
        if not text.isdigit():
            raise ConfigError(f"node '{self.node.name}': {key} = {text!r} is no whole number")
        return int(text)

    def _match_ports(self) -> None:
        inputs = {item.name: item for item in self._session.get_inputs()}
        outputs = {item.name: item for item in self._session.get_outputs()}
        self._check_names("input", [port.name for port in self.node.unit.inputs], list(inputs), complete=True)
        self._check_names("output", [port.name for port in self.node.unit.outputs], list(outputs), complete=False)
        self._inputs = [inputs[port.name] for port in self.node.unit.inputs]
        self._outputs = [port.name for port in self.node.unit.outputs]
        for item in (*self._inputs, *(outputs[name] for name in self._outputs)):
            if item.type not in _DTYPES:
                raise ConfigError(
                    f"node '{self.node.name}' port '{item.name}': the model's type {item.type} is not supported"
                )
            self._dtypes[item.name] = np.dtype(_DTYPES[item.type])
        self._check_types("input", self._inputs)
        self._check_types("output", [outputs[name] for name in self._outputs])
        fixed = [item.shape[0] for item in self._inputs if item.shape and isinstance(item.shape[0], int)]
        self._batch = min(fixed, default=0)
        self._single = all(list(item.shape)[:1] == [1] for item in self._inputs)
        for item in (*self._inputs, *(outputs[name] for name in self._outputs)):
            dims = [dim if isinstance(dim, int) and dim > 0 else -1 for dim in item.shape]
            whole = self._single and item.shape[:1] != [1]
            shape = tuple(dims if whole else dims[1:])
            self._tensors[item.name] = PortTensor(self._dtypes[item.name].name, shape, self._batch)

    def _check_types(self, side: str, items: list[Any]) -> None:
        """`type` of the ports in the unit's TOML against the model's."""
        section: Any = self.node.unit.base.get(side, {})
        words = {str(port.get("name")): str(port.get("type", "")) for port in section.values()}
        for item in items:
            word = words.get(item.name, "")
            told = _WORDS.get(word.upper())
            if told is None and word and word not in _TREE and "types" not in self.node.unit.base:
                near = difflib.get_close_matches(word.upper(), _WORDS, 1)
                hint = f"did you mean {near[0]!r}?" if near else f"known: {', '.join(_WORDS)}"
                raise ConfigError(
                    f"node '{self.node.name}' port '{item.name}': type = {word!r} is not known",
                    hint=f"{hint}; [{side}] in {self.node.unit.path}",
                )
            if told is not None and np.dtype(told) != self._dtypes[item.name]:
                raise ConfigError(
                    f"node '{self.node.name}' port '{item.name}': type = {word!r}, but the model's {side} is "
                    f"{self._dtypes[item.name]}",
                    hint=f"[{side}] in {self.node.unit.path}",
                )

    def _check_names(self, side: str, ports: list[str], tensors: list[str], *, complete: bool) -> None:
        for port in ports:
            if port not in tensors:
                near = difflib.get_close_matches(port, tensors, 1)
                hint = f"did you mean '{near[0]}'? " if near else ""
                raise ConfigError(
                    f"node '{self.node.name}': {side} port '{port}' is no tensor of the model",
                    hint=f"{hint}its {side}s: {', '.join(tensors)}; ports are named in {self.node.unit.path}",
                )
        missing = [tensor for tensor in tensors if tensor not in ports]
        if complete and missing:
            raise ConfigError(
                f"node '{self.node.name}': the model's {side} '{missing[0]}' has no port",
                hint=f"add it to [{side}] in {self.node.unit.path}",
            )

    def tensors(self) -> dict[str, PortTensor]:
        return self._tensors

    def close(self) -> None:
        self._session = None

    # ---- running ---------------------------------------------------------------------------------------

    def process(self, call: UnitCall) -> None:
        columns = [list(call.input(item.name)) for item in self._inputs]
        rows: dict[int, Row] = {}
        results: dict[int, Row | UnitError] = {}
        for position, buffers in enumerate(zip(*columns, strict=True)):
            try:
                rows[position] = [self._array(*pair) for pair in zip(self._inputs, buffers, strict=True)]
            except UnitError as error:
                results[position] = error
        for positions in self._groups(rows):
            results.update(zip(positions, self._try([rows[at] for at in positions]), strict=True))
        for position in range(len(columns[0])):
            result = results[position]
            if isinstance(result, UnitError):
                failed = Buffer(CPU)
                failed.set_error(f"{self.node.unit.name}.ProcessError", str(result))
                for name in self._outputs:
                    call.output(name).push_back(failed)
                continue
            for name, array in zip(self._outputs, result, strict=True):
                call.output(name).push_back(Buffer(CPU, array))

    def _try(self, rows: Sequence[Row]) -> Sequence[Row | UnitError]:
        """The results of rows that run together. Where that fails each runs alone, so that one row, perhaps of
        another session, does not spoil the rest."""
        try:
            return self._run(rows)
        except UnitError as error:
            if len(rows) == 1:
                return [error]
            results = [result for row in rows for result in self._try([row])]
            if not self._batch and not any(isinstance(result, UnitError) for result in results):
                log.warning("%s: the buffers run one by one from now on", error, extra=self.about)
                self._batch = 1
            return results

    def _array(self, item: Any, buffer: Buffer) -> Array:
        """The buffer as [1 or more dims without batch]; checks type and shape against the model."""
        where = f"node '{self.node.name}' port '{item.name}'"
        if "shape" not in buffer.meta_dict():
            raise UnitError(f"{where}: the buffer has no meta 'shape'")
        array = buffer.numpy()
        wanted = self._dtypes[item.name]
        if array.dtype != wanted:
            raise UnitError(f"{where}: the model takes {wanted}, the buffer holds {array.dtype}")
        dims = list(item.shape)
        shape = list(array.shape)
        if len(shape) == len(dims) and shape[:1] == [1]:
            array, shape = array[0], shape[1:]
        if len(shape) + 1 != len(dims) or any(
            isinstance(dim, int) and dim != size for dim, size in zip(dims[1:], shape, strict=False)
        ):
            shown = ", ".join(str(dim) if isinstance(dim, int) else "?" for dim in dims)
            raise UnitError(f"{where}: the model takes [{shown}] (batch first), the buffer has {list(array.shape)}")
        return array

    def _groups(self, rows: dict[int, Row]) -> list[list[int]]:
        """Positions that can run together: equal shapes, and no more than a fixed batch of the model."""
        limit = self._batch
        by_shape: dict[tuple[tuple[int, ...], ...], list[int]] = {}
        for position, row in rows.items():
            by_shape.setdefault(tuple(array.shape for array in row), []).append(position)
        groups = []
        for positions in by_shape.values():
            size = limit or len(positions)
            groups += [positions[at : at + size] for at in range(0, len(positions), size)]
        return groups

    def _run(self, rows: Sequence[Row]) -> list[Row]:
        count = len(rows)
        size = self._batch or count
        feeds = {}
        for number, item in enumerate(self._inputs):
            arrays = [row[number] for row in rows]
            arrays += arrays[-1:] * (size - count)  # fills up a batch of fixed size
            feeds[item.name] = arrays[0][np.newaxis] if size == 1 else np.stack(arrays)
        assert self._slots is not None
        with self._slots:
            try:
                outputs = self._session.run(self._outputs, feeds)
            except Exception as error:  # see open()
                text = str(error).split("\n")[0]
                raise UnitError(f"node '{self.node.name}': the model failed: {text}") from None
        for number, name in enumerate(self._outputs):
            shape = list(outputs[number].shape)
            if self._single and shape[:1] != [1]:
                outputs[number] = outputs[number][np.newaxis]
            elif shape[:1] != [size]:
                raise UnitError(f"node '{self.node.name}' port '{name}': the model gave {shape} for a batch of {size}")
        return [[np.ascontiguousarray(output[at]) for output in outputs] for at in range(count)]
