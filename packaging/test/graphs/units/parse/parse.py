import _flowunit as modelbox
import numpy as np


class Parse(modelbox.FlowUnit):
    def process(self, data_context):
        for buffer in data_context.input("in_data"):
            made = np.array([float(word) for word in str(buffer.as_object()).split()], dtype=np.float32)
            data_context.output("out_data").push_back(modelbox.Buffer(self.get_bind_device(), made))
        return modelbox.Status.StatusCode.STATUS_SUCCESS
