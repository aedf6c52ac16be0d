"""Packages as coremltools knows them: it reads every layer back under the rules of the target, and would have written the same."""

import re
from collections import Counter

import numpy as np
import pytest
import torch
from networks import packed as network
from test_convert_coreml import NORMAL, labelled, operations, pictures, spec
from test_convert_coreml_layers import ALL, case_network
from test_convert_onnx_layers import conv
from test_mlprogram import WEIGHTS
from torch import nn

from rsk_deploy.converters import coreml
from rsk_deploy.ir import Graph, Input, Packed, Weighted

OPSETS = {"ios16": "CoreML6", "ios17": "CoreML7", "ios18": "CoreML8"}


@pytest.fixture
def path(tmp_path):
    return tmp_path / "net.mlpackage"


def read_back(path):
    """The program as coremltools' reader builds it: every signature, type and shape is checked against the target's operations."""
    model = spec(path)
    with coreml.coremltools():
        from coremltools.converters.mil.frontend.milproto.load import load

        program = load(model, model.specificationVersion, str(path / "Data/com.apple.CoreML/weights"))
        program.validate()
    return program.functions["main"]


def assert_core_ml_can_run(function, description):
    """What coremltools does not check, and Core ML is known to refuse or to compute otherwise."""
    names = Counter([*function.inputs, *(value.name for operation in function.operations for value in operation.outputs)])
    assert not [name for name, count in names.items() if count > 1 or not re.fullmatch("[A-Za-z_][A-Za-z0-9_]*", name)]
    assert {feature.name for feature in description.output} == {value.name for value in function.outputs}
    for operation in function.operations:
        constant = operation.op_type == "const" or operation.op_type.startswith("constexpr")
        assert constant or all(value.rank <= 5 for value in operation.outputs), operation.op_type
        given = {key: value.val for key, value in operation.inputs.items() if not isinstance(value, list | tuple)}
        assert not any(np.isinf(value).any() for key, value in given.items() if key != "constant_val" and isinstance(value, np.ndarray | np.number))
        if operation.op_type == "conv_transpose":
            assert (given["pad"][::2] == given["pad"][1::2]).all()
        if operation.op_type == "avg_pool":
            assert given["exclude_padding_from_average"] or not given["pad"].any()
        if operation.op_type in ("prelu", "local_response_norm"):
            assert operation.x.rank == 4
            assert operation.op_type != "prelu" or given["alpha"].size > 1
        if operation.op_type == "layer_norm":
            assert operation.x.rank <= 4
        if operation.op_type == "conv":
            assert operation.x.rank > 3 or given["groups"] == 1 or given["dilations"] == 1
        if operation.op_type == "pad" and given["mode"] != "constant":
            assert given["pad"].size == 4
            assert all(pad == 0 or pad <= size for pad, size in zip(given["pad"], np.repeat(operation.x.shape[-2:], 2), strict=True))
        assert operation.op_type != "reduce_log_sum_exp"


@pytest.mark.parametrize(("precision", "batch"), [("fp16", "batch"), ("fp32", 2)])
@pytest.mark.parametrize("target", coreml.TARGETS)
@pytest.mark.parametrize("case", ALL)
def test_coremltools_reads_the_layer_under_the_rules_of_the_target(case, target, precision, batch, path):
    coreml.write(case_network(case, batch), path, target=target, precision=precision)
    function, model = read_back(path), spec(path)
    assert function.opset_version.name == target.replace("ios", "iOS")
    assert list(model.mlProgram.functions["main"].block_specializations) == [OPSETS[target]]
    assert_core_ml_can_run(function, model.description)


@pytest.mark.parametrize("options", [{}, {"target": "ios18"}, {"compress": "int8"}, {"compress": "palettised"}, {"precision": "fp32"}])
@pytest.mark.parametrize("name", ["psconv-per-input", "unet-transposed", "conv1d", "norms"])
def test_coremltools_unfolds_the_weights_to_those_that_the_file_is_said_to_hold(name, options, path):
    held = [layer.weight for layer in coreml.write(network(name), path, **options).held.layers if isinstance(layer, Weighted)]
    function = read_back(path)
    assert_core_ml_can_run(function, spec(path).description)
    found = [operation.weight for operation in function.operations if operation.op_type in ("conv", "conv_transpose", "linear")]
    for weight, expected in zip(found, held, strict=True):
        values = weight.op.materialized_val_inference() if weight.val is None else weight.val
        np.testing.assert_array_equal(np.float32(values).reshape(-1), expected.arrays["values"])


def parameters(operation):
    """What an operation is given besides what other operations compute, as it lies in the file: types, and bytes."""
    given = {key: argument.arguments[0].value for key, argument in operation.inputs.items() if not argument.arguments[0].name}
    return {**{key: value for key, value in operation.attributes.items() if key != "name"}, **given}


def stored(path):
    """The compressed constants: operations with the types of their parameters and results, and the bytes that the file holds."""
    content = (path / WEIGHTS).read_bytes()

    def read(value):
        if not value.HasField("blobFileValue"):
            return value.SerializeToString(deterministic=True), None
        head = content[value.blobFileValue.offset :][:64]
        size, start = (int.from_bytes(head[at : at + 8], "little") for at in (8, 16))
        assert start % 64 == value.blobFileValue.offset % 64 == 0
        return value.type.SerializeToString(deterministic=True) + head[:8] + head[24:], content[start : start + size]

    found = [operation for operation in operations(path) if operation.type.startswith("constexpr")]
    return [
        (operation.type, [each.type for each in operation.outputs], {key: read(value) for key, value in parameters(operation).items()}) for operation in found
    ]


@pytest.mark.parametrize(
    ("target", "compress"), [("ios16", None), ("ios17", None), ("ios18", None), ("ios18", "int8"), ("ios18", "palettised")], ids=lambda value: str(value)
)
def test_sparse_weights_lie_in_the_file_as_coremltools_would_put_them(target, compress, path, tmp_path):
    """Bit by bit, but for codes, which are ours to choose: they have the same types. (The mask that coremltools repeats beside int8 codes is pointed to.)"""
    rng = np.random.default_rng(8)
    weight = np.where(rng.random((16, 12, 3, 3)) < 4 / 9, rng.uniform(0.5, 1, (16, 12, 3, 3)), 0).astype(np.float32)  # no code is 0
    kind, fields = conv(16, 12, 3, 3, bias=False)
    layer = kind(name="c", inputs=("x",), outputs=("y",), **{**fields, "weight": Packed("dense", weight.shape, {"values": weight.reshape(-1)})})
    coreml.write(Graph[Packed]((Input("x", (1, 12, 8, 8)),), ("y",), (layer,)), path, target=target, compress=compress)
    with coreml.coremltools() as package:
        from coremltools.converters.mil import Builder
        from coremltools.optimize import coreml as optimize

        system = getattr(package.target, target.replace("ios", "iOS"))

        @Builder.program(input_specs=[Builder.TensorSpec(shape=(1, 12, 8, 8))], opset_version=system)
        def program(x):
            return Builder.conv(x=x, weight=weight)

        def configured(config):
            return optimize.OptimizationConfig(global_config=config)

        model = package.convert(program, convert_to="mlprogram", minimum_deployment_target=system, skip_model_load=True)
        model = optimize.prune_weights(model, configured(optimize.OpThresholdPrunerConfig(threshold=1e-9, minimum_sparsity_percentile=0.1, weight_threshold=9)))
        if compress == "int8":
            quantizer = configured(optimize.OpLinearQuantizerConfig(mode="linear_symmetric", dtype="int8", weight_threshold=9))
            model = optimize.linear_quantize_weights(model, quantizer, joint_compression=True)
        elif compress:
            model = optimize.palettize_weights(
                model, configured(optimize.OpPalettizerConfig(mode="kmeans", nbits=6, weight_threshold=9)), joint_compression=True
            )
        model.save(str(tmp_path / "theirs.mlpackage"))
    for ours, theirs in zip(stored(path), stored(tmp_path / "theirs.mlpackage"), strict=True):
        assert ours[:2] == theirs[:2]
        same = 1 if compress else 2
        assert {key: value[:same] for key, value in ours[2].items()} == {key: theirs[2][key][:same] for key in ours[2]}
        assert theirs[2].keys() - ours[2].keys() <= {"mask"}


@pytest.mark.parametrize("kind", ["tensor", "ranged", "classifier", "image"])
def test_inputs_and_outputs_are_described_as_coremltools_describes_them(kind, path):
    graph = {
        "tensor": labelled(labels=()), "ranged": labelled(batch="batch"), "classifier": labelled(), "image": pictures(3, {**NORMAL, "order": "bgr"})
    }[kind]  # fmt: skip
    coreml.write(graph, path, **({"input_type": "image"} if kind == "image" else {}))
    (entry,), name = graph.inputs, graph.outputs[0]
    model = nn.Sequential(nn.Flatten(), nn.Linear(int(np.prod(entry.shape[1:])), graph.shapes()[name][1]))
    with coreml.coremltools() as package:
        shape = [package.RangeDim(1, coreml.LARGEST_BATCH, default=1) if isinstance(dim, str) else dim for dim in entry.shape]
        ends = {
            "image": {"inputs": [package.ImageType(entry.name, shape, color_layout="BGR")], "outputs": [package.TensorType(name, dtype=np.float32)]},
            "classifier": {"inputs": [package.TensorType(entry.name, shape, np.float32)], "classifier_config": package.ClassifierConfig(["cat", "dog", "emu"])},
        }.get(kind, {"inputs": [package.TensorType(entry.name, shape, np.float32)], "outputs": [package.TensorType(name, dtype=np.float32)]})
        traced = torch.jit.trace(model.eval(), torch.zeros([1 if isinstance(dim, str) else dim for dim in entry.shape]))
        theirs = package.convert(traced, minimum_deployment_target=package.target.iOS16, skip_model_load=True, **ends).get_spec().description
    ours = spec(path).description
    assert list(ours.input) == list(theirs.input)
    assert list(ours.output)[: len(theirs.output)] == list(theirs.output)
    assert (ours.predictedFeatureName, ours.predictedProbabilitiesName) == (theirs.predictedFeatureName, theirs.predictedProbabilitiesName)
