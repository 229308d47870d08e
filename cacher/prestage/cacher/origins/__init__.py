"""Where bytes come from first: a ref resolved to a manifest, and signed range requests."""

from prestage.cacher.origins.registry import open_origin

__all__ = ["open_origin"]
