"""What the models learn from: the source of the Python standard library, which every machine has."""

from __future__ import annotations

import ast
import functools
import re
import sysconfig
from collections.abc import Iterator, Mapping
from pathlib import Path

_CLASSIFY, _SEPARATE, _UNKNOWN = "[CLS]", "[SEP]", "[UNK]"
_LONGEST_WORD = 40


@functools.cache
def sources() -> tuple[bytes, ...]:
    """Return the modules at the top of the standard library, in the order of their names."""
    folder = Path(sysconfig.get_paths()["stdlib"])
    return tuple(path.read_bytes() for path in sorted(folder.glob("*.py")))


def pairs() -> Iterator[tuple[str, str]]:
    """Yield every documented function's source without its docstring, and the docstring."""
    for source in sources():
        for node in ast.walk(ast.parse(source)):
            if isinstance(node, ast.FunctionDef) and (told := ast.get_docstring(node)) and len(node.body) > 1:
                node.body = node.body[1:]
                yield ast.unparse(node), told


def token_ids(text: str, vocabulary: Mapping[str, int], length: int) -> list[int]:
    """Return a text in WordPiece tokens between the two that frame it, padded with 0 or cut to a length."""
    found = [vocabulary[_CLASSIFY]]
    for word in re.findall(r"[a-z0-9]+|[^\sa-z0-9]", text.lower()):
        if len(found) >= length:
            break
        found += _pieces(word[:_LONGEST_WORD], vocabulary)
    found = [*found[: length - 1], vocabulary[_SEPARATE]]
    return found + [0] * (length - len(found))


def _pieces(word: str, vocabulary: Mapping[str, int]) -> list[int]:
    """Split a word into the longest pieces that the vocabulary has, from the left."""
    found, start = [], 0
    while start < len(word):
        prefix = "##" if start else ""
        end = next((end for end in range(len(word), start, -1) if prefix + word[start:end] in vocabulary), None)
        if end is None:
            return [vocabulary[_UNKNOWN]]
        found.append(vocabulary[prefix + word[start:end]])
        start = end
    return found
