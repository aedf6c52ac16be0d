"""DeepSparse 1.8.0, the last release that holds an engine."""

import os
import sys
import types

os.environ["NM_DISABLE_ANALYTICS"] = "1"
os.environ.setdefault("NM_BIND_THREADS_TO_CORES", "0")
for unused in ("machineid", "geocoder"):  # only its analytics import them
    sys.modules[unused] = types.ModuleType(unused)

import deepsparse  # noqa: E402 - the settings above are read by its import


def version():
    """What is measured."""
    return f"DeepSparse {deepsparse.__version__}"


def load(stem, x):
    """On one core."""
    engine = deepsparse.Engine(f"{stem}.onnx", batch_size=len(x), num_cores=1)
    return lambda: engine.run([x], val_inp=False)[0]
