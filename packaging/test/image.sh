# Root trees of Debian for the tests of packages; sourced by chroot.sh and boot.sh. Needs root, debootstrap and apt's network.
# Trees and what apt fetched are kept in $CACHE between runs; only the packages under test change.
CACHE=${MODELBOX_TEST_CACHE:-/var/cache/modelbox-test}
SUITE=${SUITE:-bookworm}
SOURCES=/etc/apt/sources.list.d/debian.sources
MIRROR=${MIRROR:-$(awk '/^URIs:/ { print $2; exit }' "$SOURCES" 2>/dev/null || true)}
MIRROR=${MIRROR:-http://deb.debian.org/debian}

apt_install() { apt-get update -qq && apt-get install -y -qq --no-install-recommends "$@" >/dev/null; }
die() { echo "${0##*/}: $*" >&2; exit 1; }

# in_tree TREE COMMAND...: in a chroot with its own mounts and processes, which end with it.
in_tree() { in_namespaces "" "$@"; }

# alone_in_tree TREE COMMAND...: with a network of its own too, where all ports of 127.0.0.1 are free.
alone_in_tree() { in_namespaces --net "$@"; }

in_namespaces() { # OPTION TREE COMMAND...
  local option=$1 tree=$2
  shift 2
  # shellcheck disable=SC2086
  unshare --mount --pid $option --fork --kill-child -- bash -euc '
    tree=$1 option=$2; shift 2
    if [ "$option" = --net ]; then
      # ifreq of SIOCSIFFLAGS: lo, IFF_UP
      python3 -c "import fcntl, socket, struct; fcntl.ioctl(socket.socket(), 0x8914, struct.pack(\"16sH14x\", b\"lo\", 1))"
    fi
    mount -t proc proc "$tree/proc"
    mount --rbind /dev "$tree/dev"
    mkdir -p "$tree/run" && mount -t tmpfs -o mode=755 tmpfs "$tree/run"
    exec chroot "$tree" env -i ${http_proxy+"http_proxy=$http_proxy"} ${https_proxy+"https_proxy=$https_proxy"} PATH=/usr/sbin:/usr/bin:/sbin:/bin HOME=/root XDG_CACHE_HOME=/run/cache LC_ALL=C.UTF-8 \
      DEBIAN_FRONTEND=noninteractive "$@"
  ' in_tree "$tree" "$option" "$@"
}

# The smallest Debian, with lists of packages of the main archive and its updates.
base_tree() {
  local tree=$CACHE/$SUITE-base certificates
  if [ ! -e "$tree.done" ]; then
    command -v debootstrap >/dev/null || apt_install debootstrap
    mkdir -p "$CACHE"
    rm -rf "$tree"
    case $(cat "$SOURCES" 2>/dev/null) in *https:*) certificates=--include=ca-certificates ;; *) certificates= ;; esac
    # shellcheck disable=SC2086
    debootstrap --variant=minbase $certificates "$SUITE" "$tree" "$MIRROR" >"$CACHE/debootstrap.log" 2>&1 \
      || die "debootstrap failed, see $CACHE/debootstrap.log"
    if [ -e "$SOURCES" ]; then
      rm -f "$tree/etc/apt/sources.list"
      cp "$SOURCES" "$tree/etc/apt/sources.list.d/"
    fi
    # No daemon starts in a chroot; packages are kept for the next run.
    printf '#!/bin/sh\nexit 101\n' >"$tree/usr/sbin/policy-rc.d"
    chmod 755 "$tree/usr/sbin/policy-rc.d"
    printf 'APT::Keep-Downloaded-Packages "true";\nAcquire::Languages "none";\n' >"$tree/etc/apt/apt.conf.d/99test"
    apt-config dump | grep '^Acquire::https\?::Proxy' >"$tree/etc/apt/apt.conf.d/98proxy" || true
    in_tree "$tree" apt-get update -qq
    touch "$tree.done"
  fi
  echo "$tree"
}

# A tree that boots: systemd, a kernel, a user, what image units load; and the packages that modelbox depends on, not
# installed, in apt's cache: the guest has no network.
boot_tree() {
  local tree=$CACHE/$SUITE-boot base recipe
  recipe=$(declare -f boot_tree | sha256sum)
  if [ "$(cat "$tree.done" 2>/dev/null)" != "$recipe" ]; then
    rm -f "$tree.done" "$CACHE/$SUITE-boot.ext4"
    base=$(base_tree)
    rm -rf "$tree"
    cp -a "$base" "$tree"
    in_tree "$tree" sh -euc '
      apt-get install -y -qq --no-install-recommends systemd systemd-sysv dbus dbus-user-session libpam-systemd udev kmod \
        linux-image-cloud-amd64 initramfs-tools iproute2 procps curl logrotate man-db \
        libopencv-imgcodecs406 libopencv-imgproc406 libturbojpeg0
      apt-get clean
      apt-get install -y -qq --download-only --no-install-recommends python3-aiohttp python3-cffi-backend python3-lark \
        python3-numpy python3-psutil python3-setproctitle python3-toml python3-uvloop python3-av
      useradd -m ann
      passwd -d root
      echo modelbox-test >/etc/hostname
      echo "/dev/vda / ext4 defaults,noatime 0 1" >/etc/fstab
      systemctl mask systemd-timesyncd.service apt-daily.timer apt-daily-upgrade.timer e2scrub_all.timer \
        e2scrub_reap.service fstrim.timer dpkg-db-backup.timer man-db.timer' >"$CACHE/boot-tree.log" 2>&1 \
      || die "the tree for booting could not be made, see $CACHE/boot-tree.log"
    rm -f "$tree/usr/sbin/policy-rc.d"
    # Unpacks the orders from the second disk, runs them, packs the results onto the third, powers off.
    cat >"$tree/etc/systemd/system/orders.service" <<'U'
[Unit]
Description=the orders of the test
[Service]
Type=oneshot
TimeoutStartSec=infinity
ExecStart=/bin/sh -c 'mkdir -p /orders/out && cd /orders && tar xf /dev/vdb && { bash ./guest/main.sh; echo $$? >out/code; }; journalctl --no-pager -o short-precise >out/journal.txt; tar cf /dev/vdc -C /orders/out .; sync'
ExecStopPost=/bin/systemctl --no-block poweroff
U
    # From a timer: a unit of the boot itself would keep the boot from being over.
    cat >"$tree/etc/systemd/system/orders.timer" <<'U'
[Timer]
OnBootSec=1s
AccuracySec=1s
[Install]
WantedBy=timers.target
U
    in_tree "$tree" systemctl enable -q orders.timer
    echo "$recipe" >"$tree.done"
  fi
  echo "$tree"
}

# The tree as a disk; nothing is mounted for it.
boot_image() {
  local tree image=$CACHE/$SUITE-boot.ext4
  tree=$(boot_tree)
  if [ ! -e "$image" ]; then
    mke2fs -q -t ext4 -E lazy_itable_init=1 -O ^has_journal -d "$tree" "$image.new" 2500M >/dev/null
    mv "$image.new" "$image"
  fi
  echo "$image"
}
