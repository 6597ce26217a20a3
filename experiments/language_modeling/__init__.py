"""Language modelling (the paper's Table 1, small): bits per byte and zero-shot questions for every model."""
