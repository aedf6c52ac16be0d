"""onnxruntime."""

import onnxruntime


def version():
    """What is measured."""
    return f"onnxruntime {onnxruntime.__version__}"


def load(stem, x):
    """On one thread."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    session = onnxruntime.InferenceSession(str(stem.with_suffix(".onnx")), options, providers=["CPUExecutionProvider"])
    inputs = {session.get_inputs()[0].name: x}
    return lambda: session.run(None, inputs)[0]
