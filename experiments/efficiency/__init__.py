"""Speed and memory of the neural memory, against other implementations on the same machine."""
