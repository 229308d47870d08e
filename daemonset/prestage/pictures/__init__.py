"""How plots of ours look: one style for plans and benchmarks. Knows nothing of what is drawn."""
