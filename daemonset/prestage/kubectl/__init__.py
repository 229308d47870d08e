"""`kubectl prestage`: what people ask of a cluster, from outside and with their own rights. Writes no object."""
