"""rsk-inspect: what a file holds, and why."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

import typer

from rsk_deploy import mlprogram
from rsk_deploy.cli import options as o
from rsk_deploy.cli import packages, sources
from rsk_deploy.cli.console import Steps, app, plain, say, size, terminal_width
from rsk_deploy.diff import Difference, diff
from rsk_deploy.doctor import Finding
from rsk_deploy.doctor import doctor as look
from rsk_deploy.errors import UsageError
from rsk_deploy.inspect import Inspection
from rsk_deploy.inspect import inspect as examine
from rsk_deploy.rewrite import record_of


def inspect(
    file: Annotated[
        Path | None, typer.Argument(metavar="FILE", help="Any artefact: .rsk, .onnx (packed or not), .mlpackage, .csource, a checkpoint, a .pt2.")
    ] = None,
    layers: Annotated[bool, o.flag("--layers", help="Every layer with its shapes.")] = False,
    masks: Annotated[bool, o.flag("--masks", help="The mask found in every weight, the evidence, and the size in each encoding.")] = False,
    other: Annotated[Path | None, typer.Option("--diff", metavar="OTHER", help="What is different in another file.")] = None,
    doctor: Annotated[bool, o.flag("--doctor", help="What this installation can do, and what to install for the rest.")] = False,
    as_json: o.AsJson = False,
    input_shape: o.InputShape = None,
    dynamic: o.DynamicOption = None,
    arch: o.Arch = None,
    arch_args: o.ArchArgs = None,
    allow_pickle: o.AllowPickle = False,
    rsk: o.Rsk = o.RskMode.MEAN,
    rsk_seed: o.RskSeed = 1,
    version: o.Version = False,
) -> None:
    """Show the layers, masks, sizes, folds and provenance of a model file."""
    if file is None and not doctor:
        raise UsageError("which file? rsk-inspect FILE (or --doctor alone)")
    if file and mlprogram.is_package(file):
        if other or doctor:
            raise UsageError(f"{file}: a Core ML package is shown by itself; leave out {'--diff' if other else '--doctor'}")
        packages.show(file, layers=layers, as_json=as_json)
        return
    if file and (comment := sources.header(file)):
        if other or doctor:
            raise UsageError(f"{file}: a folder of C is shown by itself; leave out {'--diff' if other else '--doctor'}")
        sources.show(file, comment, as_json=as_json)
        return
    if other and (mlprogram.is_package(other) or sources.header(other)):
        raise UsageError(f"{other}: a Core ML package or a folder of C holds a program, not a network; --diff compares .rsk, .onnx and checkpoints")
    options = o.read_options(input_shape, dynamic, arch, arch_args, allow_pickle, rsk, rsk_seed)
    findings = look() if doctor else ()
    first = differences = None
    with Steps(2, quiet=as_json) as steps:
        if file:
            steps.step(f"reading {file}")
            first = examine(file, options)
        if first and other:
            steps.step(f"reading {other}")
            differences = diff(first.graph, examine(other, options).graph)
    if as_json:
        say(json.dumps(document(first, differences, findings), indent=1))
        return
    parts = [table(findings)] if doctor else []
    if first and (differences is None or layers or masks):
        parts.append(text(first, layers=layers, masks=masks))
    if differences is not None:
        parts.append("\n".join(f"{entry.layer or 'network'}: {entry.what}" for entry in differences) or f"{file} and {other} hold the same network.")
    say("\n\n".join(parts))


def table(findings: tuple[Finding, ...]) -> str:
    """One line a package or program."""
    wide = max(len(found.package) for found in findings)
    return "\n".join(
        f"{'✔' if found.version else '✘'} {found.package:{wide}} {found.version or 'missing':12} {found.remedy or found.purpose}" for found in findings
    )


def text(found: Inspection, *, layers: bool, masks: bool) -> str:
    """The file for people."""
    inputs = ", ".join(f"{entry.name} {'×'.join(map(str, entry.shape))}" for entry in found.graph.inputs)
    lines = [f"{found.path}: {found.kind}, {size(found.nbytes)}, {len(found.graph.layers)} layers, {inputs} → {', '.join(found.graph.outputs)}", ""]
    if layers:
        shapes = found.graph.shapes()
        lines += [
            f"  {layer.name:32} {type(layer).__name__:14} {', '.join('×'.join(map(str, shapes[name])) for name in layer.outputs)}"
            for layer in found.graph.layers
        ]
        lines.append("")
    lines += [found.report.text(verbose=masks, width=terminal_width()), ""]
    lines += [f"  {entry.layer}: {entry.action}: {entry.detail}" for entry in found.graph.log]
    lines += [f"  {key}: {plain(value)}" for key, value in told(found).items() if value]
    return "\n".join(lines)


def told(found: Inspection) -> dict[str, Any]:
    """The provenance, with what lowering did as a sentence beside the options."""
    record, options = record_of(found.graph.meta), found.provenance.get("options")
    if record is None or not isinstance(options, Mapping):
        return dict(found.provenance)
    return {"lowered": record, **found.provenance, "options": {name: value for name, value in options.items() if name != "lower"}}


def document(found: Inspection | None, differences: tuple[Difference, ...] | None, findings: tuple[Finding, ...]) -> dict[str, Any]:
    """Everything, for machines."""
    result: dict[str, Any] = {}
    if findings:
        result["doctor"] = [dataclasses.asdict(finding) for finding in findings]
    if found:
        shapes = found.graph.shapes()
        result |= {
            "file": str(found.path),
            "kind": found.kind,
            "bytes": found.nbytes,
            "inputs": [dataclasses.asdict(entry) for entry in found.graph.inputs],
            "outputs": list(found.graph.outputs),
            "layers": [{"name": layer.name, "op": type(layer).__name__, "shapes": [shapes[name] for name in layer.outputs]} for layer in found.graph.layers],
            "weights": found.report.as_json(),
            "log": [dataclasses.asdict(entry) for entry in found.graph.log],
            "provenance": dict(found.provenance),
            "meta": dict(found.graph.meta),
        }
    if differences is not None:
        result["diff"] = [dataclasses.asdict(entry) for entry in differences]
    return result


main = app(inspect)

if __name__ == "__main__":
    main()
