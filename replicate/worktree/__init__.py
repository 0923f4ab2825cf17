"""Floor 4: the user's folder. Scanning it, remembering it, writing it back. Paths are bytes, relative, with `/`."""
