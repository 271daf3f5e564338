"""From the picture of a line to what recognition takes."""

import _flowunit as modelbox
import cv2
import numpy as np

HEIGHT = 48


class LineInput(modelbox.FlowUnit):
    def open(self, config):
        return modelbox.Status()

    def process(self, data_context):
        """in_crop: uint8 [h, w, 3], meta `width`. out_image: float32 [3, 48, width] from -1 to 1, filled up with 0 on
        the right."""
        for buffer in data_context.input("in_crop"):
            crop = buffer.numpy()
            width = min(buffer.get("width"), int(np.ceil(HEIGHT * (crop.shape[1] / crop.shape[0]))))
            image = np.zeros((3, HEIGHT, buffer.get("width")), np.float32)
            image[:, :, :width] = cv2.resize(crop, (width, HEIGHT)).transpose(2, 0, 1) / np.float32(127.5) - 1
            data_context.output("out_image").push_back(modelbox.Buffer(self.get_bind_device(), image))
        return modelbox.Status.StatusCode.STATUS_SUCCESS

    def close(self):
        return modelbox.Status()
