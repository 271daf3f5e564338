"""Cuts the lines out of a page, one buffer per line."""

import _flowunit as modelbox
import cv2
import numpy as np

HEIGHT, WIDTH = 48, 320  # of a line in recognition: the height, and the least width
SMALL = 192  # width of a line in classification


class LineCrops(modelbox.FlowUnit):
    def open(self, config):
        self.group = config.get_int("group", 6)
        return modelbox.Status()

    def process(self, data_context):
        """in_page: uint8 [h, w, 3] with meta `boxes`.

        Per line, out_crop: its picture, with meta `width` for recognition; out_small: float32 [3, 48, 192] for
        classification; out_box: float32 [4, 2], corners in pixels of the picture that was posted, whose size is meta
        `picture`.
        """
        device = self.get_bind_device()
        buffer = data_context.input("in_page")[0]
        page, boxes = buffer.numpy(), buffer.get("boxes")
        crops = [cut(page, box) for box in boxes]
        for crop, width, box in zip(crops, self.widths(crops), self.in_picture(boxes, buffer), strict=True):
            made = modelbox.Buffer(device, crop)
            made.set("width", width)
            data_context.output("out_crop").push_back(made)
            data_context.output("out_small").push_back(modelbox.Buffer(device, small(crop)))
            made = modelbox.Buffer(device, box)
            made.set("picture", buffer.get("picture"))
            data_context.output("out_box").push_back(made)
        return modelbox.Status.StatusCode.STATUS_SUCCESS

    def widths(self, crops):
        """How wide each line is made for recognition: filled up to the widest of a group of similar ones on its page.
        The model's scores depend on that width, so lines of other pages must not change it."""
        ratios = np.array([crop.shape[1] / crop.shape[0] for crop in crops])
        order = np.argsort(ratios)
        widths = [0] * len(crops)
        for at in range(0, len(crops), self.group):
            members = order[at : at + self.group]
            widest = max(WIDTH / HEIGHT, ratios[members].max())
            for member in members:
                widths[member] = int(HEIGHT * widest)
        return widths

    def in_picture(self, boxes, page):
        """Boxes on the page as boxes in the picture that was posted."""
        moved = (boxes - np.array([0, page.get("top")], np.float32)) * np.array(page.get("ratio"), np.float32)
        return np.clip(moved, 0, np.array(page.get("picture"), np.float32))

    def close(self):
        return modelbox.Status()


def cut(page, box):
    """What is inside the box, as an upright rectangle; one that is much higher than wide is turned to lie."""
    top, right, bottom, left = np.linalg.norm(box - np.roll(box, -1, 0), axis=1)
    width, height = int(max(top, bottom)), int(max(left, right))
    target = np.array([[0, 0], [width, 0], [width, height], [0, height]], np.float32)
    crop = cv2.warpPerspective(
        page,
        cv2.getPerspectiveTransform(box, target),
        (width, height),
        flags=cv2.INTER_CUBIC,
        borderMode=cv2.BORDER_REPLICATE,
    )
    return np.rot90(crop) if height / width >= 1.5 else crop


def small(crop):
    """The line as classification takes it: 48 high, at most 192 wide, from -1 to 1, filled up with 0 on the right."""
    height, width = crop.shape[:2]
    width = min(SMALL, int(np.ceil(HEIGHT * (width / height))))
    result = np.zeros((3, HEIGHT, SMALL), np.float32)
    result[:, :, :width] = cv2.resize(crop, (width, HEIGHT)).transpose(2, 0, 1) / np.float32(127.5) - 1
    return result
