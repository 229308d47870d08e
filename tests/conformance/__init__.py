"""The safetensors library's own tests, run on this loader's functions; its source distribution has them (make conformance)."""
