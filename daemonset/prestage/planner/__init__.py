"""Demand in, plan out. Pure and deterministic: no I/O, no clock, no Kubernetes types."""
