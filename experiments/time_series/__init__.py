"""Long-term forecasting, section 5.6 of the paper: see run.py."""
