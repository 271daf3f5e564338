"""From the detector's probability map to boxes of text lines in reading order, as in "Real-time Scene Text Detection
with Differentiable Binarization" (Liao et al., 2019). Pages without text leave by a port of their own."""

import json

import _flowunit as modelbox
import cv2
import numpy as np
from rectangle import corners_of, grown, inside, upright


class TextLines(modelbox.FlowUnit):
    def open(self, config):
        self.threshold = config.get_float("threshold", 0.3)
        self.box_threshold = config.get_float("box_threshold", 0.5)
        self.unclip_ratio = config.get_float("unclip_ratio", 1.6)
        self.min_side = config.get_float("min_side", 3)
        self.max_boxes = config.get_int("max_boxes", 1000)
        self.same_line = config.get_int("same_line", 10)
        return modelbox.Status()

    def process(self, data_context):
        """in_map: float32 [1, h, w], from 0 to 1; in_page: the page. One of the ports gets something: out_page the page
        with meta `boxes`, float32 [lines, 4, 2]; out_empty the answer for a page without text."""
        page = data_context.input("in_page")[0]
        prob_map = data_context.input("in_map")[0].numpy()[0]
        boxes = self.find(prob_map, page.get("width"), page.get("height"))
        if boxes:
            page.set("boxes", self.in_reading_order(np.array(boxes)))
            data_context.output("out_page").push_back(page)
        else:
            width, height = page.get("picture")
            answer = json.dumps({"width": width, "height": height, "lines": []})
            data_context.output("out_empty").push_back(modelbox.Buffer(self.get_bind_device(), answer))
        return modelbox.Status.StatusCode.STATUS_SUCCESS

    def find(self, prob_map, width, height):
        """Boxes in whole pixels of a page of width x height; corners clockwise from the top left."""
        mask = cv2.dilate((prob_map > self.threshold).astype(np.uint8), np.ones((2, 2), np.uint8))
        contours, _ = cv2.findContours(mask, cv2.RETR_LIST, cv2.CHAIN_APPROX_SIMPLE)
        size, of_map = np.array([width, height], np.float32), np.array(prob_map.shape[::-1], np.float32)
        boxes = []
        for contour in contours[: self.max_boxes]:
            corners, side = corners_of(contour)
            if side < self.min_side or self.score(prob_map, corners) < self.box_threshold:
                continue
            corners, side = corners_of(grown(corners, self.unclip_ratio))
            if side < self.min_side + 2:
                continue
            corners = np.clip(np.rint(corners / of_map * size), 0, size).astype(np.int32)
            box = inside(upright(corners), width, height)
            if min(int(np.linalg.norm(box[0] - box[1])), int(np.linalg.norm(box[0] - box[3]))) > 3:
                boxes.append(box)
        return boxes

    def score(self, prob_map, corners):
        """Mean probability inside the box."""
        height, width = prob_map.shape
        left, top = np.clip(np.floor(corners.min(0)), 0, [width - 1, height - 1]).astype(int)
        right, bottom = np.clip(np.ceil(corners.max(0)), 0, [width - 1, height - 1]).astype(int)
        mask = np.zeros((bottom - top + 1, right - left + 1), np.uint8)
        cv2.fillPoly(mask, [(corners - np.array([left, top], np.float32)).astype(np.int32)], 1)
        return cv2.mean(prob_map[top : bottom + 1, left : right + 1], mask)[0]

    def in_reading_order(self, boxes):
        """From top to bottom; boxes whose top is less than `same_line` pixels below the one before are on its line and
        go from left to right."""
        boxes = boxes[np.argsort(boxes[:, 0, 1], kind="stable")]
        steps = np.diff(boxes[:, 0, 1], prepend=boxes[0, 0, 1])
        return boxes[np.lexsort((boxes[:, 0, 0], np.cumsum(steps >= self.same_line)))]

    def close(self):
        return modelbox.Status()
