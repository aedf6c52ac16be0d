"""ML programs (.mlpackage) as files: read without coremltools, and executed in numpy. Knows nothing of graphs, nor of who wrote the file.

Everything that a file says is checked before it is used; what is wrong with it is an error of ours, never another.
"""

from rsk_deploy.mlprogram.package import Feature, Package, is_package, read
from rsk_deploy.mlprogram.program import Program, load
from rsk_deploy.mlprogram.summary import Summary, summary

__all__ = ["Feature", "Package", "Program", "Summary", "is_package", "load", "read", "summary"]
