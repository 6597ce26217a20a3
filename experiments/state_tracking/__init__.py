"""Word problems of groups: state tracking beyond TC0 (the paper's Theorem 4.1)."""
