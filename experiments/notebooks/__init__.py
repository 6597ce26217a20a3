"""Notebooks that explain the library, each as `NAME.ipynb` with outputs and as `NAME.py` to read and edit."""
