"""`prestage node --standalone`: the planner for one node without Kubernetes, with a file that says what is wanted when."""
