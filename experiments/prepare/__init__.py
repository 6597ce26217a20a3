"""Preparing text for training: what to read (inputs), how it is divided (plan), a shard (shard_maker), all (run)."""
