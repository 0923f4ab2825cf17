"""Canonical msgpack: one encoding per value. SPEC §4.1.

`msgpack` does the work; this module owns its flags, sorts the keys, and checks by encoding again, since the decoder
accepts long forms and repeated keys; the order of keys is checked as they are decoded.
"""

from __future__ import annotations

import math
import struct
from typing import Any

import msgpack

from replicate.errors import CorruptionError, InvalidInputError

MAX_DEPTH = 32
Value = None | bool | int | float | str | bytes | list["Value"] | dict[str, "Value"]

_NAN_BYTES = bytes.fromhex("7ff8000000000000")
_NAN = struct.unpack(">d", _NAN_BYTES)[0]


def encode(value: Any) -> bytes:
    """Return the canonical encoding of None, bool, int, float, str, bytes, lists and str-keyed dicts of these.

    Raises:
        InvalidInputError: A type, an integer's range, text that is not Unicode, or nesting beyond 32.
    """
    try:
        return bytes(msgpack.packb(_sorted(value, 0), use_bin_type=True, use_single_float=False, strict_types=True))
    except InvalidInputError:
        raise
    except (OverflowError, UnicodeEncodeError, ValueError, TypeError) as exc:
        raise InvalidInputError(f"cannot be stored: {exc}") from exc


def decode(data: bytes, where: str) -> Any:
    """Return the value of a canonical encoding. `where` names the bytes in errors.

    Raises:
        CorruptionError: The bytes are not msgpack, or not its canonical form.
    """
    try:
        value = msgpack.unpackb(
            data, raw=False, strict_map_key=True, use_list=True, max_ext_len=0, object_pairs_hook=_ordered_map
        )
        is_canonical = msgpack.packb(value, use_bin_type=True) == data and _has_one_nan(value, 0)
    except _NotCanonicalError:
        is_canonical = False
    except InvalidInputError as exc:
        raise CorruptionError(f"{where} is damaged: {exc.message}", where=where) from exc
    except (ValueError, TypeError, KeyError, msgpack.UnpackException, RecursionError) as exc:
        raise CorruptionError(f"{where} is damaged: not msgpack ({exc or type(exc).__name__})", where=where) from exc
    if not is_canonical:
        raise CorruptionError(f"{where} is damaged: not canonical msgpack", where=where)
    return value


class _NotCanonicalError(Exception):
    """Map keys are not text in order."""


def _ordered_map(pairs: list[tuple[Any, Any]]) -> dict[str, Any]:
    """Return a decoded map whose keys come in order; code points are in the order of their UTF-8 bytes."""
    previous: str | None = None
    for key, _ in pairs:
        if type(key) is not str or (previous is not None and key <= previous):
            raise _NotCanonicalError
        previous = key
    return dict(pairs)


def _has_one_nan(value: Any, depth: int) -> bool:
    """Tell whether every NaN in a decoded value is the canonical one; refuse nesting that is too deep."""
    kind = type(value)
    if kind is float:
        return value == value or struct.pack(">d", value) == _NAN_BYTES
    if kind is dict or kind is list:
        if depth >= MAX_DEPTH:
            raise InvalidInputError(f"nested deeper than {MAX_DEPTH}")
        for item in value.values() if kind is dict else value:
            of = type(item)
            if (of is float or of is dict or of is list) and not _has_one_nan(item, depth + 1):
                return False
    return True


def _sorted(value: Any, depth: int) -> Any:
    """Return `value` with maps in key order and one NaN; refuse what canonical msgpack cannot hold."""
    kind = type(value)
    if kind is dict:
        if depth >= MAX_DEPTH:
            raise InvalidInputError(f"nested deeper than {MAX_DEPTH}")
        if not all(type(key) is str for key in value):
            raise InvalidInputError("map keys must be text")
        ordered = sorted(value, key=_utf8)
        return {key: _sorted(value[key], depth + 1) for key in ordered}
    if kind is list:
        if depth >= MAX_DEPTH:
            raise InvalidInputError(f"nested deeper than {MAX_DEPTH}")
        return [_sorted(item, depth + 1) for item in value]
    if kind is float and math.isnan(value):
        return _NAN
    if value is None or kind in (bool, int, float, str, bytes):
        return value
    if isinstance(value, bytes):  # ObjectID
        return bytes(value)
    raise InvalidInputError(f"a {kind.__name__} cannot be stored")


def _utf8(key: str) -> bytes:
    return key.encode("utf-8", "surrogatepass")
