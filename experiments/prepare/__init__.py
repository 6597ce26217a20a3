"""Preparing text for training: what to read (inputs), in which pieces (plan), and one shard of it (shard_maker)."""
