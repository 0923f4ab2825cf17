"""Dtypes by the names that the field gives them, as numpy reads them. Loads numpy: import it in functions."""

from __future__ import annotations

import importlib
import re
from functools import cache
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from replicate.objects.cutting.header import Surprise

_SMALL_FLOATS = {  # bits of the exponent, bits of the fraction, bias, whether it has infinities
    "float8_e4m3fn": (4, 3, 7, False),
    "float8_e4m3fnuz": (4, 3, 8, False),
    "float8_e5m2": (5, 2, 15, True),
    "float8_e5m2fnuz": (5, 2, 16, False),
}
_BYTES = frozenset([*_SMALL_FLOATS, "float8_e8m0fnu"])
_INTEGERS = [f"{sign}int{bits}" for sign in ("", "u") for bits in (8, 16, 32, 64)]
_NUMBERS = frozenset(["bool", *_INTEGERS, "float16", "float32", "float64", "complex64", "complex128"])
_SAFETENSORS = {
    "BOOL": "bool",
    "BF16": "bfloat16",
    "C64": "complex64",
    "F4": "float4_e2m1fn_x2",
    "F6_E2M3": "float6_e2m3fn",
    "F6_E3M2": "float6_e3m2fn",
    "F8_E4M3": "float8_e4m3fn",
    "F8_E5M2": "float8_e5m2",
    "F8_E8M0": "float8_e8m0fnu",
    "F8_E4M3FNUZ": "float8_e4m3fnuz",
    "F8_E5M2FNUZ": "float8_e5m2fnuz",
}
_PLAIN = re.compile(r"([IUF])(8|16|32|64)")
_LONG = {"I": "int", "U": "uint", "F": "float"}
ByteOrder = Literal["<", ">"]
"""Little-endian or big-endian."""


def dtype_of(text: str | None) -> str | None:
    """Return the field's name of a dtype that safetensors or GGUF names; others, as of quantised blocks, unchanged."""
    if text is None:
        return None
    plain = _PLAIN.fullmatch(text)
    return _LONG[plain[1]] + plain[2] if plain and text != "F8" else _SAFETENSORS.get(text, text)


def item_of(dtype: str | None, order: ByteOrder = "<") -> str | None:
    """Return what numpy calls an item as it is stored; None for dtypes that have no items of whole bytes.

    Args:
        dtype: The field's name.
        order: Of the bytes of an item.
    """
    if dtype == "bfloat16":
        return order + "u2"
    if dtype in _BYTES:
        return "|u1"
    return np.dtype(dtype).newbyteorder(order).str if dtype in _NUMBERS else None


def describe_numpy(text: str) -> tuple[str, int]:
    """Return the field's name of a dtype that numpy's text names, and the bytes of an item.

    Raises:
        Surprise: Numpy does not know it.
    """
    try:
        dtype = np.dtype(text)
    except (TypeError, ValueError, OverflowError, Warning) as exc:
        raise Surprise(f"its dtype {text!r} is not known") from exc
    return dtype.name if dtype.name in _NUMBERS or dtype.kind in "fc" else text, dtype.itemsize


def to_array(
    data: NDArray[np.uint8], item: str, dtype: str | None, shape: tuple[int, ...], strides: tuple[int, ...] | None
) -> NDArray[Any]:
    """Return stored bytes as the array that they are, in the same memory.

    bfloat16 and float8 are those of `ml_dtypes` where it is installed, else the bits as uint16 and uint8.

    Raises:
        Surprise: Numpy has no array of such a shape.
    """
    known = _ml_dtype(dtype) if dtype == "bfloat16" or dtype in _BYTES else None
    try:
        items: NDArray[Any] = data.view(np.dtype(item))
        if known is not None:
            items = items.astype(items.dtype.newbyteorder("="), copy=False).view(known)
        if strides is None:
            return items.reshape(shape)
        strided: NDArray[Any] = np.ndarray(
            shape, items.dtype, items, strides=tuple(step * items.itemsize for step in strides)
        )
    except (ValueError, OverflowError, MemoryError) as exc:
        raise Surprise("its shape is not one that numpy can have") from exc
    return strided


def _ml_dtype(dtype: str | None) -> Any:
    try:
        return getattr(importlib.import_module("ml_dtypes"), dtype or "", None)  # it is optional
    except ImportError:
        return None


def is_comparable(dtype: str | None) -> bool:
    """Tell whether items of a dtype are numbers."""
    return dtype in _NUMBERS or dtype == "bfloat16" or dtype in _BYTES or dtype in ("longdouble", "float128")


def to_numbers(items: NDArray[Any], dtype: str | None) -> NDArray[Any]:
    """Return stored items as float64, or complex128 for complex ones."""
    if dtype == "bfloat16":
        return (items.astype(np.uint32) << np.uint32(16)).view(np.float32).astype(np.float64)
    if dtype in _BYTES:
        found: NDArray[Any] = _table(str(dtype))[items]
        return found
    return items.astype(np.complex128 if items.dtype.kind == "c" else np.float64)


@cache
def _table(dtype: str) -> NDArray[np.float64]:
    """Return what each byte of an 8-bit float stands for."""
    codes = np.arange(256)
    if dtype == "float8_e8m0fnu":
        found: NDArray[np.float64] = np.ldexp(1.0, codes - 127)
        found[255] = np.nan
        return found
    exponent_bits, fraction_bits, bias, has_infinities = _SMALL_FLOATS[dtype]
    exponents = codes >> fraction_bits & (1 << exponent_bits) - 1
    fractions = (codes & (1 << fraction_bits) - 1) / (1 << fraction_bits)
    sizes = np.where(
        exponents > 0, np.ldexp(1 + fractions, exponents - bias), np.ldexp(fractions, np.full(256, 1 - bias))
    )
    if has_infinities:
        top = exponents == (1 << exponent_bits) - 1
        sizes[top] = np.where(fractions[top] == 0, np.inf, np.nan)
    found = np.where(codes < 128, sizes, -sizes)
    if dtype.endswith("uz"):
        found[128] = np.nan
    elif not has_infinities:
        found[[127, 255]] = np.nan
    return found
