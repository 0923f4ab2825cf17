"""The tensors of weight files, read one by one: safetensors, torch (zip), GGUF, npy and npz.

Nothing is unpickled and no length is believed. Only a header and the bytes of the tensor that is asked for are read.
"""

from replicate.tensors.file import TensorFile
from replicate.tensors.values import Tensor

__all__ = ["Tensor", "TensorFile"]
