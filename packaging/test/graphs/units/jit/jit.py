import ctypes
import mmap

import _flowunit as modelbox


class Jit(modelbox.FlowUnit):
    def process(self, data_context):
        for buffer in data_context.input("in_data"):
            made = {"map": map_code, "callback": call_back}[buffer.as_object()]()
            data_context.output("out_data").push_back(modelbox.Buffer(self.get_bind_device(), made))
        return modelbox.Status.StatusCode.STATUS_SUCCESS


def map_code() -> str:
    mmap.mmap(-1, 4096, prot=mmap.PROT_READ | mmap.PROT_WRITE | mmap.PROT_EXEC).close()
    return "mapped"


def call_back() -> str:
    return f"called {ctypes.CFUNCTYPE(ctypes.c_int, ctypes.c_int)(lambda number: number + 1)(41)}"
