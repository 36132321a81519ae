"""WHAT is measured: a model family, its inputs, its device."""
