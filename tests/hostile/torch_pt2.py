"""Exported programs that try to run code when they are loaded or called: each names what is wrong, and how it is put into a good file."""

import io
import json
import pickle  # noqa: TID251  # writes what the reader must refuse
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

Entries = dict[str, bytes]


class Touch:
    """Pickles to a call that makes a file."""

    def __init__(self, marker: Path) -> None:
        self.marker = marker

    def __reduce__(self) -> Any:
        return (Path.touch, (self.marker,))


def entries(path: Path) -> Entries:
    """The archive's files, by their names inside the root folder."""
    with zipfile.ZipFile(path) as archive:
        return {name.partition("/")[2]: archive.read(name) for name in archive.namelist()}


def write(path: Path, content: Entries) -> Path:
    with zipfile.ZipFile(path, "w") as archive:
        for name, data in content.items():
            archive.writestr(f"model/{name}", data)
    return path


def code(marker: Path) -> str:
    """An expression that makes the file."""
    return f"__import__('pathlib').Path({str(marker)!r}).touch()"


def torch_pickle(marker: Path) -> bytes:
    import torch

    buffer = io.BytesIO()
    torch.save(((Touch(marker),), {}), buffer)
    return buffer.getvalue()


def edited(content: Entries, name: str, edit: Callable[[Any], None]) -> Entries:
    tree = json.loads(content[name])
    edit(tree)
    return content | {name: json.dumps(tree).encode()}


def program(content: Entries, edit: Callable[[Any], None]) -> Entries:
    return edited(content, "models/model.json", edit)


def graph(content: Entries, edit: Callable[[Any], None]) -> Entries:
    return program(content, lambda tree: edit(tree["graph_module"]["graph"]))


def payload(content: Entries, marker: Path, prefix: str, folder: str = "weights", **changes: Any) -> Entries:
    def edit(tree: Any) -> None:
        first = json.loads(content["data/weights/model_weights_config.json"])["config"]["conv.weight"]
        tree["config"]["conv.weight"] = {**first, "path_name": f"{prefix}_9", "use_pickle": True, **changes}

    data = torch_pickle(marker) if prefix != "opaque_obj" else pickle.dumps(Touch(marker))
    return edited(content | {f"data/{folder}/{prefix}_9": data}, f"data/{folder}/model_{folder}_config.json", edit)


def expression(text: str) -> Any:
    return {"as_expr": {"expr_str": text, "hint": None}}


def first_size(tree: Any, text: str) -> None:
    next(iter(tree["tensor_values"].values()))["sizes"][0] = expression(text)


def rename(content: Entries, old: str, new: str) -> Entries:
    return content | {"models/model.json": content["models/model.json"].replace(f'"{old}"'.encode(), json.dumps(new).encode())}


def call_spec(tree: Any, spec: Any) -> None:
    tree["graph_module"]["module_call_graph"][0]["signature"]["in_spec"] = json.dumps([1, spec])


def enum_spec(marker: Path) -> Any:
    (marker.parent / "rsk_marker_module.py").write_text(code(marker))
    context = json.dumps({"__enum__": True, "fqn": "rsk_marker_module:X", "name": "X"})
    return {"type": "builtins.dict", "context": context, "children_spec": []}


def with_node(content: Entries, target: str, argument: Any) -> Entries:
    arguments = [{"name": "x", "arg": argument, "kind": 1}]
    added = {"target": target, "inputs": arguments, "outputs": [], "metadata": {}, "is_hop_single_tensor_return": None, "name": "extra"}
    return graph(content, lambda tree: tree["nodes"].append(added))


def with_products(content: Entries, count: int) -> Entries:
    """Nodes that square an integer ``count`` times over."""

    def edit(tree: Any) -> None:
        value: Any = {"as_int": 1 << 60}
        for index in range(count):
            arguments = [{"name": name, "arg": value, "kind": 1} for name in "ab"]
            value = {"as_sym_int": {"as_name": f"square{index}"}}
            node = {"target": "_operator.mul", "inputs": arguments, "outputs": [value], "metadata": {}, "is_hop_single_tensor_return": None}
            tree["nodes"].insert(index, {**node, "name": f"square{index}"})
            tree["sym_int_values"][f"square{index}"] = {"as_int": 7}

    return graph(content, edit)


UNSAFE: dict[str, Callable[[Entries, Path], Entries]] = {
    "pickle in the sample inputs": lambda good, marker: good | {"data/sample_inputs/model.pt": torch_pickle(marker)},
    "pickled weight": lambda good, marker: payload(good, marker, "weight"),
    "pickled constant": lambda good, marker: payload(good, marker, "tensor", "constants"),
    "opaque object": lambda good, marker: payload(good, marker, "opaque_obj", "constants", use_pickle=False),
    "custom object": lambda good, marker: payload(good, marker, "custom_obj", "constants", tensor_meta=None),
    "pickled weights of an older format": lambda good, marker: good | {"data/weights/model.pt": torch_pickle(marker)},
    "compiled code": lambda good, marker: good | {"data/aotinductor/model/model.so": b"\x7fELF"},
    "expression": lambda good, marker: graph(good, lambda tree: first_size(tree, code(marker))),
    "expression for a symbolic value": lambda good, marker: graph(good, lambda tree: tree["sym_int_values"].update(s=expression(code(marker)))),
    "expression that fills the memory": lambda good, marker: graph(good, lambda tree: first_size(tree, "Pow(Integer(9), Pow(Integer(9), Integer(99)))")),
    "digits that take for ever": lambda good, marker: graph(good, lambda tree: first_size(tree, "1" * 900 + "!")),
    "name of a value": lambda good, marker: rename(good, "relu", f"x=0); {code(marker)}; (y"),
    "name of an input": lambda good, marker: rename(good, "x", f"x={code(marker)}"),
    "weight called like a Python method": lambda good, marker: rename(good, "conv.weight", "__class__.forward"),
    "enum to import": lambda good, marker: program(good, lambda tree: call_spec(tree, enum_spec(marker))),
    "operator outside aten": lambda good, marker: with_node(good, "torch.hub.load", {"as_string": "x"}),
    "builtin function as operator": lambda good, marker: with_node(good, "_operator.methodcaller", {"as_string": "x"}),
    "power, which can fill any memory": lambda good, marker: with_node(good, "_operator.pow", {"as_int": 9}),
    "operation on files": lambda good, marker: with_node(good, "torch.ops.aten.from_file.default", {"as_string": "x"}),
    "operator as a value": lambda good, marker: with_node(good, "torch.ops.aten.relu.default", {"as_operator": "torch.hub.load"}),
}
"""What is refused as unsafe: name → (entries of a good file, marker that running code would make) → entries."""

LEFT_OUT: dict[str, Callable[[Entries, Path], Entries]] = {
    "guard": lambda good, marker: program(good, lambda tree: tree["guards_code"].append(code(marker))),
    "metadata": lambda good, marker: graph(good, lambda tree: tree["nodes"][0]["metadata"].update(source_fn_stack=f"x,{code(marker)}")),
    "stack trace": lambda good, marker: graph(good, lambda tree: tree["nodes"][0]["metadata"].update(stack_trace=f"x\n{code(marker)}")),
    "extra file": lambda good, marker: good | {"extra/x.py": code(marker).encode()},
}
"""What is left out on reading: the rest of the file is read as if it were not there."""

CORRUPT: dict[str, Callable[[Entries], Entries]] = {
    "no program": lambda good: {name: data for name, data in good.items() if not name.startswith("models/")},
    "two programs": lambda good: good | {"models/other.json": good["models/model.json"]},
    "program is no JSON": lambda good: good | {"models/model.json": b"{"},
    "program nested without end": lambda good: good | {"models/model.json": b"[" * 100_000},
    "program without a graph": lambda good: program(good, lambda tree: tree["graph_module"].pop("graph")),
    "missing weight file": lambda good: {name: data for name, data in good.items() if name != "data/weights/weight_0"},
    "weight file too short": lambda good: good | {"data/weights/weight_0": good["data/weights/weight_0"][:8]},
    "empty weight file of a huge shape": lambda good: good | {"data/weights/weight_0": b""},
    "unknown archive version": lambda good: good | {"archive_version": b"999"},
    "call of no module": lambda good: program(good, lambda tree: tree["graph_module"]["module_call_graph"][0].update(fqn="net")),
    "integers squared forty times": lambda good: with_products(good, 40),
    "value that nothing computes": lambda good: graph(good, lambda tree: tree["nodes"].pop(0)),
}
"""What is refused as corrupt: name → entries of a good file → entries."""
