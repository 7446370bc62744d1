# Writes an administrator's key for Prometheus into the volume at /data, unless one is there.
set -eu
[ ! -s /data/key ] || exit 0
evalrouter key revoke prometheus 2>/dev/null || true
evalrouter key create prometheus --role admin >/data/new
# Prometheus is another user, and the volume is mounted in its container alone.
chmod 0755 /data
chmod 0444 /data/new
mv /data/new /data/key
