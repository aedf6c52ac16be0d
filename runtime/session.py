"""A network ready to run on this machine."""

from __future__ import annotations

import os
import threading
import warnings
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rsk_deploy.errors import RskError, UnsupportedError, UsageError
from rsk_deploy.ir import Dense, Graph, Input, Packed
from rsk_deploy.runtime import _native
from rsk_deploy.runtime.choose import candidates, without_code
from rsk_deploy.runtime.plan import check, planned
from rsk_deploy.runtime.records import Program, Step, encode

Array = NDArray[np.float32]


@dataclass(frozen=True)
class StepProfile:
    """One step of a run: the layers it computes, the kernel that does, why that one, and how long it took."""

    step: int
    layers: tuple[str, ...]
    operation: str
    kernel: str
    reason: str
    microseconds: float


@dataclass(frozen=True)
class Memory:
    """Bytes that a session holds beside the packed network. ``transformed`` is what Winograd layers keep instead of their weights.

    What the plans of several batch sizes share counts once, with the first. ``activations`` and ``scratch`` are one run's of each plan; ``contexts``
    runs have been in flight at once. ``by_kernel`` is the part of all weights and code that the layers of each kernel take: generated code and
    transformed weights are larger than what they compute from.
    """

    weights: int
    code: int
    transformed: int
    activations: int
    scratch: int
    contexts: int
    by_kernel: Mapping[str, int]


@dataclass(frozen=True)
class Ports:
    """What a network reads and hands out."""

    inputs: tuple[Input, ...]
    outputs: tuple[str, ...]


@dataclass(frozen=True, eq=False)
class _Prepared:
    """The engine for one batch size."""

    engine: _native.Engine
    steps: tuple[Step, ...]
    shapes: tuple[tuple[int, ...], ...]


class Session:
    """Runs a network: ``session(x)``, or ``session.run({"input": x})``. Any number of threads may call it.

    ``model`` is a ``.rsk`` or ``.onnx`` path, a packed graph, or a dense one (packed here). ``threads`` defaults to the
    physical cores. Float32 arrays in C order go in and out. Where the batch is open, every size has its own plan, made on first use, for which
    the session keeps the packed network; where it is not, it keeps none.
    ``autotune`` measures on this machine which kernel is the fastest for each convolution instead of asking a model of cost, and whether
    structured convolutions are faster as sums of dense ones; it remembers that in the user's cache folder (``RSK_CACHE_DIR`` names another).
    """

    def __init__(self, model: str | Path | Graph[Packed] | Graph[Dense], threads: int | None = None, autotune: bool = False) -> None:
        if threads is not None and not (type(threads) is int and 1 <= threads <= 1024):
            raise UsageError(f"threads={threads!r}: a session runs on 1 to 1024 threads")
        graph = opened(model)
        check(graph)
        self._graph: Graph[Packed] | None = graph
        self._ports: Ports | None = Ports(tuple(graph.inputs), tuple(graph.outputs))
        self._threads = threads if threads is not None else physical_cores()
        family, isa = os.environ.get("RSK_FORCE_KERNEL") or None, os.environ.get("RSK_FORCE_ISA") or None
        self._kernels = candidates(_native.kernels(), family, isa, why_no_code())
        self._exact = family is not None
        self._autotune = autotune
        self._plans: dict[int, _Prepared] = {}
        self._locks: dict[int, threading.Lock] = {}
        if not graph.dynamic:
            self._prepared(1)
            self._graph = None

    def __call__(self, *inputs: Array) -> Array | tuple[Array, ...]:
        """The output for the inputs in the network's order; a tuple where there are several."""
        ports = self._open()
        if len(inputs) != len(ports.inputs):
            raise UsageError(f"{len(inputs)} inputs are given; the network reads {names(ports)}")
        outputs = tuple(self.run(dict(zip([entry.name for entry in ports.inputs], inputs, strict=True))).values())
        return outputs[0] if len(outputs) == 1 else outputs

    def run(self, inputs: Mapping[str, Array]) -> dict[str, Array]:
        """The outputs by name, for inputs by name."""
        return self._run(inputs, timed=False)[0]

    def profile(self, *inputs: Array) -> tuple[StepProfile, ...]:
        """Run once, and say of every step what computes it, why, and how long it took."""
        ports = self._open()
        if len(inputs) != len(ports.inputs):
            raise UsageError(f"{len(inputs)} inputs are given; the network reads {names(ports)}")
        _, times, prepared = self._run(dict(zip([entry.name for entry in ports.inputs], inputs, strict=True)), timed=True)
        rows = zip(prepared.steps, prepared.engine.kernels(), times, strict=True)
        return tuple(StepProfile(number, step.layers, step.op, kernel, step.reason, time) for number, (step, kernel, time) in enumerate(rows))

    def memory(self) -> Memory:
        """What the session holds, over all its batch sizes."""
        self._open()
        engines = [prepared.engine for prepared in list(self._plans.values())]  # a copy: another thread may plan meanwhile
        by_kernel: Counter[str] = Counter()
        for kernel, size in (row for engine in engines for row in zip(engine.kernels(), engine.bytes(), strict=True)):
            by_kernel[kernel] += size
        weights, code, transformed, activations, scratch, contexts = (sum(engine.memory()[field] for engine in engines) for field in range(6))
        return Memory(weights, code, transformed, activations, scratch, contexts, dict(by_kernel))

    def close(self) -> None:
        """Give the memory back once no run is in flight. A closed session runs no more."""
        self._graph = self._ports = None
        self._plans = {}

    def __enter__(self) -> Session:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.close()

    def _lock(self) -> threading.Lock:
        """The lock of this process: what a thread holds that plans while the process forks, nobody gives back in the child."""
        return self._locks.setdefault(os.getpid(), threading.Lock())

    def _open(self) -> Ports:
        if self._ports is None:
            raise closed()
        return self._ports

    def _run(self, inputs: Mapping[str, Array], timed: bool) -> tuple[dict[str, Array], list[float], _Prepared]:
        ports = self._open()
        arrays = accepted(ports, inputs)
        prepared = self._prepared(batch_of(ports, arrays))
        try:
            outputs = [np.empty(shape, np.float32) for shape in prepared.shapes]
            times = prepared.engine.run(arrays, outputs, timed)
        except MemoryError as error:
            raise too_large(len(arrays[0])) from error
        return dict(zip(ports.outputs, outputs, strict=True)), times, prepared

    def _prepared(self, batch: int) -> _Prepared:
        plans = self._plans  # those of a session that is closed meanwhile are kept by nobody
        prepared = plans.get(batch)
        if prepared is None:
            with self._lock():
                prepared = plans.get(batch) or self._prepare(batch)
                plans[batch] = prepared
        return prepared

    def _prepare(self, batch: int) -> _Prepared:
        if (graph := self._graph) is None:
            raise closed()
        try:
            program, engine = self._built(graph, batch)
        except NotImplementedError as error:
            raise UnsupportedError(str(error)) from error
        except ValueError as error:
            raise RskError(f"the runtime refuses its own plan: {error}. This is a bug in rsk-deploy") from error
        except MemoryError as error:
            raise too_large(batch) from error
        shapes = graph.shapes(batch)
        bare = tuple(Step(step.op, (), step.output, step.layers, reason=step.reason) for step in program.steps)
        return _Prepared(engine, bare, tuple(shapes[name] for name in graph.outputs))

    def _built(self, graph: Graph[Packed], batch: int) -> tuple[Program, _native.Engine]:
        """A plan and its engine; without generated code where an input is too large for it, or pages became forbidden since the session was made."""
        try:
            program = self._planned(graph, batch)
            sibling = next((prepared.engine for prepared in reversed(list(self._plans.values()))), None)
            return program, _native.Engine(encode(program), self._threads, sibling)
        except NotImplementedError:  # the engine's refusal of a kernel
            others = without_code(self._kernels)
            if self._exact or others == self._kernels:
                raise
            self._kernels = others
            return self._built(graph, batch)

    def _planned(self, graph: Graph[Packed], batch: int) -> Program:
        if not self._autotune:
            return planned(graph, batch, self._kernels, self._exact)
        from rsk_deploy.runtime.autotune import tuned_program

        return tuned_program(graph, batch, self._kernels, self._exact, self._threads)


def why_no_code() -> str:
    """What keeps kernels from being generated: ``RSK_JIT=0``, or a system that forbids executable pages, which is told of once; "" if nothing."""
    asked = os.environ.get("RSK_JIT", "")
    if asked not in ("", "0", "1"):
        raise UsageError(f"RSK_JIT={asked} means nothing: 0 is for no generated code, 1 for generated code where the system allows it, as without RSK_JIT")
    if asked == "0":
        return "RSK_JIT=0 forbids generated code"
    if _native.may_generate_code():
        return ""
    tell_that_code_is_forbidden()
    return "this system lets no page become executable"


@cache
def tell_that_code_is_forbidden() -> None:
    """Warn, once a process."""
    text = "this system lets no page become executable: sparse layers run without generated code, slower. RSK_JIT=0 silences this"
    warnings.warn(text, RuntimeWarning, stacklevel=4)


def closed() -> UsageError:
    """What a use after ``close`` becomes."""
    return UsageError("the session is closed; make a new one")


def too_large(batch: int) -> UsageError:
    """What a lack of memory becomes."""
    return UsageError(f"there is not enough memory for a run of batch {batch}; give smaller batches or fewer threads, or free some")


def opened(model: str | Path | Graph[Packed] | Graph[Dense]) -> Graph[Packed]:
    """The packed graph."""
    if isinstance(model, str | Path):
        return load(model)
    if not isinstance(model, Graph):
        raise UsageError(f"a session takes a path or a graph, not {type(model).__name__}; rsk_deploy.read gives the graph of a module")
    weights = [layer.weight for layer in model.weighted()]
    if any(isinstance(weight, Dense) for weight in weights):
        from rsk_deploy.packing import pack

        return pack(model)  # type: ignore[arg-type]  # a graph's weights are all dense or all packed
    return model  # type: ignore[return-value]  # as above


def load(path: str | Path) -> Graph[Packed]:
    """The packed graph of a file; one of an ordinary ONNX file is packed here."""
    from rsk_deploy import store

    if Path(path).suffix.lower() != ".onnx" or store.is_ours(Path(path)):
        return store.load(path)
    import rsk_deploy as rsk

    return rsk.pack(rsk.read(path))


def names(ports: Ports) -> str:
    """The network's inputs, for messages."""
    return ", ".join(f"{entry.name} ({', '.join(map(str, entry.shape))})" for entry in ports.inputs)


def accepted(ports: Ports, inputs: Mapping[str, Array]) -> list[Array]:
    """The arrays in the network's order; refuses names, types, shapes and layouts that it does not take."""
    if not isinstance(inputs, Mapping):
        raise UsageError(f"run takes arrays by name, not a {type(inputs).__name__}; the network reads {names(ports)}")
    known = [entry.name for entry in ports.inputs]
    if unknown := [name for name in inputs if name not in known]:
        raise UsageError(f"unknown input {unknown[0]!r}; the network reads {names(ports)}")
    if missing := [name for name in known if name not in inputs]:
        raise UsageError(f"input {missing[0]!r} is missing; the network reads {names(ports)}")
    return [checked(entry, inputs[entry.name]) for entry in ports.inputs]


def checked(entry: Input, x: Any) -> Array:
    """The array, if it is one that the network takes."""
    if not isinstance(x, np.ndarray) and hasattr(x, "__dlpack__"):
        x = exchanged(entry, x)
    if not isinstance(x, np.ndarray):
        raise UsageError(f"input {entry.name!r} is a {type(x).__name__}; the network reads a float32 array")
    if x.dtype != np.float32:
        raise UsageError(f"input {entry.name!r} holds {x.dtype}; the network reads float32. Convert it: x.astype(numpy.float32)")
    if x.ndim != len(entry.shape) or x.size == 0 or entry.at(x.shape[0] if x.ndim else 1) != x.shape:
        raise UsageError(f"input {entry.name!r} has shape {x.shape}; the network reads ({', '.join(map(str, entry.shape))}){remedy(entry, x.shape)}")
    if not x.flags.c_contiguous:
        raise UsageError(f"input {entry.name!r} has strides {x.strides} for shape {x.shape}; the network reads C order: numpy.ascontiguousarray(x)")
    return x if x.flags.aligned else x.copy()


def remedy(entry: Input, shape: tuple[int, ...]) -> str:
    """What to do where the batch alone is wrong."""
    if shape[1:] != entry.shape[1:] or not shape:
        return ""
    if isinstance(entry.shape[0], str):
        return f" with a {entry.shape[0]} of 1 or more"
    return f". Its batch is fixed: run {entry.shape[0]} at a time, or read or export the model with an open one (dynamic_batch=True, --dynamic batch)"


def exchanged(entry: Input, x: Any) -> Any:
    """The array of another library, without a copy."""
    try:
        return np.from_dlpack(x)
    except (BufferError, RuntimeError, TypeError, ValueError) as error:
        raise UsageError(
            f"input {entry.name!r}: a {type(x).__name__} that numpy cannot share ({error}); the network reads a float32 array on the CPU"
        ) from error


def batch_of(ports: Ports, arrays: list[Array]) -> int:
    """The batch size that the open inputs share."""
    sizes = {entry.name: x.shape[0] for entry, x in zip(ports.inputs, arrays, strict=True) if isinstance(entry.shape[0], str)}
    if len(set(sizes.values())) > 1:
        raise UsageError(f"the inputs have different batch sizes: {', '.join(f'{name} {size}' for name, size in sizes.items())}")
    return next(iter(sizes.values()), 1)


def physical_cores() -> int:
    """Cores that this process may use, hyperthreads of one core counted once."""
    allowed = os.sched_getaffinity(0) if hasattr(os, "sched_getaffinity") else set(range(os.cpu_count() or 1))
    siblings = set()
    for cpu in allowed:
        path = Path(f"/sys/devices/system/cpu/cpu{cpu}/topology/thread_siblings_list")
        siblings.add(path.read_text() if path.exists() else str(cpu))
    return max(1, len(siblings))
