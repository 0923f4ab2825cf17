"""Floor 2: objects and how they are stored. SPEC §3, §4, §6–§8.

Nothing is imported here: a listing needs ids and commits, and not what reads and writes packs.
"""
