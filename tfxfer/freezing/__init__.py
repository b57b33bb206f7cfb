"""Which weights move: freezing by layer group, low-rank adapters, and frozen layers computed once."""
