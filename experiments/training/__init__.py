"""The parts of a training run that `experiments.train` puts in order."""
