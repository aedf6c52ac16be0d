"""rsk-export: from a trained model to small, verified files."""

from __future__ import annotations

import dataclasses
import json
import os
import shlex
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager, nullcontext, suppress
from pathlib import Path
from typing import Annotated, Any

import typer

from rsk_deploy.cli import options as o
from rsk_deploy.cli.console import Steps, app, say, size, terminal_width
from rsk_deploy.comparing import OutputComparison
from rsk_deploy.errors import RskError, UsageError
from rsk_deploy.exporting import ExportResult, planned, written
from rsk_deploy.files import check
from rsk_deploy.ir import Graph, Packed
from rsk_deploy.readers import read
from rsk_deploy.registry import CONVERTERS, FORMATS, READERS, SUFFIXES, Footprint, converter_named, known
from rsk_deploy.reporting import Report, report
from rsk_deploy.rewrite import MODES, TARGETS, record_of
from rsk_deploy.samples import read_sample
from rsk_deploy.verify import RUNTIME, Tolerance, Verification

WRITING, PROVING = "What is written", "Proving it right"
ONNX, COREML, C = (f"Only with --format {name}" for name in ("onnx", "coreml", "c"))
ROUTINE = ("batch norm", "fixed mask", "pruning", "parametrisation", "weight norm", "spectral norm", "removed", "half")
"""Folds that are counted rather than told, unless ``--verbose``: they change nothing that a user decides."""


def export(
    model: Annotated[
        Path, typer.Argument(metavar="MODEL", help="A checkpoint (.pt, .pth, .safetensors), an exported program (.pt2), an .onnx or a .rsk file.")
    ],
    format: Annotated[
        str, typer.Option("--format", metavar="LIST", help=f"What to write, separated by commas: {', '.join(CONVERTERS)}.", rich_help_panel=WRITING)
    ],
    out: Annotated[
        Path, typer.Option("-o", "--out", metavar="DIR", help="Folder for the files; they are named after MODEL.", rich_help_panel=WRITING)
    ] = Path(),
    weights: Annotated[
        str, typer.Option(metavar="NAME", help=f"How sparse weights are stored: {', '.join(FORMATS)}; auto takes the smallest.", rich_help_panel=WRITING)
    ] = "auto",
    half: Annotated[bool, o.flag("--half", help="Store weights as fp16; inputs, outputs and arithmetic stay fp32.", panel=WRITING)] = False,
    lower: Annotated[
        str,
        typer.Option(
            metavar="HOW",
            help=f"Structured masks as sums of smaller dense convolutions: {', '.join(MODES)}, or where that pays in a runtime ({', '.join(TARGETS)}).",
            rich_help_panel=WRITING,
        ),
    ] = "auto",
    target: Annotated[
        str | None,
        typer.Option(
            metavar="NAME",
            help="What it runs on, one per format: ios16, ios17, ios18 (coreml); generic, x86-64, aarch64, cortex-a53, cortex-m55, cortex-m7, cortex-m4 (c).",
            rich_help_panel=WRITING,
        ),
    ] = None,
    force: Annotated[bool, o.flag("--force", help="Replace files that exist, once the new ones are verified.", panel=WRITING)] = False,
    dry_run: Annotated[bool, o.flag("--dry-run", help="Do everything, refusals included, but leave no file.", panel=WRITING)] = False,
    opset: Annotated[int | None, typer.Option(metavar="N", min=13, max=26, help="Version of ONNX's operator set.", rich_help_panel=ONNX)] = None,
    sparse_initializer: Annotated[
        bool, o.flag("--sparse-initializer", help="Sparse weights in ONNX's own form: larger, and few runtimes read it.", panel=ONNX)
    ] = False,
    precision: Annotated[str | None, typer.Option(metavar="fp16|fp32", help="What the file computes in.", rich_help_panel=COREML)] = None,
    input_type: Annotated[str | None, typer.Option(metavar="tensor|image", help="Whether the file reads numbers or pictures.", rich_help_panel=COREML)] = None,
    compress: Annotated[str | None, typer.Option(metavar="int8|palettised", help="Round the weights, for iOS 18.", rich_help_panel=COREML)] = None,
    author: Annotated[str | None, typer.Option(metavar="TEXT", help="Who made the network.", rich_help_panel=COREML)] = None,
    license: Annotated[str | None, typer.Option(metavar="TEXT", help="Its licence.", rich_help_panel=COREML)] = None,
    description: Annotated[str | None, typer.Option(metavar="TEXT", help="What it does.", rich_help_panel=COREML)] = None,
    dtype: Annotated[
        str | None,
        typer.Option(
            metavar="TYPE", help="How weights are stored: fp32, fp16-storage or int8, which computes in int8 too (needs --sample).", rich_help_panel=C
        ),
    ] = None,
    name: Annotated[str | None, typer.Option(metavar="NAME", help="Name of the files and the function, net unless given.", rich_help_panel=C)] = None,
    max_flash: Annotated[
        str | None,
        typer.Option(
            "--max-flash",
            metavar="SIZE",
            help="Refuse larger constants and compiled code (without a compiler: constants alone), as in 256k (k is 1024).",
            rich_help_panel=C,
        ),
    ] = None,
    max_ram: Annotated[
        str | None, typer.Option("--max-ram", metavar="SIZE", help="Refuse a larger scratch memory, as in 64k (k is 1024).", rich_help_panel=C)
    ] = None,
    emit_asm: Annotated[bool, o.flag("--emit-asm", help="Hot sparse convolutions as machine code, for x86-64, aarch64 and cortex-a53.", panel=C)] = False,
    verify: Annotated[
        bool, typer.Option("--verify/--no-verify", metavar="", help="Run each file and compare it with the model.", rich_help_panel=PROVING)
    ] = True,
    atol: Annotated[float | None, typer.Option(metavar="X", min=0, help="Largest absolute difference allowed (1e-7).", rich_help_panel=PROVING)] = None,
    rtol: Annotated[
        float | None,
        typer.Option(
            metavar="X", min=0, help="The same, relative to the output's largest value (1e-4; 1e-2 with --half and in Core ML's fp16).", rich_help_panel=PROVING
        ),
    ] = None,
    sample: Annotated[
        Path | None, typer.Option(metavar="x.npy", help="Your own inputs to verify with; an .npz may hold 'labels' too.", rich_help_panel=PROVING)
    ] = None,
    input_shape: o.InputShape = None,
    dynamic: o.DynamicOption = None,
    arch: o.Arch = None,
    arch_args: o.ArchArgs = None,
    allow_pickle: o.AllowPickle = False,
    rsk: o.Rsk = o.RskMode.MEAN,
    rsk_seed: o.RskSeed = 1,
    as_json: o.AsJson = False,
    quiet: Annotated[bool, o.flag("-q", "--quiet", help="Print nothing but errors.")] = False,
    verbose: Annotated[bool, o.flag("-v", "--verbose", help="Print every fold and why each weight is stored as it is.")] = False,
    version: o.Version = False,
) -> None:
    """Fold a trained sparse CNN, store its weights sparsely, write it and prove every file right."""
    options = o.read_options(input_shape, dynamic, arch, arch_args, allow_pickle, rsk, rsk_seed)
    formats = [known(CONVERTERS, kind.strip(), "export format") for kind in format.split(",")]
    if weights != "auto":
        known(FORMATS, weights, "weight format")
    known(dict.fromkeys((*MODES, *TARGETS), ""), lower, "way to lower")
    special = {
        "opset": opset,
        "sparse_initializer": sparse_initializer or None,
        "target": target,
        "dtype": dtype,
        "name": name,
        "max_flash": max_flash,
        "max_ram": max_ram,
        "emit_asm": emit_asm or None,
        "precision": precision,
        "input_type": input_type,
        "compress": compress,
        "author": author,
        "license": license,
        "description": description,
    }
    target_options = options_by_format(formats, special)
    targets = {kind: destination(model, out, kind, force=force) for kind in formats}
    tolerance = Tolerance(**{name: value for name, value in (("atol", atol), ("rtol", rtol)) if value is not None})
    with Steps(2 + len(formats), quiet=quiet or as_json) as steps:
        steps.step(f"reading {model.name}")
        source = read(model, options)
        steps.step("packing the weights")
        graphs = planned(source.graph, formats, weights, half=half, lower=lower)
        packed = graphs[formats[0]]
        data = read_sample(sample, packed) if sample else None
        plan = report(packed)
        steps.say(describe(model, packed, plan, verbose))
        for kind, graph in graphs.items():
            if text := lowered(kind, graph, packed):
                steps.say(text + "\n")
        results: list[ExportResult] = []
        moved: list[Path] = []
        proof = source if verify else None
        with nullcontext() if dry_run else folder(out), all_or_none(list(targets.values()), results, moved), ExitStack() as together:
            for kind, path in targets.items():
                steps.step(f"writing {path.name}" + (" and verifying it" if verify else ""))
                whole = written(
                    graphs[kind], path, kind, source=proof, tolerance=tolerance, sample=data, force=force, dry_run=dry_run, options=target_options[kind]
                )
                together.push(lambda failure, *_, path=path: moved.append(path) if failure is None else None)  # after the move
                results.append(together.enter_context(whole))
        for result in results:
            steps.say(told(result, dry_run=dry_run))
        if not dry_run and (readable := [result.path for result in results if result.path.suffix in (*READERS, ".mlpackage")]):
            steps.say(f"\nNext: rsk-inspect {shlex.quote(str(readable[0]))}")
    if as_json:
        files = {"files": [], "planned": results} if dry_run else {"files": results}
        say(json.dumps(document(model, graphs, plan, files), indent=1, default=str))


def options_by_format(formats: list[str], given: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """Each target's own options; one that no target has is refused with the target that has it."""
    chosen: dict[str, dict[str, Any]] = {name: {} for name in formats}
    for option, value in given.items():
        if value is None:
            continue
        if option == "target":
            for name, machine in machines(formats, value).items():
                chosen[name][option] = machine
            continue
        takers = [name for name in CONVERTERS if option in converter_named(name).OPTIONS]
        if not set(takers) & set(formats):
            flag, other = option.replace("_", "-"), ",".join(formats)
            raise UsageError(f"--{flag} is an option of --format {', '.join(takers)}; --format {other} does not have it. Did you mean --format {takers[0]}?")
        for name in set(takers) & set(formats):
            chosen[name][option] = value
    return chosen


def machines(formats: list[str], names: str) -> dict[str, str]:
    """``--target`` by format: each of its names, separated by commas, goes to the formats that have it."""
    tables = {format: tuple(getattr(converter_named(format), "TARGETS", ())) for format in CONVERTERS}
    chosen: dict[str, str] = {}
    for name in names.split(","):
        takers = [format for format in formats if name in tables[format]]
        if not takers:
            have = "; ".join(f"{', '.join(table)} ({format})" for format, table in tables.items() if table)
            raise UsageError(f"--target {name} is none of --format {','.join(formats)}; there are {have}")
        for format in takers:
            if format in chosen:
                raise UsageError(f"--target {names}: --format {format} takes one target, not both {chosen[format]} and {name}")
            chosen[format] = name
    return chosen


def destination(model: Path, out: Path, name: str, *, force: bool) -> Path:
    """Where a file goes; refused early where it could not be put in the end."""
    path = out / f"{model.stem}.{SUFFIXES.get(name, name)}"
    if path.exists() and model.exists() and path.samefile(model):
        raise UsageError(f"{path} is the model itself; choose another folder with -o")
    there = next(folder for folder in (out, *out.absolute().parents) if folder.exists())
    if not there.is_dir() or not os.access(there, os.W_OK):
        where = out if there == out else f"{out}: {there}"
        raise UsageError(f"{where} {'is not writable' if there.is_dir() else 'is a file'}; choose another folder with -o")
    check(path, force, folder=name in SUFFIXES)
    return path


@contextmanager
def folder(path: Path) -> Iterator[None]:
    """The folder the files go to, made if need be; what was made for nothing is removed."""
    new = [each for each in (path, *path.parents) if not os.path.lexists(each)]
    try:
        make_folder(path)
        yield
    finally:
        for each in new:
            with suppress(OSError):  # it holds something, or was never made
                each.rmdir()


def make_folder(path: Path) -> None:
    """The folder and those that it lies in."""
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UsageError(f"{path}: cannot make this folder ({error.strerror}); choose another with -o") from error


@contextmanager
def all_or_none(paths: list[Path], whole: list[ExportResult], moved: list[Path]) -> Iterator[None]:
    """A refusal of one of several files also says that there is none of them, or which were moved to their places before the system refused a move."""
    try:
        yield
    except RskError as error:
        if moved:
            rest = [path for path in paths if path not in moved]
            error.args = (f"{error}\nWritten: {', '.join(map(str, moved))}; not written: {', '.join(map(str, rest))}",)
        elif len(paths) > 1:
            refused = paths[len(whole) :][:1] or paths[-1:]  # the last moves first
            others = [str(path) for path in paths if path not in refused]
            error.args = (f"{error}\nSince {refused[0]} is refused, {', '.join(others)} {'is' if len(others) == 1 else 'are'} not written either",)
        raise


def describe(model: Path, graph: Graph[Packed], plan: Report, verbose: bool) -> str:
    """What was read, what was folded, and how each weight will be stored."""
    shapes = ", ".join(f"{entry.name} {'×'.join(map(str, entry.shape))}" for entry in graph.inputs)
    head = f"{model.name}: {len(graph.layers)} layers, {shapes} → {', '.join(graph.outputs)}\n"
    routine = Counter(entry.action for entry in graph.log if not verbose and entry.action in ROUTINE)
    folds = [f"  {action} × {count}\n" for action, count in routine.items()]
    folds += [f"  {entry.layer}: {entry.action}: {entry.detail}\n" for entry in graph.log if entry.action not in routine]
    return "\n".join([head, *(["".join(folds)] if folds else []), plan.text(verbose=verbose, width=terminal_width()), ""])


def lowered(kind: str, graph: Graph[Packed], shown: Graph[Packed]) -> str:
    """What lowering did to a file of that format, where the network ``shown`` does not tell of it already; "" if nothing."""
    lines = [f"  {kind}: {entry.layer}: {entry.action}: {entry.detail}" for entry in graph.log if entry not in shown.log]
    record = record_of(graph.meta)
    return "\n".join([*lines, *([f"  {kind}: {record}"] if record else [])])


def told(result: ExportResult, *, dry_run: bool) -> str:
    """The file, and under it what its verification measured."""
    share = f"{result.nbytes / result.dense_nbytes:.2f} × dense  " if result.dense_nbytes else ""
    head = f"{'would write' if dry_run else '✔'} {result.path}  {size(result.nbytes)}, {share}{result.seconds:.2f} s"
    return "\n    ".join([head, *result.footprint.lines, *(figures(result.verification) if result.verification else ["not verified"])])


def figures(found: Verification) -> list[str]:
    """The verification, a line for each thing measured."""
    lines = [f"{found.runner} against {proven(found)}, {found.batches} batches"]
    lines += [agreement(output) for output in found.comparison.outputs]
    lines += [*in_runtime(found), *elsewhere(found)]
    if found.not_finite:
        lines.append(f"{found.not_finite:.1%} of the model's output values are NaN or infinite: nothing is proven of them")
    if found.drift:
        lines += [agreement(output, f"drift from {found.drift_from}: ") for output in found.drift.outputs]
    if found.accuracy is not None:
        lines.append(f"accuracy on the sample {found.accuracy:.1%}, of the model {found.original_accuracy:.1%}")
    return lines


def proven(found: Verification) -> str:
    """What the file computes."""
    return "the model as it was rounded" if found.drift_from == "the model" else "the model"


def in_runtime(found: Verification) -> list[str]:
    """The same in our own runtime, or why not."""
    if found.runtime is None:
        return [f"not run in {RUNTIME}: {found.not_in_runtime}"] if found.not_in_runtime else []
    return [f"{RUNTIME} against the model", *(agreement(output) for output in found.runtime.outputs)]


def elsewhere(found: Verification) -> list[str]:
    """The same on the machine that the file is for, or why not."""
    if found.elsewhere is None:
        return [f"not run on {found.machine}: {found.not_elsewhere}"] if found.not_elsewhere else []
    batches = "1 batch" if found.batches_elsewhere == 1 else f"{found.batches_elsewhere} batches"
    return [f"{found.machine} against {proven(found)}, {batches}", *(agreement(output) for output in found.elsewhere.outputs)]


def agreement(output: OutputComparison, what: str = "") -> str:
    """How near one output is."""
    top1 = "" if output.top1_agreement is None else f", top-1 equal {output.top1_agreement:.1%}"
    return f"{output.name}: {what}max |Δ| {output.max_abs:.1e}, relative {output.max_rel:.1e}{top1}"


def document(model: Path, graphs: dict[str, Graph[Packed]], plan: Report, files: Mapping[str, list[ExportResult]]) -> dict[str, Any]:
    """Everything printed, for machines."""
    graph = next(iter(graphs.values()))
    records = {kind: record_of(packed.meta) for kind, packed in graphs.items()}
    return {
        "model": str(model),
        "inputs": [dataclasses.asdict(entry) for entry in graph.inputs],
        "outputs": list(graph.outputs),
        "log": [dataclasses.asdict(entry) for entry in graph.log],
        "weights": plan.as_json(),
        "lowered": {kind: dataclasses.asdict(record) for kind, record in records.items() if record},
        **{state: [file(result) for result in results] for state, results in files.items()},
    }


def file(result: ExportResult) -> dict[str, Any]:
    """A written file, for machines."""
    return dataclasses.asdict(dataclasses.replace(result, footprint=Footprint())) | {"footprint": result.footprint.figures}


main = app(export)

if __name__ == "__main__":
    main()
