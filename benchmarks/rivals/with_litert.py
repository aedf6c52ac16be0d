"""LiteRT with XNNPACK, from what ``litert_convert.py`` wrote."""

import importlib.metadata

import numpy as np
from ai_edge_litert.interpreter import Interpreter


def version():
    """What is measured."""
    return f"LiteRT {importlib.metadata.version('ai-edge-litert')}"


def load(stem, x):
    """On one thread, channels last as its users deploy."""
    interpreter = Interpreter(str(stem.with_suffix(".tflite")), num_threads=1)
    interpreter.allocate_tensors()
    interpreter.set_tensor(interpreter.get_input_details()[0]["index"], np.ascontiguousarray(x.transpose(0, 2, 3, 1)))
    wanted = interpreter.get_output_details()[0]["index"]

    def run():
        interpreter.invoke()
        return interpreter.get_tensor(wanted)

    return run
