"""C code that computes with integers of 8 bits, or stores weights in 16."""

import json

import networks
import numpy as np
import pytest
from c_cases import conv_net, export, fixed, weight
from c_targets import MACHINES, needs, needs_machine

import rsk_deploy as rsk
from rsk_deploy import reference
from rsk_deploy.comparing import compare, seeded_inputs
from rsk_deploy.converters import c as converter
from rsk_deploy.converters.c import compiled
from rsk_deploy.errors import UsageError
from rsk_deploy.ir import Activation, Binary, Conv, Dense, Graph, Input, Linear
from rsk_deploy.masks.kernels import pattern_table
from rsk_deploy.registry import FORMATS

pytestmark = pytest.mark.usefixtures("host")


@pytest.fixture
def host(monkeypatch):
    """A compiler, which takes half the time at -O1."""
    needs("gcc", packages="gcc")
    monkeypatch.setattr(compiled, "FLAGS", tuple("-O1" if flag == "-O2" else flag for flag in compiled.FLAGS))


@pytest.fixture
def path(tmp_path):
    return tmp_path / "net.csource"


def drawn(graph, rows=24):
    rng = np.random.default_rng(5)
    return {entry.name: rng.standard_normal((rows, *entry.shape[1:])).astype(np.float32) for entry in graph.inputs}


EIGHT_BITS = ["cnn6", "resnet18", "mobilenetv2", "unet-transposed", "odd-convs", "norms", "conv1d", "psconv-regular", "psconv-lfsr", "psconv-periodic"]


@pytest.mark.parametrize("name", EIGHT_BITS)
def test_in_8_bits_the_compiled_code_computes_what_its_integers_mean(name, path):
    graph = fixed(networks.packed(name))
    meaning = converter.write(graph, path, dtype="int8", sample=drawn(graph)).meaning
    run = converter.runner(path)
    for seed in range(3):
        x = seeded_inputs(graph, seed=seed)
        found = compare(lambda _, x=x: run(x), lambda _, x=x: meaning(x), {}, rtol=1e-6)
        assert found.passed, found


def test_nan_is_the_largest_of_8_bits(path):
    graph = conv_net("pattern", ["3x3"])
    x = seeded_inputs(graph)
    meaning = converter.write(graph, path, dtype="int8", sample=x).meaning
    run, (name,) = converter.runner(path), x
    x[name].flat[::5] = np.nan
    largest = {name: np.where(np.isnan(x[name]), np.float32(1e30), x[name])}
    for found in (run(x), run(largest), meaning(x)):
        for output, values in meaning(largest).items():
            np.testing.assert_allclose(found[output], values, rtol=1e-6)


@pytest.mark.parametrize("format", FORMATS)
def test_every_encoding_in_8_bits(format, path):
    graph = conv_net(format)
    x = seeded_inputs(graph)
    meaning = converter.write(graph, path, dtype="int8", sample=x).meaning
    actual = converter.runner(path)(x)
    for wanted, share in ((meaning(x), 1e-6), (reference.run(graph, x), 0.03)):
        for name, values in wanted.items():
            np.testing.assert_allclose(actual[name], values, rtol=0, atol=share * np.abs(values).max(), err_msg=name)


def test_integers_take_a_byte_each_and_a_fraction_of_the_memory(tmp_path):
    graph = fixed(networks.packed("psconv-regular"))
    single = converter.write(graph, tmp_path / "single").figures
    eight = converter.write(graph, tmp_path / "eight", dtype="int8", sample=drawn(graph)).figures
    values = sum(layer.weight.arrays["values"].size for layer in graph.weighted())
    assert single["flash"] - eight["flash"] > 2.8 * values
    assert eight["ram"] < 0.55 * single["ram"]


def test_a_trained_network_keeps_its_accuracy_in_8_bits(tmp_path):
    from sklearn.datasets import load_digits
    from sklearn.linear_model import LogisticRegression

    images, labels = load_digits(return_X_y=True)
    images = (images / 16).astype(np.float32)
    fitted = LogisticRegression(max_iter=300, C=0.5).fit(images[:1000], labels[:1000])
    layer = Linear(name="fc", inputs=("x",), outputs=("y",), weight=Dense(fitted.coef_.astype(np.float32)), bias=fitted.intercept_.astype(np.float32))
    graph = rsk.pack(Graph[Dense]((Input("x", (1, 64)),), ("y",), (layer,)))
    rsk.save(graph, tmp_path / "digits.rsk")
    np.savez(tmp_path / "sample.npz", x=images[1000:1200], labels=labels[1000:1200])
    result = export(tmp_path / "digits.rsk", "--format", "c", "-o", tmp_path, "--dtype", "int8", "--sample", tmp_path / "sample.npz", "--json")
    assert result.exit_code == 0, result.stderr
    (file,) = json.loads(result.stdout)["files"]
    assert file["verification"]["original_accuracy"] > 0.9
    assert file["verification"]["accuracy"] > file["verification"]["original_accuracy"] - 0.02


def test_16_bit_weights_take_half_the_flash_and_agree(checkpoints, tmp_path):
    sizes = {}
    for dtype in ("fp32", "fp16-storage"):
        result = export(checkpoints["psconv"], "--format", "c", "-o", tmp_path / dtype, "--dtype", dtype, "--json")
        assert result.exit_code == 0, result.stderr
        sizes[dtype] = json.loads(result.stdout)["files"][0]["footprint"]["flash"]
    assert sizes["fp16-storage"] < 0.6 * sizes["fp32"]


@pytest.mark.parametrize("target", [*MACHINES, "cortex-m55"])
@pytest.mark.parametrize("name", ["psconv-regular", "cnn6"])
def test_other_machines_and_this_one_compute_the_same_integers(name, target, path):
    needs_machine(target)
    graph = fixed(networks.packed(name))
    found = converter.write(graph, path, target=target, dtype="int8", sample=drawn(graph))
    assert found.elsewhere is not None
    assert found.meaning is not None
    x = seeded_inputs(graph)
    for runner in (found.elsewhere.runner(path), converter.runner(path)):
        actual = runner(x)
        assert compare(lambda _, actual=actual: actual, lambda _: found.meaning(x), {}, rtol=1e-6).passed


def test_a_sample_on_which_a_value_has_no_range_is_refused(path):
    graph = conv_net("pattern", ["3x3"])
    sample = {name: 3e38 * np.sign(values) for name, values in drawn(graph).items()}
    with pytest.raises(UsageError, match="is infinite or NaN on the sample, which has no range of 8 bits"):
        converter.write(graph, path, dtype="int8", sample=sample)


@pytest.mark.parametrize("target", ["generic", "cortex-m4"])
def test_values_far_beyond_the_range_of_the_sample_are_its_ends(target, path):
    if target != "generic":
        needs_machine(target)

    def conv(name, value, factor):
        weight = Dense(np.full((1, 1, 1, 1), factor, np.float32))
        return Conv(name=name, inputs=(value,), outputs=(name,), weight=weight, stride=(1, 1), pads=(0,) * 4, dilation=(1, 1))

    layers = [
        *(conv("x1", "x", 1.0), Activation(name="r1", inputs=("x1",), outputs=("r1",), kind="relu"), conv("y1", "r1", 1.0)),
        *(conv("x2", "x", 1.0), conv("none", "x2", 1e-9), Binary(name="sum", inputs=("none", "x2"), outputs=("sum",), kind="add")),
        *(Activation(name="r2", inputs=("sum",), outputs=("r2",), kind="relu"), conv("y2", "r2", 1.0)),
    ]
    graph = rsk.pack(Graph[Dense]((Input("x", (1, 1, 1, 8)),), ("y1", "y2"), tuple(layers)))
    most = np.float32(1e-7)
    sample = np.array([most, *[-10] * 7], np.float32).reshape(1, 1, 1, 8)
    x = {"x": np.array([-10, -7, -4, -1, 1, 4, 7, 10], np.float32).reshape(1, 1, 1, 8)}
    found = converter.write(graph, path, target=target, dtype="int8", sample={"x": sample})
    run = found.elsewhere.runner(path) if found.elsewhere else converter.runner(path)
    for values in (run(x), found.meaning(x)):
        for name in ("y1", "y2"):
            np.testing.assert_allclose(values[name].ravel(), [0] * 4 + [most] * 4, rtol=1e-5)


@pytest.mark.parametrize(
    ("format", "channels", "size", "groups", "stride"),
    [("dense", 60, 2, 1, 1), ("dense", 60, 5, 1, 2), ("dense", 4, 24, 2, 1), ("pattern", 132, 8, 1, 1), ("bitmask", 140, 4, 1, 1), ("periodic", 12, 9, 1, 1)],
)
def test_a_cortex_m4_adds_up_more_taps_than_its_sums_hold_at_once(format, channels, size, groups, stride, path):
    needs_machine("cortex-m4")
    rng = np.random.default_rng(0)
    values = weight("dense" if format == "pattern" else format, (6, channels, 3, 3), rng)
    if format == "pattern":
        ids = rng.integers(126, size=(6, channels))
        values = Dense(np.where(pattern_table(9, 4)[ids].reshape(6, channels, 3, 3), 1, 0).astype(np.float32))
    padded = {"stride": (stride, stride), "pads": (1,) * 4, "dilation": (1, 1), "groups": groups}
    layer = Conv(name="c", inputs=("x",), outputs=("y",), weight=values, **padded)
    graph = rsk.pack(Graph[Dense]((Input("x", (1, channels * groups, size, size)),), ("y",), (layer,)), {"c": format})
    x = {"x": np.sign(rng.standard_normal((1, channels * groups, size, size)) + 2).astype(np.float32)}
    found = converter.write(graph, path, target="cortex-m4", dtype="int8", sample=x)
    np.testing.assert_allclose(found.elsewhere.runner(path)(x)["y"], found.meaning(x)["y"], rtol=1e-6, atol=1e-6)
