# The first process of a node: private /run and /var, an overlay on /etc, containerd and kubelet, started again if they end.
# $D: the node's folder on the host. Waits for a line on stdin: then there is a network.
set -e
cd "$D"
hostname "$NODE"
read -r _
mkdir -p etc work var/lib/kubelet var/lib/containerd var/log var/tmp var/cache
ln -sfn /run var/run
mount -t overlay -o lowerdir=/etc,upperdir="$D/etc",workdir="$D/work" overlay /etc
mount -t tmpfs -o mode=755 tmpfs /run
mount --bind "$D/var" /var
echo 1 > /proc/sys/net/ipv4/ip_forward
# what the kubelet would write on the whole machine
for f in vm/overcommit_memory vm/panic_on_oom kernel/panic kernel/panic_on_oops kernel/keys/root_maxkeys kernel/keys/root_maxbytes; do
  [ -e /proc/sys/$f ] || continue
  cat /proc/sys/$f > "$D/sysctl"; mkdir -p "/run/sysctl/${f%/*}"; cp "$D/sysctl" "/run/sysctl/$f"
  mount --bind "/run/sysctl/$f" "/proc/sys/$f"
done
mount --make-rshared /   # Bidirectional volume mounts, inside this namespace only
mkdir -p /etc/cni/net.d /etc/containerd/certs.d
cp cni.conflist /etc/cni/net.d/10-kubetest.conflist
printf '127.0.0.1 localhost\n%s %s\n' "$NODE_IP" "$NODE" > /etc/hosts
: > /etc/resolv.conf
again() { log=$1; shift; while :; do "$@" >> "$D/$log.log" 2>&1 < /dev/null & echo $! > "$D/$log.pid"; wait $! || true; sleep 0.5; done; }
again containerd containerd -c "$D/containerd.toml" &
until [ -S /run/containerd/containerd.sock ]; do sleep 0.05; done
again kubelet "$BIN" kubelet --config="$D/kubelet.json" --kubeconfig="$D/kubeconfig" --node-ip="$NODE_IP" \
  --hostname-override="$NODE" --cert-dir=/var/lib/kubelet/pki --v=2 &
wait
