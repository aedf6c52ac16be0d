"""Every mask family: what it generates it finds again, with weights that are 0 by chance, and never where the structure does not hold."""

import hashlib
import json
from contextlib import suppress

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rsk_deploy import masks
from rsk_deploy.errors import UsageError
from rsk_deploy.ir import Declared
from rsk_deploy.masks import periodic
from rsk_deploy.masks.kernels import as_kernels
from rsk_deploy.masks.one_pattern import cross
from rsk_deploy.registry import MASKS, mask_named, regenerate

SHAPES = [(48, 32, 3, 3), (64, 24, 5), (40, 20, 2, 2, 2), (32, 16, 1, 5)]
DETECTED = [family for family in MASKS if family != "lfsr"]
STRUCTURED = [family for family in DETECTED if family != "unstructured"]
KEPT = {(3, 3): 4, (5,): 2, (2, 2, 2): 3, (1, 5): 2}
PARAMS = {
    "one-pattern": lambda kept: {"taps": list(range(0, 2 * kept, 2))[:kept]},
    "unstructured": lambda kept: {"density": 0.3},
    "lfsr": lambda kept: {"taps_per_kernel": kept},
    **dict.fromkeys(("input-class", "lowerable"), lambda kept: {"taps_per_kernel": {3: 2}.get(kept, kept)}),  # no rectangle of 2x2x2 has 3 taps
}


def generated(family, shape, seed=0):
    params = PARAMS.get(family, lambda kept: {"taps_per_kernel": kept})(KEPT[shape[2:]])
    seeded = {} if family == "one-pattern" else {"seed": seed + (family == "lfsr")}
    return mask_named(family).generate(shape, **params, **seeded)


def weight(mask, seed=0, *, zeros=0):
    """Random values on the support; the first kept weight of ``zeros`` kernels is 0 by chance."""
    rng = np.random.default_rng(seed)
    values = np.where(mask.support, rng.uniform(0.5, 1, mask.support.shape), 0).astype(np.float32)
    if zeros:
        first = np.unique(np.nonzero(as_kernels(mask.support).reshape(-1, as_kernels(values).shape[2]))[0], return_index=True)[1]
        values.flat[rng.choice(np.flatnonzero(mask.support)[first], zeros, replace=False)] = 0
    return values


def detect(family, values):
    return mask_named(family).detect(values, values != 0)


def planted(values):
    """The weight with one more nonzero, outside its support."""
    values = values.copy()
    values.flat[np.flatnonzero(values == 0)[7]] = 1
    return values


def digest(mask):
    return hashlib.sha256(np.packbits(mask.support).tobytes()).hexdigest()[:16]


@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("family", STRUCTURED)
def test_a_generated_mask_is_found_again_exactly(family, shape):
    mask = generated(family, shape)
    found = detect(family, weight(mask))
    assert found is not None
    assert (found.family, found.params) == (family, mask.params)
    assert np.array_equal(found.support, mask.support)
    assert found.evidence[-1] != "."
    assert any(letter.isdigit() for letter in found.evidence)


@pytest.mark.parametrize("family", DETECTED)
def test_the_first_mask_found_names_the_family(family):
    found = masks.find(weight(generated(family, (64, 32, 3, 3))))
    assert [mask.family for mask in found] == sorted((mask.family for mask in found), key=list(MASKS).index)
    assert found[0].family == family
    assert found[-1].family == "unstructured"


@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("family", STRUCTURED)
@settings(deadline=None, max_examples=8)
@given(seed=st.integers(0, 1000))
def test_kept_weights_that_are_zero_by_chance_do_not_hide_the_structure(family, shape, seed):
    mask = generated(family, shape, seed)
    values = weight(mask, seed, zeros=6)
    found = detect(family, values)
    assert found is not None
    assert found.params == mask.params
    assert not (values[~found.support] != 0).any()
    if family not in ("regular", "two-four"):  # these cannot know which tap of a short kernel was meant
        assert np.array_equal(found.support, mask.support)
        assert "6 kept weights 0 by chance" in found.evidence


@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("family", STRUCTURED)
def test_one_exception_refuses_the_structure(family, shape):
    assert detect(family, planted(weight(generated(family, shape)))) is None


@pytest.mark.parametrize("family", STRUCTURED)
def test_filters_that_are_zero_throughout_do_not_hide_the_structure(family):
    mask = generated(family, (48, 32, 3, 3))
    values = weight(mask)
    values[[0, 5, 17, 18, 40]] = 0
    found = detect(family, values)
    assert found is not None
    assert found.params == mask.params


@pytest.mark.parametrize("family", STRUCTURED)
@pytest.mark.parametrize("density", [0.02, 0.3, 0.7, 0.95, 0.999])
@pytest.mark.parametrize("shape", [(48, 32, 3, 3), (300, 200)], ids=str)
def test_unstructured_weights_have_no_structure(family, shape, density):
    assert detect(family, weight(mask_named("unstructured").generate(shape, density=density, seed=3))) is None


@pytest.mark.parametrize("family", [family for family in STRUCTURED if family != "regular"])
def test_random_regular_kernels_have_no_further_structure(family):
    assert detect(family, weight(generated("regular", (48, 32, 3, 3)))) is None


@pytest.mark.parametrize("shape", [(64, 1, 3, 3), (64, 3, 3, 3), (3, 64, 3, 3), (1, 64, 3, 3), (2, 2, 3, 3)], ids=str)
def test_thin_random_layers_are_called_regular_and_no_more(shape):
    assert [mask.family for mask in masks.find(weight(mask_named("regular").generate(shape, seed=1)))] == ["regular", "unstructured"]


def test_a_weight_without_zeros_is_one_unstructured_mask():
    (mask,) = masks.find(np.ones((8, 4, 3, 3), np.float32))
    assert (mask.family, mask.evidence, masks_describe(mask)) == ("unstructured", "no weight is 0", "dense")


def masks_describe(mask):
    return mask_named(mask.family).describe(mask)


@pytest.mark.parametrize("shape", [(8, 4, 3, 3), (16, 8)], ids=str)
def test_an_all_zero_weight_keeps_one_empty_pattern(shape):
    mask = masks.find(np.zeros(shape, np.float32))[0]
    assert (mask.family, mask.params, mask.kept) == ("one-pattern", {"taps": []}, 0)


def test_pruned_input_channels_of_a_matrix_are_shared_by_all_outputs():
    values = np.ones((500, 400), np.float32)
    values[:, [60, 333]] = 0
    mask = masks.find(values)[0]
    assert mask.family == "per-input"
    assert np.array_equal(mask.support, values != 0)


def test_blocks_of_a_matrix_are_found():
    kept = np.random.default_rng(0).random((16, 100)) < 0.2
    values = np.repeat(kept, 12, axis=0).astype(np.float32)
    mask = masks.find(values)[0]
    assert (mask.family, mask.params) == ("block-shared", {"block": 12})


@pytest.mark.parametrize("block", [4, 7, 8, 16, 32, 64])
@pytest.mark.parametrize("outputs", [130, 192])
def test_the_largest_block_names_the_mask(block, outputs):
    mask = mask_named("block-shared").generate((outputs, 16, 3, 3), block=block)
    found = detect("block-shared", weight(mask))
    assert found is not None
    assert found.params == {"block": block}
    assert np.array_equal(found.support, mask.support)


@pytest.mark.parametrize("period", periodic.PERIODS)
def test_the_smallest_period_names_the_mask(period):
    mask = mask_named("periodic").generate((96, 64, 3, 3), period=period, seed=5)
    twice = mask_named("periodic").generate((96, 64, 3, 3), taps=mask.params["taps"] * 2)
    assert np.array_equal(twice.support, mask.support)
    found = detect("periodic", weight(twice, zeros=9))
    assert found is not None
    assert found.params == mask.params


@pytest.mark.parametrize(("kept", "period", "density"), [(4, 8, 0.514), (4, 16, 0.479), (2, 8, 0.319)])
def test_the_published_periodic_masks_have_the_published_density(kept, period, density):
    taps = periodic.published_taps(kept, period)
    mask = mask_named("periodic").generate((64, 64, 3, 3), taps=taps)
    assert mask.support.mean() == pytest.approx(density, abs=5e-4)
    assert mask.support[period - 1, 0].all()
    assert sorted(map(len, taps)) == [kept] * (period - 1) + [9]
    assert masks.find(weight(mask))[0].params == {"period": period, "taps": taps}


def test_the_cross_keeps_the_middle_row_and_column():
    mask = mask_named("one-pattern").generate((4, 4, 3, 3), taps="cross")
    assert mask.support[0, 0].astype(int).tolist() == [[0, 1, 0], [1, 1, 1], [0, 1, 0]]
    assert mask.params == {"taps": [1, 3, 4, 5, 7]}
    assert cross((1, 3)) == [0, 1, 2]
    assert cross((2, 2)) is None


@pytest.mark.parametrize("family", ["regular", "two-four", "per-input", "block-shared"])
@pytest.mark.parametrize("kept", [1, 2, 3, 4])
@pytest.mark.parametrize("channels", [2, 3, 6, 9, 33])
def test_every_filter_keeps_every_tap_or_as_many_as_its_channels_allow(family, kept, channels):
    mask = mask_named(family).generate((40, channels, 3, 3), taps_per_kernel=kept, seed=kept)
    kernels = as_kernels(mask.support)
    assert (kernels.sum(2) == kept).all()
    assert (kernels.any(1).sum(1) == min(9, kept * channels)).all()


@pytest.mark.parametrize("kept", [1, 2, 4])
def test_periodic_kernels_keep_every_tap_in_some_class(kept):
    taps = mask_named("periodic").generate((16, 16, 3, 3), period=9, taps_per_kernel=kept).params["taps"]
    assert {len(places) for places in taps} == {kept}
    assert set().union(*taps) == set(range(9))


def test_evidence_warns_when_taps_are_never_reached():
    evidence = mask_named("regular").generate((64, 3, 3, 3), taps_per_kernel=2).evidence
    assert evidence == "every kernel keeps 2 of 9 taps; 64 of 64 filters do not reach every tap: the poorest keeps 6 of 9 over its 3 channels"


@pytest.mark.parametrize("kept", [1, 2, 3, 4])
@pytest.mark.parametrize("channels", [4, 7, 32])
def test_two_four_masks_keep_a_tap_at_most_twice_in_four_channels(kept, channels):
    mask = mask_named("two-four").generate((32, channels, 3, 3), taps_per_kernel=kept)
    for support in (mask.support, detect("two-four", weight(mask, zeros=5)).support):
        assert max(support[:, start : start + 4].sum(1).max() for start in range(0, support.shape[1], 4)) <= 2


def test_kernels_drawn_from_one_seed_use_all_patterns_evenly():
    counts = np.bincount(np.unique(masks.kernels.pattern_ids(mask_named("regular").generate((256, 256, 3, 3)).support), return_inverse=True)[1].ravel())
    assert len(counts) == 126
    assert abs(counts - 65536 / 126).max() < 5 * (65536 / 126) ** 0.5


def test_unstructured_masks_have_the_density_asked_for():
    generate = mask_named("unstructured").generate
    assert generate((1000, 300), density=0.1, seed=4).support.mean() == pytest.approx(0.1, abs=0.003)
    assert generate((10, 10), density=0).kept == 0
    assert generate((10, 10), density=1).kept == 100


GOLDENS = {
    "lfsr": "e9f4f1747ff64c4b",
    "one-pattern": "3a0a0499c907fa75",
    "periodic": "4b6d7689a15b8292",
    "input-class": "8b13ba4f6923f664",
    "lowerable": "4433f4bee7639a85",
    "per-input": "c32e36aed7b748a9",
    "block-shared": "19f1798c8ee2c32e",
    "two-four": "877c83d0f21e50bc",
    "regular": "dc0c22821cf684ac",
    "unstructured": "099d77e02b196a4a",
}


@pytest.mark.parametrize("family", MASKS)
def test_the_same_parameters_give_the_same_bits_on_every_machine(family):
    assert digest(generated(family, (48, 32, 3, 3), seed=9)) == GOLDENS[family]


@pytest.mark.parametrize("family", MASKS)
def test_parameters_are_json_and_survive_it(family):
    mask = generated(family, (48, 32, 3, 3))
    assert json.loads(json.dumps(dict(mask.params))) == mask.params
    assert masks_describe(mask)


DESCRIPTIONS = {
    "lfsr": "LFSR of 32 bits, 4 of 9 per kernel",
    "one-pattern": "one pattern for all kernels: cross, 5 of 9",
    "periodic": "period 8 in output + input, 4 of 9 per kernel",
    "input-class": "rectangles by 4 classes of inputs, 4 of 9 per kernel",
    "lowerable": "rectangles by 2 classes of outputs and 4 of inputs, 4 of 9 per kernel",
    "per-input": "shared by all outputs, 4 of 9 per kernel",
    "block-shared": "shared by blocks of 8 outputs, 4 of 9 per kernel",
    "two-four": "4 of 9 per kernel, 2:4-legal along the input channels",
    "regular": "4 of 9 per kernel, 126 patterns",
    "unstructured": "10.4 % of the weights",
}


@pytest.mark.parametrize("family", MASKS)
def test_defaults_describe_themselves_in_a_phrase(family):
    assert masks_describe(mask_named(family).generate((48, 32, 3, 3))) == DESCRIPTIONS[family]


REFUSED = [
    ("regular", {"taps_per_kernel": 0}, "taps_per_kernel is 0; a whole number from 1 to 9 is needed"),
    ("regular", {"taps_per_kernel": 10}, "taps_per_kernel is 10; a whole number from 1 to 9 is needed"),
    ("regular", {"taps_per_kernel": "4"}, "taps_per_kernel is '4'; a whole number from 1 to 9 is needed"),
    ("regular", {"taps_per_kernel": True}, "taps_per_kernel is True; a whole number from 1 to 9 is needed"),
    ("regular", {"seed": -1}, "seed is -1; a whole number from 0 to 18446744073709551615 is needed"),
    ("regular", {"period": 8}, "a mask of family 'regular' takes no argument 'period'; it takes taps_per_kernel=4, seed=0."),
    ("one-pattern", {"taps": [1, 1]}, "the taps [1, 1] name a place twice"),
    ("one-pattern", {"taps": "ring"}, "the taps are 'ring'; a list of different places from 0 to 8 is needed"),
    ("one-pattern", {"taps": [9]}, "a tap is 9; a whole number from 0 to 8 is needed"),
    ("one-pattern", {"taps": list(range(10**6))}, "the taps are [0, 1, 2, 3, 4, 5, ...]; a list of different places from 0 to 8 is needed"),
    ("periodic", {"period": 0}, "period is 0; a whole number from 1 to 1024 is needed"),
    ("periodic", {"period": 10**9}, "period is 1000000000; a whole number from 1 to 1024 is needed"),
    ("periodic", {"period": 3, "taps": [[0]]}, "a mask of period 3 needs 3 tap sets, not 1"),
    ("periodic", {"taps": 5}, "the taps of a periodic mask are a list of tap sets, one per class of (output + input) mod period"),
    ("periodic", {"taps": [[0], 5]}, "the taps are 5; a list of different places from 0 to 8 is needed"),
    ("block-shared", {"block": 0}, "block is 0; a whole number from 1 to 2147483648 is needed"),
    ("two-four", {"taps_per_kernel": 5}, "no kernels with 5 of 9 taps are 2:4-legal: 4 kernels need 20 places and have 2 × 9. Keep at most 4."),
    ("unstructured", {"density": 1.5}, "density is 1.5; a number from 0 to 1 is needed"),
    ("unstructured", {"density": float("nan")}, "density is nan; a number from 0 to 1 is needed"),
    ("per-input", {"taps_per_kernel": 2.0}, "taps_per_kernel is 2.0; a whole number from 1 to 9 is needed"),
]


@pytest.mark.parametrize(("family", "params", "message"), REFUSED)
def test_bad_parameters_are_refused_in_a_sentence(family, params, message):
    with pytest.raises(UsageError) as error:
        regenerate(Declared(family, params), (16, 8, 3, 3))
    assert str(error.value) == message


JUNK = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(),
    st.integers(0, 40),
    st.floats(),
    st.text(max_size=3),
    st.lists(st.one_of(st.integers(0, 9), st.text(), st.lists(st.integers(0, 9)))),
)
NAMES = st.sampled_from(["taps", "period", "block", "taps_per_kernel", "seed", "density", "scheme", "width", "polynomial", "kept", "shape", "x"])


@pytest.mark.parametrize("family", MASKS)
@settings(deadline=None, max_examples=60)
@given(params=st.dictionaries(NAMES, JUNK, max_size=4))
def test_parameters_from_a_hostile_file_give_a_mask_or_a_sentence(family, params):
    with suppress(UsageError):
        assert regenerate(Declared(family, params), (6, 5, 3, 3)).support.shape == (6, 5, 3, 3)


def test_a_cross_needs_a_middle():
    with pytest.raises(UsageError, match=r"a cross is the middle row and column of a kernel, and a weight of shape \(8, 8, 2, 2\) has none"):
        mask_named("one-pattern").generate((8, 8, 2, 2))


def test_only_two_periodic_masks_were_published():
    with pytest.raises(UsageError, match="no periodic kernels with 3 taps were published; 4 "):
        periodic.published_taps(3, 8)


@pytest.mark.parametrize("family", ["regular", "two-four"])
def test_kernels_are_completed_to_the_number_that_nearly_all_have(family):
    values = weight(generated(family, (48, 32, 3, 3)), zeros=40)
    values[:, :3] = 0
    found = detect(family, values)
    assert (as_kernels(found.support).sum(2) == 4).all()
    short = int(((values != 0).sum((2, 3)) < 4).sum())
    assert found.evidence.startswith(f"{1536 - short} of 1536 kernels keep 4 of 9 taps, none keeps more")


def test_weights_pruned_kernel_by_kernel_are_not_called_regular():
    values = weight(generated("regular", (48, 32, 3, 3)))
    values[:, ::2] = values[:, 1::4] = 0
    assert detect("regular", values) is None


def test_a_vector_has_no_kernels():
    with pytest.raises(UsageError, match=r"shape \(5,\) has none"):
        mask_named("regular").generate((5,))


@settings(deadline=None, max_examples=60)
@given(
    shape=st.lists(st.integers(1, 6), min_size=2, max_size=5).map(tuple),
    density=st.sampled_from([0.0, 0.1, 0.5, 0.9, 1.0]),
    seed=st.integers(0, 100),
)
def test_every_mask_found_covers_the_weight(shape, density, seed):
    values = (np.random.default_rng(seed).random(shape) < density).astype(np.float32)
    for mask in masks.find(values):
        assert mask.support.shape == shape
        assert mask.support[values != 0].all()
        assert masks_describe(mask)
