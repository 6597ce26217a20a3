"""What each component of the memory is worth (the paper's Table 5, small)."""
