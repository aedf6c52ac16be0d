"""Who may import whom: the rooms of the house and the doors between them."""

import ast
import importlib
import importlib.util
from pathlib import Path

import pytest

from rsk_deploy import registry

ROOT = Path(__file__).parent.parent
ROOMS = {"rsk_deploy/converters": ROOT / "converters", "rsk_deploy/runtime": ROOT / "runtime"}
CORE = {"ir", "errors"}
DATA = CORE | {"registry", "masks"}

ALLOWED = {  # room → rooms whose code it may import
    "errors": set(),
    "ir": {"errors"},
    "registry": CORE,
    "masks": CORE | {"registry", "rewrite"},
    "formats": DATA,
    "packing": DATA,
    "reporting": CORE | {"registry", "formats"},
    "fold": CORE,
    "rewrite": DATA,
    "reference": CORE | {"registry"},
    "comparing": CORE | {"registry", "reference"},
    "codec": CORE | {"registry"},
    "files": {"errors"},
    "provenance": CORE | {"registry"},
    "store": CORE | {"registry", "codec", "files", "packing", "provenance", "reference"},
    "torchfiles": CORE,
    "readers": DATA | {"fold", "nn", "zoo", "torchfiles", "packing", "reference", "store", "provenance"},
    "nn": DATA | {"files", "zoo", "torchfiles"},
    "zoo": CORE | {"registry", "nn"},
    "mlprogram": CORE | {"files"},
    "converters": CORE | {"registry", "masks", "provenance", "reference", "mlprogram", "rewrite", "runtime"},  # the code generator alone, for --emit-asm
    "samples": CORE,
    "verify": CORE | {"registry", "readers", "reference", "comparing", "samples", "runtime", "store"},
    "exporting": CORE | {"rewrite", "registry", "readers", "packing", "verify", "reference", "files", "samples"},
    "diff": CORE | {"registry"},
    "doctor": set(),
    "inspect": CORE | {"readers", "packing", "store", "reporting"},
    "runtime": CORE | {"registry", "packing", "rewrite", "store", "files"},
    "cli": CORE
    | {"registry", "readers", "packing", "reporting", "exporting", "inspect", "verify", "comparing", "samples", "diff", "doctor", "provenance"}
    | {"mlprogram", "rewrite", "files"},
    "__init__": CORE | {"runtime", "registry", "readers", "packing", "reporting", "store", "exporting", "verify", "comparing"},
}
HEAVY = {"torch", "onnx", "onnxruntime", "onnxscript", "scipy", "safetensors", "openvino", "typer", "rich", "coremltools", "matplotlib", "sympy"}
MAY_IMPORT_AT_TOP = {"cli": {"typer", "rich"}, "nn": {"torch"}, "zoo": {"torch"}}


def sources():
    for base, name in ((ROOT / "rsk_deploy", "rsk_deploy"), (ROOT / "converters", "rsk_deploy.converters"), (ROOT / "runtime", "rsk_deploy.runtime")):
        for path in sorted(base.rglob("*.py")):
            module = ".".join((name, *path.relative_to(base).with_suffix("").parts))
            yield pytest.param(path, module.split(".")[1], id=module)


def imported(tree):
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            yield from (f"{node.module}.{alias.name}" for alias in node.names) if node.module == "rsk_deploy" else (node.module,)


@pytest.mark.parametrize(("path", "room"), list(sources()))
def test_a_room_imports_only_what_it_may(path, room):
    assert room in ALLOWED, f"{room} is a new room: say in this table whom it may import"
    used = {name.split(".")[1] for name in imported(ast.parse(path.read_text())) if name.startswith("rsk_deploy.")}
    assert used - {room} <= ALLOWED[room], f"{path.name} imports {sorted(used - {room} - ALLOWED[room])}"


@pytest.mark.parametrize(("path", "room"), list(sources()))
def test_optional_packages_are_imported_where_they_are_needed(path, room):
    top = ast.Module([node for node in ast.parse(path.read_text()).body if isinstance(node, ast.Import | ast.ImportFrom)], [])
    heavy = {name.split(".")[0] for name in imported(top)} & HEAVY
    assert heavy <= MAY_IMPORT_AT_TOP.get(room, set())


@pytest.mark.parametrize(("path", "room"), list(sources()))
def test_what_cannot_be_imported_is_told_in_one_place(path, room):
    handlers = [ast.unparse(node.type) for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, ast.ExceptHandler) and node.type]
    assert not [caught for caught in handlers if "ImportError" in caught or "ModuleNotFoundError" in caught], "use errors.needing"


@pytest.mark.parametrize("table", ["FORMATS", "MASKS", "CONVERTERS", "READERS"])
def test_every_row_names_a_module(table):
    for module in getattr(registry, table).values():
        assert importlib.util.find_spec(module), module


@pytest.mark.parametrize(("table", "protocol"), [("FORMATS", registry.Format), ("MASKS", registry.MaskFamily), ("CONVERTERS", registry.Converter)])
def test_every_module_offers_its_protocol(table, protocol):
    members = {name for name in (*vars(protocol), *protocol.__annotations__) if not name.startswith("_")}
    for name in getattr(registry, table).values():
        assert members <= set(dir(importlib.import_module(name))), name
