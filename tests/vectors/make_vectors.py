"""Write the test vectors of the store format: `python tests/vectors/make_vectors.py`.

A second, independent reading of SPEC.md: nothing of the package is imported; msgpack and zstd frames are made by hand.
So the files are the same bytes with every version of the libraries: `zstandard` only confirms that the frames decode.
"""

import json
import struct
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import accumulate
from pathlib import Path
from typing import TypeAlias

import zstandard
from blake3 import blake3

Value: TypeAlias = "bool | int | float | str | bytes | Sequence[Value] | Mapping[str, Value] | None"
Json: TypeAlias = "bool | int | str | Sequence[Json] | Mapping[str, Json] | None"
Case: TypeAlias = "dict[str, Json]"

NAN = bytes.fromhex("7ff8000000000000")
BLOB, TREE, COMMIT, LOCATOR, PACKSET = 1, 2, 3, 4, 5
RAW, ZSTD, PLANES, DELTA, CONCAT, FILL, CAST, PATCH = range(8)
CONTEXT = "replicate 2026 v1 "
CONTEXT_OF_KIND = {TREE: "tree", COMMIT: "commit", LOCATOR: "locator", PACKSET: "packset"}


# --- 4.1 canonical msgpack, and its notation in JSON


def head(n: int, fix: int, limit: int, forms: Mapping[int, int]) -> bytes:
    """The shortest header for n: `fix | n` below the limit, else the first form (width -> code) that holds n."""
    if n < limit:
        return bytes([fix | n])
    width = next(width for width in forms if n < 256**width)
    return bytes([forms[width]]) + n.to_bytes(width, "big")


def enc(v: Value) -> bytes:
    """The canonical encoding."""
    if v is None or isinstance(v, bool):
        return {None: b"\xc0", False: b"\xc2", True: b"\xc3"}[v]
    if isinstance(v, int):
        if v >= 0:
            return head(v, 0, 128, {1: 0xCC, 2: 0xCD, 4: 0xCE, 8: 0xCF})
        if v >= -32:
            return bytes([256 + v])
        width = next(width for width in (1, 2, 4, 8) if v >= -(256**width) // 2)
        return bytes([{1: 0xD0, 2: 0xD1, 4: 0xD2, 8: 0xD3}[width]]) + v.to_bytes(width, "big", signed=True)
    if isinstance(v, float):
        return b"\xcb" + (NAN if v != v else struct.pack(">d", v))
    if isinstance(v, str):
        return head(len(raw := v.encode()), 0xA0, 32, {1: 0xD9, 2: 0xDA, 4: 0xDB}) + raw
    if isinstance(v, bytes):
        return head(len(v), 0, 0, {1: 0xC4, 2: 0xC5, 4: 0xC6}) + v
    if isinstance(v, Mapping):
        items = sorted(v.items(), key=lambda item: item[0].encode())
        return head(len(v), 0x80, 16, {2: 0xDE, 4: 0xDF}) + b"".join(enc(key) + enc(value) for key, value in items)
    return head(len(v), 0x90, 16, {2: 0xDC, 4: 0xDD}) + b"".join(map(enc, v))


TAGS = (
    'Values are tagged: {"nil": null}, {"bool": true}, {"int": "-1"}, {"float": "nan"|"inf"|"-0.0"|...}, {"str": "x"}, '
    '{"bin": hex}, {"array": [value]}, {"map": [[key, value]]}, and for long ones {"str_repeat": [text, n]}, '
    '{"bin_repeat": [hex, n]}, {"array_repeat": [value, n]}, {"map_range": n}: keys "00000", "00001", ..., each nil. '
    "A long encoding is given as its length, its first 16 bytes (head) and its plain BLAKE3 instead of hex."
)


def tag(v: Value) -> Case:
    """The value in the notation that TAGS describes."""
    if v is None or isinstance(v, bool):
        return {"nil": None} if v is None else {"bool": v}
    if isinstance(v, int | float):
        return {"int": str(v)} if isinstance(v, int) else {"float": repr(v)}
    if isinstance(v, str):
        return {"str_repeat": [v[0], len(v)]} if len(v) > 24 and len(set(v)) == 1 else {"str": v}
    if isinstance(v, bytes):
        return {"bin_repeat": [v[:1].hex(), len(v)]} if len(v) > 32 and len(set(v)) == 1 else {"bin": v.hex()}
    if isinstance(v, Mapping):
        if len(v) > 32:
            assert all(key == f"{i:05}" and value is None for i, (key, value) in enumerate(v.items()))
            return {"map_range": len(v)}
        return {"map": [[key, tag(v[key])] for key in sorted(v, key=str.encode)]}
    return {"array_repeat": [tag(v[0]), len(v)]} if len(v) > 32 else {"array": [tag(x) for x in v]}


def coded(data: bytes) -> Case:
    """The bytes in hex, or what stands for them when they are long."""
    if len(data) <= 4096:
        return {"hex": data.hex()}
    return {"length": len(data), "head": data[:16].hex(), "blake3": blake3(data).hexdigest()}


def nest(depth: int) -> Value:
    """Arrays in arrays: `[[...[]...]]` with `depth` opening brackets."""
    v: Value = []
    for _ in range(depth - 1):
        v = [v]
    return v


def canonical() -> tuple[list[Case], list[Case]]:
    """Value and encoding. Of `invalid`, a hex must not be decoded, a value without hex not be encoded."""
    ints = [0, 1, 127, 128, 255, 256, 65535, 65536, 2**32 - 1, 2**32, 2**63 - 1, 2**63, 2**64 - 1]
    ints += [-1, -32, -33, -128, -129, -32768, -32769, -(2**31), -(2**31) - 1, -(2**63)]
    floats = [0.0, -0.0, 1.0, -1.5, 0.1, 5e-324, 1.7976931348623157e308, float("inf"), float("-inf"), float("nan")]
    values: list[Value] = [None, False, True, *ints, *floats]
    values += ["", "a", "\0", "é", "e\u0301", "\U0001f600", *("a" * n for n in (31, 32, 255, 256, 65535, 65536))]
    values += [bytes(n) for n in (0, 1, 255, 256, 65535, 65536)]
    values += [[None] * n for n in (0, 1, 15, 16, 65535, 65536)]
    values += [{f"{i:05}": None for i in range(n)} for n in (0, 1, 15, 16, 65535, 65536)]
    values += [[1, 1.0, True, "1", b"1", [], {}], {"": 0}, {"aa": 1, "b": 2}, {"B": 1, "a": 2, "é": 3}]
    values += [{"a": 1, "a.b": 2, "ab": 3}, {"\uffff": 1, "\U00010000": 2}, {"m": {"n": {"o": [{"p": None}]}}}]
    values += [nest(32), {"a": nest(31)}]
    invalid = {
        "empty input": "", "trailing byte": "c000", "two values": "0101", "reserved byte c1": "c1",
        "uint8 for 0": "cc00", "uint8 for 127": "cc7f", "uint16 for 255": "cd00ff", "uint32 for 65535": "ce0000ffff",
        "uint64 for 2^32-1": "cf00000000ffffffff", "int8 for 5": "d005", "int16 for 128": "d10080",
        "int64 for 2^63-1": "d37fffffffffffffff", "int8 for -1": "d0ff", "int8 for -32": "d0e0",
        "int16 for -128": "d1ff80", "int32 for -32768": "d2ffff8000", "int64 for -2^31": "d3ffffffff80000000",
        "float32": "ca3f800000", "float32 NaN": "ca7fc00000", "NaN with payload": "cb7ff8000000000001",
        "negative NaN": "cbfff8000000000000", "signalling NaN": "cb7ff0000000000001", "str8 for 1 byte": "d90161",
        "str16 for 1 byte": "da000161", "str32 for 1 byte": "db0000000161", "bin16 for 1 byte": "c5000100",
        "bin32 for 1 byte": "c60000000100", "array16 for 0": "dc0000", "array32 for 0": "dd00000000",
        "map16 for 0": "de0000", "map32 for 0": "df00000000", "keys unsorted": "82a16201a16102",
        "keys by length": "82a16201a2616102", "keys equal": "82a16101a16101",
        "keys unsorted in a nested map": "81a16d82a16201a16102", "int key": "810101", "bin key": "81c4016101",
        "nil key": "81c001", "array key": "819001", "fixext 1": "d40000", "ext 8": "c70100ff",
        "timestamp 32": "d6ff00000000", "timestamp 64": "d7ff0000000000000000", "UTF-8 overlong": "a2c080",
        "UTF-8 surrogate": "a3eda080", "UTF-8 cut": "a1c3", "UTF-8 byte ff": "a1ff",
        "UTF-8 above U+10FFFF": "a4f4908080", "key not UTF-8": "81a1ff01", "cut int": "cd01", "cut float": "cb7ff8",
        "cut str": "a261", "cut bin": "c40200", "cut header": "c5", "cut array": "9201", "map without value": "81a161",
        "array that claims 2^32-1 items": "ddffffffff", "bin that claims 2^32-1 bytes": "c6ffffffff",
        "nesting 33, arrays": "91" * 32 + "90", "nesting 33, maps": "81a161" * 32 + "80",
    }  # fmt: skip
    cases: list[Case] = [{"value": tag(v), **coded(enc(v))} for v in values]
    refused: list[Case] = [{"name": name, "hex": data} for name, data in invalid.items()]
    unencodable: dict[str, Value] = {"2^64": 2**64, "-2^63-1": -(2**63) - 1, "surrogate": "\ud800", "deep": nest(33)}
    return cases, refused + [{"name": f"cannot be encoded: {name}", "value": tag(v)} for name, v in unencodable.items()]


# --- 3 ids


def derive(what: str, data: bytes) -> bytes:
    return blake3(data, derive_key_context=CONTEXT + what).digest()


def oid(kind: int, data: bytes) -> bytes:
    return derive(CONTEXT_OF_KIND[kind], data) if kind in CONTEXT_OF_KIND else blake3(data).digest()


def ids() -> tuple[list[Case], list[Case]]:
    """Context (null: the plain hash), input (hex, or mod251: n bytes, byte i is i mod 251) and id, 32 or 16 bytes."""
    cases: list[Case] = []
    for n in (0, 1, 63, 64, 65, 1023, 1024, 1025, 2**22, 2**22 + 1):
        data = (bytes(range(251)) * (n // 251 + 1))[:n]
        cases.append({"of": "blob", "context": None, "input": {"mod251": n}, "id": oid(BLOB, data).hex()})
    for of in ("tree", "commit", "locator", "packset", "pack", "record", "catalog", "plan", "hint"):
        size = 16 if of in ("record", "catalog", "plan", "hint") else 32
        for data in (b"", b"\x90", bytes(range(65))):
            digest = derive(of, data)[:size].hex()
            cases.append({"of": of, "context": CONTEXT + of, "input": {"hex": data.hex()}, "id": digest})
    return cases, []


# --- 4.2 trees, 4.3 commits

HELLO, TARGET = b"hello\n", b"hello.txt"
Entry: TypeAlias = tuple[bytes, int, int, bytes]


def tree(*entries: Entry) -> bytes:
    return enc(sorted(entries))


def file(name: bytes, data: bytes = HELLO, mode: int = 0) -> Entry:
    return name, mode, len(data), oid(BLOB, data)


SUBTREE = tree(file(b"x"))
ROOT_TREE = tree(
    file(b"hello.txt"), file(b"run.sh", b"", 1), file(b"link", TARGET, 2), (b"sub", 3, len(HELLO), oid(TREE, SUBTREE))
)


def trees() -> tuple[list[Case], list[Case]]:
    """Entries (name and id in hex), encoding and id. `invalid` must not be decoded as trees."""
    hello, one, empty = oid(BLOB, HELLO), oid(BLOB, b"1"), oid(TREE, tree())
    good: dict[str, list[Entry]] = {
        "empty": [],
        "all modes": [file(b"f"), file(b"x", b"", 1), file(b"l", TARGET, 2), (b"d", 3, 6, oid(TREE, SUBTREE))],
        "an empty directory": [(b"d", 3, 0, empty)],
        "a directory sorts as its bare name": [file(b"a.b"), (b"a", 3, 0, empty), file(b"a0"), file(b"a-")],
        "bytes above 0x7f are unsigned": [file(b"\xff"), file(b"\x7f"), file(b"\x80"), file(b"~")],
        "not UTF-8, not normalised": [file(b"\xff\xfe"), file("é".encode()), file("e\u0301".encode()), file(b"\xc3")],
        "control bytes, blanks, a backslash, three dots": [file(b"\n"), file(b" "), file(b"a\\b"), file(b"...")],
        "longest name": [file(b"n" * 255)],
        "big sizes": [(b"a", 0, 2**32, hello), (b"b", 0, 2**42, one), (b"d", 3, 2**50, oid(TREE, SUBTREE))],
        "16 entries": [file(b"%02d" % i) for i in range(16)],
    }
    bad: dict[str, Value] = {
        "unsorted": [file(b"b"), file(b"a")], "duplicate name": [file(b"a"), file(b"a", b"")],
        "sorted as if a directory ended in a slash": [file(b"a.b"), (b"a", 3, 0, empty)],
        "sorted by length": [file(b"b"), file(b"aa")], "sorted by signed bytes": [file(b"\x80"), file(b"a")],
        "name empty": [file(b"")], "name .": [file(b".")], "name ..": [file(b"..")], "name with slash": [file(b"a/b")],
        "name a slash": [file(b"/")], "name with NUL": [file(b"a\0")], "name of 256 bytes": [file(b"n" * 256)],
        "name is str": [["a", 0, 6, hello]], "mode 4": [(b"a", 4, 6, hello)], "mode -1": [(b"a", -1, 6, hello)],
        "mode is bool": [[b"a", True, 6, hello]], "mode is float": [[b"a", 0.0, 6, hello]],
        "size 2^63": [(b"a", 0, 2**63, hello)], "size -1": [(b"a", 0, -1, hello)],
        "size is float": [[b"a", 0, 6.0, hello]],
        "size is bool": [[b"a", 0, True, one]], "link of size 0": [file(b"a", b"", 2)],
        "link of size 4096": [file(b"a", b"t" * 4096, 2)], "id of 31 bytes": [(b"a", 0, 6, hello[:31])],
        "id of 33 bytes": [(b"a", 0, 6, hello + b"\0")], "id is str": [[b"a", 0, 6, "a" * 32]],
        "three items": [[b"a", 0, 6]], "five items": [[b"a", 0, 6, hello, None]], "entry is not an array": [b"a"],
        "a map": {}, "nil": None,
    }  # fmt: skip
    cases: list[Case] = []
    for name, entries in good.items():
        data = tree(*entries)
        items: list[Case] = [{"name": n.hex(), "mode": m, "size": s, "id": i.hex()} for n, m, s, i in sorted(entries)]
        cases.append({"name": name, "entries": items, "hex": data.hex(), "id": oid(TREE, data).hex()})
    invalid: list[Case] = [{"name": name, "hex": enc(v).hex()} for name, v in bad.items()]
    raw = {"array16 for 0": b"\xdc\0\0", "trailing byte": b"\x90\0", "empty input": b"", "cut": SUBTREE[:-1]}
    return cases, invalid + [{"name": f"not canonical: {name}", "hex": data.hex()} for name, data in raw.items()]


def fake(name: str, size: int = 32) -> bytes:
    """Bytes that stand for a random id or nonce."""
    return blake3(name.encode()).digest(size)


Map: TypeAlias = "dict[str, Value]"
ROOT: Map = {
    "v": 1, "kind": "root", "tree": oid(TREE, ROOT_TREE), "parents": [], "author": "ada@engine",
    "time": 1767225600000000000, "nonce": fake("nonce", 16), "params": {}, "command": "python train.py",
}  # fmt: skip
EXPERIMENT = oid(COMMIT, enc(ROOT))
CHECKPOINT: Map = {
    "v": 1, "kind": "checkpoint", "tree": oid(TREE, ROOT_TREE), "parents": [EXPERIMENT], "author": "ada@engine",
    "time": 1767225601000000000, "experiment": EXPERIMENT, "seq": 1, "step": 100, "metrics": {},
}  # fmt: skip
VALUES: Map = {
    "nil": None, "bool": True, "int": -(2**63), "big": 2**64 - 1, "float": 1e-3, "nan": float("nan"),
    "inf": float("-inf"), "zero": -0.0, "str": "é", "array": [1, [2.5, "x"], {}], "map": {"b": {"a": None}, "a": []},
}  # fmt: skip
PATHS: Map = {"count": 2, "paths": [b"a/b", b"\xff"]}


def without(whole: Map, key: str) -> Map:
    return {k: v for k, v in whole.items() if k != key}


def commits() -> tuple[list[Case], list[Case]]:
    """Value, encoding and id. `invalid` must not be decoded as commits."""
    notes: Map = {"primary_metric": ["loss", "minimize"], "unstable": PATHS, "skipped": {"count": 1, "paths": [b"k"]}}
    root_all: Map = {**ROOT, **notes, "parents": [fake("fork")], "params": VALUES, "name": "é", "tags": ["a", "b"]}
    ckpt_all: Map = {**CHECKPOINT, **notes, "metrics": VALUES, "step": -(2**63), "seq": 2**32 - 1}
    room = 48 * 1024 - len(enc({**CHECKPOINT, "zz": "a" * 40000})) + 40000
    good: dict[str, Map] = {
        "root, minimal": ROOT, "root, every key": root_all, "checkpoint, minimal": CHECKPOINT,
        "checkpoint, every key": ckpt_all, "root, unknown keys": {**ROOT, "": b"\0", "zz": [{"k": b""}]},
        "checkpoint, unknown keys": {**CHECKPOINT, "later": {"a": [True, 1.0]}},
        "root, keys of a checkpoint": {**ROOT, "seq": 5, "step": "x", "experiment": None, "metrics": [b""]},
        "checkpoint, keys of a root": {**CHECKPOINT, "params": 1, "nonce": b"", "tags": ["b", "a"]},
        "root, two parents": {**ROOT, "parents": [fake("a"), fake("b")]},
        "checkpoint, two parents": {**CHECKPOINT, "parents": [EXPERIMENT, fake("b")]},
        "largest, 49152 bytes": {**CHECKPOINT, "zz": "a" * room},
    }  # fmt: skip
    bad_root: dict[str, Map] = {
        "v 2": {"v": 2}, "v true": {"v": True}, "unknown kind": {"kind": "branch"},
        "tree of 31 bytes": {"tree": bytes(31)},
        "tree is str": {"tree": "a" * 64}, "nonce of 15 bytes": {"nonce": bytes(15)},
        "params not a map": {"params": []}, "time is float": {"time": 1.0}, "params with bin": {"params": {"a": b""}},
        "author is bin": {"author": b"a@b"}, "name not str": {"name": 1}, "tags not str": {"tags": [1]},
        "command not str": {"command": ["python"]}, "goal unknown": {"primary_metric": ["loss", "min"]},
        "goal missing": {"primary_metric": ["loss"]}, "tags unsorted": {"tags": ["b", "a"]},
        "a tag twice": {"tags": ["a", "a"]}, "name nil": {"name": None},
    }  # fmt: skip
    bad_ckpt: dict[str, Map] = {
        "metrics not a map": {"metrics": [1]}, "metrics with bin, nested": {"metrics": {"a": [b""]}},
        "seq 0": {"seq": 0}, "seq -1": {"seq": -1}, "seq 2^32": {"seq": 2**32}, "seq true": {"seq": True},
        "step is float": {"step": 1.0}, "step 2^63": {"step": 2**63}, "no parents": {"parents": []},
        "parent of 31 bytes": {"parents": [bytes(31)]}, "parents not an array": {"parents": EXPERIMENT},
        "experiment of 31 bytes": {"experiment": bytes(31)}, "49153 bytes": {"zz": "a" * (room + 1)},
    }  # fmt: skip
    bad: dict[str, Value] = {f"root: {name}": {**ROOT, **change} for name, change in bad_root.items()}
    bad |= {f"checkpoint: {name}": {**CHECKPOINT, **change} for name, change in bad_ckpt.items()}
    bad |= {f"root: no {key}": without(ROOT, key) for key in ("v", "kind", "tree", "parents", "nonce")}
    bad |= {f"checkpoint: no {key}": without(CHECKPOINT, key) for key in ("tree", "experiment", "seq")}
    bad |= {"not a map": [], "an empty map": {}}
    cases: list[Case] = [
        {"name": name, "value": tag(v), **coded(enc(v)), "id": oid(COMMIT, enc(v)).hex()} for name, v in good.items()
    ]
    invalid: list[Case] = [{"name": name, "value": tag(v), **coded(enc(v))} for name, v in bad.items()]
    root = enc(ROOT)
    raw = {"trailing byte": root + b"\0", "cut": root[:-1], "map16": b"\xde\0" + bytes([root[0] & 15]) + root[1:]}
    return cases, invalid + [{"name": f"not canonical: {name}", "hex": data.hex()} for name, data in raw.items()]


# --- 7 zstd frames by hand (RFC 8878): one segment, one block


def zhead(size: int) -> bytes:
    """Frame header that declares the content size, which is the window too."""
    return b"\x28\xb5\x2f\xfd" + (bytes([0x20, size]) if size < 256 else b"\x60" + struct.pack("<H", size - 256))


def block(kind: int, size: int, data: bytes) -> bytes:
    return (1 | kind << 1 | size << 3).to_bytes(3, "little") + data


def zstored(data: bytes) -> bytes:
    """A frame that holds the bytes as they are."""
    return zhead(len(data)) + block(0, len(data), data)


def zpatch(base: bytes, data: bytes) -> bytes:
    """A frame that copies its beginning from the beginning of the dictionary `base`, then has literals."""
    same = next(i for i, (a, b) in enumerate(zip(base, data, strict=False)) if a != b)
    assert 131 <= same < 259  # match length code 43 is 131 and 7 more bits
    offset = len(base) + 3
    code = offset.bit_length() - 1
    bits = (1 << code | offset - (1 << code)) << 7 | same - 131  # end mark, offset bits, match length bits
    literals = struct.pack("<H", 1 << 2 | len(data) - same << 4) + data[same:]  # raw, with 12 bits of length
    section = literals + bytes([1, 0x54, 0, code, 43]) + bits.to_bytes((bits.bit_length() + 7) // 8, "little")
    return zhead(len(data)) + block(2, len(section), section)


# --- 7.1 planes, 7.2 delta, 7.3 cast

ORDERED, MASKED = 16, 32
WEIGHTS = [1.0, -0.5, 0.015625, 0.0, -0.0, 3.0e-39, float("inf"), float("-inf"), float("nan"), 3.4e38, -1.25]


def numbers(data: bytes, w: int) -> list[int]:
    return [int.from_bytes(data[i : i + w], "little") for i in range(0, len(data) // w * w, w)]


def rot(x: int, w: int) -> int:
    return (x << 1 | x >> 8 * w - 1) & (1 << 8 * w) - 1


def zigzag(x: int, b: int, w: int) -> int:
    count = 1 << 8 * w
    d = (x - b) % count
    return 2 * d if d < count // 2 else 2 * (count - d) - 1


def zrepeated(byte: int, size: int) -> bytes:
    """A frame that repeats a byte."""
    return zhead(size) + block(1, size, bytes([byte]))


def section(string: bytes) -> bytes:
    """Nothing for zeros, a frame where one byte repeats, else the string."""
    if not any(string):
        return b""
    return zrepeated(string[0], len(string)) if len(string) > 20 and len(set(string)) == 1 else string


def sparse(string: bytes) -> bytes:
    """Which bytes are not 0, and these."""
    mask = section(sum(1 << i for i, byte in enumerate(string) if byte).to_bytes((len(string) + 7) // 8, "little"))
    listed = string.replace(b"\0", b"")
    return struct.pack("<II", len(listed), len(mask)) + mask + section(listed)


def sections(strings: Sequence[bytes], tail: bytes, sparse_ones: Sequence[int] = ()) -> bytes:
    made = [sparse(string) if i in sparse_ones else section(string) for i, string in enumerate(strings)]
    lengths = [struct.pack("<I", len(one) | (i in sparse_ones) << 31) for i, one in enumerate(made)]
    return b"".join([*lengths, *made]) + tail


def columns(values: Sequence[int], w: int) -> list[bytes]:
    return [bytes(x >> 8 * k & 255 for x in values) for k in range(w)]


def tail_of(data: bytes, w: int) -> bytes:
    return data[len(data) // w * w :]


def zplanes(data: bytes, w: int, sparse_ones: Sequence[int] = ()) -> bytes:
    return bytes([w]) + sections(columns([rot(x, w) for x in numbers(data, w)], w), tail_of(data, w), sparse_ones)


def zdelta(base: bytes, data: bytes, w: int, flags: int = 0) -> bytes:
    old = numbers(base, w)
    z = [zigzag(x, b, w) for x, b in zip(numbers(data, w), old, strict=True)]
    places = [i for i in range(len(z)) if z[i] or not flags & MASKED]
    bits = sum(1 << i for i in places).to_bytes((len(z) + 7) // 8, "little")
    if flags & ORDERED:
        places.sort(key=lambda i: rot(old[i], w) >> 8 * w - 8)
    planes = columns([z[i] for i in places], w)
    start = oid(BLOB, base) + bytes([w | flags])
    if flags & MASKED:
        return start + struct.pack("<I", len(places)) + sections([bits, *planes], tail_of(data, w))
    return start + sections(planes, tail_of(data, w))


def rounded(bits: int, target: int) -> bytes:
    """One binary32 as bfloat16 (1) or binary16 (2)."""
    (value,) = struct.unpack("<f", struct.pack("<I", bits))
    if value != value:
        return struct.pack("<H", 0x7FC0 if target == 1 else 0x7E00 | bits >> 16 & 0x8000)
    if target == 1:
        low, high = bits & 0xFFFF, bits >> 16
        return struct.pack("<H", high + (low > 0x8000 or (low == 0x8000 and high & 1)))
    try:
        return struct.pack("<e", value)
    except OverflowError:
        return struct.pack("<H", 0x7C00 | bits >> 16 & 0x8000)


def zcast(base: bytes, target: int) -> bytes:
    return oid(BLOB, base) + bytes([target])


def encodings() -> tuple[list[Case], list[Case]]:
    """Payloads of encodings 2, 3 and 6, with the raw length, the bytes of the base, and what they decode to.

    Writers need not produce the same. In `invalid` are payloads that must be refused.
    """
    floats = struct.pack("<11f", *WEIGHTS)
    ramp = b"".join(struct.pack("<I", 0x3F000000 + 77 * i) for i in range(40))
    moved = b"".join(struct.pack("<I", 0x3F000000 + 77 * i + (-1) ** i * (i % 3)) for i in range(40))
    doubles = struct.pack("<5d", 1.0, -2.5, 5e-324, float("nan"), 1e300)
    ties = [0x3F808000, 0x3F818000, 0x3F807FFF, 0x3F808001, 0x7F7FFFFF, 0x7F800001, 0xFFC00000, 0xFFFFFFFF, 0x80000001]
    halves = [0x477FE000, 0x477FEFFF, 0x477FF000, 0x38800000, 0x33800000, 0x33000000, 0x33000001, 0xB3C00000]
    hard = floats + b"".join(struct.pack("<I", bits) for bits in ties + halves)
    cases: list[Case] = []

    def add(name: str, encoding: int, payload: bytes, data: bytes, base: bytes | None = None) -> None:
        more: Case = {} if base is None else {"base": base.hex()}
        cases.append({"name": name, "encoding": encoding, "raw_length": len(data), "payload": payload.hex(), **more,
                      "hex": data.hex()})  # fmt: skip

    for w in (1, 2, 4, 8):
        for name, data in (("floats", floats), ("a ramp", ramp), ("doubles", doubles), ("a tail", ramp + b"\xff" * 7)):
            add(f"planes: {name} as items of {w}", PLANES, zplanes(data, w), data)
        add(f"planes: nothing, as items of {w}", PLANES, zplanes(b"", w), b"")
        few = b"".join(struct.pack("<I", i % 5 // 4 * (1 << i % 32)) for i in range(90)) + b"end"
        for ones in ((0,), tuple(range(w))):
            add(f"planes: items of {w}, sparse {ones}", PLANES, zplanes(few, w, ones), few)
        add(f"planes: items of {w}, sparse zeros", PLANES, zplanes(bytes(160), w, (w - 1,)), bytes(160))
        add(f"planes: a tail alone, items of {w}", PLANES, zplanes(b"abc"[: w - 1], w), b"abc"[: w - 1])
        for flags in (0, ORDERED, MASKED, MASKED | ORDERED):
            how = f"delta: items of {w}, flags {flags}"
            add(f"{how}: small steps and a tail", DELTA, zdelta(ramp + b"abc", moved + b"def", w, flags),
                moved + b"def", ramp + b"abc")  # fmt: skip
            add(f"{how}: other numbers", DELTA, zdelta(ramp[:44], floats, w, flags), floats, ramp[:44])
            add(f"{how}: no difference", DELTA, zdelta(ramp, ramp, w, flags), ramp, ramp)
            add(f"{how}: nothing", DELTA, zdelta(b"", b"", w, flags), b"", b"")
    for target in (1, 2):
        data = b"".join(rounded(bits, target) for bits in numbers(hard, 4))
        add(f"cast to {target}", CAST, zcast(hard, target), data, hard)
    return cases, unsound_encodings(ramp, moved)


def unsound_encodings(ramp: bytes, moved: bytes) -> list[Case]:
    planes, delta, masked = zplanes(ramp, 4), zdelta(ramp, moved, 4), zdelta(ramp, moved, 4, MASKED)
    bits = masked[57:62]
    high = struct.pack("<I", 2**31)
    bad: dict[str, tuple[int, bytes, int, bytes | None]] = {}
    for number in (0, 3, 5, 16, 255):
        bad[f"planes: items of {number}"] = (PLANES, poke(planes, 0, bytes([number])), 160, None)
    for number in (0, 3, 4 | 64, 4 | 128):
        bad[f"delta: first byte {number}"] = (DELTA, poke(delta, 32, bytes([number])), 160, ramp)
    frame = struct.pack("<II", 0, 0)
    for name, made in {
        "content size above the plane's": zhead(41) + block(1, 41, b"a"), "cut": zrepeated(7, 40)[:-1],
        "content size below the plane's": zrepeated(7, 39), "content size lies": zhead(40) + block(1, 39, b"a"),
        "and a byte more": zrepeated(7, 40) + b"\0", "no frame": b"\0" * 9,
        "that claims 2^62": b"\x28\xb5\x2f\xfd\xe0" + struct.pack("<Q", 2**62) + block(0, 0, b""),
    }.items():  # fmt: skip
        payload = b"\4" + frame + struct.pack("<II", 0, len(made)) + made
        bad[f"planes: a frame, {name}"] = (PLANES, payload, 160, None)
    one = struct.pack("<I", 2**31 + 14)
    for name, (length, stored) in {
        "of 7 bytes": (struct.pack("<I", 2**31 + 7), bytes(7)),
        "with a one too few in its mask": (one, b"\2\0\0\0\4\0\0\0\1\0\0\0\5\6"),
        "with a one too many in its mask": (one, b"\2\0\0\0\4\0\0\0\7\0\0\0\5\6"),
        "of more bytes than there are": (one, b"\xff\0\0\0\4\0\0\0\3\0\0\0\5\6"),
        "with a mask that is too long": (one, b"\1\0\0\0\5\0\0\0\1\0\0\0\0\6"),
        "with a sparse mask": (one, b"\2\0\0\0\4\0\0\x80\3\0\0\0\5\6"),
        "with more bytes than it says": (one, b"\1\0\0\0\4\0\0\0\1\0\0\0\5\6"),
    }.items():  # fmt: skip
        bad[f"planes: a sparse section {name}"] = (PLANES, b"\1" + length + stored, 32, None)
    for how, encoding, whole, at, base in (("planes", PLANES, planes, 1, None), ("delta", DELTA, delta, 33, ramp)):
        bad |= {
            f"{how}: empty": (encoding, b"", 160, base), f"{how}: cut": (encoding, whole[:-1], 160, base),
            f"{how}: a byte more": (encoding, whole + b"\0", 160, base),
            f"{how}: lengths cut": (encoding, whole[: at + 9], 160, base),
            f"{how}: a huge length": (encoding, poke(whole, at, high), 160, base),
            f"{how}: a length above its plane's": (encoding, poke(whole, at, b"\x29"), 160, base),
            f"{how}: a tail that is not there": (encoding, whole, 161, base),
            f"{how}: another raw length": (encoding, whole, 156, base),
            f"{how}: above 64 MiB": (encoding, whole, 2**26 + 1, base),
        }  # fmt: skip
    bad |= {
        "delta: 32 bytes": (DELTA, delta[:32], 160, ramp), "delta: a shorter base": (DELTA, delta, 160, ramp[:-4]),
        "delta: a longer base": (DELTA, delta, 160, ramp + b"\0"), "delta: no base": (DELTA, delta, 160, b""),
        "delta: number of differences cut": (DELTA, masked[:36], 160, ramp),
        "delta: more differences than items": (DELTA, poke(masked, 33, struct.pack("<I", 41)), 160, ramp),
        "delta: differences of 2^31": (DELTA, poke(masked, 33, high), 160, ramp),
        "delta: a mask with a one less": (DELTA, poke(masked, 57, bytes([bits[0] & bits[0] - 1])), 160, ramp),
        "delta: a mask with a one more": (DELTA, poke(masked, 57, bytes([bits[0] | bits[0] + 1])), 160, ramp),
        "delta: a mask of zeros for some differences": (DELTA, masked[:32] + b"\x24\1\0\0\0" + frame + frame
            + bytes(4), 160, ramp),
        "delta: a one after the last item": (DELTA, oid(BLOB, b"a") + b"\x21\1\0\0\0\1\0\0\0\1\0\0\0\2\2", 1, b"a"),
        "delta: ordered, of more than 2^22 items": (DELTA, oid(BLOB, b"") + bytes([1 | ORDERED]) + bytes(4), 2**22 + 1,
            None),
        "cast: 32 bytes": (CAST, zcast(ramp, 1)[:32], 80, ramp), "cast: to 0": (CAST, zcast(ramp, 0), 80, ramp),
        "cast: to 3": (CAST, zcast(ramp, 3), 80, ramp), "cast: more bytes": (CAST, zcast(ramp, 1) + b"\0", 80, ramp),
        "cast: a longer base": (CAST, zcast(ramp, 1), 78, ramp), "cast: half an item": (CAST, zcast(ramp, 1), 81, ramp),
        "cast: above 64 MiB": (CAST, zcast(ramp, 1), 2**26 + 2, ramp),
    }  # fmt: skip
    return [
        {
            "name": name,
            "encoding": encoding,
            "raw_length": raw,
            "payload": payload.hex(),
            **({} if base is None else {"base": base.hex()}),
        }
        for name, (encoding, payload, raw, base) in bad.items()
    ]


# --- 6 packs


@dataclass(frozen=True)
class Frame:
    """A frame to be laid into a pack. `error` says that reading it must fail; else it decodes to `content`."""

    content: bytes
    kind: int
    encoding: int
    payload: bytes
    depth: int = 0
    error: str = ""
    raw: int = -1  # the raw length that is claimed, where it is not the content's
    id: bytes = b""  # likewise

    def claims(self) -> tuple[bytes, int]:
        return self.id or oid(self.kind, self.content), len(self.content) if self.raw < 0 else self.raw

    def build(self, reserved: int = 0) -> bytes:
        start = struct.pack("<4s4BQQ", b"OBJ1", self.kind, self.encoding, self.depth, reserved, self.claims()[1],
                            len(self.payload)) + self.claims()[0]  # fmt: skip
        return start + struct.pack("<I", zlib.crc32(start + (self.payload if self.encoding else b""))) + self.payload

    def entry(self, offset: int, length: int = -1, reserved: int = 0) -> bytes:
        length = 60 + len(self.payload) if length < 0 else length
        numbers = struct.pack("<4BII", self.kind, self.encoding, self.depth, reserved, offset, length)
        return self.claims()[0] + numbers + struct.pack("<Q", self.claims()[1])


def plain(data: bytes, kind: int = BLOB) -> Frame:
    return Frame(data, kind, RAW, data)


def zframe(data: bytes, payload: bytes) -> Frame:
    assert zstandard.ZstdDecompressor().decompress(payload) == data
    return Frame(data, BLOB, ZSTD, payload)


def fill(item: bytes, count: int) -> Frame:
    return Frame(item * count, BLOB, FILL, item)


def concat(*chunks: bytes) -> Frame:
    return Frame(b"".join(chunks), BLOB, CONCAT, b"".join(oid(BLOB, c) + struct.pack("<I", len(c)) for c in chunks))


def patch(base: bytes, data: bytes, kind: int = TREE, depth: int = 1, made: bytes = b"") -> Frame:
    made = made or zpatch(base, data)
    dictionary = zstandard.ZstdCompressionDict(base, dict_type=zstandard.DICT_TYPE_RAWCONTENT)
    assert zstandard.ZstdDecompressor(dict_data=dictionary).decompress(made) == data
    return Frame(data, kind, PATCH, oid(kind, base) + made, depth)


def weights(encoding: int, payload: bytes, data: bytes, depth: int = 0) -> Frame:
    return Frame(data, BLOB, encoding, payload, depth)


def body(name: str, frames: Sequence[Frame], flags: int = 0) -> bytes:
    header = struct.pack("<8sH6x", b"RPLPACK\x01", flags) + fake(name, 16)
    return header + b"".join(frame.build() for frame in frames)


def table(frames: Sequence[Frame]) -> list[bytes]:
    """The entries of frames that lie one after another, in the order of the table."""
    starts = accumulate((60 + len(frame.payload) for frame in frames), initial=32)
    return sorted((f.entry(start) for f, start in zip(frames, starts, strict=False)), key=lambda e: e[:33])


def seal(data: bytes, entries: Sequence[bytes], footer: bytes = b"") -> bytes:
    """Header and frames, with footer and trailer added."""
    rows = b"".join(entries)
    footer = footer or zstored(rows)
    trailer = struct.pack("<QIIII", len(data), len(footer), len(rows), len(entries), 0)
    return data + footer + trailer + blake3(footer).digest() + b"RPLEND\x00\x01"


def poke(data: bytes, at: int, new: bytes) -> bytes:
    """The bytes with some replaced; a negative place counts from the end."""
    at %= len(data)
    return data[:at] + new + data[at + len(new) :]


def listed(entries: Sequence[bytes]) -> list[Case]:
    names = ("kind", "encoding", "depth", "reserved", "offset", "length", "raw_length")
    return [{"id": e[:32].hex(), **dict(zip(names, struct.unpack("<4BIIQ", e[32:]), strict=True))} for e in entries]


def pack_case(name: str, frames: Sequence[Frame], flags: int = 0, data: bytes = b"") -> Case:
    data = data or seal(body(name, frames, flags), table(frames))
    objects: list[Case] = []
    for f in frames:
        outcome: Case = {"error": f.error} if f.error else {"hex": f.content.hex()}
        objects.append({"id": f.claims()[0].hex(), "kind": f.kind, **outcome})
    pack_id = derive("pack", data).hex()
    return {"name": name, "id": pack_id, "entries": listed(table(frames)), "objects": objects, "hex": data.hex()}


# One save in one meta pack: its locator has a section for the pack that holds it. The records refer to it.
SAVED = [*map(plain, (HELLO, b"", TARGET)), plain(SUBTREE, TREE), plain(ROOT_TREE, TREE), plain(enc(ROOT), COMMIT)]


def locator(
    sections: Sequence[tuple[bytes, int, bytes]], older: Sequence[Value], total: int, whole: int, spread: int = 0
) -> Map:
    more: Map = {"spread": spread} if spread else {}
    return {"v": 1, "packs": sections, "older": older, "total": total, "whole": whole, **more}


SAVE_LOCATOR = enc(locator([(b"", 0, b"".join(table(SAVED)))], [], len(SAVED), len(SAVED)))
SAVE = [*SAVED, plain(SAVE_LOCATOR, LOCATOR)]
SAVE_PACK = seal(body("save", SAVE, 1), table(SAVE))
SAVE_PLACE: list[Value] = [derive("pack", SAVE_PACK), len(body("save", SAVED)), 60 + len(SAVE_LOCATOR)]

OLD_TREE = tree(*(file(b"%04d" % i) for i in range(6)))
NEW_TREE = tree(*(file(b"%04d" % i, b"changed" if i == 5 else HELLO) for i in range(6)))
ABC, DE = b"abc" * 7, b"de" * 5
LOREM = b"Lorem ipsum dolor sit amet. " * 4
LOREM_BY_LIBZSTD = bytes.fromhex(
    "28b52ffd20701d0100e04c6f72656d20697073756d20646f6c6f722073697420616d65742e200100c44fd309"
)


ROUND = struct.pack("<4f", 1.0, -0.3, 1e-3, 7e4)
ROUNDED = b"".join(rounded(bits, 1) for bits in numbers(ROUND, 4))


def sound_packs() -> list[Case]:
    """Packs that open. An object with `error` must not be read; the others must."""
    a, b = plain(ABC), plain(DE)
    magic = bytes.fromhex("37a430ec")  # a trained dictionary's; as raw content it is four bytes like others
    grown = [magic + bytes(range(200)) + end for end in (b"1", b"22", b"333")]
    window = b"\x28\xb5\x2f\xfd\x80\x88" + struct.pack("<I", 21) + block(0, 21, ABC)
    zeros = zframe(bytes(1000), zhead(1000) + block(1, 1000, b"\0"))
    unknown = [Frame(b"%d" % e, BLOB, e, b"%d" % e, 0, f"encoding {e}") for e in (8, 9, 200)]
    deeper = [plain(grown[0]), patch(grown[0], grown[1], BLOB), patch(grown[1], grown[2], BLOB, 2)]
    good: dict[str, list[Frame]] = {
        "raw": [plain(HELLO), plain(b"")],
        "zstd: a stored, an empty and a repeated block": [*(zframe(d, zstored(d)) for d in (HELLO, b"")), zeros],
        "zstd: written by libzstd": [zframe(LOREM, LOREM_BY_LIBZSTD)],
        "zstd: window of 128 MiB": [zframe(ABC, window)],
        "fill": [fill(b"\0", 7), fill(b"\1\2", 3), fill(b"\0\0\x80?", 4), fill(bytes(range(8)), 2)],
        "concat and its two chunks": [concat(ABC, DE), a, b],
        "concat of one chunk twice and another": [b, a, concat(ABC, ABC, DE)],
        "patch of a tree": [patch(OLD_TREE, NEW_TREE), plain(OLD_TREE, TREE)],
        "patches of blobs, depth 2; the base begins like a dictionary": deeper,
        "patch on an empty blob; it uses nothing of its base": [plain(b""), patch(b"", DE, BLOB, 1, zstored(DE))],
        "concat of a patch": [*deeper[:2], a, concat(grown[1], ABC)],
        "save": SAVE,
        "planes": [weights(PLANES, zplanes(LOREM, 4), LOREM), a],
        "deltas, depth 2, on planes; and one cast": [
            weights(PLANES, zplanes(LOREM, 2), LOREM), weights(DELTA, zdelta(LOREM, LOREM[::-1], 4), LOREM[::-1], 1),
            weights(DELTA, zdelta(LOREM[::-1], LOREM.upper(), 2, MASKED | ORDERED), LOREM.upper(), 2),
            plain(ROUND), weights(CAST, zcast(ROUND, 1), ROUNDED, 1),
        ],
        "packset list": [plain(enc(sorted([fake("p"), fake("q")])), PACKSET)],
        "equal bytes as blob and as tree": [plain(tree(), TREE), plain(tree())],
        "an unknown encoding spoils one object only": [a, *unknown],
    }  # fmt: skip
    metas = {"save", "packset list", "patch of a tree", "equal bytes as blob and as tree"}
    return [pack_case(name, frames, int(name in metas)) for name, frames in good.items()]


def unsound_packs() -> list[Case]:
    """Packs that are wrong as a whole: who verifies one must refuse it."""
    frames = [plain(HELLO), plain(b"")]
    rows, data, lone = table(frames), body("bad", frames), frames[0]
    whole, joined = seal(data, rows), b"".join(rows)
    outer = plain(plain(DE).build())
    bad = {
        "empty": b"", "95 bytes": whole[:95], "last byte cut off": whole[:-1], "cut in half": whole[: len(whole) // 2],
        "byte after the end": whole + b"\0", "header magic": poke(whole, 0, b"X"),
        "header version": poke(whole, 7, b"\2"), "unknown flag": poke(whole, 8, b"\2"),
        "reserved byte in header": poke(whole, 15, b"\1"),
        "footer offset too low": poke(whole, -64, struct.pack("<Q", len(data) - 1)),
        "footer offset huge": poke(whole, -64, struct.pack("<Q", 2**63)), "footer length": poke(whole, -56, b"\1"),
        "table length": poke(whole, -52, b"\x34"), "number of entries": poke(whole, -48, b"\3"),
        "reserved byte in trailer": poke(whole, -44, b"\1"), "footer hash": poke(whole, -40, bytes(32)),
        "footer changed": poke(whole, len(data) + 20, b"!"), "end magic": poke(whole, -1, b"\2"),
        "footer not zstd": seal(data, rows, b"\0" * 100),
        "byte after the footer": seal(data, rows, zstored(joined) + b"\0"),
        "footer without content size": seal(data, rows, b"\x28\xb5\x2f\xfd\0\0" + block(0, len(joined), joined)),
        "footer longer than it says": seal(data, rows, zstored(joined + b"\0")),
        "table with a byte more": seal(data, [*rows, b"\0"]), "entries unsorted": seal(data, rows[::-1]),
        "entry twice": seal(data, [rows[0], *rows]), "entry missing": seal(data, rows[:1]),
        "entry in the header": seal(data, sorted([lone.entry(31), rows[0]])),
        "entry in the footer": seal(data, [lone.entry(len(data)), rows[1]]),
        "entry far outside": seal(data, [lone.entry(2**31), rows[1]]),
        "frame runs into the footer": seal(body("bad", [lone]), [lone.entry(32, 67)]),
        "frame shorter than its header": seal(body("bad", [lone]), [lone.entry(32, 59)]),
        "reserved byte in an entry": seal(body("bad", [lone]), [lone.entry(32, -1, 1)]),
        "overlapping frames": seal(body("bad", [outer]), sorted([outer.entry(32), plain(DE).entry(92)])),
        "gap after the frames": seal(data + bytes(4), rows),
    }  # fmt: skip
    return [{"name": name, "fails": "open", "hex": data.hex()} for name, data in bad.items()]


def broken_frames() -> list[Case]:
    """Packs that open, where the first object must not be read, and the others must."""
    a, b, base, both = plain(ABC), plain(DE), plain(OLD_TREE, TREE), concat(ABC, DE)
    odd, x, y = zstored(ABC), tree(file(b"x")), tree(file(b"y"))
    change = patch(OLD_TREE, NEW_TREE)
    halves = [plain(SUBTREE[:20]), plain(SUBTREE[20:])]
    nested = oid(BLOB, ABC + DE) + struct.pack("<I", 31) + oid(BLOB, HELLO) + struct.pack("<I", 6)
    swapped = oid(BLOB, ABC) + struct.pack("<I", 10) + oid(BLOB, DE) + struct.pack("<I", 21)
    huge = b"\x28\xb5\x2f\xfd\xe0" + struct.pack("<Q", 2**62) + block(0, 0, b"")
    wide = b"\x28\xb5\x2f\xfd\x80\x90" + struct.pack("<I", 21) + block(0, 21, ABC)
    endless = blake3(b"a" * (2**26 + 1)).digest()

    def z(payload: bytes, raw: int = -1) -> list[Frame]:
        return [Frame(ABC, BLOB, ZSTD, payload, raw=raw)]

    steps = weights(DELTA, zdelta(LOREM, LOREM.upper(), 2), LOREM.upper(), 1)
    lorem = plain(LOREM)

    def on(data: bytes, other: bytes, depth: int) -> Frame:
        return Frame(data, TREE, PATCH, oid(TREE, other) + zstored(data), depth)

    bad: dict[str, list[Frame]] = {
        "raw length above the stored length": [replace(a, raw=22)],
        "id of other bytes": [replace(a, id=fake("other"))], "raw with depth 1": [replace(a, depth=1)],
        "kind 9": [replace(a, kind=9, id=fake("9"))], "kind 0": [replace(a, kind=0, id=fake("0"))],
        "tree with a blob's id": [replace(a, kind=TREE, id=oid(BLOB, ABC))],
        "zstd content size below raw length": z(odd, 22), "zstd content size above raw length": z(odd, 20),
        "zstd content size lies": z(zhead(21) + block(0, 20, ABC[:20])), "zstd cut": z(odd[:-1]), "zstd empty": z(b""),
        "zstd without content size": z(b"\x28\xb5\x2f\xfd\0\0" + block(0, 21, ABC)), "zstd window of 256 MiB": z(wide),
        "zstd and a byte more": z(odd + b"\0"), "zstd and an empty frame more": z(odd + zstored(b"")),
        "zstd after a skippable frame": z(b"\x50\x2a\x4d\x18\0\0\0\0" + odd), "zstd that claims 2^62": z(huge, 2**62),
        "zstd with a dictionary id": z(b"\x28\xb5\x2f\xfd\x21\x05" + bytes([21]) + block(0, 21, ABC)),
        "zstd with depth 1": [replace(z(odd)[0], depth=1)], "fill with depth 1": [replace(fill(b"a", 4), depth=1)],
        "fill of 3 bytes": [fill(b"abc", 7)], "fill of no byte": [replace(a, encoding=FILL, payload=b"")],
        "fill with half an item": [replace(fill(b"ab", 2), content=b"ababa")],
        "fill above 64 MiB": [replace(fill(b"a", 1), raw=2**26 + 1, id=endless)], "concat of one chunk": [concat(ABC)],
        "concat of no chunk": [concat()], "concat with depth 1": [replace(both, depth=1), a, b],
        "concat without its chunk": [both, a], "concat above the sum": [replace(both, raw=32), a, b],
        "concat below the sum": [replace(both, raw=30), a, b],
        "concat with other lengths, right in sum": [replace(both, payload=swapped), a, b],
        "concat with an empty chunk": [concat(ABC, b"", DE), a, b, plain(b"")],
        "concat with a byte more": [replace(both, payload=both.payload + b"\0"), a, b],
        "concat of a concat": [replace(concat(ABC, DE, HELLO), payload=nested), both, a, b, plain(HELLO)],
        "concat that is a tree": [Frame(SUBTREE, TREE, CONCAT, concat(SUBTREE[:20], SUBTREE[20:]).payload), *halves],
        "concat of trees": [both, plain(ABC, TREE), plain(DE, TREE)],
        "patch with depth 0": [replace(change, depth=0), base], "patch without its base": [change],
        "patch of a tree on a blob": [replace(change, payload=oid(BLOB, OLD_TREE) + change.payload[32:]),
            plain(OLD_TREE)],
        "patch of 31 bytes": [replace(change, payload=change.payload[:31]), base],
        "patch and a byte more": [replace(change, payload=change.payload + b"\0"), base],
        "patch with another raw length": [replace(change, raw=len(NEW_TREE) + 1), base],
        "patch on a concat": [Frame(HELLO, BLOB, PATCH, both.claims()[0] + zstored(HELLO), 1), both, a, b],
        "planes with depth 1": [weights(PLANES, zplanes(ABC, 4), ABC, 1)],
        "planes of a tree": [Frame(SUBTREE, TREE, PLANES, zplanes(SUBTREE, 4))],
        "planes cut": [weights(PLANES, zplanes(ABC, 4)[:-1], ABC)],
        "planes of other bytes": [weights(PLANES, zplanes(ABC[::-1], 4), ABC)],
        "delta with depth 0": [replace(steps, depth=0), lorem], "delta without its base": [steps],
        "delta on a tree": [replace(steps, payload=oid(TREE, OLD_TREE) + steps.payload[32:]), base],
        "delta of a tree": [Frame(SUBTREE, TREE, DELTA, zdelta(SUBTREE, SUBTREE, 4), 1)],
        "delta of 32 bytes": [replace(steps, payload=steps.payload[:32]), lorem],
        "delta on a concat": [weights(DELTA, both.claims()[0] + zdelta(HELLO, HELLO, 4)[32:], HELLO, 1), both, a, b],
        "deltas in a circle, of one depth": [weights(DELTA, zdelta(ABC, ABC[::-1], 4), ABC[::-1], 1),
            weights(DELTA, zdelta(ABC[::-1], ABC, 4), ABC, 1)],
        "cast with depth 0": [weights(CAST, zcast(ROUND, 1), ROUNDED), plain(ROUND)],
        "cast to another type": [weights(CAST, zcast(ROUND, 2), ROUNDED, 1), plain(ROUND)],
        "patch on itself": [on(x, x, 1)], "patches in a circle": [on(x, y, 2), on(y, x, 1)],
        "patches in a circle, of one depth": [on(x, y, 1), on(y, x, 1)],
    }  # fmt: skip
    cases: list[Case] = []
    for name, frames in bad.items():
        marked = [replace(f, error=name) if i == 0 or "circle" in name else f for i, f in enumerate(frames)]
        cases.append({"fails": "read", **pack_case(name, marked)})
    built = {
        "CRC": poke(a.build(), 56, b"\0\0"), "frame magic": poke(a.build(), 0, b"X"), "reserved byte": a.build(1),
        "payload changed": poke(a.build(), -1, b"!"), "another object": plain(ABC[::-1]).build(),
        "another kind": replace(a, kind=TREE, id=oid(BLOB, ABC)).build(), "another depth": replace(a, depth=1).build(),
        "another encoding": replace(fill(ABC[:8], 1), content=ABC, payload=ABC).build(),
        "another raw length": replace(a, raw=22).build(), "another stored length": poke(a.build(), 16, b"\x14"),
    }  # fmt: skip
    for name, frame in built.items():
        data = seal(body("bad", []) + frame + b.build(), table([a, b]))
        cases.append({"fails": "read", **pack_case(f"frame: {name}", [replace(a, error=name), b], 0, data)})
    return cases


def packs() -> tuple[list[Case], list[Case]]:
    """Whole packs, their entry tables, and what each frame decodes to when there is no other pack, or why it must not.

    In `invalid`, "fails": "open" means that who verifies the pack must refuse it; "read" means that it opens, that the
    objects with `error` must not be read, and that the others must be. Readers decode these zstd frames; writers need
    not produce the same. The pack "save" is the one that records and locators refer to.
    """
    return sound_packs(), unsound_packs() + broken_frames()


# --- 9 records

MAGIC = b"RPLREF\x00\x01"
Keyed: TypeAlias = tuple[str, bytes]


def key_of(kind: str, data: bytes, seq: int, subject: bytes | None, experiment: bytes = EXPERIMENT) -> Keyed:
    parts = (experiment.hex(), f"{seq:08x}", fake("session", 8).hex(), kind, subject.hex() if subject else "-")
    return f"refs/{parts[0][:2]}/" + "~".join((*parts, derive("record", data)[:16].hex())), data


def record(kind: str, values: Map, seq: int = 0, subject: bytes | None = None, magic: bytes = MAGIC) -> Keyed:
    return key_of(kind, magic + enc({"v": 1, "kind": kind, **values}), seq, subject)


def records() -> tuple[list[Case], list[Case]]:
    """Key, file (hex), and the map of its body (value). `invalid` must be refused; key: only the key is wrong."""
    pack, later, session = derive("pack", SAVE_PACK), oid(COMMIT, enc(CHECKPOINT)), fake("session", 8)
    when = 1767225602 * 10**9
    display: Map = {"files": 4, "bytes": 12, "new_bytes": 12, "duration": 5000000}
    by: Map = {"time": when, "author": "ada@engine"}
    end: Map = {"time": when, "duration": 9}
    place: Map = {"meta": [pack], "locator": SAVE_PLACE, **display}
    c_root: Map = {"commit": enc(ROOT), "packset": [pack], **place}
    c_next: Map = {"commit": enc(CHECKPOINT), "packset_at": [fake("pack"), 32, 17510], **place}
    capture: Map = {"user": "ada", "host": "engine", "command": "x", "cwd": "/x", "pid": 7, "python": "3.11"}
    start: Map = {"capture": capture, "environment": oid(TREE, SUBTREE), "packset": [pack], "locator": SAVE_PLACE}
    hide: Map = {"sessions": {session.hex(): 7}, **by}
    batch: Map = {"values": [[1, when, {"loss": 0.5}], [2, when, {"loss": float("nan")}]], "packset": []}
    good: dict[str, tuple[str, Map, int, bytes | None]] = {
        "c of a root": ("c", c_root, 0, EXPERIMENT), "c of a checkpoint, packset_at": ("c", c_next, 1, later),
        "c with unknown keys": ("c", {**c_root, "later": [1.5]}, 0, EXPERIMENT),
        "s": ("s", {"time": when, **start}, 0, None), "e, finished": ("e", {"status": "finished", **end}, 1, None),
        "e, stopped": ("e", {"status": "stopped", **end}, 1, None),
        "e, failed": ("e", {"status": "failed", "exception": {"type": "E", "message": "é"}, **end}, 1, None),
        "x of sessions": ("x", hide, 0, None), "x of commits": ("x", {"commits": [later], **by}, 0, None),
        "u": ("u", {"tombstone": fake("x", 16), **by}, 0, None), "t, name": ("t", {"name": "é", **by}, 0, EXPERIMENT),
        "t, tags": ("t", {"tags": {"add": ["best"], "remove": ["old"]}, **by}, 1, later),
        "t, note": ("t", {"note": "n", **by}, 1, later), "m": ("m", batch, 1, later),
        "unknown kind z": ("z", {"anything": b"\0"}, 3, None),
    }  # fmt: skip
    cases: list[Case] = []
    for name, (kind, values, seq, subject) in good.items():
        key, data = record(kind, values, seq, subject)
        value = tag({"v": 1, "kind": kind, **values})
        cases.append({"name": name, "key": key, "kind": kind, "seq": seq, "value": value, "hex": data.hex()})

    key, data = record("c", c_root, 0, EXPERIMENT)
    front, rec32 = key.rsplit("~", 1)
    x = enc({"v": 1, "kind": "x", **hide})
    bad: dict[str, Keyed] = {
        "wrong hash": (f"{front}~{fake('other', 16).hex()}", data), "a byte changed": (key, poke(data, -1, b"\x7f")),
        "subject is another commit": key_of("c", data, 0, later), "seq disagrees": key_of("c", data, 1, EXPERIMENT),
        "experiment of a root disagrees": key_of("c", data, 0, EXPERIMENT, fake("exp")),
        "c without subject": key_of("c", data, 0, None),
        "experiment of a checkpoint disagrees": key_of("c", record("c", c_next)[1], 1, later, later),
        "kind disagrees": key_of("u", MAGIC + x, 0, None), "v 2": record("x", {**hide, "v": 2}),
        "no v": key_of("x", MAGIC + enc({"kind": "x", **hide}), 0, None), "empty": key_of("x", b"", 0, None),
        "no kind": key_of("x", MAGIC + enc({"v": 1, **hide}), 0, None), "no magic": key_of("x", x, 0, None),
        "bad magic": record("x", hide, magic=b"RPLREF\x00\x02"), "magic only": key_of("x", MAGIC, 0, None),
        "not a map": key_of("x", MAGIC + b"\x90", 0, None), "trailing byte": key_of("x", MAGIC + x + b"\0", 0, None),
        "not canonical": key_of("x", MAGIC + b"\xde\0" + bytes([x[0] & 15]) + x[1:], 0, None),
        "no commit": record("c", without(c_root, "commit"), 0, EXPERIMENT),
        "no packset": record("c", without(c_root, "packset"), 0, EXPERIMENT),
        "packset and packset_at": record("c", {**c_next, "packset": [pack]}, 1, later),
        "packset unsorted": record("c", {**c_root, "packset": sorted([fake("p"), pack], reverse=True)}, 0, EXPERIMENT),
        "pack id of 31 bytes": record("c", {**c_root, "packset": [pack[1:]]}, 0, EXPERIMENT),
        "no locator": record("c", without(c_root, "locator"), 0, EXPERIMENT),
        "unknown status": record("e", {**end, "status": "lost"}, 1),
        "commit not canonical": record("c", {**c_root, "commit": enc(ROOT) + b"\0"}, 0, oid(COMMIT, enc(ROOT) + b"\0")),
    }  # fmt: skip
    changes = {
        "another directory": (f"refs/{key[5:7]}/", "refs/00/"), "no directory": (f"/{key[5:7]}/", "/"),
        "top": ("refs", "ref"), "upper-case experiment": (f"/{EXPERIMENT.hex()}", f"/{EXPERIMENT.hex().upper()}"),
        "upper-case subject": (f"c~{EXPERIMENT.hex()}", f"c~{EXPERIMENT.hex().upper()}"),
        "seq of 7 digits": ("~00000000", "~0000000"),
        "experiment of 63 digits": (EXPERIMENT.hex() + "~0", EXPERIMENT.hex()[:-1] + "~0"),
        "seq not hex": ("~00000000", "~0000000g"), "seq of 9 digits": ("~00000000", "~000000000"),
        "underscore in seq": ("~00000000", "~0000_000"), "sign in seq": ("~00000000", "~+0000000"),
        "Arabic digit in seq": ("~00000000", "~0000000\u0660"),
        "session of 15 digits": (session.hex(), session.hex()[:-1]), "upper-case kind": ("~c~", "~C~"),
        "kind of two letters": ("~c~", "~cc~"), "digit for kind": ("~c~", "~1~"), "no kind": ("~c~", "~"),
        "empty kind": ("~c~", "~~"), "empty subject": (f"~c~{EXPERIMENT.hex()}~", "~c~~"),
        "subject of 63 digits": (f"~c~{EXPERIMENT.hex()}~", f"~c~{EXPERIMENT.hex()[1:]}~"),
        "rec32 of 31 digits": (rec32, rec32[:-1]), "upper-case rec32": (rec32, rec32.upper()),
        "suffix": (rec32, rec32 + ".tmp"), "another field": (rec32, rec32 + "~0"), "line end": (rec32, rec32 + "\n"),
    }  # fmt: skip
    bad |= {f"key: {name}": (key.replace(old, new), data) for name, (old, new) in changes.items()}
    assert all(k != key for name, (k, _) in bad.items() if name.startswith("key: "))
    invalid: list[Case] = [{"name": name, "key": k, "hex": d.hex()} for name, (k, d) in bad.items()]
    for size, where in ((65536, cases), (65537, invalid)):
        values = {**hide, "zz": "a" * (size - 8 - len(x) - 3 - 3)}  # 3 for the key, 3 for the header
        key, data = record("x", values)
        assert len(data) == size
        value = tag({"v": 1, "kind": "x", **values})
        where.append({"name": f"{size} bytes", "key": key, "kind": "x", "seq": 0, "value": value, **coded(data)})
    return cases, invalid


# --- 10 catalogs

CATALOG = b"RPLCAT\x00\x01"


def catalog(shard: str | None, values: Map, magic: bytes = CATALOG) -> Keyed:
    data = magic + zstored(enc({"v": 1, **values}))
    digest = derive("catalog", data)[:16].hex()
    return (f"cat/h~{digest}" if shard is None else f"cat/f~{shard}~{digest}"), data


def catalogs() -> tuple[list[Case], list[Case]]:
    """Key, file (hex) and the map in its frame (value); frames of others may differ. `invalid` must be refused."""
    shard, session = EXPERIMENT.hex()[:2], fake("session", 8).hex()
    by: Map = {"time": 1767225602 * 10**9, "author": "ada@engine"}
    hide, name = record("x", {"sessions": {session: 7}, **by}), record("t", {"name": "é", **by}, 0, EXPERIMENT)
    both: list[Value] = [[key, body] for key, body in sorted((hide, name))]
    old, far = f"cat/f~{shard}~{fake('old', 16).hex()}", f"cat/h~{fake('far', 16).hex()}"
    full: Map = {"records": both, "replaces": [old]}
    entry: Map = {
        "id": EXPERIMENT, "name": "é", "author": "ada@engine", "time": 5, "command": "x", "params": {"lr": 0.5},
        "heads": [oid(COMMIT, enc(CHECKPOINT))], "count": 1, "sessions": {session: 7}, "others": [fake("x", 16)],
    }  # fmt: skip
    partial: Map = {"id": fake("other"), "partial": True}
    experiments: list[Value] = [one for _, one in sorted([(EXPERIMENT, entry), (fake("other"), partial)])]
    heads: Map = {"shards": ["00", "ff"], "of": [old], "replaces": [far], "experiments": experiments}
    good: dict[str, tuple[str | None, Map]] = {
        "full": (shard, full), "full, nothing": (shard, {"records": [], "replaces": []}),
        "heads": (None, heads), "heads, nothing": (None, {**heads, "of": [], "replaces": [], "experiments": []}),
    }  # fmt: skip
    cases: list[Case] = []
    for title, (of, values) in good.items():
        key, data = catalog(of, values)
        cases.append({"name": title, "key": key, "value": tag({"v": 1, **values}), "hex": data.hex()})
    key, data = catalog(shard, full)
    bad: dict[str, Keyed] = {
        "a byte changed": (key, poke(data, -1, b"\x7f")), "magic": catalog(shard, full, b"RPLCAT\x00\x02"),
        "v 2": catalog(shard, {**full, "v": 2}), "no records": catalog(shard, {"replaces": []}),
        "records unsorted": catalog(shard, {**full, "records": both[::-1]}),
        "a record twice": catalog(shard, {**full, "records": [both[0], both[0]]}),
        "of another shard": catalog("00", full), "a record is a key": catalog(shard, {**full, "records": [hide[0]]}),
        "a body is text": catalog(shard, {**full, "records": [[hide[0], "x"]]}),
        "replaces a number": catalog(shard, {**full, "replaces": [1]}),
        "no shards": catalog(None, without(heads, "shards")),
        "shards of one": catalog(None, {**heads, "shards": ["00"]}),
        "name is a number": catalog(None, {**heads, "experiments": [{**entry, "name": 1}]}),
        "id of 31 bytes": catalog(None, {**heads, "experiments": [{**partial, "id": bytes(31)}]}),
        "count is text": catalog(None, {**heads, "experiments": [{**entry, "count": "1"}]}),
    }  # fmt: skip
    return cases, [{"name": title, "key": key, "hex": data.hex()} for title, (key, data) in bad.items()]


# --- 8 locators


def locators() -> tuple[list[Case], list[Case]]:
    """Value, encoding, id, and the value's packs with their entry tables parsed. `invalid` must not be decoded."""
    far, old, here, there = derive("pack", SAVE_PACK), fake("older"), table(SAVED[3:]), table(SAVED[:3])
    mine, other = (b"", 0, b"".join(here)), (far, len(SAVE_PACK), b"".join(there))
    older: list[Value] = [[old, 4096, 300], [b"", 900, 200]]
    good: dict[str, tuple[list[tuple[bytes, int, bytes]], list[Value], int, int, int]] = {
        "this pack": ([mine], [], 3, 3, 1), "this pack, another, two older locators": ([mine, other], older, 9, 7, 300),
        "another pack, spread not known": ([other], [], 3, 3, 0), "nothing": ([], [], 0, 0, 0),
        "16 older locators": ([mine], [[old, 32 + 300 * i, 300] for i in range(16)], 35, 32, 20),
    }  # fmt: skip
    cases: list[Case] = []
    for name, args in good.items():
        v = locator(*args)
        sections: list[Case] = []
        for pack, size, rows in args[0]:
            entries = listed([rows[i : i + 52] for i in range(0, len(rows), 52)])
            sections.append({"pack": pack.hex(), "size": size, "entries": entries})
        identity = oid(LOCATOR, enc(v)).hex()
        cases.append({"name": name, "value": tag(v), "packs": sections, **coded(enc(v)), "id": identity})
    v = locator([mine, other], older, 9, 7)  # without spread, which may be absent
    sections_of: dict[str, list[tuple[bytes, int, bytes]]] = {
        "packs unsorted": [other, mine], "a pack twice": [other, other],
        "pack id of 31 bytes": [(far[1:], 9, other[2])], "size of this pack": [(b"", 9, mine[2])],
        "negative size": [(far, -1, other[2])], "table with a byte more": [(far, 9, other[2] + b"\0")],
        "table unsorted": [(far, 9, b"".join(there[::-1]))], "entry twice": [(far, 9, there[0] * 2)],
    }  # fmt: skip
    bad: dict[str, Value] = {name: {**v, "packs": value} for name, value in sections_of.items()}
    bad |= {f"no {key}": without(v, key) for key in v}
    bad |= {"v 2": {**v, "v": 2}, "not a map": [], "17 older": {**v, "older": [[old, i, 300] for i in range(17)]},
            "older without length": {**v, "older": [[old, 4096]]}, "packs is a map": {**v, "packs": {}},
            "older with negative offset": {**v, "older": [[old, -1, 300]]}, "total is float": {**v, "total": 9.0},
            "pack id is str": {**v, "packs": [["", 0, mine[2]]]}, "negative total": {**v, "total": -1},
            "negative spread": {**v, "spread": -1}}  # fmt: skip
    invalid: list[Case] = [{"name": name, **coded(enc(value))} for name, value in bad.items()]
    return cases, [*invalid, {"name": "not canonical: trailing byte", "hex": (enc(v) + b"\0").hex()}]


# --- the files


def main() -> None:
    for make, section, more in (
        (canonical, "4.1", TAGS), (ids, "3, 5.2, 11", ""), (trees, "4.2", ""), (commits, "4.3", TAGS),
        (packs, "6, 7", ""), (encodings, "7.1, 7.2, 7.3", ""), (records, "9", TAGS), (locators, "8", TAGS),
        (catalogs, "10", TAGS),
    ):  # fmt: skip
        comment = " ".join(f"{make.__doc__} {more}".split())
        cases, invalid = make()
        text = json.dumps({"spec": section, "comment": comment, "cases": cases, "invalid": invalid}, indent=1)
        Path(__file__).with_name(f"{make.__name__}.json").write_text(text + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
