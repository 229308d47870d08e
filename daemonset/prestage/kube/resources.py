"""The resources that we read or write."""

from __future__ import annotations

from prestage.kube.ports import Resource

PODS = Resource("v1", "pods", "Pod")
NODES = Resource("v1", "nodes", "Node", namespaced=False)
NAMESPACES = Resource("v1", "namespaces", "Namespace", namespaced=False)
SECRETS = Resource("v1", "secrets", "Secret")
CONFIG_MAPS = Resource("v1", "configmaps", "ConfigMap")
SERVICE_ACCOUNTS = Resource("v1", "serviceaccounts", "ServiceAccount")
DEPLOYMENTS = Resource("apps/v1", "deployments", "Deployment")
STATEFUL_SETS = Resource("apps/v1", "statefulsets", "StatefulSet")
DAEMON_SETS = Resource("apps/v1", "daemonsets", "DaemonSet")
REPLICA_SETS = Resource("apps/v1", "replicasets", "ReplicaSet")
JOBS = Resource("batch/v1", "jobs", "Job")
CRON_JOBS = Resource("batch/v1", "cronjobs", "CronJob")
HORIZONTAL_POD_AUTOSCALERS = Resource("autoscaling/v2", "horizontalpodautoscalers", "HorizontalPodAutoscaler")
PRIORITY_CLASSES = Resource("scheduling.k8s.io/v1", "priorityclasses", "PriorityClass", namespaced=False)
SCALED_OBJECTS = Resource("keda.sh/v1alpha1", "scaledobjects", "ScaledObject")
LEASES = Resource("coordination.k8s.io/v1", "leases", "Lease")
EVENTS = Resource("events.k8s.io/v1", "events", "Event")
TOKEN_REVIEWS = Resource("authentication.k8s.io/v1", "tokenreviews", "TokenReview", namespaced=False)
ACCESS_REVIEWS = Resource("authorization.k8s.io/v1", "subjectaccessreviews", "SubjectAccessReview", namespaced=False)
DEFINITIONS = Resource("apiextensions.k8s.io/v1", "customresourcedefinitions", "CustomResourceDefinition", namespaced=False)

_OURS = "prestage.dev/v1alpha1"
STAGED_MODELS = Resource(_OURS, "stagedmodels", "StagedModel")
STAGED_MODEL_GRANTS = Resource(_OURS, "stagedmodelgrants", "StagedModelGrant")
STAGING_SCHEDULES = Resource(_OURS, "stagingschedules", "StagingSchedule")
ARTIFACTS = Resource(_OURS, "artifacts", "Artifact")
CACHE_POLICIES = Resource(_OURS, "cachepolicies", "CachePolicy", namespaced=False)
ORIGINS = Resource(_OURS, "origins", "Origin", namespaced=False)
STORE_POOLS = Resource(_OURS, "storepools", "StorePool", namespaced=False)
NODE_CACHES = Resource(_OURS, "nodecaches", "NodeCache", namespaced=False)
