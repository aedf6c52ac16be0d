"""PyTorch's own files, opened without running what is in them."""

from rsk_deploy.torchfiles.load import current_directory_importable, load_pickled, load_safetensors
from rsk_deploy.torchfiles.pickles import kind_of

__all__ = ["current_directory_importable", "kind_of", "load_pickled", "load_safetensors"]
