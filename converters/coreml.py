"""Core ML: an ML program (.mlpackage) whose weights stay sparse in the file: the kept values, and one bit for every place.

The program is built operation by operation from the graph, with coremltools' builder and without its passes, so that nothing
rests on the version of torch and the same graph gives the same bytes. It computes in fp16 unless asked otherwise; inputs and
outputs stay fp32. ``rsk_deploy.mlprogram`` reads the package back and executes it: that is how files are verified.
"""

from __future__ import annotations

import errno
import json
import sys
import uuid
from collections.abc import Collection, Iterable, Mapping
from dataclasses import astuple, dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from rsk_deploy import mlprogram, reference
from rsk_deploy.converters.coreml_axes import MOST_AXES, with_fewer_axes
from rsk_deploy.converters.coreml_body import Body, Scope, Var, coremltools, identifier
from rsk_deploy.converters.coreml_images import Preprocessing, pixels, preprocessing
from rsk_deploy.converters.coreml_layers import write_layer
from rsk_deploy.converters.coreml_weights import CODES, held_weight
from rsk_deploy.errors import CorruptFileError, UnsupportedError, UsageError, VerificationError, about
from rsk_deploy.ir import FloatArray, Graph, Input, Opaque, Packed, Softmax, Weighted
from rsk_deploy.provenance import provenance, tool_version
from rsk_deploy.registry import Footprint, Runner

OPTIONS = frozenset({"target", "precision", "input_type", "compress", "author", "license", "description"})
RUNNER = "Core ML" if sys.platform == "darwin" else "an interpreter of ML programs"
VERSION = 1

TARGETS = {"ios16": 16, "ios17": 17, "ios18": 18}
"""The oldest system that runs the file; macOS 13, 14 and 15 are of the same years."""
PRECISIONS: dict[str, type[np.floating[Any]]] = {"fp16": np.float16, "fp32": np.float32}
CHOICES: Mapping[str, Collection[str]] = {"target": TARGETS, "precision": PRECISIONS, "input_type": ("tensor", "image"), "compress": CODES}
"""The options that shape the program, and what each can be."""

LARGEST_BATCH = 1024
"""Of an open batch: Core ML wants a bound. The file says 1 to this many."""

LABEL, PROBABILITIES = "classLabel", "classLabel_probs"
"""The outputs that a classifier has besides the network's own."""


@dataclass(frozen=True, kw_only=True)
class Options:
    """What can be asked for, checked."""

    target: str | None = None
    precision: str = "fp16"
    input_type: str = "tensor"
    compress: str | None = None
    author: str = "rsk-deploy"
    license: str = ""
    description: str = ""

    def __post_init__(self) -> None:
        for name, allowed in CHOICES.items():
            value = getattr(self, name)
            if value is not None and value not in allowed:
                raise UsageError(f"--format coreml: --{name.replace('_', '-')} {value} does not exist; {', '.join(allowed)} do")
        if self.compress and self.system < 18:
            raise UsageError(
                f"--compress {self.compress} of sparse weights came with iOS 18; --target {self.target} does not have it. Leave out one of the two"
            )

    @property
    def system(self) -> int:
        """The number of the target: the oldest that has what is asked for."""
        return TARGETS[self.target or ("ios18" if self.compress else "ios16")]

    @property
    def shaping(self) -> dict[str, str]:
        """What is not the default, for the record."""
        return {name: getattr(self, name) for name in CHOICES if getattr(self, name) != getattr(Options, name)}


@dataclass(frozen=True)
class Ends:
    """What goes into the program and what comes out: the program's names by the network's, the images among the inputs, and the classes if there are any."""

    inputs: Mapping[str, str]
    outputs: Mapping[str, str]
    images: Mapping[str, Preprocessing] = field(default_factory=dict)
    labels: tuple[str, ...] = ()


def write(graph: Graph[Packed], path: Path, **options: Any) -> Footprint:
    """Write the package, a folder."""
    chosen = Options(**options)
    lean = with_fewer_axes(graph)
    check(lean, chosen)
    with coremltools() as package:
        _write(package, lean, path, chosen)
    held = rounded(graph, chosen.precision, chosen.compress)
    bits = np.finfo(PRECISIONS[chosen.precision]).nmant + 1
    return Footprint(bits=bits, meaning=partial(reference.run, held) if chosen.compress else None, held=held)


def check(graph: Graph[Packed], options: Options) -> None:
    """Refuse by name what Core ML does not have."""
    for layer in graph.layers:
        if isinstance(layer, Opaque):
            place = f" (from {layer.origin})" if layer.origin else ""
            raise UnsupportedError(f"{layer.name}: Core ML export does not have the ONNX operation {layer.op}{place}; only the ONNX export carries it")
    for entry in graph.inputs:
        if not entry.dtype.startswith("float"):
            raise UnsupportedError(f"input {entry.name} holds {entry.dtype}; Core ML models here compute with floating-point numbers")
        if not entry.shape:
            raise UnsupportedError(f"input {entry.name} is a single number without axes; Core ML reads arrays of at least one")
    for name, shape in graph.shapes().items():
        if len(shape) > MOST_AXES:
            raise UnsupportedError(f"the value {name} has {len(shape)} axes, {shape}; Core ML has at most {MOST_AXES}")
    if options.input_type == "image":
        for entry in graph.inputs:
            preprocessing(entry, graph.meta)


def runner(path: Path, values: Iterable[str] = ()) -> Runner:
    """The package as a function. On macOS Core ML runs it, unless inner values are asked for or inputs are images, which would be rounded to pixels."""
    program = mlprogram.load(path)
    wanted = list(values)
    ends = _ends_of(program)
    if sys.platform == "darwin" and not wanted and not any(feature.is_image for feature in program.package.features("input")):
        return _in_core_ml(path, ends)
    return _interpreted(program, ends, wanted)


def rounded(graph: Graph[Packed], precision: str, compress: str | None) -> Graph[Packed]:
    """The graph with its weights as they are in the file."""
    layers = list(graph.layers)
    for index, layer in enumerate(graph.layers):
        if isinstance(layer, Weighted):
            with about(layer.name):
                values = held_weight(layer, np.dtype(PRECISIONS[precision]), compress)
            layers[index] = replace(layer, weight=Packed("dense", values.shape, {"values": values.astype(np.float32).reshape(-1)}))
    return replace(graph, layers=tuple(layers))


def _ends_of(program: mlprogram.Program) -> Ends:
    """As the package says them."""
    described = program.said
    if described.get("version") != VERSION:
        raise UsageError(f"{program.package.path}: was not written by this rsk-deploy; rsk-inspect shows what it holds")
    ends = [described.get(key) for key in ("inputs", "outputs", "renamed")]
    if not all(isinstance(names, dict) and all(isinstance(name, str) for name in names.values()) for names in ends):
        raise CorruptFileError(f"{program.package.path}: its metadata does not say what its inputs and outputs are called")
    return Ends(described["inputs"], described["outputs"])


def _interpreted(program: mlprogram.Program, ends: Ends, values: Iterable[str]) -> Runner:
    inner = {name: ends.outputs.get(name) or program.said["renamed"].get(name, identifier(name)) for name in values}
    wanted = {**ends.outputs, **{name: known for name, known in inner.items() if known in program.values}}
    layouts = {feature.name: feature.layout for feature in program.package.features("input") if feature.is_image}

    def run(inputs: Mapping[str, np.ndarray[Any, Any]]) -> dict[str, FloatArray]:
        given = {ends.inputs[name]: x for name, x in inputs.items()}
        given |= {name: pixels(given[name], program.said["meta"]["preprocessing"], layout) for name, layout in layouts.items()}
        results = program.run(given, wanted.values())
        return {name: results[known] for name, known in wanted.items()}

    return run


def _in_core_ml(path: Path, ends: Ends) -> Runner:
    with coremltools() as package:
        model = package.models.MLModel(str(path))

    def run(inputs: Mapping[str, np.ndarray[Any, Any]]) -> dict[str, FloatArray]:
        try:
            results = model.predict({ends.inputs[name]: x for name, x in inputs.items()})
        except Exception as error:  # what Core ML raises has no common base
            raise VerificationError(f"Core ML does not run the file: {error}") from error
        return {name: results[known] for name, known in ends.outputs.items()}

    return run


def _write(package: Any, graph: Graph[Packed], path: Path, options: Options) -> None:
    from coremltools.converters.mil import Builder
    from coremltools.converters.mil.backend.mil.load import load
    from coremltools.converters.mil.mil import Program

    Builder.name_count.clear()  # the names of constants are numbered on from the last program of the process
    body = Body(Builder, options.system, PRECISIONS[options.precision], options.compress)
    ends = _ends(body, graph, options)
    system = getattr(package.target, f"iOS{options.system}")
    function, scores = _function(body, graph, ends, system)
    renamed = {name: value.name for name, value in body.values.items() if name not in {**ends.inputs, **ends.outputs} and value.name != identifier(name)}
    function.set_input_types(tuple(_feature(package, entry, ends) for entry in graph.inputs))
    program = Program()
    program.add_function("main", function)
    classifier = package.ClassifierConfig(list(ends.labels), LABEL, scores.name) if ends.labels else None
    home = path / "Data" / FOLDER
    (home / "weights").mkdir(parents=True)
    ways = {"convert_to": "mlprogram", "convert_from": "milinternal", "classifier_config": classifier}
    try:
        model = load(program, str(home / "weights"), specification_version=system.value, **ways)
    except RuntimeError as error:
        if "FileWriter" not in str(error):
            raise
        raise OSError(errno.ENOSPC, str(error)) from error  # coremltools does not say why it cannot write
    metadata = model.description.metadata
    metadata.author, metadata.license = options.author, options.license
    metadata.shortDescription = options.description or f"A sparse network, written by rsk-deploy {tool_version()}"
    metadata.userDefined["rsk"] = _metadata(graph, options, ends, renamed)
    (home / "model.mlmodel").write_bytes(model.SerializeToString(deterministic=True))
    (path / "Manifest.json").write_text(MANIFEST)


def _ends(body: Body, graph: Graph[Packed], options: Options) -> Ends:
    """Names are taken in this order, so that the ends have the plainest."""
    labels = _labels(graph)
    for name in (LABEL, PROBABILITIES) if labels else ():
        body.take(name)
    inputs, outputs = ({name: body.take(name) for name in names} for names in ([entry.name for entry in graph.inputs], graph.outputs))
    images = {entry.name: preprocessing(entry, graph.meta) for entry in graph.inputs if options.input_type == "image"}
    return Ends(inputs, outputs, images, labels)


def _function(body: Body, graph: Graph[Packed], ends: Ends, system: Any) -> tuple[Any, Var]:
    """The program's function, and what its classes are told by (None without classes)."""
    from coremltools.converters.mil.mil import Function, get_new_symbol, types

    batch = get_new_symbol()
    shapes = {ends.inputs[entry.name]: [batch if isinstance(dim, str) else dim for dim in entry.shape] for entry in graph.inputs}
    with Function({name: body.builder.placeholder(shape, types.fp32) for name, shape in shapes.items()}, system) as function:
        for entry in graph.inputs:
            name = ends.inputs[entry.name]
            body.values[entry.name] = _input(body, name, function.inputs[name], ends.images.get(entry.name))
        _layers(body, graph)
        results = [_output(body, name, known) for name, known in ends.outputs.items()]
        scores = _probabilities(body, graph, results[0]) if ends.labels else None
        function.set_outputs(results)
    body.tell_apart(function)
    return function, scores


def _input(body: Body, name: str, x: Var, image: Preprocessing | None) -> Var:
    """What the layers read: an image's pixels scaled, in the type of the program."""
    builder = body.builder
    if image:
        scale, shift = image.constants()
        x = builder.add(x=builder.mul(x=x, y=scale, name=body.take(f"{name}_scaled")), y=shift, name=body.take(f"{name}_shifted"))
    if body.dtype == np.float16:
        return builder.cast(x=x, dtype="fp16", name=body.take(f"{name}_half"))
    return x if image else builder.identity(x=x, name=body.take(f"{name}_same"))


def _layers(body: Body, graph: Graph[Packed]) -> None:
    shapes, doubled = graph.shapes(), graph.shapes(2)
    for layer in graph.layers:
        with about(layer.name):
            write_layer(Scope(body, layer, shapes, doubled))


def _output(body: Body, name: str, known: str) -> Var:
    """An output, in fp32, under its own name."""
    value = body.values[name]
    if body.dtype == np.float16:
        return body.builder.cast(x=value, dtype="fp32", name=known)
    return body.builder.identity(x=value, name=known)


def _labels(graph: Graph[Packed]) -> tuple[str, ...]:
    """The classes of the first output, if the model has names for them and Core ML can tell them apart."""
    labels = graph.meta.get("labels")
    if not isinstance(labels, list | tuple) or not all(isinstance(label, str) for label in labels) or len(set(labels)) != len(labels):
        return ()
    return tuple(labels) if not graph.dynamic and graph.shapes()[graph.outputs[0]] == (1, len(labels)) else ()


def _probabilities(body: Body, graph: Graph[Packed], scores: Var) -> Var:
    """What the classes are told by: the first output, made to add up to one unless it does."""
    last = next((layer for layer in graph.layers if graph.outputs[0] in layer.outputs), None)
    name = body.take("class_probabilities")
    if isinstance(last, Softmax) and not last.log:
        return body.builder.identity(x=scores, name=name)
    return body.builder.softmax(x=scores, axis=1, name=name)


def _feature(package: Any, entry: Input, ends: Ends) -> Any:
    """What the model says of an input."""
    name, image = ends.inputs[entry.name], ends.images.get(entry.name)
    shape = [package.RangeDim(1, LARGEST_BATCH, default=1) if isinstance(dim, str) else dim for dim in entry.shape]
    if image:
        return package.ImageType(name=name, shape=shape, color_layout=image.layout, channel_first=True)
    return package.TensorType(name=name, shape=shape, dtype=np.float32)


def _metadata(graph: Graph[Packed], options: Options, ends: Ends, renamed: Mapping[str, str]) -> str:
    """What the file says of itself, as JSON whose bytes depend on nothing but the graph and the options.

    ``renamed``: the inner values that are not called as ``identifier`` says, because two would be called the same.
    """
    content = {
        "version": VERSION,
        "inputs": ends.inputs,
        "outputs": ends.outputs,
        "renamed": renamed,
        "log": [astuple(entry) for entry in graph.log],
        "meta": graph.meta,
        "provenance": provenance(graph, **options.shaping),
    }
    return json.dumps(content, sort_keys=True, separators=(",", ":"), allow_nan=False, default=dict)


FOLDER = "com.apple.CoreML"


def _manifest() -> str:
    """What a package holds, under identifiers that are always the same."""
    items = {"model.mlmodel": "CoreML Model Specification", "weights": "CoreML Model Weights"}
    keys = {name: str(uuid.uuid5(uuid.NAMESPACE_DNS, f"{name}.rsk-deploy")) for name in items}
    entries = {keys[name]: {"author": FOLDER, "description": what, "name": name, "path": f"{FOLDER}/{name}"} for name, what in items.items()}
    return json.dumps({"fileFormatVersion": "1.0.0", "itemInfoEntries": entries, "rootModelIdentifier": keys["model.mlmodel"]}, indent=4, sort_keys=True)


MANIFEST = _manifest()
