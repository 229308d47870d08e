"""The agent: one process that owns a store and keeps its promises for months. Other processes ask it over a unix socket.

app        composition root: one loop, one root task group, what starts, what ends, in which order
config     every setting, with its reason
stages     what is being staged, for whom, and what is tried again
feed       events from threads to many readers, slow ones too
service    what each call does, without HTTP
messages   what goes over the wire: the one source of the OpenAPI document
http       routes, errors, streams, limits; who may call what (callers)
narrow     a second kind of socket, for a pod: resolve and report, for given artifacts only
care       what it does unasked: give room back, drop dead holds, scrub, heal
metrics    Prometheus, health
logs       one JSON object a line
client     the other end of the socket, for the command line
"""
