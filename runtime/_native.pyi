from collections.abc import Sequence
from typing import Annotated

import numpy
from numpy.typing import NDArray

class Engine:
    def __init__(
        self, plan: Annotated[NDArray[numpy.uint8], dict(shape=(None,), order="C", device="cpu", writable=False)], threads: int, sibling: Engine | None = None
    ) -> None: ...
    def run(
        self,
        inputs: Sequence[Annotated[NDArray[numpy.float32], dict(order="C", device="cpu", writable=False)]],
        outputs: Sequence[Annotated[NDArray[numpy.float32], dict(order="C", device="cpu")]],
        timed: bool,
    ) -> list[float]: ...
    def kernels(self) -> list[str]: ...
    def bytes(self) -> list[int]: ...
    def memory(self) -> tuple[int, int, int, int, int, int]: ...

def unrolled(
    isa: str,
    start: Annotated[NDArray[numpy.uint32], dict(shape=(None,), order="C", device="cpu", writable=False)],
    columns: Annotated[NDArray[numpy.uint32], dict(shape=(None,), order="C", device="cpu", writable=False)],
    values: Annotated[NDArray[numpy.float32], dict(shape=(None,), order="C", device="cpu", writable=False)],
    offsets: Annotated[NDArray[numpy.int32], dict(shape=(None,), order="C", device="cpu", writable=False)],
    vectors: int,
    bias: Annotated[NDArray[numpy.float32], dict(shape=(None,), order="C", device="cpu", writable=False)] | None = None,
    activation: int = 0,
    alpha: float = 0.0,
    beta: float = 0.0,
    residual: bool = False,
    tiles: int = 64,
) -> tuple[bytes, bytes, int, bool, list[tuple[list[int], list[tuple[int, int]]]]]: ...
def columns(
    places: Annotated[NDArray[numpy.bool_], dict(shape=(None, None), order="C", device="cpu", writable=False)],
    out: Annotated[NDArray[numpy.uint32], dict(shape=(None,), order="C", device="cpu")],
) -> None: ...
def kernels() -> list[str]: ...
def may_generate_code() -> bool: ...
