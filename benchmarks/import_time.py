"""What ``import rsk_deploy`` costs, and its first use with numpy: milliseconds on the clock in fresh processes, median of 15."""

import subprocess
import sys
from statistics import median

STATEMENTS = ("import numpy", "import rsk_deploy", "from rsk_deploy import Session", "from rsk_deploy import export")
MEASURE = "import time; start = time.perf_counter(); {}; print(time.perf_counter() - start)"


def milliseconds(statement: str) -> float:
    """One statement in a process of its own."""
    return 1e3 * float(subprocess.run([sys.executable, "-P", "-c", MEASURE.format(statement)], check=True, capture_output=True, text=True).stdout)


if __name__ == "__main__":
    for statement in STATEMENTS:
        print(f"{statement:30} {median(milliseconds(statement) for _ in range(15)):6.0f} ms")
