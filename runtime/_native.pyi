from collections.abc import Sequence
from typing import Annotated

import numpy
from numpy.typing import NDArray

class Engine:
    def __init__(self, plan: Annotated[NDArray[numpy.uint8], dict(shape=(None,), order="C", device="cpu", writable=False)], threads: int) -> None: ...
    def run(
        self,
        inputs: Sequence[Annotated[NDArray[numpy.float32], dict(order="C", device="cpu", writable=False)]],
        outputs: Sequence[Annotated[NDArray[numpy.float32], dict(order="C", device="cpu")]],
        timed: bool,
    ) -> list[float]: ...
    def kernels(self) -> list[str]: ...
    def memory(self) -> tuple[int, int, int, int, int]: ...

def kernels() -> list[str]: ...
