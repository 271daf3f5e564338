"""inference_onnx: ONNX models by onnxruntime, behind unit TOMLs with virtual_type = "onnx".

Ports:   named as the model's tensors; buffers carry meta `shape` (without the batch) and `type`
Batch:   buffers of one shape are stacked to [N] + shape when the model's first dimension is free or fits, else
         they run one by one; a buffer whose shape has the model's rank and begins with 1 is taken as it is
Outputs: split along dimension 0, meta shape (without the batch) and type, nothing else
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
from modelboxd.engine.unit import BuiltinUnit, Services, UnitCall
from modelboxd.graph.model import Node

log = logging.getLogger(__name__)

Array = npt.NDArray[Any]
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


class OnnxInference(BuiltinUnit):
    def __init__(self, node: Node, config: Configuration, services: Services) -> None:
        super().__init__(node, config, services)
        self._session: Any = None
        self._inputs: list[Any] = []
        self._outputs: list[str] = []
        self._dtypes: dict[str, Any] = {}
        # As many runs at once as there are CPUs without their intra-op share: more only fight for them.
        self._slots: threading.Semaphore | None = None

    # ---- opening ---------------------------------------------------------------------------------------

    def open(self) -> None:
        model = Path(self.node.unit.entry)
        if not model.is_file():
            raise ConfigError(f"node '{self.node.name}': model file {model} does not exist", hint=self.node.unit.path)
        try:
            import onnxruntime as ort
        except ImportError:
            raise ConfigError(
                f"node '{self.node.name}': onnxruntime is not installed", hint="pip install 'modelbox[onnx]'"
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

    def close(self) -> None:
        self._session = None

    # ---- running ---------------------------------------------------------------------------------------

    def process(self, call: UnitCall) -> None:
        columns = [list(call.input(item.name)) for item in self._inputs]
        rows: list[list[Array]] = [
            [self._array(item, buffer) for item, buffer in zip(self._inputs, row, strict=True)]
            for row in zip(*columns, strict=True)
        ]
        results: list[list[Array]] = [[] for _ in rows]
        for positions in self._groups(rows):
            arrays = [
                self._stack(number, [rows[at][number] for at in positions]) for number in range(len(self._inputs))
            ]
            for position, row in zip(positions, self._run(arrays, len(positions)), strict=True):
                results[position] = row
        for row in results:
            for name, array in zip(self._outputs, row, strict=True):
                call.output(name).push_back(Buffer(CPU, array))

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

    def _groups(self, rows: list[list[Array]]) -> list[list[int]]:
        """Positions that can run together: equal shapes, and no more than a fixed batch of the model."""
        fixed = [item.shape[0] for item in self._inputs if item.shape and isinstance(item.shape[0], int)]
        limit = min(fixed) if fixed else 0
        by_shape: dict[tuple[tuple[int, ...], ...], list[int]] = {}
        for position, row in enumerate(rows):
            by_shape.setdefault(tuple(array.shape for array in row), []).append(position)
        groups = []
        for positions in by_shape.values():
            size = limit or len(positions)
            groups += [positions[at : at + size] for at in range(0, len(positions), size)]
        if limit > 1 and any(len(group) != limit for group in groups):
            raise UnitError(
                f"node '{self.node.name}': the model's batch is fixed at {limit}", hint=f"batch_size={limit}"
            )
        return groups

    def _stack(self, number: int, arrays: Sequence[Array]) -> Array:
        return arrays[0][np.newaxis] if len(arrays) == 1 else np.stack(arrays)

    def _run(self, arrays: list[Array], count: int) -> list[list[Array]]:
        feeds = {item.name: array for item, array in zip(self._inputs, arrays, strict=True)}
        assert self._slots is not None
        with self._slots:
            try:
                outputs = self._session.run(self._outputs, feeds)
            except Exception as error:  # see open()
                text = str(error).split("\n")[0]
                raise UnitError(f"node '{self.node.name}': the model failed: {text}") from None
        for name, output in zip(self._outputs, outputs, strict=True):
            if not output.shape or output.shape[0] != count:
                raise UnitError(
                    f"node '{self.node.name}' port '{name}': the model gave {list(output.shape)} for a batch of {count}"
                )
        return [[np.ascontiguousarray(output[at]) for output in outputs] for at in range(count)]
