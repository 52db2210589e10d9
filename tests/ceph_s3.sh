#!/usr/bin/env bash
# A real S3 with signatures and conditional writes for the tests: Ceph's gateway, with one monitor, one manager and one object daemon in memory,
# all on the loopback address and below a folder of their own. Debian: apt-get install --no-install-recommends radosgw ceph-mon ceph-osd ceph-mgr
#
#   bash tests/ceph_s3.sh start FOLDER [PORT]    half a minute; prints what to set
#   bash tests/ceph_s3.sh stop FOLDER
set -euo pipefail
verb=$1 home=$2 port=${3:-7480}

if [ "$verb" = stop ]; then
  for file in "$home"/run/*.pid; do kill "$(cat "$file")" 2>/dev/null || true; done
  exit 0
fi

mkdir -p "$home"/{mon,mgr,osd,run,log}
fsid=$(cat /proc/sys/kernel/random/uuid) osd=$(cat /proc/sys/kernel/random/uuid)
monitor=$((port + 1))
cat > "$home/ceph.conf" <<CONF
[global]
fsid = $fsid
mon host = [v2:127.0.0.1:$monitor]
mon initial members = a
public network = 127.0.0.0/8
auth cluster required = cephx
auth service required = cephx
auth client required = cephx
keyring = $home/admin.keyring
osd pool default size = 1
osd pool default min size = 1
osd pool default pg num = 8
osd pool default pgp num = 8
osd pool default pg autoscale mode = off
osd crush chooseleaf type = 0
mon allow pool size one = true
mon data avail crit = 1
mon data = $home/mon
mgr data = $home/mgr
osd data = $home/osd
osd objectstore = memstore
memstore device bytes = 4294967296
run dir = $home/run
log file = $home/log/\$name.log
admin socket = $home/run/\$name.asok
pid file = $home/run/\$name.pid
CONF
ceph=(-c "$home/ceph.conf")

{
  ceph-authtool --create-keyring "$home/mon.keyring" --gen-key -n mon. --cap mon "allow *"
  ceph-authtool --create-keyring "$home/admin.keyring" --gen-key -n client.admin --cap mon "allow *" --cap osd "allow *" --cap mgr "allow *"
  ceph-authtool "$home/mon.keyring" --import-keyring "$home/admin.keyring"
  monmaptool --create --fsid "$fsid" --addv a "[v2:127.0.0.1:$monitor]" "$home/monmap"
  ceph-mon "${ceph[@]}" --mkfs -i a --monmap "$home/monmap" --keyring "$home/mon.keyring"
  ceph-mon "${ceph[@]}" -i a
  ceph "${ceph[@]}" osd new "$osd"
  ceph "${ceph[@]}" auth get-or-create osd.0 mon "allow profile osd" osd "allow *" mgr "allow profile osd" -o "$home/osd/keyring"
  ceph "${ceph[@]}" auth get-or-create mgr.x mon "allow profile mgr" osd "allow *" -o "$home/mgr/keyring"
  ceph-osd "${ceph[@]}" -i 0 --mkfs --osd-uuid "$osd" --keyring "$home/osd/keyring"
  ceph-osd "${ceph[@]}" -i 0 --keyring "$home/osd/keyring"
  ceph "${ceph[@]}" osd crush add osd.0 1 root=default host=one
  ceph-mgr "${ceph[@]}" -i x --keyring "$home/mgr/keyring"
  for _ in $(seq 60); do ceph "${ceph[@]}" osd stat | grep -q "1 up" && break; sleep 1; done
  secret=$(head -c 18 /dev/urandom | base64 | tr -d '/+=')
  radosgw-admin "${ceph[@]}" user create --uid=tests --display-name=tests --access-key=tests --secret-key="$secret"
  radosgw "${ceph[@]}" -n client.admin --rgw-frontends "beast endpoint=127.0.0.1:$port"
  for _ in $(seq 60); do (echo > "/dev/tcp/127.0.0.1/$port") 2>/dev/null && break; sleep 1; done
} > "$home/log/start.log" 2>&1

echo "export RAYSWEEP_TEST_S3=http://127.0.0.1:$port RAYSWEEP_TEST_BUCKET=tests AWS_ACCESS_KEY_ID=tests AWS_SECRET_ACCESS_KEY=$secret"
