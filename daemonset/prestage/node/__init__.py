"""One per node: makes the node hold what it should, mounts it into pods, reports."""
