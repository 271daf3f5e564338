import time

import _flowunit as modelbox


class Slow(modelbox.FlowUnit):
    def process(self, data_context):
        for buffer in data_context.input("in_data"):
            time.sleep(float(buffer.as_object()))
            made = "slept\n"
            data_context.output("out_data").push_back(modelbox.Buffer(self.get_bind_device(), made))
        return modelbox.Status.StatusCode.STATUS_SUCCESS
