# Root trees of Debian for the tests of packages; sourced by chroot.sh and boot.sh. Needs root, debootstrap and apt's network.
# Trees and what apt fetched are kept in $CACHE between runs; only the packages under test change.
CACHE=${MODELBOX_TEST_CACHE:-/var/cache/modelbox-test}
SUITE=${SUITE:-bookworm}
SOURCES=/etc/apt/sources.list.d/debian.sources
MIRROR=${MIRROR:-$(awk '/^URIs:/ { print $2; exit }' "$SOURCES" 2>/dev/null || true)}
MIRROR=${MIRROR:-http://deb.debian.org/debian}

die() { echo "${0##*/}: $*" >&2; exit 1; }

# in_tree TREE COMMAND...: in a chroot with its own mounts and processes, which end with it.
in_tree() {
  local tree=$1
  shift
  unshare --mount --pid --fork --kill-child -- bash -euc '
    tree=$1; shift
    mount -t proc proc "$tree/proc"
    mount --rbind /dev "$tree/dev"
    mkdir -p "$tree/run" && mount -t tmpfs -o mode=755 tmpfs "$tree/run"
    exec chroot "$tree" env -i PATH=/usr/sbin:/usr/bin:/sbin:/bin HOME=/root LC_ALL=C.UTF-8 DEBIAN_FRONTEND=noninteractive "$@"
  ' in_tree "$tree" "$@"
}

# The smallest Debian, with lists of packages of the main archive and its updates.
base_tree() {
  local tree=$CACHE/$SUITE-base
  if [ ! -e "$tree.done" ]; then
    command -v debootstrap >/dev/null || apt-get install -y -qq --no-install-recommends debootstrap >/dev/null
    mkdir -p "$CACHE"
    rm -rf "$tree"
    debootstrap --variant=minbase "$SUITE" "$tree" "$MIRROR" >"$CACHE/debootstrap.log" 2>&1 \
      || die "debootstrap failed, see $CACHE/debootstrap.log"
    if [ -e "$SOURCES" ]; then
      rm -f "$tree/etc/apt/sources.list"
      cp "$SOURCES" "$tree/etc/apt/sources.list.d/"
    fi
    # No daemon starts in a chroot; packages are kept for the next run.
    printf '#!/bin/sh\nexit 101\n' >"$tree/usr/sbin/policy-rc.d"
    chmod 755 "$tree/usr/sbin/policy-rc.d"
    printf 'APT::Keep-Downloaded-Packages "true";\nAcquire::Languages "none";\n' >"$tree/etc/apt/apt.conf.d/99test"
    rm -f "$tree/etc/apt/apt.conf.d/docker-clean"
    in_tree "$tree" apt-get update -qq
    touch "$tree.done"
  fi
  echo "$tree"
}

# copy_tree FROM TO: with apt's packages as hard links, where they can be.
copy_tree() {
  rm -rf "$2"
  cp -a "$1" "$2"
}

# A tree that boots: systemd, a kernel, a way in for orders and a way out for results.
boot_tree() {
  local tree=$CACHE/$SUITE-boot base
  if [ ! -e "$tree.done" ]; then
    base=$(base_tree)
    copy_tree "$base" "$tree"
    in_tree "$tree" apt-get install -y -qq --no-install-recommends systemd systemd-sysv dbus udev kmod \
      linux-image-cloud-amd64 initramfs-tools iproute2 procps curl logrotate man-db >"$CACHE/boot-tree.log" 2>&1 \
      || die "the tree for booting could not be made, see $CACHE/boot-tree.log"
    rm -f "$tree/usr/sbin/policy-rc.d"
    touch "$tree.done"
  fi
  echo "$tree"
}
