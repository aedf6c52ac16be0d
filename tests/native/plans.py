"""Writes one plan file a case: small networks that between them have every native step. ``python tests/native/plans.py FOLDER``."""

import re
import sys
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).parent.parent))

from test_convert_onnx_layers import CASES, PAIRS, conv, single

from rsk_deploy.errors import UnsupportedError
from rsk_deploy.runtime import _native
from rsk_deploy.runtime.plan import planned
from rsk_deploy.runtime.records import encode

KERNELS = (Path(__file__).parents[2] / "runtime" / "native" / "kernels" / "kernels.def").read_text()

NEON = [*re.findall(r'^(?:KERNEL|WINOGRAD)\("((?:neon|portable)/\w+)"', KERNELS, re.MULTILINE), "portable"]
"""The kernels that a 64-bit ARM machine has."""


def write(folder, kernels=None):
    """One file a case, a second for three images."""
    folder.mkdir(parents=True, exist_ok=True)
    kernels = kernels or _native.kernels()
    cases = CASES | PAIRS | {"conv that threads share": ((16, 30, 30), *conv(32, 16, 3, 3))}
    for name, (*shapes, kind, fields) in cases.items():
        for batch in (1, 3):
            try:
                plan = encode(planned(single(kind, fields, *shapes), batch, kernels))
            except UnsupportedError:
                continue
            np.asarray(plan).tofile(folder / f"{name.replace(' ', '-')}-{batch}.plan")


if __name__ == "__main__":
    write(Path(sys.argv[1]))
