"""One per cluster: turns demand into a plan for every node, guards who may have what, steers pods to warm nodes."""
