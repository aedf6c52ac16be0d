"""C code that computes with integers of 8 bits, or stores weights in 16."""

import json

import networks
import numpy as np
import pytest
from c_cases import conv_net, export, fixed
from c_targets import MACHINES, needs, needs_machine

import rsk_deploy as rsk
from rsk_deploy import reference
from rsk_deploy.comparing import compare, seeded_inputs
from rsk_deploy.converters import c as converter
from rsk_deploy.converters.c import compiled
from rsk_deploy.ir import Dense, Graph, Input, Linear
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


@pytest.mark.parametrize("target", MACHINES)
def test_other_machines_compute_the_same_integers(target, path):
    needs_machine(target)
    graph = fixed(networks.packed("psconv-regular"))
    found = converter.write(graph, path, target=target, dtype="int8", sample=drawn(graph))
    assert found.elsewhere is not None
    assert found.meaning is not None
    x = seeded_inputs(graph)
    actual = found.elsewhere.runner(path)(x)
    assert compare(lambda _: actual, lambda _: found.meaning(x), {}, rtol=1e-6).passed
