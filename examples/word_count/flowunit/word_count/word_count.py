"""Counts words."""

import collections
import json
import re

import _flowunit as modelbox


class WordCount(modelbox.FlowUnit):
    def process(self, data_context):
        outputs = data_context.output("out_counts")
        for buffer in data_context.input("in_text"):
            text = buffer.as_object()
            if not isinstance(text, str):
                raise ValueError("this is no text")
            counts = collections.Counter(re.findall(r"\w+", text.lower()))
            outputs.push_back(modelbox.Buffer(self.get_bind_device(), json.dumps(dict(counts.most_common(10)))))
        return modelbox.Status.StatusCode.STATUS_SUCCESS
