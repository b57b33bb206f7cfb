"""Optimizers: the fast AdamW, and rates by layer group around any optimizer."""
