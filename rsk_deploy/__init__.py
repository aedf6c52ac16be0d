"""Sparse CNNs that ship: read a trained network, fold it, pack its weights, write it, prove the file right.

>>> import rsk_deploy as rsk
>>> graph = rsk.read("model.pt")                      # doctest: +SKIP
>>> packed = rsk.pack(graph)                          # doctest: +SKIP
>>> print(rsk.report(packed))                         # doctest: +SKIP
>>> rsk.export("model.pt", "model.onnx").verification # doctest: +SKIP
>>> rsk.Session("model.rsk")(x)                       # doctest: +SKIP
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rsk_deploy.comparing import compare
    from rsk_deploy.errors import RskError
    from rsk_deploy.exporting import export
    from rsk_deploy.ir import Dense, Graph
    from rsk_deploy.packing import pack
    from rsk_deploy.reporting import report
    from rsk_deploy.runtime.session import Session
    from rsk_deploy.store import load, save

__all__ = ["Graph", "RskError", "Session", "compare", "export", "load", "pack", "read", "report", "save"]

_HOMES = {
    "Graph": "ir",
    "RskError": "errors",
    "Session": "runtime.session",
    "compare": "comparing",
    "export": "exporting",
    "load": "store",
    "pack": "packing",
    "report": "reporting",
    "save": "store",
}


def __getattr__(name: str) -> Any:
    """Import a public name on its first use: a process that only runs a file never loads the readers."""
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = globals()[name] = getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)
    return value


def __dir__() -> list[str]:
    """The public names, used or not."""
    return sorted({*globals(), *__all__})


def read(model: Any, **options: Any) -> Graph[Dense]:
    """The folded network of a module, a file or a path; ``options`` are the fields of ``readers.ReadOptions``."""
    from rsk_deploy import readers
    from rsk_deploy.registry import check_arguments

    check_arguments("rsk_deploy.read", readers.ReadOptions, options)
    return readers.read(model, readers.ReadOptions(**options)).graph
