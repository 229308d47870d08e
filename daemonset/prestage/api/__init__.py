"""The words of the Kubernetes API: kinds, annotations, conditions. Types here are the one source; CRDs and the reference
(docs/kubernetes-api.md) are written from them by `python -m prestage.api`. Pure: nothing here talks to anybody.
"""
