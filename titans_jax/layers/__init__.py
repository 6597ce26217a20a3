"""Building blocks that know nothing of the models: norms, convolution, attention, feed-forward."""
