"""The lines of a page as one answer."""

import json

import _flowunit as modelbox


class OcrAnswer(modelbox.FlowUnit):
    def open(self, config):
        self.min_score = config.get_float("min_score", 0.5)
        return modelbox.Status()

    def process(self, data_context):
        """in_text: texts with meta `score`; in_box: float32 [4, 2] with meta `picture`, the size of the picture."""
        texts, boxes = data_context.input("in_text"), data_context.input("in_box")
        width, height = boxes[0].get("picture")
        lines = [
            {"text": str(text), "score": round(text.get("score"), 5), "box": box.numpy().tolist()}
            for text, box in zip(texts, boxes, strict=True)
            if str(text).strip() and text.get("score") >= self.min_score
        ]
        answer = json.dumps({"width": width, "height": height, "lines": lines}, ensure_ascii=False)
        data_context.output("out_answer").push_back(modelbox.Buffer(self.get_bind_device(), answer))
        return modelbox.Status.StatusCode.STATUS_SUCCESS

    def close(self):
        return modelbox.Status()
