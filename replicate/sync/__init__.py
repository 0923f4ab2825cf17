"""Floor 6: copying experiments between two stores. The layout is the same in both, so packs and records go verbatim.

Order is safety: data packs, meta packs, validate, records, confirm. SPEC §12.
"""

from replicate.sync.control import create_store
from replicate.sync.copying import Copied, is_damage
from replicate.sync.planning import Failure, Selection
from replicate.sync.pulling import pull, remote_history
from replicate.sync.pushing import push

__all__ = ["Copied", "Failure", "Selection", "create_store", "is_damage", "pull", "push", "remote_history"]
