"""rsk-deploy itself, from the same ONNX file as everybody."""

import rsk_deploy as rsk
from rsk_deploy.provenance import tool_version


def version():
    """What is measured."""
    return f"rsk-deploy {tool_version()}"


def load(stem, x):
    """Plain ONNX is packed on the way in."""
    session = rsk.Session(rsk.read(stem.with_suffix(".onnx")), threads=1)
    return lambda: session(x)
