"""Objects for tests of admission, gates and the Warm condition."""
