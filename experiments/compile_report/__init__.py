"""Does a training configuration fit a TPU pod, and how fast should it be? Compiled here, without one."""
