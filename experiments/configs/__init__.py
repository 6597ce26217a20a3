"""Config files for `--config=`: each has a `get_config()` and says what it costs and what it scores."""
