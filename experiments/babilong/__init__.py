"""BABILong (the paper's Fig. 6, small): facts of a bAbI story hidden in prose, up to a million tokens of it."""
