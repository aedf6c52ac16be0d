"""Every encoding is exact, as small as it says, has one form for one mask, and refuses everything else."""

import re
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rsk_deploy.errors import CorruptFileError, UsageError
from rsk_deploy.ir import Declared, Mask
from rsk_deploy.registry import FORMATS, format_named, regenerate

SHAPES = [
    (5,), (1,), (3, 4), (1, 1), (2, 300), (4, 3, 5), (2, 3, 17), (3, 2, 1, 1), (4, 3, 3, 3), (8, 8, 3, 3), (6, 1, 3, 3), (1, 6, 3, 3), (3, 2, 5, 5),
    (2, 2, 2, 2, 2), (1, 2, 70_000),
]  # fmt: skip
KINDS = ["unstructured", "one-pattern", "periodic", "per-input", "block-shared"]
LFSR = Declared("lfsr", {"scheme": "pattern", "width": 8, "polynomial": 0x1A9, "seed": 7, "taps_per_kernel": 4})


def kernels_of(shape):
    return shape[0], (*shape, 1)[1], int(np.prod(shape[2:]))


def make_mask(kind, shape, density=0.5, seed=0, period=3, block=2):
    """A mask of a family, built from its definition and not by the code under test."""
    rng = np.random.default_rng(seed)
    filters, channels, taps = kernels_of(shape)
    o, i = np.ogrid[:filters, :channels]
    index, params = {
        "unstructured": (o * channels + i, {}),
        "one-pattern": (o * 0 + i * 0, {}),
        "periodic": ((o + i) % period, {"period": period}),
        "per-input": (o * 0 + i, {}),
        "block-shared": (o // block * channels + i, {"block": block}),
    }[kind]
    patterns = rng.random((index.max() + 1, taps)) < density
    return Mask(kind, patterns[index].reshape(shape), params)


def make_values(shape, seed=0, dtype=np.float32):
    """Values without -0.0, a tenth of them 0: a kept weight can be 0 by chance."""
    rng = np.random.default_rng(seed)
    return np.where(rng.random(shape) < 0.9, rng.standard_normal(shape), 0).astype(dtype) + dtype(0)


masks = st.builds(
    make_mask, st.sampled_from(KINDS), st.sampled_from(SHAPES), st.sampled_from([0, 0.1, 0.5, 0.9, 1]), st.integers(0, 99), st.integers(1, 9), st.integers(1, 4)
)


def held(name, mask, values):
    """The weight in that format, or None where it holds no such mask."""
    format = format_named(name)
    return None if format.nbytes(mask, values.itemsize) is None else format.encode(values, mask)


@pytest.mark.parametrize("name", FORMATS)
@given(mask=masks, seed=st.integers(0, 99), dtype=st.sampled_from([np.float32, np.float16]))
@settings(deadline=None, max_examples=60)
def test_decoding_gives_the_kept_values_bit_for_bit(name, mask, seed, dtype):
    values = make_values(mask.support.shape, seed, dtype)
    packed = held(name, mask, values)
    if packed is None:
        return
    format = format_named(name)
    format.validate(packed)
    expected = np.where(mask.support, values, 0).astype(np.float32)
    assert format.decode(packed).tobytes() == expected.tobytes()
    assert format.decode(packed).dtype == np.float32
    assert packed.shape == values.shape
    assert packed.format == name
    assert packed.arrays["values"].dtype == dtype
    assert name == "dense" or np.array_equal(format.support(packed), mask.support)


@pytest.mark.parametrize("name", FORMATS)
@given(mask=masks, itemsize=st.sampled_from([4, 2]))
@settings(deadline=None, max_examples=60)
def test_the_predicted_bytes_are_the_stored_bytes(name, mask, itemsize):
    packed = held(name, mask, np.zeros(mask.support.shape, f"f{itemsize}"))
    if packed is not None:
        assert format_named(name).nbytes(mask, itemsize) == packed.nbytes


@pytest.mark.parametrize("name", ["dense", "bitmask", "csr", "pattern"])
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_formats_for_any_mask_hold_every_mask(name, kind, shape):
    assert format_named(name).nbytes(make_mask(kind, shape), 4) is not None


@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_periodic_holds_what_repeats_and_nothing_else(shape):
    periodic = format_named("periodic")
    assert periodic.nbytes(make_mask("one-pattern", shape), 4) is not None
    assert periodic.nbytes(make_mask("periodic", shape), 4) is not None
    assert periodic.nbytes(make_mask("per-input", shape), 4) is None


def test_a_mask_that_is_not_what_it_claims_is_not_stored_as_such():
    claimed = replace(make_mask("unstructured", (8, 8, 3, 3)), family="periodic", params={"period": 4})
    assert format_named("periodic").nbytes(claimed, 4) is None
    with pytest.raises(UsageError, match="format periodic holds one tap set for all kernels"):
        format_named("periodic").encode(make_values((8, 8, 3, 3)), claimed)


@pytest.mark.parametrize(
    ("name", "second", "arrays"),
    [
        ("bitmask", "per input", {"bits": [0b01110101, 0b00001101]}),
        ("csr", "per input", {"rows": [0, 4, 8], "columns": [0, 2, 4, 5, 0, 2, 4, 5]}),
        ("pattern", "per input", {"patterns": [[0, 1, 1], [1, 0, 1]], "ids": [[1, 0]]}),
        ("pattern", "periodic", {"patterns": [[0, 1, 1], [1, 0, 1]], "ids": [[1, 0], [0, 1]]}),
        ("periodic", "periodic", {"patterns": [[1, 0, 1], [0, 1, 1]]}),
    ],
)
def test_arrays_are_as_documented(name, second, arrays):
    filters = {"per input": [[1, 0, 1], [0, 1, 1]], "periodic": [[0, 1, 1], [1, 0, 1]]}
    support = np.array([[[1, 0, 1], [0, 1, 1]], filters[second]], bool)
    values = np.zeros(support.shape, np.float32)
    values[support] = range(1, 9)
    packed = format_named(name).encode(values, Mask("periodic", support, {"period": 2}))
    assert {key: array.tolist() for key, array in packed.arrays.items()} == {"values": list(range(1, 9)), **arrays}


@pytest.mark.parametrize(
    ("name", "kind", "structure"),
    [
        ("bitmask", "unstructured", {"bits": ("uint8", (8 * 8 * 9 // 8,))}),
        ("csr", "unstructured", {"rows": ("uint32", (9,)), "columns": ("uint8", (None,))}),
        ("pattern", "unstructured", {"patterns": ("uint8", (None, 9)), "ids": ("uint8", (8, 8))}),
        ("pattern", "per-input", {"patterns": ("uint8", (None, 9)), "ids": ("uint8", (1, 8))}),
        ("pattern", "block-shared", {"patterns": ("uint8", (None, 9)), "ids": ("uint8", (4, 8))}),
        ("pattern", "one-pattern", {"patterns": ("uint8", (1, 9)), "ids": ("uint8", (1, 8))}),
        ("periodic", "one-pattern", {"patterns": ("uint8", (1, 9))}),
        ("periodic", "periodic", {"patterns": ("uint8", (3, 9))}),
        ("dense", "unstructured", {}),
    ],
)
def test_structure_that_is_shared_is_stored_once(name, kind, structure):
    mask = make_mask(kind, (8, 8, 3, 3))
    arrays = dict(format_named(name).encode(make_values((8, 8, 3, 3)), mask).arrays)
    assert arrays.pop("values").ndim == 1
    assert arrays.keys() == structure.keys()
    for key, (dtype, shape) in structure.items():
        assert arrays[key].dtype == dtype
        assert all(want in (None, have) for want, have in zip(shape, arrays[key].shape, strict=True))


def test_an_uneven_last_block_still_decodes():
    mask = make_mask("block-shared", (10, 4, 3, 3), block=4)
    packed = format_named("pattern").encode(make_values(mask.support.shape), mask)
    assert packed.arrays["ids"].shape == (5, 4)
    assert np.array_equal(format_named("pattern").support(packed), mask.support)


@pytest.mark.parametrize(("width", "dtype"), [(256, "uint8"), (257, "uint16"), (65_536, "uint16"), (65_537, "uint32")])
def test_columns_are_as_narrow_as_the_rows_allow(width, dtype):
    mask = Mask("unstructured", np.arange(2 * width).reshape(2, width) % width >= width - 2)
    packed = format_named("csr").encode(make_values((2, width)), mask)
    assert packed.arrays["columns"].dtype == dtype
    assert np.array_equal(format_named("csr").support(packed), mask.support)


@pytest.mark.parametrize(("patterns", "dtype"), [(256, "uint8"), (257, "uint16"), (65_536, "uint16")])
@pytest.mark.parametrize("taps", [16, 17, 70])
def test_ids_are_as_narrow_as_the_table_allows(patterns, dtype, taps):
    packed = format_named("pattern").encode(np.ones((patterns, 1, taps), np.float32), numbered_kernels(patterns, taps))
    assert packed.arrays["ids"].dtype == dtype
    assert np.array_equal(packed.arrays["patterns"], np.unique(packed.arrays["patterns"], axis=0))
    assert len(packed.arrays["patterns"]) == patterns
    assert np.array_equal(format_named("pattern").support(packed), numbered_kernels(patterns, taps).support)
    format_named("pattern").validate(packed)


def test_too_many_patterns_are_left_to_other_formats():
    mask = numbered_kernels(65_537, 17)
    assert format_named("pattern").nbytes(mask, 4) is None
    with pytest.raises(UsageError, match="format pattern holds at most 65536 distinct kernel patterns; this mask has 65537"):
        format_named("pattern").encode(np.ones(mask.support.shape, np.float32), mask)


def numbered_kernels(patterns, taps):
    """As many kernels, no two alike, in an order that is not sorted."""
    number = np.arange(patterns)[::-1, None] * 40_503 % 65_536 + np.arange(patterns)[::-1, None] // 65_536 * 65_536
    return Mask("unstructured", (number >> np.arange(taps).clip(max=40) & 1).astype(bool).reshape(patterns, 1, taps))


def test_regular_4_of_9_takes_the_bytes_of_its_values_and_one_per_kernel():
    ranks = np.random.default_rng(0).random((64, 64, 9)).argsort(-1).argsort(-1)
    mask = Mask("regular", (ranks < 4).reshape(64, 64, 3, 3))
    assert format_named("pattern").nbytes(mask, 4) == 64 * 64 * 4 * 4 + 64 * 64 + 126 * 9
    assert format_named("bitmask").nbytes(mask, 4) == 64 * 64 * 4 * 4 + 64 * 64 * 9 // 8


def test_lfsr_stores_the_values_and_nothing_else():
    mask = regenerate(LFSR, (8, 8, 3, 3))
    values = make_values(mask.support.shape)
    lfsr = format_named("lfsr")
    packed = lfsr.encode(values, mask)
    lfsr.validate(packed)
    assert lfsr.nbytes(mask, 4) == packed.nbytes == 4 * mask.kept
    assert lfsr.decode(packed).tobytes() == np.where(mask.support, values, 0).astype(np.float32).tobytes()
    assert lfsr.nbytes(make_mask("unstructured", (8, 8, 3, 3)), 4) is None
    with pytest.raises(UsageError, match="format lfsr holds a mask that a recorded shift register draws"):
        lfsr.encode(values, replace(mask, support=~mask.support))


def sample(name, shape=(8, 8, 3, 3)):
    """A stored weight to break."""
    mask = regenerate(LFSR, shape) if name == "lfsr" else make_mask("periodic", shape, seed=3)
    return format_named(name).encode(make_values(shape), mask)


def with_array(packed, name, array):
    return replace(packed, arrays={**packed.arrays, name: array})


def put(packed, name, index, value):
    array = packed.arrays[name].copy()
    array[index] = value
    return with_array(packed, name, array)


def refused(packed, match):
    with pytest.raises(CorruptFileError, match=match):
        format_named(packed.format).validate(packed)


@pytest.mark.parametrize("name", FORMATS)
@pytest.mark.parametrize(
    ("shape", "match"),
    [
        ((), "not one of positive integers"),
        ((8, 8, 3, 0), "not one of positive integers"),
        ((8, -8, 3, -3), "not one of positive integers"),
        ((8.0, 8, 3, 3), "not one of positive integers"),
        ((True, 8, 3, 3), "not one of positive integers"),
        (("8", 8, 3, 3), "not one of positive integers"),
        ((1 << 16, 1 << 16), "more than 2147483648 elements"),
        ((8, 8, 1, 3), "values|array|lfsr"),
        ((9, 8, 3, 3), "values|array|lfsr"),
    ],
)
def test_a_wrong_shape_is_refused(name, shape, match):
    refused(replace(sample(name), shape=shape), match)


@pytest.mark.parametrize(("name", "array"), [(name, array) for name in FORMATS if name != "lfsr" for array in sample(name).arrays] + [("lfsr", "values")])
@pytest.mark.parametrize(
    "change",
    [
        lambda array: array[:-1],
        lambda array: np.concatenate([array, array[-1:]]),
        lambda array: array[:0],
        lambda array: array[None],
        lambda array: array.astype(np.float64),
        lambda array: array.astype(np.int64),
        lambda array: array.astype(array.dtype.newbyteorder(">")) if array.itemsize > 1 else array.astype(np.int8),
        lambda array: array.astype(object),
        lambda array: np.array(array.reshape(-1)[0]),
    ],
    ids=["truncated", "longer", "empty", "another axis", "double", "long", "byte order", "objects", "scalar"],
)
def test_an_array_of_another_length_or_type_is_refused(name, array, change):
    packed = sample(name)
    refused(with_array(packed, array, change(packed.arrays[array])), "array|values")


@pytest.mark.parametrize("name", FORMATS)
def test_missing_and_foreign_parts_are_refused(name):
    packed = sample(name)
    for array in packed.arrays:
        refused(replace(packed, arrays={key: value for key, value in packed.arrays.items() if key != array}), rf"missing \['{array}'\]")
    refused(with_array(packed, "more", np.zeros(1)), r"too many \['more'\]")
    refused(replace(packed, params={**packed.params, "more": 1}), "more")


@pytest.mark.parametrize("name", FORMATS)
@pytest.mark.parametrize(("value", "match"), [(np.nan, "1 of .* not finite, the first at 5"), (-np.inf, "not finite"), (-0.0, "are -0.0, the first at 5")])
def test_values_that_are_no_weights_are_refused(name, value, match):
    refused(put(sample(name), "values", 5, value), match)


@pytest.mark.parametrize(
    ("packed", "match"),
    [
        (put(format_named("bitmask").encode(np.ones((3, 3), np.float32), make_mask("unstructured", (3, 3), 1)), "bits", 1, 3), "set after the last of 9"),
        (put(sample("bitmask"), "bits", 0, 255 ^ sample("bitmask").arrays["bits"][0]), "values for"),
        (put(sample("csr"), "rows", 0, 1), "from 1 to"),
        (put(sample("csr"), "rows", -1, 2**32 - 1), "to 4294967295"),
        (put(sample("csr"), "rows", 3, 2**31), "array rows falls"),
        (put(sample("csr"), "columns", -1, 72), "array columns reaches 72 in rows of 72"),
        (put(sample("csr"), "columns", 1, 0), "does not rise"),
        (put(sample("csr"), "columns", 0, sample("csr").arrays["columns"][1]), "does not rise"),
        (put(sample("pattern"), "patterns", (0, 0), 2), "bytes up to 2"),
        (put(sample("pattern"), "ids", (0, 0), 3), "array ids reaches 3 in a table of 3"),
        (with_array(sample("pattern"), "ids", sample("pattern").arrays["ids"].astype(np.uint16)), "array ids is uint16 for 3 patterns"),
        (with_array(sample("pattern"), "ids", sample("pattern").arrays["ids"][:3]), "3 rows for 8 filters"),
        (with_array(sample("pattern"), "ids", sample("pattern").arrays["ids"][[0, 0, 1, 1, 2, 2, 3, 3]]), "repeats every row 2 times"),
        (with_array(sample("pattern"), "patterns", sample("pattern").arrays["patterns"][::-1]), "not sorted"),
        (with_array(sample("pattern"), "patterns", sample("pattern").arrays["patterns"][[0, 1, 1]]), "rows twice"),
        (with_array(sample("pattern"), "patterns", sample("pattern").arrays["patterns"][[0, 1, 2, 2]]), "without use"),
        (with_array(sample("periodic"), "patterns", np.ones((16, 9), np.uint8)), "16 rows; .filter . channel. takes 15 values"),
        (put(sample("periodic"), "patterns", (0, 0), 1 - sample("periodic").arrays["patterns"][0, 0]), "values for"),
    ],
)
def test_structure_that_contradicts_itself_is_refused(packed, match):
    refused(packed, match)


@pytest.mark.parametrize(
    ("change", "match"),
    [
        ({"seed": 0}, "seed"),
        ({"seed": "7"}, "seed"),
        ({"width": 2**70}, "width"),
        ({"width": 8.0}, "width"),
        ({"polynomial": None}, "in full it is"),
        ({"polynomial": 1}, "polynomial"),
        ({"polynomial": []}, "polynomial"),
        ({"scheme": "magic"}, "scheme"),
        ({"scheme": {}}, "scheme"),
        ({"scheme": "position"}, "scheme"),
        ({"kept": 5}, "scheme"),
        ({"taps_per_kernel": 5}, "stores 256 values, not as"),
        ({"taps_per_kernel": "4"}, "stores 256 values, not as"),
        ({"taps_per_kernel": [0] * 4}, "stores 256 values, not as"),
        ({"foreign": 1}, "foreign"),
    ],
)
def test_a_register_that_draws_no_such_mask_is_refused(change, match):
    packed = sample("lfsr")
    refused(replace(packed, params={**packed.params, **change}), match)


def test_a_register_for_more_places_than_there_are_values_is_not_run():
    refused(replace(sample("lfsr"), shape=(1 << 14, 1 << 13, 4, 4)), "stores 256 values, not as")


@pytest.mark.parametrize("name", FORMATS)
@given(data=st.data())
@settings(deadline=None, max_examples=200)
def test_whatever_is_accepted_is_what_encoding_gives(name, data):
    """Change bytes of the structure, and the number of values with it: refused, or the one encoding of the mask it decodes to."""
    packed = sample(name, (6, 4, 3, 3))
    for array in [key for key in packed.arrays if key != "values"]:
        content = bytearray(packed.arrays[array].tobytes())
        for place in data.draw(st.lists(st.integers(0, len(content) - 1), max_size=3)):
            content[place] = data.draw(st.sampled_from([0, 1, 2, 255, content[place] ^ 1, content[place - 1]]))
        packed = with_array(packed, array, np.frombuffer(bytes(content), packed.arrays[array].dtype).reshape(packed.arrays[array].shape))
    format = format_named(name)
    try:
        if places := places_demanded(packed):
            packed = with_array(packed, "values", make_values(places))
        format.validate(packed)
    except CorruptFileError:
        return
    family, params = {"lfsr": ("lfsr", packed.params), "periodic": ("periodic", {"period": len(packed.arrays.get("patterns", ()))})}.get(
        name, ("unstructured", {})
    )
    assert format.encode(format.decode(packed), Mask(family, format.support(packed), params)) == packed


def places_demanded(packed):
    """How many values the structure has places for, if their number is all that is wrong."""
    try:
        format_named(packed.format).validate(packed)
    except CorruptFileError as error:
        if found := re.search(r"values for (\d+) places", str(error)):
            return int(found[1])
        raise
    return None
