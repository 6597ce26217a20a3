"""How good is the kernels' schedule? Compiles them for TPUs that are not here and counts: static estimates."""
