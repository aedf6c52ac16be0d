"""The reader of Core ML packages: it reads what coremltools writes, computes what Apple documents, and refuses what is broken with a sentence."""

import contextlib
import json
import shutil

import numpy as np
import pytest
from test_convert_onnx import image, small_net

from rsk_deploy import mlprogram
from rsk_deploy.converters import coreml
from rsk_deploy.errors import CorruptFileError, RskError, UnsupportedError, UsageError
from rsk_deploy.mlprogram import constants, operations, wire

MODEL, WEIGHTS, MANIFEST = "Data/com.apple.CoreML/model.mlmodel", "Data/com.apple.CoreML/weights/weight.bin", "Manifest.json"
MESSAGES = {
    "Description": "ModelDescription", "Feature": "FeatureDescription", "Image": "ImageFeatureType", "Array": "ArrayFeatureType",
    "ShapeRange": "ArrayFeatureType.ShapeRange", "Named": "NamedValueType", "Type": "ValueType", "Tensor": "TensorType", "List": "ListType",
    "Size": "Dimension.ConstantDimension", "Binding": "Argument.Binding", "Immediate": "Value.ImmediateValue", "Values": "ListValue",
    "Blob": "Value.BlobFileValue", "Tensors": "TensorValue", "Floats": "TensorValue.RepeatedFloats", "Ints": "TensorValue.RepeatedInts",
    "Strings": "TensorValue.RepeatedStrings", "Bytes": "TensorValue.RepeatedBytes",
}  # fmt: skip
RENAMED = {
    "tensor": "tensorType", "list": "listType", "dictionary": "dictionaryType", "immediate": "immediateValue", "blob": "blobFileValue",
    "blocks": "block_specializations",
}  # fmt: skip


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    """A package with sparse weights."""
    path = tmp_path_factory.mktemp("package") / "net.mlpackage"
    coreml.write(small_net(), path, target="ios18")
    return path


@pytest.fixture
def package(written, tmp_path):
    """A copy to break."""
    return shutil.copytree(written, tmp_path / "net.mlpackage")


def test_the_fields_that_are_read_have_the_numbers_and_types_of_apples_schema():
    with coreml.coremltools() as coremltools:
        from coremltools.proto import FeatureTypes_pb2, MIL_pb2, Model_pb2
    assert coremltools
    found = {}
    for file in (FeatureTypes_pb2, Model_pb2, MIL_pb2):
        for name, message in file.DESCRIPTOR.message_types_by_name.items():
            found[name] = message
            found |= {f"{name}.{inner.name}": inner for inner in message.nested_types}
    scalars = {"int": (3, 4, 5, 14), "float": (2,), "string": (9,), "bytes": (12,)}
    for kind, fields in wire.SCHEMA.items():
        for number, (name, type_) in fields.items():
            field = found[MESSAGES.get(kind, kind)].fields_by_number[number]
            assert field.name in (name, RENAMED.get(name)), (kind, name)
            assert field.is_repeated == type_.startswith(("*", "+")), (kind, name)
            if type_ in scalars:
                assert field.type in scalars[type_], (kind, name)


def test_numbers_are_read_in_every_form_of_the_wire():
    negative = b"\xff\xff\xff\xff\xff\xff\xff\xff\xff\x01"
    assert wire.parse("Ints", b"\x0a\x03\x01\xac\x02" + b"\x08" + negative) == {"values": [1, 300, -1]}
    assert wire.parse("Floats", b"\x0a\x04\x00\x00\x80\x3f" + b"\x0d\x00\x00\x00\x40") == {"values": [1.0, 2.0]}
    assert wire.parse("Ints", b"\x12\x01x" + b"\x19" + bytes(8)) == {}  # fields of other numbers


@pytest.mark.parametrize(
    ("kind", "data", "sentence"),
    [
        ("Ints", b"\x08", "cut off or garbled"),
        ("Ints", b"\x0a\x05\x01", "cut off"),
        ("Ints", b"\x08" + b"\xff" * 11, "number of more than ten bytes"),
        ("Ints", b"\x0b", "a field of kind 3"),
        ("Model", b"\x10\x01", "a field of kind 0 where bytes belong"),
        ("Model", b"\x0a\x01\x01", "a field of kind 2 where a number belongs"),
        ("Blob", b"\x0a\x01\xff", "cut off or garbled"),
        ("Floats", b"\x0a\x03\x00\x00\x00", "cut off or garbled"),
    ],
)
def test_a_garbled_buffer_is_a_sentence(kind, data, sentence):
    with pytest.raises(CorruptFileError, match=f"is no Core ML model: .*{sentence}"):
        wire.parse(kind, data)


def test_messages_nest_only_so_deep():
    data = b""
    for _ in range(wire.DEPTH):
        element = b"\x0a" + varint(len(data)) + data  # a list of this type
        data = b"\x12" + varint(len(element)) + element
    with pytest.raises(CorruptFileError, match="nest deeper than 64"):
        wire.parse("Type", data)


def varint(number):
    result = b""
    while number > 127:
        result += bytes([number & 127 | 128])
        number >>= 7
    return result + bytes([number])


def edited(package, change):
    """The package with its model changed by way of coremltools."""
    with coreml.coremltools() as coremltools:
        model = coremltools.models.utils.load_spec(str(package))
    (block,) = model.mlProgram.functions["main"].block_specializations.values()
    change(model, {operation.outputs[-1].name: operation for operation in block.operations}, block)
    (package / MODEL).write_bytes(model.SerializeToString())


def no_main(model, operations, block):
    model.mlProgram.functions["other"].CopyFrom(model.mlProgram.functions["main"])
    del model.mlProgram.functions["main"]


def blob(operations):
    """Where the kept values of a sparse weight lie."""
    return operations["left_weight"].inputs["nonzero_data"].arguments[0].value.blobFileValue


def tensor(operations):
    """What type the kept values have."""
    return operations["left_weight"].inputs["nonzero_data"].arguments[0].value.type.tensorType


def size_of(tensor):
    return tensor.dimensions[0].constant


def other_values(model, operations, block):
    operations["left_weight"].inputs["nonzero_data"].CopyFrom(operations["right_weight"].inputs["nonzero_data"])


CHANGES = {
    "no program": (lambda m, o, b: m.ClearField("mlProgram"), "no ML program: it has no function 'main'"),
    "no main": (no_main, "it has no function 'main'"),
    "no output": (lambda m, o, b: o["hidden"].ClearField("outputs"), "relu : has no output"),
    "blob far away": (lambda m, o, b: setattr(blob(o), "offset", 1 << 40), "a blob at 1099511627776"),
    "no blob there": (lambda m, o, b: setattr(blob(o), "offset", 65), "at 65 .* is no blob of float16"),
    "outside": (lambda m, o, b: setattr(blob(o), "fileName", "@model_path/../x"), "in '@model_path/../x', which is outside the package"),
    "absolute": (lambda m, o, b: setattr(blob(o), "fileName", "/etc/passwd"), "in '/etc/passwd', which is outside the package"),
    "missing": (lambda m, o, b: setattr(blob(o), "fileName", "@model_path/other.bin"), "'@model_path/other.bin' are missing"),
    "wrong type": (lambda m, o, b: setattr(tensor(o), "dataType", 11), "is no blob of float32"),
    "no type": (lambda m, o, b: setattr(tensor(o), "dataType", 0), "of no known type"),
    "wrong length": (lambda m, o, b: setattr(size_of(tensor(o)), "size", 9), r"\(9,\) of float16 do not fit"),
    "huge": (lambda m, o, b: setattr(size_of(tensor(o)), "size", 1 << 62), "at most 8 axes and 268435456 elements"),
    "other values": (other_values, r"constexpr_sparse_to_dense left_weight: \d+ values for \d+ places"),
    "lost parameter": (lambda m, o, b: o["left_weight"].inputs.pop("mask"), "its parameters do not fit: TypeError"),
    "wrong shape": (lambda m, o, b: setattr(size_of(o["left_weight"].outputs[0].type.tensorType), "size", 2), "unfolds to shape"),
}


@pytest.mark.parametrize("case", CHANGES)
def test_a_package_that_contradicts_itself_is_refused(case, package):
    change, sentence = CHANGES[case]
    edited(package, change)
    with pytest.raises(CorruptFileError, match=sentence) as caught:
        mlprogram.load(package)
    assert str(caught.value).startswith(str(package))


def test_an_operation_that_is_not_known_is_named(package):
    edited(package, lambda m, o, b: setattr(o["hidden"], "type", "argsort"))
    with pytest.raises(UnsupportedError, match="argsort hidden: is an operation that the interpreter does not have"):
        mlprogram.load(package)


def reading(name):
    """A change: the first activation reads something else."""
    return lambda m, o, b: setattr(o["hidden"].inputs["x"].arguments[0], "name", name)


RUNS = {
    "value from nowhere": (reading("nothing"), "reads 'nothing', which no earlier"),
    "wrong operation": (lambda m, o, b: setattr(o["both"], "type", "add"), "its parameters do not fit: TypeError"),
    "wrong rank": (reading("l_bias_0"), r"computes shape \(8,\), not"),
    "missing output": (lambda m, o, b: setattr(b.operations[-1].outputs[0], "name", "other"), "computes no value"),
}


@pytest.mark.parametrize("case", RUNS)
def test_a_program_that_cannot_run_is_a_sentence(case, package):
    change, sentence = RUNS[case]
    edited(package, change)
    with pytest.raises(CorruptFileError, match=sentence):
        coreml.runner(package)(image(1))


@pytest.mark.parametrize(
    ("inputs", "sentence"), [({}, "input 'image' is missing; the program reads image"), ({"image": np.zeros((1, 3, 6, 5))}, r"has shape \(1, 3, 6, 5\)")]
)
def test_inputs_that_do_not_fit_are_refused(written, inputs, sentence):
    with pytest.raises(UsageError, match=sentence):
        mlprogram.load(written).run(inputs, ["scores"])


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        ("", "Manifest.json is no JSON"),
        ("[]", "Manifest.json is no JSON object"),
        ("[" * 100_000, "Manifest.json is no JSON"),
        ("{}", "Manifest.json names no model"),
        ('{"rootModelIdentifier": "a", "itemInfoEntries": {"a": {"path": 3}}}', "names no model"),
        ('{"rootModelIdentifier": "a", "itemInfoEntries": {"a": {"path": "../../../etc/passwd"}}}', "outside the package"),
        ('{"rootModelIdentifier": "a", "itemInfoEntries": {"a": {"path": "nothing"}}}', "has no nothing"),
        ('{"rootModelIdentifier": "a", "itemInfoEntries": {"a": {"path": "a\\u0000b"}}}', "outside the package"),
        ('{"rootModelIdentifier": "a", "itemInfoEntries": {"a": {"path": "' + "a" * 300 + '"}}}', "outside the package"),
    ],
)
def test_a_broken_manifest_is_a_sentence(package, content, sentence):
    (package / MANIFEST).write_text(content)
    with pytest.raises(CorruptFileError, match=sentence):
        mlprogram.load(package)


def test_weights_that_a_link_leads_out_of_the_package_are_refused(package, tmp_path):
    (package / WEIGHTS).rename(tmp_path / "weight.bin")
    (package / WEIGHTS).symlink_to(tmp_path / "weight.bin")
    with pytest.raises(CorruptFileError, match="outside the package"):
        mlprogram.load(package)


@pytest.mark.parametrize(
    ("place", "sentence"), [("absent.mlpackage", "no such file"), ("file.mlpackage", "is not a folder"), ("empty.mlpackage", "has no Manifest.json")]
)
def test_a_path_that_is_no_package_is_a_sentence(tmp_path, place, sentence):
    (tmp_path / "file.mlpackage").touch()
    (tmp_path / "empty.mlpackage").mkdir()
    with pytest.raises(RskError, match=sentence):
        mlprogram.summary(tmp_path / place)


@pytest.mark.parametrize("file", [MODEL, WEIGHTS, MANIFEST])
def test_a_damaged_package_never_fails_in_another_way(package, file):
    content = bytearray((package / file).read_bytes())
    rng = np.random.default_rng(len(file))
    for seed in range(120):
        damaged = bytearray(content)
        for place in rng.integers(0, len(content), 1 + seed % 3):
            damaged[place] = rng.integers(256)
        (package / file).write_bytes(damaged[: rng.integers(len(content))] if seed % 4 == 0 else damaged)
        for look in (mlprogram.summary, lambda path: mlprogram.load(path).run(image(1), ["scores"])):
            with contextlib.suppress(RskError):
                look(package)


def test_the_summary_says_what_is_stored_and_how(written):
    found = mlprogram.summary(written)
    assert (found.specification, found.nbytes) == (9, sum(file.stat().st_size for file in written.rglob("*") if file.is_file()))
    assert [(feature.name, feature.kind, feature.shape) for feature in found.inputs] == [("image", "tensor", ("1..1024", 3, 6, 6))]
    assert found.operations["conv"] == 3
    assert {weight.name: (weight.shape, weight.form) for weight in found.weights}["left_weight"] == ((8, 8, 3, 3), "sparse to dense float16")
    assert found.said["provenance"]["tool"] == "rsk-deploy"
    json.dumps(found.said)


def test_a_value_is_only_as_exact_as_its_type(tmp_path):
    coreml.write(small_net(), tmp_path / "net.mlpackage")
    program = mlprogram.load(tmp_path / "net.mlpackage")
    x = image(1)["image"]
    half = program.run({"image": x}, ["image_half", "hidden"])
    assert half["image_half"].dtype == half["hidden"].dtype == np.float16
    np.testing.assert_array_equal(half["image_half"], x.astype(np.float16))


def array(*values):
    return np.array(values, np.float32)


DOCUMENTED = {
    "sparse": (
        constants.sparse_to_dense, {"nonzero_data": array(3, 5, 4), "mask": np.array([0b00100110], np.uint8), "shape": np.array([2, 3], np.uint32)},
        [[0, 3, 5], [0, 0, 4]],
    ),
    "sparse ios18": (constants.sparse_to_dense, {"nonzero_data": array(10, 11, 3), "mask": np.array([[1, 1], [1, 0]])}, [[10, 11], [3, 0]]),
    "blockwise": (
        constants.blockwise,
        {"data": np.array([[10, 11], [3, 4], [5, 6], [7, 8]], np.int8), "scale": array([0.1, 0.2]).reshape(1, 2), "offset": array([1, 2]).reshape(1, 2)},
        [[0.9, 1.8], [0.2, 0.4], [0.4, 0.8], [0.6, 1.2]],
    ),
    "lookup": (constants.lookup, {"indices": np.array([[0, 1], [1, 0]]), "lut": array(2, 3).reshape(1, 1, 2, 1)}, [[2, 3], [3, 2]]),
    "resize unaligned": (
        operations.OPERATIONS["resize_bilinear"],
        {"x": array(0, 1).reshape(1, 1, 2), "target_size_height": 1, "target_size_width": 5, "sampling_mode": "UNALIGN_CORNERS"}, [[[0, 0.1, 0.5, 0.9, 1]]],
    ),
    "resize aligned": (
        operations.OPERATIONS["resize_bilinear"],
        {"x": array(0, 1).reshape(1, 1, 2), "target_size_height": 1, "target_size_width": 5, "sampling_mode": "STRICT_ALIGN_CORNERS"},
        [[[0, 0.25, 0.5, 0.75, 1]]],
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", DOCUMENTED)
def test_an_operation_computes_what_its_documentation_shows(case):
    function, parameters, expected = DOCUMENTED[case]
    np.testing.assert_allclose(function(**parameters), expected, rtol=1e-6)
