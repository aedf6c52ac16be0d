"""What the model of cost says of a way to run a layer is what the engine then does."""

import numpy as np
import pytest
from runtime_cases import sized_conv

from rsk_deploy.ir import Graph, Input
from rsk_deploy.runtime import _native
from rsk_deploy.runtime.choose import ways
from rsk_deploy.runtime.cost import LANES, Window, Work, by_phases, phase_vectors, shorts
from rsk_deploy.runtime.phases import ABSENT
from rsk_deploy.runtime.plan import planned
from rsk_deploy.runtime.records import encode

TILED = [name for name in _native.kernels() if not name.endswith("/winograd")]


@pytest.mark.parametrize(("kernel", "stride", "size"), [(7, 2, 64), (7, 2, 60), (5, 2, 64), (3, 2, 64), (11, 4, 128), (11, 4, 120), (5, 3, 48)])
@pytest.mark.parametrize("vectors", [1, 2])
def test_the_model_of_cost_knows_which_panels_are_by_phases(kernel, stride, size, vectors):
    layer = sized_conv("c", "x", "y", 8, 3, kernel, 0, stride=(stride, stride))
    graph, works = Graph((Input("x", (1, 3, size, size)),), ("y",), (layer,)), []

    def packed_so(work):
        works.append(work)
        return next(plan for _, plan in ways(work, [TILED[0]], exact=True) if plan.packed and plan.vectors == vectors)

    scratch = _native.Engine(encode(planned(graph, 1, [TILED[0]], exact=True, choice=packed_so)), 1).memory()[4] // 4
    phases = LANES * (layer.weight.shape[1] * phase_vectors(works[0]) + 1 + vectors)
    assert (scratch == phases) == by_phases(works[0], vectors)


@pytest.mark.parametrize(("size", "copied"), [(16, False), (14, True)])
def test_a_convolution_writes_the_callers_array_where_rows_are_whole_tiles(size, copied):
    graph = Graph((Input("x", (1, 8, size, size)),), ("y",), (sized_conv("c", "x", "y", 8, 8, 3, 0),))
    program = planned(graph, 1, TILED, choice=lambda work: next(plan for _, plan in ways(work, TILED, exact=True) if plan.vectors == 1))
    assert any(step.op == "copy" and step.output.buffer.space == "output" for step in program.steps) == copied


@pytest.mark.parametrize(("size", "pad"), [((7, 7), 1), ((7, 7), 0), ((8, 8), 1), ((5, 5), 1), ((3, 9), 2), ((1, 20), 1)])
def test_the_model_knows_how_many_taps_miss_a_tiles_last_vector(size, pad):
    axes = [Window(3, 1, pad, pad, 1, length, length + 2 * pad - 2) for length in size]
    high, wide = (axis.out for axis in axes)
    work = Work(1, 4, 4, 1, 144, 1, (ABSENT, axes[0], axes[1]))
    vectors = -(-high * wide // 16)
    last = [divmod(position, wide) for position in range((vectors - 1) * 16, high * wide)]
    inside = [[any(0 <= y + dy - pad < size[0] and 0 <= x + dx - pad < size[1] for y, x in last) for dx in range(3)] for dy in range(3)]
    assert shorts(work, vectors) <= 1 - np.mean(inside)
    assert shorts(work, vectors + 1) == 0
    if size == (7, 7) and pad == 1:
        assert shorts(work, vectors) == pytest.approx(5 / 9)


@pytest.mark.parametrize(("filters", "said"), [(1, "1 list of taps for 1 filter;"), (3, "3 lists of taps for 3 filters;")])
def test_the_reason_counts_in_words(filters, said):
    layer = sized_conv("c", "x", "y", filters, 4, 3, 1)
    (step,) = (step for step in planned(Graph((Input("x", (1, 4, 9, 9)),), ("y",), (layer,)), 1, [TILED[-1]], exact=True).steps if step.layers)
    assert said in step.reason
