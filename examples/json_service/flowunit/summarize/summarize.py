import json

import _flowunit as modelbox


class Summarize(modelbox.FlowUnit):
    def process(self, data_context):
        for buffer in data_context.input("order"):
            items = json.loads(buffer.as_object())["items"]
            total = sum(item["count"] * item["cents"] for item in items)
            summary = json.dumps({"items": len(items), "cents": total})
            data_context.output("summary").push_back(modelbox.Buffer(self.get_bind_device(), summary))
        return modelbox.Status.StatusCode.STATUS_SUCCESS
