"""Tells lines that stand on their head from the others."""

import _flowunit as modelbox


class LineTurned(modelbox.FlowUnit):
    def open(self, config):
        self.threshold = config.get_float("threshold", 0.9)
        return modelbox.Status()

    def process(self, data_context):
        """in_scores: float32 [2], upright and turned by 180 degrees; in_crop leaves by one of the ports."""
        _, turned = data_context.input("in_scores")[0].numpy()
        port = "out_upside_down" if turned > self.threshold else "out_upright"
        data_context.output(port).push_back(data_context.input("in_crop")[0])
        return modelbox.Status.StatusCode.STATUS_SUCCESS

    def close(self):
        return modelbox.Status()
