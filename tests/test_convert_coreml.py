"""Core ML packages as wholes: coremltools and the interpreter read them, their bytes depend on the graph alone, and what cannot be written is refused."""

import json
import os
import subprocess
import sys

import numpy as np
import pytest
from networks import NETWORKS
from networks import packed as network
from test_convert_onnx import image, opaque, packed, small_net

from rsk_deploy import mlprogram, reference
from rsk_deploy.comparing import seeded_inputs
from rsk_deploy.converters import coreml
from rsk_deploy.errors import CorruptFileError, MissingExtraError, UnsupportedError, UsageError
from rsk_deploy.files import size_of
from rsk_deploy.ir import Activation, Binary, Constant, Graph, Input, Linear, Packed, PRelu, Reduce, Reshape, Softmax
from rsk_deploy.registry import FORMATS

HERE = os.path.dirname(__file__)
MODEL = "Data/com.apple.CoreML/model.mlmodel"


@pytest.fixture
def path(tmp_path):
    return tmp_path / "net.mlpackage"


def spec(path):
    """The model as coremltools reads it."""
    with coreml.coremltools() as package:
        package.models.MLModel(str(path), skip_model_load=True)
        return package.models.utils.load_spec(str(path))


def operations(path):
    """The operations that the file lists, constants included."""
    (block,) = spec(path).mlProgram.functions["main"].block_specializations.values()
    return block.operations


def relative(actual, expected):
    return max(np.abs(actual[name] - expected[name]).max() / np.abs(expected[name]).max() for name in expected)


FP16 = 2**13  # times as coarse as fp32


SOME = ("cnn6", "resnet18", "densenet", "unet-nearest", "unet-bilinear", "conv1d", "odd-convs", "norms", "shapes", "shared", "skeleton")
"""Networks that together have every layer; the others are slow."""


@pytest.mark.parametrize("name", [name if name in SOME else pytest.param(name, marks=pytest.mark.slow) for name in NETWORKS])
def test_a_network_computes_in_both_precisions_what_the_reference_does(name, path, tmp_path):
    """A network that magnifies the rounding of fp32 does so with that of fp16."""
    graph = network(name)
    inputs = seeded_inputs(graph, batch=2)
    expected = reference.run(graph, inputs)
    magnified = relative(reference.run(graph, inputs, dtype=np.float32), expected)
    coreml.write(graph, path, precision="fp32")
    assert relative(coreml.runner(path)(inputs), expected) < max(1e-5, 4 * magnified)
    coreml.write(graph, tmp_path / "half.mlpackage")
    assert relative(coreml.runner(tmp_path / "half.mlpackage")(inputs), expected) < max(1e-2, FP16 * magnified)


def test_inner_values_are_told_apart_where_their_names_are_one_identifier(path):
    chain = [
        Activation(name=f"act{index}", inputs=(a,), outputs=(b,), kind="neg")
        for index, (a, b) in enumerate(zip(["x", "v.1", "v_1"], ["v.1", "v_1", "y"], strict=True))
    ]
    graph = Graph[Packed]((Input("x", (1, 4)),), ("y",), tuple(chain))
    coreml.write(graph, path)
    x = np.ones((1, 4), np.float32)
    values = coreml.runner(path, ["v.1", "v_1", "no such value"])({"x": x})
    assert {name: value[0, 0] for name, value in values.items()} == {"v.1": -1, "v_1": 1, "y": -1}


def test_constants_are_not_called_as_values_are(path):
    """coremltools calls the bias of ``y`` ``y_bias_0``."""
    layers = (
        Activation(name="a", inputs=("x",), outputs=("y_bias_0",), kind="neg"),
        Linear(name="l", inputs=("x",), outputs=("y",), weight=packed(np.random.default_rng(5), "dense", 4, 4), bias=np.ones(4, np.float32)),
        Constant(name="c", inputs=(), outputs=("b_x_0",), values=np.arange(4.0)),
        Binary(name="b", inputs=("y", "y_bias_0"), outputs=("s",), kind="add"),
        Binary(name="d", inputs=("s", "b_x_0"), outputs=("z",), kind="add"),
    )
    graph = Graph[Packed]((Input("x", (1, 4)),), ("z",), layers)
    coreml.write(graph, path)
    names = [output.name for operation in operations(path) for output in operation.outputs]
    assert len(set(names)) == len(names)
    inputs = seeded_inputs(graph)
    assert relative(coreml.runner(path, ["y_bias_0"])(inputs), reference.run(graph, inputs, ["z", "y_bias_0"])) < 1e-2


def scalar():
    """The mean, on its own and as a factor."""
    layers = (
        Reduce(name="mean", inputs=("x",), outputs=("m",), kind="mean", axes=(0, 1)),
        Reshape(name="flat", inputs=("m",), outputs=("y",), target=()),
        Binary(name="times", inputs=("x", "y"), outputs=("z",), kind="mul"),
    )
    return Graph[Packed]((Input("x", (2, 3)),), ("y", "z"), layers)


@pytest.mark.parametrize("precision", coreml.PRECISIONS)
def test_a_single_number_has_no_axes(precision, path):
    graph = scalar()
    coreml.write(graph, path, precision=precision)
    inputs = seeded_inputs(graph)
    found, expected = coreml.runner(path)(inputs), reference.run(graph, inputs)
    assert {name: value.shape for name, value in found.items()} == {"y": (), "z": (2, 3)}
    assert relative(found, expected) < 1e-2


@pytest.mark.parametrize("target", coreml.TARGETS)
def test_coremltools_reads_the_package(target, path):
    coreml.write(small_net(), path, target=target)
    model = spec(path)
    assert model.specificationVersion == {"ios16": 7, "ios17": 8, "ios18": 9}[target]
    assert [feature.name for feature in model.description.input] == ["image"]
    assert [feature.name for feature in model.description.output] == ["scores", "features"]


@pytest.mark.parametrize(("batch", "bounds"), [("batch", (1, coreml.LARGEST_BATCH)), (2, None)])
def test_the_batch_is_ranged_or_fixed(batch, bounds, path):
    coreml.write(small_net(batch), path)
    (feature,) = spec(path).description.input
    ranges = feature.type.multiArrayType.shapeRange.sizeRanges
    assert ((ranges[0].lowerBound, ranges[0].upperBound) if ranges else None) == bounds
    assert list(feature.type.multiArrayType.shape) == [2 if bounds is None else 1, 3, 6, 6]


def weight_forms(path):
    return {operation.outputs[-1].name: operation.type for operation in operations(path) if operation.type.startswith("constexpr")}


@pytest.mark.parametrize("target", ["ios16", "ios18"])
@pytest.mark.parametrize("format", FORMATS)
def test_a_weight_of_any_encoding_is_stored_sparsely_and_exactly(format, target, path):
    graph = network({"lfsr": "psconv-lfsr", "periodic": "psconv-periodic"}[format]) if format in ("lfsr", "periodic") else None
    if graph is None:
        weight = packed(np.random.default_rng(5), format, 16, 24)
        graph = Graph[Packed]((Input("x", (1, 24)),), ("y",), (Linear(name="fc", inputs=("x",), outputs=("y",), weight=weight),))
    coreml.write(graph, path, precision="fp32", target=target)
    inputs = seeded_inputs(graph)
    assert set(weight_forms(path).values()) == {"constexpr_sparse_to_dense"}
    assert relative(coreml.runner(path)(inputs), reference.run(graph, inputs)) < 1e-5


@pytest.mark.parametrize(
    ("compress", "sparse", "form"),
    [
        ("int8", True, {"constexpr_sparse_blockwise_shift_scale", "constexpr_sparse_to_dense"}),
        ("int8", False, {"constexpr_blockwise_shift_scale"}),
        ("palettised", True, {"constexpr_lut_to_sparse", "constexpr_sparse_to_dense"}),
        ("palettised", False, {"constexpr_lut_to_dense"}),
    ],
)
@pytest.mark.parametrize("precision", coreml.PRECISIONS)
def test_compressed_weights_are_those_of_the_network_that_is_verified(compress, sparse, form, precision, path):
    graph = network("psconv-per-input" if sparse else "unet-transposed")
    footprint = coreml.write(graph, path, compress=compress, precision=precision)
    assert form <= set(weight_forms(path).values())
    inputs = seeded_inputs(graph)
    expected = footprint.meaning(inputs)
    assert footprint.bits == (11 if precision == "fp16" else 24)
    assert relative(coreml.runner(path)(inputs), expected) < (1e-2 if precision == "fp16" else 1e-5)
    assert 1e-4 < relative(expected, reference.run(graph, inputs)) < 0.5


@pytest.mark.parametrize("kind", ["dense", "zeros", "tiny", "one value"])
@pytest.mark.parametrize("compress", [None, "int8", "palettised"])
def test_weights_without_anything_to_compress_stay_right(kind, compress, path):
    shape = (2, 3) if kind == "tiny" else (8, 12)
    values = {"zeros": np.zeros(shape), "one value": np.where(np.arange(96).reshape(8, 12) % 3, 0.5, 0)}.get(
        kind, np.random.default_rng(1).standard_normal(shape)
    )
    weight = Packed("dense", shape, {"values": values.astype(np.float32).reshape(-1)})
    graph = Graph[Packed](
        (Input("x", (1, shape[1])),), ("y",), (Linear(name="fc", inputs=("x",), outputs=("y",), weight=weight, bias=np.ones(shape[0], np.float32)),)
    )
    options = {"compress": compress} if compress else {}
    footprint = coreml.write(graph, path, precision="fp32", **options)
    inputs = seeded_inputs(graph)
    expected = footprint.meaning(inputs) if compress else reference.run(graph, inputs)
    assert relative(coreml.runner(path)(inputs), expected) < 1e-6


def test_sparse_weights_make_the_package_small(path, tmp_path):
    """The shares of ResNet18 at its full size are in benchmarks/coreml_files.py; these are of one wide layer."""
    rng = np.random.default_rng(2)
    sizes = {}
    for kept in (9, 4, 2):
        order = rng.random((256, 128, 9)).argsort(axis=2)
        values = np.where(order < kept, rng.standard_normal(order.shape), 0).astype(np.float32).reshape(256, 1152)
        weight = Packed("dense", values.shape, {"values": values.reshape(-1)})
        graph = Graph[Packed]((Input("x", (1, 1152)),), ("y",), (Linear(name="fc", inputs=("x",), outputs=("y",), weight=weight),))
        coreml.write(graph, tmp_path / f"{kept}.mlpackage")
        sizes[kept] = size_of(tmp_path / f"{kept}.mlpackage")
    assert sizes[4] / sizes[9] <= 0.52
    assert sizes[2] / sizes[9] <= 0.30


def labelled(*layers, labels=("cat", "dog", "emu"), batch=1):
    weight = packed(np.random.default_rng(3), "bitmask", 3, 8)
    first = Linear(name="fc", inputs=("x",), outputs=("scores",), weight=weight)
    return Graph[Packed]((Input("x", (batch, 8)),), ((layers[-1] if layers else first).outputs[0],), (first, *layers), meta={"labels": list(labels)})


@pytest.mark.parametrize(
    "layers",
    [
        (),
        (Softmax(name="softmax", inputs=("scores",), outputs=("p",), axis=1),),
        (Softmax(name="softmax", inputs=("scores",), outputs=("p",), axis=1, log=True),),
    ],
)
def test_labels_make_a_classifier_beside_the_scores(layers, path):
    graph = labelled(*layers)
    coreml.write(graph, path)
    description = spec(path).description
    assert (description.predictedFeatureName, description.predictedProbabilitiesName) == ("classLabel", "classLabel_probs")
    inputs = seeded_inputs(graph)
    found = mlprogram.load(path).run(inputs, ["classLabel", "classLabel_probs", graph.outputs[0]])
    scores = reference.run(graph, inputs, ["scores"])["scores"][0]
    assert found["classLabel"] == ["cat", "dog", "emu"][scores.argmax()]
    np.testing.assert_allclose(list(found["classLabel_probs"].values()), np.exp(scores) / np.exp(scores).sum(), rtol=5e-3)
    assert coreml.runner(path)(inputs).keys() == set(graph.outputs)


@pytest.mark.parametrize("odd", [{"batch": "batch"}, {"batch": 2}, {"labels": ["cat", "dog"]}, {"labels": ["cat", "cat", "dog"]}, {"labels": [1, 2, 3]}])
def test_labels_that_are_no_classes_are_metadata_alone(odd, path):
    graph = labelled(**odd)
    coreml.write(graph, path)
    description = spec(path).description
    assert [feature.name for feature in description.output] == ["scores"]
    assert json.loads(description.metadata.userDefined["rsk"])["meta"]["labels"] == odd.get("labels", ["cat", "dog", "emu"])


def pictures(channels=3, preprocessing=None, batch=1):
    graph = small_net(batch)
    layer = graph.layers[0]
    weight = packed(np.random.default_rng(4), "dense", 8, channels, 3, 3)
    entry = Input("image", (batch, channels, 6, 6))
    stem = type(layer)(**{**vars(layer), "weight": weight})
    return Graph[Packed]((entry,), graph.outputs, (stem, *graph.layers[1:]), meta={} if preprocessing is None else {"preprocessing": preprocessing})


NORMAL = {"scale": 1 / 255, "mean": [0.5, 0.4, 0.3], "std": [0.2, 0.25, 0.5]}


@pytest.mark.parametrize("precision", coreml.PRECISIONS)
@pytest.mark.parametrize(
    ("channels", "said", "layout"),
    [(3, NORMAL, 20), (3, {**NORMAL, "order": "bgr"}, 30), (3, {**NORMAL, "order": "rgb"}, 20), (1, {"scale": 1 / 16}, 10), (3, {"mean": 128}, 20)],
)
def test_an_image_input_scales_pixels_as_the_preprocessing_says(channels, said, layout, precision, path):
    graph = pictures(channels, said)
    coreml.write(graph, path, input_type="image", precision=precision)
    (feature,) = spec(path).description.input
    assert (feature.type.imageType.width, feature.type.imageType.height, feature.type.imageType.colorSpace) == (6, 6, layout)
    pixels = np.random.default_rng(6).integers(0, 256, (1, channels, 6, 6))
    vectors = [np.broadcast_to(np.asarray(said.get(key, default)), channels).reshape(1, -1, 1, 1) for key, default in (("mean", 0), ("std", 1))]
    x = (pixels * said.get("scale", 1) - vectors[0]) / vectors[1]
    expected = reference.run(graph, {"image": x})
    tolerance = 1e-5 if precision == "fp32" else 1e-2
    assert relative(mlprogram.load(path).run({"image": pixels}, graph.outputs), expected) < tolerance
    assert relative(coreml.runner(path)({"image": x.astype(np.float32)}), expected) < tolerance


@pytest.mark.parametrize(
    ("graph", "sentence"),
    [
        (pictures(batch="batch", preprocessing=NORMAL), r"takes one image of 1 or 3 channels, .* the input has shape \('batch', 3, 6, 6\)"),
        (pictures(2, NORMAL), r"the input has shape \(1, 2, 6, 6\)"),
        (pictures(), r"how pixels become inputs, and the model does not say; save the checkpoint with preprocessing=\{"),
        (pictures(preprocessing={"repeat_pixels": 2}), r"has 'repeat_pixels'; an image input can have scale, mean, std, order"),
        (pictures(preprocessing={"order": "hsv"}), r"order is 'hsv'; for 3 channels it is rgb or bgr"),
        (pictures(1, {"order": "rgb"}), r"order is 'rgb'; for 1 channels it is left out"),
        (pictures(preprocessing={"mean": [1, 2]}), r"mean is \[1, 2\]; it is a number, or one for each of 3 channels"),
        (pictures(preprocessing={"scale": "big"}), r"scale is 'big'"),
        (pictures(preprocessing={"std": [1, 0, 1]}), r"std \[1, 0, 1\] may not be 0"),
        (pictures(preprocessing={"scale": 0}), r"scale 0 and std 1 may not be 0"),
    ],
)
def test_an_input_that_cannot_be_an_image_is_refused(graph, sentence, path):
    with pytest.raises(UsageError, match=rf"^input image: --input-type image.*{sentence}"):
        coreml.write(graph, path, input_type="image")
    assert not path.exists()


def test_the_metadata_says_who_made_it_and_from_what(path):
    graph = small_net()
    coreml.write(graph, path, author="A. Author", license="MIT", description="Finds é", target="ios17")
    metadata = spec(path).description.metadata
    assert (metadata.author, metadata.license, metadata.shortDescription) == ("A. Author", "MIT", "Finds é")
    content = json.loads(metadata.userDefined["rsk"])
    assert content["meta"] == graph.meta
    assert content["log"] == [["stem", "batch norm", "bn1 scaled 8 filters"]]
    assert content["provenance"]["options"] == {"target": "ios17"}
    assert len(content["provenance"]["weights_sha256"]) == 64


def files_of(folder):
    return {str(file.relative_to(folder)): file.read_bytes() for file in sorted(folder.rglob("*")) if file.is_file()}


def test_the_bytes_are_the_same_in_another_process_and_nothing_is_printed(tmp_path):
    script = (
        "import sys; sys.path.insert(0, sys.argv[1]); from pathlib import Path; from test_convert_onnx import small_net; "
        "from rsk_deploy.converters import coreml; coreml.write(small_net(), Path(sys.argv[2]), compress='palettised')"
    )
    command = [sys.executable, "-W", "error", "-c", script, HERE, str(tmp_path / "there.mlpackage")]
    done = subprocess.run(command, env=os.environ | {"PYTHONHASHSEED": "1"}, check=True, capture_output=True, text=True)
    assert (done.stdout, done.stderr) == ("", "")
    for place in ("first", "second"):
        coreml.write(small_net(), tmp_path / f"{place}.mlpackage", compress="palettised")
    there, *here = (files_of(tmp_path / f"{name}.mlpackage") for name in ("there", "first", "second"))
    assert sorted(there) == ["Data/com.apple.CoreML/model.mlmodel", "Data/com.apple.CoreML/weights/weight.bin", "Manifest.json"]
    assert all(other == there for other in here)


def test_a_failed_export_does_not_change_the_next_one(tmp_path):
    coreml.write(small_net(), tmp_path / "before.mlpackage")
    large = Graph[Packed]((Input("x", (1, 2)),), ("y",), (Constant(name="c", inputs=(), outputs=("y",), values=np.full(2, 1e6)),))
    with pytest.raises(UnsupportedError):
        coreml.write(large, tmp_path / "failed.mlpackage")
    coreml.write(small_net(), tmp_path / "after.mlpackage")
    assert files_of(tmp_path / "before.mlpackage") == files_of(tmp_path / "after.mlpackage")


@pytest.mark.parametrize("precision", coreml.PRECISIONS)
def test_names_that_programs_cannot_spell_are_kept_for_the_runner(precision, path):
    layers = (
        Activation(name="a", inputs=("x.1",), outputs=("x/1",), kind="relu"),
        Activation(name="b", inputs=("x/1",), outputs=("x_1",), kind="neg"),
        Binary(name="c", inputs=("x_1", "x.1"), outputs=("état",), kind="add"),
    )
    graph = Graph[Packed]((Input("x.1", ("batch", 3)), Input("tensor", (1, 3)), Input("1", (1,))), ("état", "tensor", "x/1"), layers)
    coreml.write(graph, path, precision=precision)
    assert all(feature.name.isidentifier() for feature in (*spec(path).description.input, *spec(path).description.output))
    inputs = seeded_inputs(graph, batch=2)
    actual, expected = coreml.runner(path)(inputs), reference.run(graph, inputs)
    assert actual.keys() == expected.keys()
    assert relative(actual, expected) < 1e-3


def test_inner_values_are_given_where_they_exist(path):
    graph = small_net()
    coreml.write(graph, path, precision="fp32")
    names = ["hidden", "pooled", "scores", "no such value"]
    actual, expected = coreml.runner(path, names)(image(2)), reference.run(graph, image(2), names[:3])
    assert actual.keys() == expected.keys()
    assert relative(actual, expected) < 1e-5


def test_a_constant_can_be_an_output(path):
    graph = Graph[Packed]((Input("x", (1, 2)),), ("y",), (Constant(name="c", inputs=(), outputs=("y",), values=np.array([1.5, -2.0])),))
    coreml.write(graph, path)
    np.testing.assert_array_equal(coreml.runner(path)({"x": np.zeros((1, 2), np.float32)})["y"], [1.5, -2])


def constant(values):
    layers = (Constant(name="c", inputs=(), outputs=("k",), values=values), Binary(name="add", inputs=("x", "k"), outputs=("y",), kind="add"))
    return Graph[Packed]((Input("x", (1, 2)),), ("y",), layers)


def wide():
    layer = PRelu(name="p", inputs=("x",), outputs=("y",), slope=np.ones(2, np.float32))
    return Graph[Packed]((Input("x", (1, 2, 1, 1, 1, 1)),), ("y",), (layer,))


def celu():
    return Graph[Packed]((Input("x", (1, 2)),), ("y",), (Activation(name="act", inputs=("x",), outputs=("y",), kind="celu", alpha=-1.0),))


def large_weight():
    weight = Packed("dense", (1, 2), {"values": np.array([1, 1e6], np.float32)})
    return Graph[Packed]((Input("x", (1, 2)),), ("y",), (Linear(name="fc", inputs=("x",), outputs=("y",), weight=weight),))


@pytest.mark.parametrize(
    ("graph", "sentence"),
    [
        (opaque("Hardmax", 13), r"^mystery: Core ML export does not have the ONNX operation Hardmax \(from net.py:3\); only the ONNX export carries it$"),
        (wide(), r"^the value x has 6 axes, \(1, 2, 1, 1, 1, 1\); Core ML has at most 5$"),
        (Graph[Packed]((Input("x", (1, 2), "int64"),), ("x",), ()), r"^input x holds int64; Core ML models here compute with floating-point numbers$"),
        (Graph[Packed]((Input("x", ()),), ("x",), ()), r"^input x is a single number without axes; Core ML reads arrays of at least one$"),
        (constant(np.array([1, 2])), r"^c: is a constant of int64; Core ML"),
        (constant(np.array([1.0, 1e6])), r"^c: the constant holds 1000000, which does not fit float16 \(largest 65504\)\. Give --precision fp32$"),
        (large_weight(), r"^fc: the weight holds 1000000, which does not fit float16 \(largest 65504\)\. Give --precision fp32$"),
        (celu(), r"^act: Core ML has no celu with alpha -1; it has those above 0$"),
    ],
)
def test_what_core_ml_does_not_have_is_refused_by_name(graph, sentence, path):
    with pytest.raises(UnsupportedError, match=sentence):
        coreml.write(graph, path)
    assert not path.exists()


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"target": "cortex-m4"}, r"--target cortex-m4 does not exist; ios16, ios17, ios18 do"),
        ({"precision": "fp8"}, r"--precision fp8 does not exist; fp16, fp32 do"),
        ({"input_type": "sound"}, r"--input-type sound does not exist; tensor, image do"),
        ({"compress": "int4"}, r"--compress int4 does not exist; int8, palettised do"),
        ({"compress": "int8", "target": "ios17"}, r"--compress int8 of sparse weights came with iOS 18; --target ios17 does not have it"),
    ],
)
def test_an_option_that_does_not_exist_is_refused(options, sentence, path):
    with pytest.raises(UsageError, match=sentence):
        coreml.write(small_net(), path, **options)


def test_metadata_that_does_not_say_what_the_ends_are_called_is_a_sentence(path):
    coreml.write(small_net(), path)
    model = spec(path)
    for said, error, sentence in (
        (b'{"version": 1, "inputs": {"x": 3}}', CorruptFileError, "does not say what"),
        (b"{}", UsageError, "was not written by this rsk"),
    ):
        model.description.metadata.userDefined["rsk"] = said.decode()
        (path / MODEL).write_bytes(model.SerializeToString())
        with pytest.raises(error, match=f"{path.name}: .*{sentence}"):
            coreml.runner(path)


def test_missing_coremltools_is_named_with_how_to_install_it(path, monkeypatch):
    for module in [name for name in sys.modules if name.split(".")[0] == "coremltools"]:
        monkeypatch.delitem(sys.modules, module)
    monkeypatch.setitem(sys.modules, "coremltools", None)
    with pytest.raises(MissingExtraError, match=r'writing Core ML models needs coremltools, which is not installed. Run: pip install "rsk-deploy\[coreml\]"'):
        coreml.write(small_net(), path)
