"""OpenVINO in fp32: left to itself it computes in bf16 where the processor can."""

import openvino


def version():
    """What is measured."""
    return f"OpenVINO {openvino.__version__.split('-')[0]}"


def load(stem, x):
    """On one thread, tuned for latency."""
    settings = {
        "INFERENCE_NUM_THREADS": 1,
        "NUM_STREAMS": 1,
        "INFERENCE_PRECISION_HINT": "f32",
        "PERFORMANCE_HINT": "LATENCY",
        "ENABLE_CPU_PINNING": False,
    }
    model = openvino.Core().compile_model(stem.with_suffix(".onnx"), "CPU", settings)
    request = model.create_infer_request()
    request.set_input_tensor(openvino.Tensor(x, shared_memory=True))

    def run():
        request.infer()
        return request.get_tensor(model.output(0)).data

    return run
