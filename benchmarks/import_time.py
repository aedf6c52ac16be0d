"""What ``import rsk_deploy`` costs: milliseconds on the clock in fresh processes, numpy included, median of 15."""

import subprocess
import sys
from statistics import median

MEASURE = "import time; start = time.perf_counter(); import {}; print(time.perf_counter() - start)"


def milliseconds(module: str) -> float:
    """One import in a process of its own."""
    return 1e3 * float(subprocess.run([sys.executable, "-P", "-c", MEASURE.format(module)], check=True, capture_output=True, text=True).stdout)


if __name__ == "__main__":
    for module in ("numpy", "rsk_deploy"):
        print(f"{module:12} {median(milliseconds(module) for _ in range(15)):6.0f} ms")
