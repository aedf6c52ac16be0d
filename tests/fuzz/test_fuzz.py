"""Coverage-guided fuzzing: each target runs for RSK_FUZZ_SECONDS (60) without an exception that is not an RskError."""

import importlib.util
import os
import subprocess
import sys
from pathlib import Path

import pytest

SECONDS = int(os.environ.get("RSK_FUZZ_SECONDS", "60"))
LIMITS = ["-timeout=10", "-rss_limit_mb=2048", "-max_len=262144", "-verbosity=0"]


@pytest.mark.slow
@pytest.mark.timeout(SECONDS + 300)
@pytest.mark.skipif(importlib.util.find_spec("atheris") is None, reason="atheris is not installed: pip install atheris (Linux and macOS)")
@pytest.mark.parametrize("target", sorted(Path(__file__).parent.glob("fuzz_*.py")), ids=lambda path: path.stem)
def test_no_file_raises_anything_but_our_errors(target, tmp_path):
    corpus = tmp_path / "corpus"
    corpus.mkdir()
    command = [sys.executable, target, f"-max_total_time={SECONDS}", f"-artifact_prefix={tmp_path}/found-", *LIMITS, corpus]
    result = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path)
    assert result.returncode == 0, result.stdout[-4000:] + result.stderr[-4000:]
