"""What a file holds: our own artefacts as they are stored, any other model as it would be packed."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from rsk_deploy import store
from rsk_deploy.ir import Graph, Json, Packed
from rsk_deploy.ir.weights import EMPTY
from rsk_deploy.packing import pack
from rsk_deploy.readers import ReadOptions, read
from rsk_deploy.reporting import Report, report


@dataclass(frozen=True)
class Inspection:
    """A file, its network, how its weights are stored (or would be), and what the file says of where it comes from."""

    path: Path
    kind: str
    nbytes: int
    graph: Graph[Packed]
    provenance: Mapping[str, Json]

    @property
    def report(self) -> Report:
        """Size, mask and encoding of every weight."""
        return report(self.graph)


def inspect(path: Path, options: ReadOptions) -> Inspection:
    """Look into a file of any kind that the tool reads or writes."""
    if store.is_ours(path):
        saved = store.read_checked(path)
        return Inspection(path, f"packed {path.suffix.lower().lstrip('.')}", path.stat().st_size, saved.graph, saved.provenance)
    graph = pack(read(path, options).graph)
    return Inspection(path, f"{path.suffix.lower().lstrip('.')} model, not packed yet", path.stat().st_size, graph, EMPTY)
