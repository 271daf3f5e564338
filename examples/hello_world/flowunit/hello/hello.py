import _flowunit as modelbox


class Hello(modelbox.FlowUnit):
    def open(self, config):
        return modelbox.Status()

    def process(self, data_context):
        in_data = data_context.input("in_data")
        out_data = data_context.output("out_data")
        for buffer in in_data:
            name = buffer.as_object().strip() or "world"
            out_data.push_back(modelbox.Buffer(self.get_bind_device(), f"hello, {name}\n"))
        return modelbox.Status.StatusCode.STATUS_SUCCESS

    def close(self):
        return modelbox.Status()
