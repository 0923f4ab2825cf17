"""Floor 2: objects and how they are stored. SPEC §3, §4, §6–§8."""

from replicate.objects.ids import Kind, ObjectID
from replicate.objects.model import Commit, Mode, TreeEntry
from replicate.objects.store import ObjectStore
from replicate.objects.writer import ObjectWriter, Stored

__all__ = ["Commit", "Kind", "Mode", "ObjectID", "ObjectStore", "ObjectWriter", "Stored", "TreeEntry"]
