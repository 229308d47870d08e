"""Bytes in motion: from a source, through a fixed pool of aligned buffers, into a sink. Decisions apart from the byte path."""
