"""Bytes on one node: fetch, verify, keep, serve, evict. Knows nothing of Kubernetes."""
