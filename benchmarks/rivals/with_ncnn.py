"""ncnn in fp32, through pnnx. It has no batch dimension."""

import importlib.util
import shutil
import subprocess
import tempfile
from pathlib import Path

import ncnn
import numpy as np


def version():
    """What is measured."""
    return f"ncnn {ncnn.__version__}"


def load(stem, x):
    """On one thread."""
    if len(x) > 1:
        raise ValueError("ncnn has no batch dimension")
    converted = convert(stem, x)
    net = ncnn.Net()
    net.opt.num_threads = 1
    for option in ("use_fp16_packed", "use_fp16_storage", "use_fp16_arithmetic", "use_bf16_storage", "use_bf16_packed", "use_vulkan_compute"):
        if hasattr(net.opt, option):
            setattr(net.opt, option, False)
    if net.load_param(f"{converted}.param") or net.load_model(f"{converted}.bin"):
        raise ValueError("ncnn does not load what pnnx wrote")
    image = ncnn.Mat(x[0]).clone()

    def run():
        extractor = net.create_extractor()
        extractor.input("in0", image)
        return np.array(extractor.extract("out0")[1])

    return run


def convert(stem, x):
    """What pnnx makes of the ONNX file."""
    converted = stem.with_suffix(".ncnn")
    if not Path(f"{converted}.bin").exists():
        with tempfile.TemporaryDirectory() as folder:
            shutil.copy(stem.with_suffix(".onnx"), f"{folder}/net.onnx")
            pnnx = Path(importlib.util.find_spec("pnnx").origin).with_name("pnnx")
            shape = ",".join(map(str, x.shape))
            subprocess.run([pnnx, "net.onnx", f"inputshape=[{shape}]", "fp16=0"], cwd=folder, check=True, stdout=2)
            shutil.move(f"{folder}/net.ncnn.param", f"{converted}.param")
            shutil.move(f"{folder}/net.ncnn.bin", f"{converted}.bin")
    return converted
