#!/bin/bash
# Installs the packages of dist/ into root trees and uses them there; a line a check. What CI does of the proof, in some minutes;
# boot.sh does it with systemd. Needs root and apt's network; says so otherwise.
set -euo pipefail
cd "$(dirname "$0")/../.."
. packaging/test/image.sh
DIST=${DIST:-dist}
LOG=${LOG:-build/test-package.log}

if [ "$(id -u)" != 0 ]; then
  echo "skipped: packages are installed into root trees, which only root can make"
  exit 0
fi
if ! unshare --mount --pid --fork true 2>/dev/null; then
  echo "skipped: no mount namespaces here"
  exit 0
fi
mkdir -p "$(dirname "$LOG")"
: >"$LOG"
failed=0

# check TEXT COMMAND...: a line per check; what the command says goes to the log.
check() {
  local text=$1
  shift
  printf '\n## %s\n' "$text" >>"$LOG"
  if "$@" >>"$LOG" 2>&1; then
    echo "ok    $text"
  else
    echo "FAIL  $text (see $LOG)"
    failed=1
  fi
}

# ---- what linters and systemd say -----------------------------------------------------------------------

silent() { # fails when the command says anything, not only by its code: systemd-analyze verify just warns of unknown keys
  local said
  said=$("$@" 2>&1) || { echo "$said"; return 1; }
  test -z "$said" || { echo "$said"; return 1; }
}
rpmlint_is_silent() {
  local said
  said=$(rpmlint -c packaging/rpm/rpmlint.toml "$DIST"/*.rpm 2>&1 | tee /dev/stderr)
  grep -q ' 0 errors, 0 warnings' <<<"$said"
}
check "lintian says nothing" silent lintian --allow-root --tag-display-limit 0 --fail-on error,warning "$DIST"/*.deb
check "rpmlint says nothing" rpmlint_is_silent
exposure() { # not above 2.0, without a running systemd
  local unit
  for unit in systemd/modelbox.service systemd/modelbox@.service; do
    systemd-analyze security --no-pager --offline=true --threshold=20 "$unit" || return 1
  done
}
check "systemd-analyze security: at most 2.0" exposure

# ---- the debs -------------------------------------------------------------------------------------------

tree=$(mktemp -d "$CACHE/test.XXXXXX")
trap 'rm -rf "$tree"' EXIT
base=$(base_tree)
cp -a "$base/." "$tree"
mkdir -p "$tree/packages"
cp "$DIST"/*.deb "$tree/packages/"
find "$tree" -xdev -not -path '*/apt/*' -not -path '*/__pycache__*' | sed "s|^$tree||" | sort >"$CACHE/before.txt"

install_debs() {
  in_tree "$tree" sh -c 'apt-get install -y --no-install-recommends /packages/modelbox_*.deb /packages/libmodelbox-dev_*.deb' || return 1
  # Packages that apt fetched are kept for the next run.
  cp -n "$tree"/var/cache/apt/archives/*.deb "$base/var/cache/apt/archives/" 2>/dev/null || true
}
check "apt installs modelbox on Debian's own packages" install_debs
check "the user is there, and its folders" in_tree "$tree" sh -euc '
  getent passwd modelbox
  for folder in lib log cache; do test "$(stat -c %U:%a /var/$folder/modelbox)" = modelbox:750; done'
check "systemd-analyze verify has nothing to say" silent in_tree "$tree" \
  systemd-analyze verify --man=no /lib/systemd/system/modelbox.service /lib/systemd/system/modelbox@.service
check "the configuration and the first graph are good" in_tree "$tree" modelbox --check

# Starts in the background as user modelbox, is asked with Python's own client, ends by SIGTERM.
cat >"$tree/packages/ask.py" <<'P'
import sys, urllib.request
print(urllib.request.urlopen(urllib.request.Request(sys.argv[1], data=sys.argv[2].encode()), timeout=60).read().decode())
P
serve_and_ask() { # GRAPH-OPTION URL TEXT ANSWER
  in_tree "$tree" sh -euc '
    systemd-tmpfiles --create modelbox.conf
    modelbox -u modelbox -p /run/modelbox.pid $1
    answer=$(python3 /packages/ask.py "$2" "$3")
    pid=$(cat /run/modelbox.pid)
    kill -TERM "$pid"
    while kill -0 "$pid" 2>/dev/null; do sleep 0.2; done
    echo "answer: $answer"
    tail -3 /var/log/modelbox/modelbox.log
    test "$answer" = "$4"
    tail -1 /var/log/modelbox/modelbox.log | grep -q "stopped$"
  ' ask "$@"
}
check "the first graph answers, as user modelbox, and ends when told" serve_and_ask "" http://127.0.0.1:7770/echo hi hi
check "a Python unit answers" serve_and_ask "--graph /usr/share/doc/modelbox/examples/hello_world/graph/hello_world.toml" \
  http://127.0.0.1:7770/hello Ada "hello, Ada"
check "modelbox-tool lists the units; those without their libraries say why" in_tree "$tree" sh -euc '
  modelbox-tool driver -info >/tmp/units
  grep -q httpserver_sync_receive /tmp/units
  grep -q "not usable:.*image_decoder.*libopencv_imgcodecs" /tmp/units'
check "the manual pages are there" in_tree "$tree" sh -euc '
  for page in man8/modelbox.8 man1/modelbox-tool.1 man5/modelbox.conf.5 man5/modelbox-graph.5; do
    test -s /usr/share/man/$page.gz
  done'
template_builds() {
  local out
  out=$(mktemp -d)
  cp "$tree"/usr/share/modelbox/template/* "$out/"
  PKG_CONFIG_SYSROOT_DIR=$tree PKG_CONFIG_PATH=$tree/usr/share/pkgconfig make -C "$out" || return 1
  cp "$out"/*.so "$tree/usr/lib/modelbox/"
  rm -r "$out"
  in_tree "$tree" modelbox-tool driver -info -details -name invert || return 1
  rm "$tree"/usr/lib/modelbox/*.so
}
check "a unit made from the template is found" template_builds
if ls "$DIST"/modelbox-onnx_*.deb >/dev/null 2>&1; then
  onnx() {
    in_tree "$tree" sh -euc '
      apt-get install -y --no-install-recommends /packages/modelbox-onnx_*.deb
      python3 -c "
from modelboxd import paths
paths.use_private_packages()
import onnxruntime
assert onnxruntime.__file__.startswith(\"/usr/lib/modelbox/python/\")
assert \"CPUExecutionProvider\" in onnxruntime.get_available_providers()"'
  }
  check "modelbox-onnx brings the runtime" onnx
fi
conffiles() {
  in_tree "$tree" sh -euc '
    echo "# mine" >>/etc/modelbox/modelbox.conf
    touch /var/lib/modelbox/job /etc/modelbox/graph/mine.toml
    apt-get install -y --reinstall /packages/modelbox_*.deb
    grep -q "# mine" /etc/modelbox/modelbox.conf
    apt-get remove -y modelbox libmodelbox-dev
    test ! -e /usr/bin/modelbox
    test ! -d /usr/lib/python3/dist-packages/modelboxd
    test ! -d /usr/lib/modelbox
    grep -q "# mine" /etc/modelbox/modelbox.conf
    test -e /var/lib/modelbox/job'
}
check "reinstalling and removing leave what the administrator changed" conffiles
purge() {
  in_tree "$tree" sh -euc '
    rm /etc/modelbox/graph/mine.toml
    apt-get purge -y modelbox modelbox-onnx libmodelbox-dev
    rm -rf /root/.cache/modelbox' || return 1
  find "$tree" -xdev -not -path '*/apt/*' -not -path '*/__pycache__*' | sed "s|^$tree||" | sort >"$CACHE/after.txt"
  ! comm -13 "$CACHE/before.txt" "$CACHE/after.txt" | grep modelbox | grep -v '^/packages'
}
check "purging leaves nothing of modelbox" purge

# ---- the rpms -------------------------------------------------------------------------------------------

rpm_in() { # rpm with its root in the tree, where the scriptlets find /proc
  unshare --mount --pid --fork -- sh -euc 'mount -t proc proc "$0/proc"; exec rpm --root "$0" --force-debian "$@"' "$tree" "$@"
}
rpms() {
  mkdir -p "$tree/rpms"
  cp "$DIST"/modelbox*.x86_64.rpm "$DIST"/modelbox-devel*.rpm "$tree/rpms/"
  rpm_in --initdb
  # The scriptlets run in the tree, with Debian's useradd and systemd's tools.
  rpm_in -i --nodeps "$tree"/rpms/*.rpm || return 1
  rpm_in -qa | sort
  rpm_in -V --nodeps modelbox || return 1
  in_tree "$tree" sh -euc '
    getent passwd modelbox
    test "$(stat -c %U:%a /var/log/modelbox)" = modelbox:750
    test -e /usr/lib/systemd/system/modelbox.service
    PYTHONPATH=/usr/lib64/python3.11/site-packages modelbox --check'
}
check "the rpms install into an rpm root, and their files are as packed" rpms
rpm_upgrade() {
  echo "# mine" >>"$tree/etc/modelbox/modelbox.conf"
  rpm_in -U --replacepkgs --nodeps "$tree"/rpms/modelbox-[0-9]*.rpm || return 1
  grep -q "# mine" "$tree/etc/modelbox/modelbox.conf"
}
check "an rpm upgrade keeps a changed configuration" rpm_upgrade
rpm_erase() {
  rpm_in -e --nodeps modelbox-onnx modelbox-devel modelbox || return 1
  test ! -e "$tree/usr/bin/modelbox" && test ! -d "$tree/usr/lib64/python3.11/site-packages/modelboxd"
}
check "erasing the rpms takes their files away" rpm_erase
exit $failed
