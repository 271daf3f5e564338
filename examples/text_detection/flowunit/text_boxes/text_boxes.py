"""From the detector's probability map to boxes, as in "Real-time Scene Text Detection with Differentiable
Binarization" (Liao et al., 2019): threshold, contours, score, enlarge."""

import json

import _flowunit as modelbox
import cv2
import numpy as np


class TextBoxes(modelbox.FlowUnit):
    def open(self, config):
        self.threshold = config.get_float("threshold", 0.3)
        self.box_threshold = config.get_float("box_threshold", 0.5)
        self.unclip_ratio = config.get_float("unclip_ratio", 1.6)
        self.min_side = config.get_float("min_side", 3)
        return modelbox.Status()

    def process(self, data_context):
        out = data_context.output("out_data")
        for prob, image in zip(data_context.input("in_map"), data_context.input("in_image")):
            size = (image.get("width"), image.get("height"))
            prob_map = np.array(prob, copy=False)[0]
            answer = {"width": size[0], "height": size[1], "boxes": self.find(prob_map, size)}
            out.push_back(modelbox.Buffer(self.get_bind_device(), json.dumps(answer)))
        return modelbox.Status.StatusCode.STATUS_SUCCESS

    def find(self, prob_map, size):
        """Boxes in pixels of the original picture, from top to bottom."""
        # The padding unit scaled the picture so that it just fits; undo that.
        scale = min(prob_map.shape[1] / size[0], prob_map.shape[0] / size[1])
        mask = cv2.dilate((prob_map > self.threshold).astype(np.uint8), np.ones((2, 2), np.uint8))
        contours, _ = cv2.findContours(mask, cv2.RETR_LIST, cv2.CHAIN_APPROX_SIMPLE)
        boxes = []
        for contour in contours:
            (center, (width, height), angle) = cv2.minAreaRect(contour)
            if min(width, height) < self.min_side:
                continue
            score = self.score(prob_map, cv2.boxPoints((center, (width, height), angle)))
            if score < self.box_threshold:
                continue
            grow = 2 * width * height * self.unclip_ratio / (2 * (width + height))
            corners = cv2.boxPoints((center, (width + grow, height + grow), angle)) / scale
            corners = np.clip(np.rint(corners), 0, [size[0] - 1, size[1] - 1]).astype(int)
            boxes.append({"corners": corners.tolist(), "score": round(float(score), 3)})
        return sorted(boxes, key=lambda box: min(y for _, y in box["corners"]))

    def score(self, prob_map, corners):
        """Mean probability inside the box."""
        height, width = prob_map.shape
        left, top = np.clip(np.floor(corners.min(0)).astype(int), 0, [width - 1, height - 1])
        right, bottom = np.clip(np.ceil(corners.max(0)).astype(int), 0, [width - 1, height - 1])
        mask = np.zeros((bottom - top + 1, right - left + 1), np.uint8)
        cv2.fillPoly(mask, [np.rint(corners - [left, top]).astype(np.int32)], 1)
        return cv2.mean(prob_map[top : bottom + 1, left : right + 1], mask)[0]

    def close(self):
        return modelbox.Status()
