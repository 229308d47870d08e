"""A local origin behind a link of a stated speed, in a process of its own."""
