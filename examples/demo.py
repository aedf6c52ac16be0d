"""Train two tiny sparse networks on scikit-learn's digits, export them, verify them, and compare the sizes with dense.

Run by ``make demo``, or as ``python examples/demo.py FOLDER``.
"""

import subprocess
import sys
from pathlib import Path

COMMANDS = {  # what runs them with the python that runs this
    "python": [],
    "rsk-export": ["-m", "rsk_deploy.cli.export"],
    "rsk-inspect": ["-m", "rsk_deploy.cli.inspect"],
}


def run(command: str, *arguments: str | Path) -> None:
    print("\n$", command, *arguments, flush=True)
    if code := subprocess.run([sys.executable, *COMMANDS[command], *map(str, arguments)], check=False).returncode:
        sys.exit(code)


def export(folder: Path, model: str, out: str, *options: str) -> None:
    run("rsk-export", folder / f"{model}.pt", "-o", folder / out, "--sample", folder / "digits-sample.npz", "--force", *options)


def main(folder: Path) -> None:
    run("python", Path(__file__).with_name("train_digits.py"), folder)
    export(folder, "digits-psconv", ".", "--format", "onnx,rsk")
    export(folder, "digits-rsk", ".", "--format", "onnx,rsk")
    export(folder, "digits-rsk", "topk", "--format", "onnx,rsk", "--rsk", "topk")
    for model in ("digits-psconv", "digits-rsk"):
        export(folder, model, "dense", "--format", "onnx", "--weights", "dense", "--quiet")
    run("rsk-inspect", folder / "digits-psconv.onnx", "--layers")
    print(f"\n{'file':28} {'bytes':>9}   of dense")
    for model in ("digits-psconv", "digits-rsk"):
        dense = (folder / "dense" / f"{model}.onnx").stat().st_size
        for path in sorted(folder.glob(f"**/{model}.onnx")) + sorted(folder.glob(f"**/{model}.rsk")):
            size = path.stat().st_size
            print(f"{path.relative_to(folder)!s:28} {size:9,}   {size / dense:.2f} ×")
    print("An RSK layer evaluates with every weight (× p), so its exact file is dense; --rsk topk keeps the largest weights and says what that changes.")


if __name__ == "__main__":
    main(Path(sys.argv[1] if len(sys.argv) > 1 else "demo"))
