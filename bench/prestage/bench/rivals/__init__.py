"""The tools we compare ourselves with: one module each, and `ours` among them."""
