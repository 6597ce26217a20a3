"""Executions of the memory's rule beside the scan over tiles: token by token, one token, and parallel in a chunk."""
