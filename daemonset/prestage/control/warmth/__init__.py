"""What pods are told: the condition `prestage.dev/Warm` and Events."""
