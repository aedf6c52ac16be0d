"""A ``.rsk`` file as a model: what was packed once can be exported to every other format."""

from __future__ import annotations

from typing import Any

from rsk_deploy import reference, store
from rsk_deploy.packing import unpack
from rsk_deploy.readers import ReadOptions, Source


def read(model: Any, options: ReadOptions) -> Source:
    """Read the file; it says everything itself, so ``options`` do not matter. The original to verify against is the reference."""
    graph = unpack(store.load(model))
    return Source(graph, lambda inputs: reference.run(graph, inputs))
