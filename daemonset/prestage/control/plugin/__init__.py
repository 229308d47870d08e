"""`kubectl prestage`."""
