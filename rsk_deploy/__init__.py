"""Sparse CNNs that ship: read a trained network, fold it, pack its weights, write it, prove the file right.

>>> import rsk_deploy as rsk
>>> graph = rsk.read("model.pt")                      # doctest: +SKIP
>>> packed = rsk.pack(graph)                          # doctest: +SKIP
>>> print(rsk.report(packed))                         # doctest: +SKIP
>>> rsk.export("model.pt", "model.onnx").verification # doctest: +SKIP
>>> rsk.Session("model.rsk")(x)                       # doctest: +SKIP
"""

from __future__ import annotations

from typing import Any

from rsk_deploy.compare import compare
from rsk_deploy.errors import RskError
from rsk_deploy.export import export
from rsk_deploy.ir import Dense, Graph
from rsk_deploy.pack import pack
from rsk_deploy.readers import ReadOptions
from rsk_deploy.readers import read as _read
from rsk_deploy.report import report
from rsk_deploy.runtime.session import Session
from rsk_deploy.store import load, save

__all__ = ["Graph", "RskError", "Session", "compare", "export", "load", "pack", "read", "report", "save"]


def read(model: Any, **options: Any) -> Graph[Dense]:
    """The folded network of a module, a file or a path; ``options`` are the fields of ``readers.ReadOptions``."""
    return _read(model, ReadOptions(**options)).graph
