"""Runs of titans_jax: training, sampling, and one folder per experiment."""
