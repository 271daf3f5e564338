"""Turns a line by 180 degrees."""

import _flowunit as modelbox
import cv2


class TurnOver(modelbox.FlowUnit):
    def open(self, config):
        return modelbox.Status()

    def process(self, data_context):
        """in_crop, out_crop: uint8 [h, w, 3]; meta goes along."""
        for buffer in data_context.input("in_crop"):
            turned = modelbox.Buffer(self.get_bind_device(), cv2.rotate(buffer.numpy(), cv2.ROTATE_180))
            turned.copy_meta(buffer)
            data_context.output("out_crop").push_back(turned)
        return modelbox.Status.StatusCode.STATUS_SUCCESS

    def close(self):
        return modelbox.Status()
