"""Nodes that are not there yet: asked of the autoscaler by CapacityBuffers, early enough to boot and to stage."""
