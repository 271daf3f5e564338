"""From the best class per column to text, by the rule of connectionist temporal classification (Graves et al., 2006): a
class that goes on over several columns counts once, and class 0 is none."""

from pathlib import Path

import _flowunit as modelbox
import numpy as np


class LineText(modelbox.FlowUnit):
    def open(self, config):
        names = (Path(__file__).parent / "characters.txt").read_text(encoding="utf-8").split("\n")
        self.characters = ["", *names, " "]
        return modelbox.Status()

    def process(self, data_context):
        """in_best: int64 [columns]; in_confidence: float32 [columns], its probability. out_text: text, meta `score`."""
        pairs = zip(data_context.input("in_best"), data_context.input("in_confidence"), strict=True)
        for best, confidence in pairs:
            classes = best.numpy()
            begins = (classes != np.roll(classes, 1)) & (classes != 0)
            begins[0] = classes[0] != 0
            text = "".join(self.characters[number] for number in classes[begins])
            line = modelbox.Buffer(self.get_bind_device(), text)
            line.set("score", float(confidence.numpy()[begins].mean()) if text else 0.0)
            data_context.output("out_text").push_back(line)
        return modelbox.Status.StatusCode.STATUS_SUCCESS

    def close(self):
        return modelbox.Status()
