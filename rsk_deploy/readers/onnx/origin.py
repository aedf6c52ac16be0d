"""Where a node stands in the user's program."""

from __future__ import annotations

import ast
import re
from typing import Any

LINE = re.compile(r'File "([^"]*)", line (\d+)')
INSTALLED = ("site-packages", "dist-packages", "torch/")


def origin(node: Any, exact: bool) -> str:
    """Module path and source line as torch's exporter records them; the node's name otherwise. In our own files: as it was."""
    if exact:
        return str(node.doc_string)
    recorded = {entry.key: entry.value for entry in node.metadata_props}
    path = module_path(recorded.get("pkg.torch.onnx.name_scopes", ""))
    lines = [(file, number) for file, number in LINE.findall(recorded.get("pkg.torch.onnx.stack_trace", "")) if not any(part in file for part in INSTALLED)]
    where = f"{lines[-1][0].rsplit('/', 1)[-1]}:{lines[-1][1]}" if lines else ""
    return ", ".join(part for part in (path, where) if part) or str(node.name)


def module_path(scopes: str) -> str:
    """The innermost module of a list of scopes, whose last entry is the operation itself."""
    try:
        names = ast.literal_eval(scopes)
    except (ValueError, SyntaxError, MemoryError, RecursionError):
        return ""
    return str(names[-2]) if isinstance(names, list) and len(names) >= 2 else ""
