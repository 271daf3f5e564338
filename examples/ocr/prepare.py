"""Puts the models of package rapidocr into this example; text_detection's prepare.py does the rest.

The recognition model gets three more nodes: of the 18710 probabilities per column only the best one is of use, and
picking it inside the model saves carrying the others around.
"""

import importlib.util
import runpy
import sys
from pathlib import Path

HERE = Path(__file__).resolve().parent
UNITS = HERE / "flowunit"
CLASSIFIER = UNITS / "text_cls/ch_ppocr_mobile_v2.0_cls_mobile.onnx"
RECOGNIZER = UNITS / "text_rec/PP-OCRv6_rec_small_best.onnx"
CHARACTERS = UNITS / "line_text/characters.txt"


def main():
    runpy.run_path(str(HERE.parent / "text_detection/prepare.py"), run_name="__main__")
    spec = importlib.util.find_spec("rapidocr")
    models = Path(spec.origin).parent / "models" if spec and spec.origin else None
    classifier, recognizer = (
        models / name if models else None for name in (CLASSIFIER.name, "PP-OCRv6_rec_small.onnx")
    )
    if not (models and classifier.exists() and recognizer.exists()):
        if CLASSIFIER.exists() and RECOGNIZER.exists() and CHARACTERS.exists():
            return
        sys.exit("prepare.py: the models of package rapidocr are not there; run `make setup`")
    data = classifier.read_bytes()
    if not CLASSIFIER.exists() or CLASSIFIER.read_bytes() != data:
        CLASSIFIER.write_bytes(data)
    age = max(recognizer.stat().st_mtime, Path(__file__).stat().st_mtime)
    if not (CHARACTERS.exists() and RECOGNIZER.exists() and RECOGNIZER.stat().st_mtime >= age):
        recognition(recognizer)


def recognition(source):
    """Writes the model with the nodes added, and its characters, class 1 first."""
    import numpy as np
    import onnx
    from onnx import TensorProto, helper, numpy_helper

    model = onnx.load(source)
    graph = model.graph
    scores = graph.output[0].name
    graph.initializer.append(numpy_helper.from_array(np.array([1]), "best_of_all"))
    graph.node.append(helper.make_node("TopK", [scores, "best_of_all"], ["top_confidence", "top_class"], axis=2))
    graph.node.append(helper.make_node("Squeeze", ["top_class"], ["best"], axes=[2]))
    graph.node.append(helper.make_node("Squeeze", ["top_confidence"], ["confidence"], axes=[2]))
    del graph.output[:]
    graph.output.append(helper.make_tensor_value_info("best", TensorProto.INT64, ["lines", "columns"]))
    graph.output.append(helper.make_tensor_value_info("confidence", TensorProto.FLOAT, ["lines", "columns"]))
    onnx.checker.check_model(model)
    onnx.save(model, RECOGNIZER)
    characters = next(entry.value for entry in model.metadata_props if entry.key == "character").splitlines()
    CHARACTERS.write_text("\n".join(characters), encoding="utf-8", newline="\n")


if __name__ == "__main__":
    main()
