"""Hostile .rsk files: a sentence, in bounded time and memory, and nothing else."""

import json
import subprocess
import sys
import time
import tracemalloc

import numpy as np
import pytest
from hostile.rsk_files import BOMBS, FILES, Parts
from hostile.rsk_model import network
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from rsk_deploy import store
from rsk_deploy.errors import RskError
from rsk_deploy.ir import Graph

SECONDS = 2
BYTES = 128 << 20
EVERYTHING = """
import resource, sys
from pathlib import Path
from rsk_deploy import store
from rsk_deploy.errors import RskError
store.load(sys.argv[1] + "/valid.rsk")
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
for path in Path(sys.argv[1]).iterdir():
    try:
        store.load(path)
    except RskError:
        pass
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)
"""


@pytest.fixture(scope="module")
def valid(tmp_path_factory):
    path = tmp_path_factory.mktemp("valid") / "net.rsk"
    store.save(network(), path)
    return path.read_bytes()


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("hostile")


def opened(folder, data):
    """The graph, or the error, of a file; time and memory are held to the limits."""
    path = folder / "net.rsk"
    path.write_bytes(data)
    tracemalloc.start()
    start = time.process_time()
    try:
        return store.load(path)
    except RskError as error:
        return error
    finally:
        seconds, (_, peak) = time.process_time() - start, tracemalloc.get_traced_memory()
        tracemalloc.stop()
        assert seconds < SECONDS
        assert peak < BYTES


@pytest.mark.parametrize("name", FILES)
def test_a_hostile_file_is_refused_with_a_sentence(name, valid, folder):
    damage, said = FILES[name]
    result = opened(folder, damage(valid))
    assert isinstance(result, RskError)
    with pytest.raises(RskError, match=f"net.rsk: .*{said}"):
        raise result
    assert len(str(result)) < 1000


@pytest.mark.parametrize("name", BOMBS)
def test_opening_a_bomb_is_cheap(name, valid, folder):
    opened(folder, BOMBS[name](valid))


def test_no_hostile_file_takes_memory_outside_python(valid, folder):
    files = folder / "all"
    files.mkdir()
    (files / "valid.rsk").write_bytes(valid)
    for name, (damage, _) in FILES.items():
        (files / f"{name}.rsk").write_bytes(damage(valid))
    kilobytes = subprocess.run([sys.executable, "-c", EVERYTHING, files], check=True, capture_output=True, text=True).stdout
    assert int(kilobytes) < BYTES >> 10


FEW = settings(max_examples=100, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


@FEW
@given(st.lists(st.tuples(st.integers(0, 1 << 20), st.integers(0, 255)), min_size=1, max_size=8), st.integers(0, 1 << 20))
def test_random_bytes_give_a_graph_or_a_sentence(valid, folder, changes, cut):
    data = bytearray(valid)
    for place, byte in changes:
        data[place % len(data)] = byte
    assert isinstance(opened(folder, bytes(data[: cut % len(data)] if cut % 4 == 0 else data)), Graph | RskError)


JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(max_size=6)
    | st.sampled_from([2**31, 2**62, -1, 0, "inf", "x"]),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=2),
    max_leaves=4,
)


def places(value, path=()):
    """Every place in a JSON document."""
    yield path
    if isinstance(value, dict | list):
        for key, item in value.items() if isinstance(value, dict) else enumerate(value):
            yield from places(item, (*path, key))


@FEW
@given(st.data())
def test_a_changed_document_gives_a_graph_or_a_sentence(valid, folder, data):
    parts = Parts(valid)
    for _ in range(data.draw(st.integers(1, 2))):
        *path, last = data.draw(st.sampled_from([place for place in places(parts.content) if place]))
        holder = parts.content
        for key in path:
            holder = holder[key]
        if data.draw(st.booleans()):
            holder[last] = data.draw(JSON)
        else:
            del holder[last]
    assert isinstance(opened(folder, parts.join()), Graph | RskError)


@FEW
@given(st.data())
def test_changed_arrays_give_a_graph_that_decodes_or_a_sentence(valid, folder, data):
    parts = Parts(valid)
    name = data.draw(st.sampled_from([name for name in parts.header if name != "__metadata__"]))
    array = parts.array(name).view(np.uint8).reshape(-1)
    for place in data.draw(st.lists(st.integers(0, array.size - 1), min_size=1, max_size=4)):
        array[place] = data.draw(st.integers(0, 255))
    result = opened(folder, parts.join())
    assert isinstance(result, Graph | RskError)
    if isinstance(result, Graph):
        store.write(result, folder / "again.rsk")
        assert store.load(folder / "again.rsk") == result
        assert json.loads(Parts((folder / "again.rsk").read_bytes()).header["__metadata__"]["rsk"])["graph"] == parts.content["graph"]
