"""Where big blobs are cut. Cuts never change an id (SPEC §7). Weight formats are to join `fixed` here."""

from replicate.objects.cutting.fixed import MAX_PIECE_BYTES, cut_fixed

__all__ = ["MAX_PIECE_BYTES", "cut_fixed"]
