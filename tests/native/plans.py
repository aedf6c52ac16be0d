"""Writes one plan file a case: small networks that between them have every native step. ``python tests/native/plans.py FOLDER``."""

import re
import sys
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).parent.parent))

from test_convert_onnx_layers import CASES, PAIRS, conv, single
from test_runtime_segments import all_alike

from rsk_deploy.errors import UnsupportedError
from rsk_deploy.ir import Mask
from rsk_deploy.registry import format_named
from rsk_deploy.runtime import _native
from rsk_deploy.runtime.plan import planned
from rsk_deploy.runtime.records import encode
from rsk_deploy.runtime.schedule import scheduled

KERNELS = (Path(__file__).parents[2] / "runtime" / "native" / "kernels" / "kernels.def").read_text()

NEON = re.findall(r'^(?:KERNEL|WINOGRAD)\("(neon/\w+|portable(?:/\w+)?)"', KERNELS, re.MULTILINE)
"""The kernels that a 64-bit ARM machine has."""


NO_WEIGHTS = format_named("csr").encode(np.zeros((3, 4, 3, 3), np.float32), Mask("unstructured", np.zeros((3, 4, 3, 3), np.bool_)))


def write(folder, kernels=None):
    """One file a case, others for three images: at once, by turns, and side by side."""
    folder.mkdir(parents=True, exist_ok=True)
    kernels = kernels or _native.kernels()
    cases = (
        CASES
        | PAIRS
        | {"conv that threads share": ((16, 30, 30), *conv(32, 16, 3, 3)), "conv that threads pack": ((48, 30, 30), *conv(24, 48, 3, 3, stride=(2, 2)))}
        | {"conv of zeros": ((4, 5, 34), *conv(3, 4, 3, 3, weight=NO_WEIGHTS, stride=(2, 2)))}
    )
    for name, (*shapes, kind, fields) in cases.items():
        schedules = {"1": (1, scheduled), "3": (3, scheduled), "3-by-turns": (3, all_alike(1, wide=False)), "3-side-by-side": (3, all_alike(3, wide=True))}
        schedules |= {"16-side-by-side": (16, all_alike(16, wide=True))} if "conv" in name else {}
        for how, (batch, schedule) in schedules.items():
            try:
                plan = encode(planned(single(kind, fields, *shapes), batch, kernels, schedule=schedule))
            except UnsupportedError:
                continue
            np.asarray(plan).tofile(folder / f"{name.replace(' ', '-')}-{how}.plan")


if __name__ == "__main__":
    write(Path(sys.argv[1]))
