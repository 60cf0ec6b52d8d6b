"""Measured ratios: each module compares the product with a peer or a physical limit in the same run."""
