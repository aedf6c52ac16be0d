"""MNN in fp32 as it comes."""

import with_mnn
from with_mnn import load, version

__all__ = ["load", "version"]
with_mnn.SPARSE = []
