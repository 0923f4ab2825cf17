"""What differs between two commits, or a commit and the worktree, as values. Floor 7."""

from replicate.diff.difference import Difference, Side, diff_commits, diff_entries, diff_worktree
from replicate.diff.files import FileChange
from replicate.diff.lines import Hunk, TextDiff
from replicate.diff.tensors import TensorChange, TensorDiff
from replicate.diff.values import ValueChange

__all__ = [
    "Difference",
    "FileChange",
    "Hunk",
    "Side",
    "TensorChange",
    "TensorDiff",
    "TextDiff",
    "ValueChange",
    "diff_commits",
    "diff_entries",
    "diff_worktree",
]
