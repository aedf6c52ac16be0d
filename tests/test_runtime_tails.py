"""Every kernel, and every length that a row of the output can have: no tile ends too early or too late."""

import numpy as np
import pytest
from runtime_cases import EPSILON, magnitude

from rsk_deploy import reference
from rsk_deploy.ir import Conv, Graph, Input, Mask
from rsk_deploy.registry import format_named
from rsk_deploy.runtime import _native
from rsk_deploy.runtime.session import Session

LONGEST = 81
"""Beyond five vectors of 16: a tile has four at most."""


@pytest.mark.parametrize("kernel", _native.kernels())
def test_rows_of_every_length_are_those_of_the_reference(monkeypatch, kernel):
    isa, _, family = kernel.rpartition("/")
    monkeypatch.setenv("RSK_FORCE_ISA", isa or family)
    monkeypatch.setenv("RSK_FORCE_KERNEL", family)
    rng = np.random.default_rng(0)
    channels, kept, factor = (16, 0.8, 32) if family == "winograd" else (4, 0.5, 4)
    weight = rng.standard_normal((9, channels, 3, 3)).astype(np.float32)
    weight *= rng.random((1, channels, 3, 3)) < kept  # one list of taps, which every family takes
    packed = format_named("csr").encode(weight, Mask("unstructured", weight != 0))
    layer = Conv(name="c", inputs=("x",), outputs=("y",), weight=packed, bias=None, stride=(1, 1), pads=(1, 1, 1, 1), dilation=(1, 1))
    for width in range(1, LONGEST + 1):
        x = rng.standard_normal((1, channels, 3, width)).astype(np.float32)
        graph = Graph((Input("x", x.shape),), ("y",), (layer,))
        with Session(graph, threads=1) as session:
            assert [step.kernel for step in session.profile(x) if step.operation == "conv"] == [kernel]
            y = session(x)
        assert (np.abs(y - reference.run(graph, {"x": x})["y"]) <= factor * EPSILON * magnitude(layer, x)).all()
