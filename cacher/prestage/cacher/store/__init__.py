"""Bytes at rest on one node: `store.py` is what others call; docs/format.md is what lies on disk."""
