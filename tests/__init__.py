"""Tests, in folders that mirror the packages; `tests.tolerances` holds every tolerance."""
