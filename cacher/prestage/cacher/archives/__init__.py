"""An artifact as one file, for sites without a network: `layout` says how it is written, `exporting` and `importing` do it."""
