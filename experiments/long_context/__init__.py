"""Long context, measured: cost and loss against position, and where the memory overtakes full attention."""
