"""A real Kubernetes for tests: `ApiServer` alone in seconds, `Cluster` with real nodes. Built from kubetest/ by `make cluster`.

with ApiServer(tmp) as api:                 etcd and kube-apiserver on loopback; any user may; ~3 s
with Cluster(tmp, nodes=2) as cluster:      + controller-manager, scheduler, kubelets on containerd; root; ~6 s
"""
