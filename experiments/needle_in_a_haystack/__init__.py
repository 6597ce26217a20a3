"""Needles in haystacks: RULER's S-NIAH tasks for models of any size (the paper's Table 2)."""
