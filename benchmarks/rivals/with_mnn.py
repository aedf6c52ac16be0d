"""MNN in fp32, told to look for sparse weights."""

import _tools  # MNN's own module: its command-line converter installs and reports things
import MNN
import numpy as np

SPARSE = ["--detectSparseSpeedUp"]


def version():
    """What is measured."""
    return f"MNN {MNN.version()}" + (", sparse" if SPARSE else "")


def load(stem, x):
    """On one thread."""
    path = stem.with_suffix(".sparse.mnn" if SPARSE else ".mnn")
    if not path.exists():
        _tools.mnnconvert(["mnnconvert", "-f", "ONNX", "--modelFile", f"{stem}.onnx", "--MNNModel", str(path), "--bizCode", "bench", *SPARSE])
    net = MNN.Interpreter(str(path))
    session = net.createSession({"backend": "CPU", "numThread": 1, "precision": "high"})
    given, wanted = net.getSessionInput(session), net.getSessionOutput(session)
    image = MNN.Tensor(x.shape, MNN.Halide_Type_Float, x, MNN.Tensor_DimensionType_Caffe)
    shape = wanted.getShape()

    def run():
        given.copyFrom(image)
        net.runSession(session)
        host = MNN.Tensor(shape, MNN.Halide_Type_Float, np.zeros(shape, np.float32), MNN.Tensor_DimensionType_Caffe)
        wanted.copyToHostTensor(host)
        return np.array(host.getNumpyData())

    return run
