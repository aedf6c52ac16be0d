"""Packed weights in ONNX files: rebuilt bit for bit by onnxruntime, onnx.reference and OpenVINO, from the arrays that were packed."""

import importlib.util
from itertools import combinations
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx.reference import ReferenceEvaluator

from rsk_deploy.converters import onnx as converter
from rsk_deploy.converters.onnx_decode import TABLE
from rsk_deploy.errors import UnsupportedError, UsageError
from rsk_deploy.ir import Conv, Declared, Graph, Input, Linear, Mask, Packed
from rsk_deploy.readers.onnx import read_packed
from rsk_deploy.registry import FORMATS, format_named, regenerate

RNG = np.random.default_rng(11)
FOUR_OF_NINE = np.array([[tap in kept for tap in range(9)] for kept in combinations(range(9), 4)])


def regular(filters, channels):
    return Mask("regular", FOUR_OF_NINE[RNG.integers(0, 126, (filters, channels))].reshape(filters, channels, 3, 3))


def unstructured(*shape, share=0.4):
    return Mask("unstructured", RNG.random(shape) < share)


def blocked(filters, channels, block):
    """Patterns with different numbers of taps, shared by blocks of filters."""
    kernels = RNG.random((filters // block, channels, 9)) < 0.4
    return Mask("block-shared", kernels.repeat(block, axis=0).reshape(filters, channels, 3, 3))


def whole_kernels(*shape):
    """Kernels with all their taps, more than GatherElements takes in onnx.reference."""
    return Mask("one-pattern", np.ones(shape, bool))


def periodic(filters, channels, period, taps=9):
    table = np.array([[True] * (residue % 4 + 1) + [False] * (taps - residue % 4 - 1) for residue in range(period)])[:, RNG.permutation(taps)]
    residues = (np.arange(filters)[:, None] + np.arange(channels)) % period
    return Mask("one-pattern" if period == 1 else "periodic", table[residues].reshape(filters, channels, 3, taps // 3), {"period": period})


def rows(*kept, width=18):
    """Rows of a matrix with so many places each."""
    return Mask("unstructured", np.array([RNG.permutation(width) < count for count in kept]).reshape(len(kept), 2, 3, 3))


def shift_register(*shape, **params):
    return regenerate(Declared("lfsr", {"seed": 1, **params}), shape)


MASKS = {
    "dense": [unstructured(4, 3, 3, 3, share=0.9), unstructured(4, 3, 5)],
    "bitmask": [
        unstructured(4, 3, 3, 3),
        unstructured(5, 3, 3, 3),
        unstructured(7, 9),
        unstructured(4, 2, 5),
        unstructured(4, 2, 2, 2, 3),
        unstructured(4, 2, 3, 3, share=0),
    ],
    "pattern": [
        regular(8, 6),
        blocked(8, 3, 1),
        blocked(8, 3, 4),
        blocked(4, 3, 4),
        unstructured(9, 5),
        unstructured(3, 4, 4),
        unstructured(2, 2, 3, 3, share=0),
        unstructured(40, 20, 5, 5),
    ],
    "csr": [unstructured(6, 4, 3, 3), rows(0, 5, 0, 18, 1, 0), rows(0, 0), unstructured(5, 300), unstructured(2, 70, 31, 31, share=0.01)],
    "periodic": [periodic(8, 4, 1), periodic(8, 4, 4), periodic(9, 5, 4), periodic(3, 5, 4), periodic(3, 2, 4), periodic(16, 6, 8, taps=6)],
    "lfsr": [
        shift_register(8, 6, 3, 3),
        shift_register(8, 6, 3, 3, seed=77, taps_per_kernel=2),
        shift_register(1, 1, 3, 3, taps_per_kernel=9),
        shift_register(40, 21, 3, 3, width=11),
        shift_register(8, 3, 5, 5),
        shift_register(8, 3, 5, 5, taps_per_kernel=5),
        shift_register(8, 9, scheme="position", density=0.3),
        shift_register(33, 4, 3, 3, scheme="position", kept=700, seed=5),
        shift_register(4, 4, 5, scheme="position", kept=80),
        shift_register(4, 4, 5, scheme="position", kept=0),
    ],
}
CASES = [
    pytest.param(format, dtype, mask, id=f"{format}-{np.dtype(dtype).name}-{mask.family}-{'x'.join(map(str, mask.support.shape))}")
    for format in FORMATS
    for dtype in (np.float32, np.float16)
    for mask in MASKS[format]
    if (format, dtype) != ("dense", np.float32)  # stored as an initializer, nothing to rebuild
]


def packed(format, mask, dtype=np.float32):
    values = np.where(mask.support, RNG.standard_normal(mask.support.shape), 0).astype(dtype)
    weight = format_named(format).encode(values, mask)
    format_named(format).validate(weight)
    return weight


def network(weight):
    """The weight in the layer it is for, with an open batch."""
    _, channels, *kernel = weight.shape
    rank = len(kernel)
    common = {"name": "layer", "inputs": ("x",), "outputs": ("y",), "weight": weight}
    layer = Conv(**common, stride=(1,) * rank, pads=(0,) * 2 * rank, dilation=(1,) * rank) if rank else Linear(**common)
    return Graph[Packed]((Input("x", ("batch", channels, *kernel)),), ("y",), (layer,))


def written(weight, tmp_path, opset=None):
    """The file with the rebuilt weight as its only output."""
    path = tmp_path / "net.onnx"
    converter.write(network(weight), path, opset=opset)
    onnx.checker.check_model(str(path), full_check=True)
    assert read_packed(path) == network(weight)
    decoder = onnx.load(path)
    while decoder.graph.node[-1].output[0] != "layer.weight":
        decoder.graph.node.pop()
    del decoder.graph.input[:], decoder.graph.output[:]
    decoder.graph.output.append(onnx.helper.make_tensor_value_info("layer.weight", onnx.TensorProto.FLOAT, weight.shape))
    return decoder


def assert_same_bits(actual, expected):
    assert actual.dtype == expected.dtype == np.float32
    assert actual.shape == expected.shape
    np.testing.assert_array_equal(actual.view(np.uint32), expected.view(np.uint32))


def in_onnxruntime(model, *, optimised):
    options = onnxruntime.SessionOptions()
    levels = onnxruntime.GraphOptimizationLevel
    options.graph_optimization_level = levels.ORT_ENABLE_ALL if optimised else levels.ORT_DISABLE_ALL
    return onnxruntime.InferenceSession(model.SerializeToString(), options).run(None, {})[0]


def in_openvino(model, tmp_path):
    import openvino

    onnx.save(model, tmp_path / "decoder.onnx")
    compiled = openvino.Core().compile_model(tmp_path / "decoder.onnx", "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
    return compiled({})[0]


def test_every_format_has_an_onnx_form_and_a_case_here():
    assert TABLE.keys() == FORMATS.keys() == MASKS.keys()
    assert all(MASKS.values())


def test_a_format_without_an_onnx_form_is_refused(tmp_path):
    weight = Packed("runs", (2, 3, 1, 1), {"values": np.ones(6, np.float32)})
    with pytest.raises(UnsupportedError, match=r"^layer: weights in format 'runs' have no ONNX form; those in dense, .*, csr have$"):
        converter.write(network(weight), tmp_path / "net.onnx")


@pytest.mark.parametrize("opset", [13, None, 26])
@pytest.mark.parametrize(("format", "dtype", "mask"), CASES)
def test_the_weight_is_rebuilt_bit_for_bit(format, dtype, mask, opset, tmp_path):
    weight = packed(format, mask, dtype)
    expected = format_named(format).decode(weight)
    if format == "lfsr" and opset == 13:
        with pytest.raises(UsageError, match=r"opset 13 cannot hold layer \((Conv|Linear)\); 18 to 26 can"):
            written(weight, tmp_path, opset)
        return
    decoder = written(weight, tmp_path, opset)
    for optimised in (True, False):
        assert_same_bits(in_onnxruntime(decoder, optimised=optimised), expected)
    assert_same_bits(ReferenceEvaluator(decoder).run(None, {})[0], expected)
    if opset is None:
        assert_same_bits(in_openvino(decoder, tmp_path), expected)


SIZES = {"4 of 9, random": 0.49, "2 of 9, random": 0.27, "4 of 9, periodic": 0.47, "cross": 0.58, "4 of 9, LFSR": 0.47}


@pytest.fixture(scope="module")
def benchmark():
    path = Path(__file__).parent.parent / "benchmarks" / "onnx_files.py"
    spec = importlib.util.spec_from_file_location("onnx_files", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.filterwarnings("ignore:the 3 × 2 taps of a filter")  # a stem cannot reach every position, and says so
@pytest.mark.parametrize("variant", SIZES)
def test_resnet18_for_cifar_is_this_small_and_computes_the_same_bits(variant, benchmark, tmp_path):
    graph = benchmark.packed(variant)
    packed, plain = tmp_path / "packed.onnx", tmp_path / "dense.onnx"
    converter.write(graph, packed)
    converter.write(benchmark.dense_twin(graph), plain)
    assert packed.stat().st_size <= SIZES[variant] * plain.stat().st_size
    image = {"x": np.random.default_rng(0).standard_normal(benchmark.SHAPE).astype(np.float32)}
    for run in (benchmark.in_onnxruntime, benchmark.in_openvino, benchmark.in_reference):
        assert_same_bits(run(packed, image), run(plain, image))
