"""Exported programs (.pt2), without the code that such a file can carry.

``torch.export.load`` unpickles sample inputs, tensor subclasses and custom objects, evaluates symbolic expressions, guards and
node names as Python, and imports enums by name. Here the archive is rewritten first: every field is held against what it may
contain, what can carry code is refused or left out, and only the clean copy reaches torch.
"""

from __future__ import annotations

import io
import json
import re
import zipfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from math import prod
from pathlib import Path
from typing import TYPE_CHECKING

from rsk_deploy.errors import CorruptFileError, UnsafeFileError, UnsupportedError, about
from rsk_deploy.ir import Json
from rsk_deploy.readers.torch.quiet import quiet
from rsk_deploy.torchfiles.pickles import globals_of, opened, unusual

if TYPE_CHECKING:
    from torch.export import ExportedProgram

NAME = r"[A-Za-z_]\w*"
PATH = r"(?!__)[\w-]*(\.(?!__)[\w-]+)*"  # of a weight in its module
SYMBOLIC = r"Symbol|Integer|Add|Mul|Max|Min|Mod|PythonMod|FloorDiv|CleanDiv|CeilDiv|ModularIndexing|integer|positive|nonnegative|True|False"
"""All that an expression over sizes may call or say. No powers and shifts: they can be made to fill any memory."""

FIELDS = {
    "name": NAME, "as_name": NAME, "user_input_name": NAME, "forward_arg_names": NAME, "parameter_name": PATH, "buffer_name": PATH,
    "tensor_constant_name": PATH, "fqn": PATH, "path_name": r"(weight|tensor)_\d+", "type": r"cpu|cuda|mps|xpu|meta", "torch_version": r"[\w.+<= ]*",
    "verifiers": r"ATEN|TRAINING|", "as_string": r"[\w ,.>-]*", "as_strings": r"[\w ,.>-]*", "as_float": r"-?Infinity|NaN", "as_floats": r"-?Infinity|NaN",
    "target": r"torch\.ops\.aten\.(?!from_file)\w+\.\w+|torch\.sym_(max|min|float|int|not|sum|sqrt)|math\.(ceil|floor|trunc)"
              r"|_operator\.(getitem|add|sub|mul|neg|mod|floordiv|truediv|eq|ne|lt|le|gt|ge|and_|or_|not_)",
    "expr_str": rf"(\b({SYMBOLIC})\b|'[su]\d{{1,9}}'|-?\d{{1,18}}(?!\d)|[(), =])*",
}  # fmt: skip
"""What each text in the description of a program may be. A text in any other field is refused."""

FORBIDDEN = {
    "as_graph": "a higher-order operation", "as_custom_obj": "a custom object", "as_operator": "an operator as a value", "custom_obj": "a custom object",
    "custom_obj_values": "a custom object", "token": "an effect token", "class_fqn": "a custom object",
}  # fmt: skip
LEFT_OUT: dict[str, Json] = {"guards_code": [], "treespec_namedtuple_fields": {}}
CONTAINERS = ("builtins.tuple", "builtins.list", "builtins.dict", "collections.OrderedDict")
TEXT_LENGTH = 1000
SIZE_BITS, INTEGER_BITS = 32, 1024


def load(path: Path, allow_pickle: bool) -> ExportedProgram:  # the option's own name
    """The program in the file. Unless ``allow_pickle``, nothing in the file is executed."""
    import torch

    file = path if allow_pickle else io.BytesIO(cleaned(path))
    try:
        with quiet():
            program = torch.export.load(file)
            program.module(check_guards=False)  # checks how the parts of the program fit
            return program
    except Exception as error:  # the deserialiser raises whatever the fields lead it to
        told = next(iter(str(error).strip().splitlines()), "")[:300]
        raise CorruptFileError(f"torch.export cannot load the program: {type(error).__name__}: {told}") from error


def cleaned(path: Path) -> bytes:
    """A copy of the archive that holds no code."""
    buffer = io.BytesIO()
    with opened(path) as archive, zipfile.ZipFile(buffer, "w") as copy:
        sizes = {entry.filename.partition("/")[2]: entry.file_size for entry in archive.infolist()}
        if len(sizes) != len(archive.infolist()):
            raise CorruptFileError("has two entries of one name in its archive")
        models = [name for name in sizes if re.fullmatch(r"models/.*", name)]
        if len(models) != 1:
            raise UnsupportedError(f"holds {len(models)} programs ({', '.join(models) or 'none'}); save each to a file of its own")
        for entry in archive.infolist():
            name = entry.filename.partition("/")[2]
            with _reading(name):
                content = _cleaned_entry(name, archive.read(entry), sizes)
                if content is not None:
                    copy.writestr(entry.filename, content)
    return buffer.getvalue()


@contextmanager
def _reading(entry: str) -> Iterator[None]:
    """Say in which entry an error is; what parsing raises becomes a CorruptFileError."""
    with about(entry):
        try:
            yield
        except (ValueError, KeyError, TypeError, IndexError, AttributeError, RecursionError, EOFError, zipfile.BadZipFile) as error:
            raise CorruptFileError(f"cannot be read: {type(error).__name__}: {str(error)[:200]}") from error


def _cleaned_entry(name: str, content: bytes, sizes: Mapping[str, int]) -> bytes | None:
    """What of one entry goes into the clean copy; None for nothing."""
    if re.fullmatch(r"models/[\w-]+\.json", name):
        program = json.loads(content)
        _check_integers(program["graph_module"]["graph"]["nodes"])
        return json.dumps(_clean(program, "")).encode()
    if re.fullmatch(r"data/(weights|constants)/[\w-]+_config\.json", name):
        config = json.loads(content)
        _check_payloads(config, name.rpartition("/")[0], sizes)
        return json.dumps(_clean(config, "")).encode()
    if re.fullmatch(r"data/sample_inputs/[\w-]+\.pt", name):
        with zipfile.ZipFile(io.BytesIO(content)) as inner:
            called = unusual({name for entry in inner.namelist() if entry.endswith(".pkl") for name in globals_of(inner.read(entry))})
        if called:
            raise _unsafe(f"pickled objects that call {', '.join(called[:8])}")
        return b""
    if re.fullmatch(r"data/(weights/weight|constants/tensor)_\d+|archive_format|archive_version|byteorder|\.data/[\w-]+", name):
        return content
    if name.startswith("extra/"):
        return None
    raise _unsafe("an entry that an exported program of tensors does not have: pickled objects or compiled code")


def _unsafe(found: str) -> UnsafeFileError:
    return UnsafeFileError(
        f"holds {found}; loading it could run code. Export the program again without it, or pass --allow-pickle if you trust the file as you trust a program."
    )


def _check_payloads(config: Json, folder: str, sizes: Mapping[str, int]) -> None:
    """Refuse pickled payloads, and tensors that claim more than is stored of them."""
    for name, payload in config["config"].items():
        where = f"{folder}/{payload['path_name']}"
        if payload["use_pickle"] or not re.fullmatch(FIELDS["path_name"], payload["path_name"]):
            raise _unsafe(f"{name!r} as a pickled object")
        if where not in sizes:
            raise CorruptFileError(f"{name!r} is stored in {where}, which the archive does not have")
        shape = [size["as_int"] for size in payload["tensor_meta"]["sizes"]]
        if prod(shape) > sizes[where]:
            raise CorruptFileError(f"{name!r} claims the shape {shape}; {sizes[where]} bytes are stored of it")


def _check_integers(nodes: Json) -> None:
    """Refuse integers that grow by multiplication: the nodes on sizes are executed in Python, where forty squarings fill any memory."""
    bits: dict[str, int] = {}
    for node in nodes:
        if not node["target"].startswith("_operator."):
            continue
        arguments = [entry["arg"].get("as_sym_int", entry["arg"]) for entry in node["inputs"]]
        sizes = [each["as_int"].bit_length() if "as_int" in each else bits.get(str(each.get("as_name")), SIZE_BITS) for each in arguments]
        grown = sum(sizes) if node["target"] == "_operator.mul" else max(sizes, default=0) + 1
        if grown > INTEGER_BITS:
            raise CorruptFileError(f"{node['target']} computes an integer of up to {grown} bits; sizes have {INTEGER_BITS} bits at most on the way")
        bits.update({output["as_sym_int"]["as_name"]: grown for output in node["outputs"] if "as_sym_int" in output})


def _clean(value: Json, field: str) -> Json:
    """A part of the description of a program in which every text is one that its field may have."""
    if isinstance(value, dict):
        return {key: _clean_field(value[key], key, field) for key in value}
    if isinstance(value, list):
        return [_clean(item, field) for item in value]
    if isinstance(value, str):
        return _clean_text(value, field)
    return value


def _clean_field(value: Json, key: str, field: str) -> Json:
    if not re.fullmatch(PATH, key):
        raise _unsafe(f"a field named {key!r} in {field or 'the program'}")
    if key in FORBIDDEN and value:
        raise _unsafe(f"{FORBIDDEN[key]} ({json.dumps(value)[:120]})")
    if key in LEFT_OUT:
        return LEFT_OUT[key]
    if key == "metadata":
        return _clean_metadata(value)
    if key in ("device", "as_device"):
        return {"type": "cpu", "index": None}
    return _clean(value, key)


def _clean_text(text: str, field: str) -> str:
    if field in ("in_spec", "out_spec"):
        _check_treespec(json.loads(text)[1])
    elif field not in FIELDS or len(text) > TEXT_LENGTH or not re.fullmatch(FIELDS[field], text):
        raise _unsafe(f"{text[:120]!r} as {field or 'the program'}")
    return text


def _check_treespec(spec: Json) -> None:
    """How inputs or outputs are nested: plain containers, whose context is nothing or a list of keys."""
    if spec["type"] is None:
        return
    context = None if spec["context"] is None else json.loads(spec["context"])
    if spec["type"] not in CONTAINERS or not (context is None or (isinstance(context, list) and all(isinstance(key, str) for key in context))):
        raise _unsafe(f"inputs or outputs nested in a {spec['type']!r} with context {str(spec['context'])[:80]!r}")
    for child in spec["children_spec"]:
        _check_treespec(child)


def _clean_metadata(metadata: Json) -> Json:
    """Where a node stands in the user's program: module path and source lines, and nothing else."""
    scopes = re.findall(r"[\w@.-]*,[\w.-]*,[\w.<>-]*", metadata.get("nn_module_stack", ""))
    lines = re.findall(r'File "[^"\n]*", line \d+, in [\w<>]+', metadata.get("stack_trace", ""))
    return {key: text for key, text in (("nn_module_stack", ";".join(scopes)), ("stack_trace", "\n".join(lines))) if text}
