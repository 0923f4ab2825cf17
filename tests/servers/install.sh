#!/bin/sh
# Installs the servers that come as Debian packages, where that is possible; else says why not, and tests skip them.
set -u
packages='radosgw ceph-mon ceph-osd ceph-common openssh-server'

missing() {
    for program in radosgw ceph-mon ceph-osd ceph ssh-keygen /usr/sbin/sshd; do
        command -v "$program" >/dev/null || echo "$program"
    done
}

# One at a time on a machine; whoever waited finds them installed. No service of theirs is started: RUNLEVEL=1.
install() {
    [ -n "$(missing)" ] || return 0
    # shellcheck disable=SC2086
    set -- apt-get install -qq -y --no-install-recommends -o DPkg::Lock::Timeout=120 $packages
    "$@" || { apt-get update -qq -o Acquire::Retries=2 -o Acquire::http::Timeout=20 && "$@"; }
}

[ -n "$(missing)" ] || exit 0
if ! command -v apt-get >/dev/null; then
    why='there is no apt-get'
elif [ "$(id -u)" != 0 ]; then
    why="only root can: apt-get install $packages"
else
    export DEBIAN_FRONTEND=noninteractive RUNLEVEL=1
    log=$(mktemp)
    trap 'rm -f "$log"' EXIT
    (flock -w 300 9 && install) 9>"${TMPDIR:-/tmp}/replicate-servers.lock" >"$log" 2>&1
    [ -n "$(missing)" ] || exit 0
    why="apt-get said: $(tail -n 3 "$log" | tr '\n' ' ')"
fi
echo "not installed: $(missing | tr '\n' ' '); $why" >&2
