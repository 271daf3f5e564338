import _flowunit as modelbox
import numpy as np


class Text(modelbox.FlowUnit):
    def process(self, data_context):
        for buffer in data_context.input("in_data"):
            made = " ".join(str(number) for number in np.asarray(buffer).ravel()) + "\n"
            data_context.output("out_data").push_back(modelbox.Buffer(self.get_bind_device(), made))
        return modelbox.Status.StatusCode.STATUS_SUCCESS
