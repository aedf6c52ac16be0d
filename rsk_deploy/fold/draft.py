"""A network while it is being rewritten. A value keeps its meaning, up to rounding, as long as it keeps its name."""

from __future__ import annotations

from dataclasses import replace

from rsk_deploy.errors import about
from rsk_deploy.ir import Dense, Graph, Layer, LogEntry, Shape


class Draft:
    """Layers that can be replaced and removed, with who computes and who reads each value kept up to date."""

    def __init__(self, graph: Graph[Dense]) -> None:
        self.graph = graph
        self.layers: dict[str, Layer] = {}
        self.log = dict.fromkeys(graph.log)
        self._shapes: dict[int, dict[str, Shape]] = {batch: {entry.name: entry.at(batch) for entry in graph.inputs} for batch in (1, 2)}
        self._producer: dict[str, str] = {}
        self._readers: dict[str, dict[str, None]] = {}
        for layer in graph.layers:
            self.put(layer)

    def put(self, layer: Layer) -> None:
        """Add a layer at the end, or in the place of the one with its name."""
        if layer.name in self.layers:
            self._forget(self.layers[layer.name])
        self.layers[layer.name] = layer
        for name in layer.inputs:
            self._readers.setdefault(name, {})[layer.name] = None
        for name in layer.outputs:
            self._producer[name] = layer.name
        for batch, shapes in self._shapes.items():
            with about(layer.name):
                shapes.update(zip(layer.outputs, layer.shapes([shapes[name] for name in layer.inputs], batch), strict=True))

    def remove(self, layer: Layer) -> None:
        """Take a layer out."""
        self._forget(layer)
        del self.layers[layer.name]

    def bypass(self, layer: Layer) -> None:
        """Take out a layer whose output is its input: its readers read that."""
        self.remove(layer)
        (source,), (value,) = layer.inputs, layer.outputs
        for reader in self.readers(value):
            self.put(replace(reader, inputs=tuple(source if name == value else name for name in reader.inputs)))

    def shape(self, value: str) -> Shape:
        """Give the shape of a value at batch size 1, where it is open."""
        return self._shapes[1][value]

    def same_shape(self, a: str, b: str) -> bool:
        """Say whether two values have the same shape at every batch size."""
        return all(shapes[a] == shapes[b] for shapes in self._shapes.values())

    def producer(self, value: str) -> Layer | None:
        """Find the layer that computes a value; None for an input of the network."""
        return self.layers[self._producer[value]] if value in self._producer else None

    def readers(self, value: str) -> list[Layer]:
        """List the layers that read a value."""
        return [self.layers[name] for name in self._readers.get(value, ())]

    def only_reader(self, value: str) -> Layer | None:
        """Find the one layer that reads a value; None if others do, or the network's user."""
        readers = self.readers(value)
        return readers[0] if len(readers) == 1 and value not in self.graph.outputs else None

    def note(self, layer: str, action: str, detail: str) -> None:
        """Log what was done, once."""
        self.log[LogEntry(layer, action, detail)] = None

    def finished(self) -> Graph[Dense]:
        """Give the network, checked again."""
        return replace(self.graph, layers=tuple(self.layers.values()), log=tuple(self.log))

    def _forget(self, layer: Layer) -> None:
        for name in layer.inputs:
            self._readers[name].pop(layer.name, None)
        for name in layer.outputs:
            if self._producer.get(name) == layer.name:
                del self._producer[name]
