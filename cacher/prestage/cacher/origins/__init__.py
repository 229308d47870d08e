"""Where bytes come from first: a ref resolved to a manifest, and signed range requests."""
