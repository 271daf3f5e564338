#!/bin/bash
# Installs the packages of dist/ into root trees and uses them there; a line a check. What CI does of the proof, in a minute or
# two; boot.sh does it with systemd. Needs root and apt's network; says so otherwise.
#   DIST=dist   LOG=build/test-package.log   MODELBOX_TEST_CACHE=/var/cache/modelbox-test
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
mkdir -p "$(dirname "$LOG")" "$CACHE"
: >"$LOG"
failed=0
work=$(mktemp -d "$CACHE/test.XXXXXX")
trap 'rm -rf "$work"' EXIT
tree=$work/tree

# check TEXT COMMAND...: a line per check, in a shell of its own where the first failure is the end; what it says goes to the log.
check() {
  local text=$1 code
  shift
  printf '\n## %s\n' "$text" >>"$LOG"
  set +e
  (set -e; "$@") >>"$LOG" 2>&1
  code=$?
  set -e
  if [ $code = 0 ]; then
    echo "ok    $text"
  else
    echo "FAIL  $text (see $LOG)"
    failed=1
  fi
}
silent() { # fails when the command says anything, not only by its code: systemd-analyze verify just warns of unknown keys
  local said
  said=$("$@" 2>&1) || { echo "$said"; return 1; }
  test -z "$said" || { echo "$said"; return 1; }
}
# What is in the tree and has to do with modelbox, but for the packages under test and apt's own memory of them.
ours() { find "$tree" -xdev -printf '/%P\n' | awk '/modelbox/ && !/^\/packages\/|\/apt\//' | sort; }

# ---- what linters and systemd say -----------------------------------------------------------------------

rpmlint_is_silent() { rpmlint -c packaging/rpm/rpmlint.toml "$DIST"/*.rpm | tee "$work/rpmlint.txt" && grep ' 0 errors, 0 warnings' "$work/rpmlint.txt"; }
check "lintian says nothing" silent lintian --allow-root --tag-display-limit 0 --fail-on error,warning "$DIST"/*.deb
check "rpmlint says nothing" rpmlint_is_silent
exposure() { # not above 2.0, without a running systemd
  local unit
  for unit in systemd/modelbox.service systemd/modelbox@.service; do
    systemd-analyze security --no-pager --offline=true --threshold=20 "$unit"
  done
}
check "systemd-analyze security: at most 2.0" exposure

# ---- the debs -------------------------------------------------------------------------------------------

base=$(base_tree)
cp -a "$base" "$tree"
mkdir -p "$tree/packages"
cp "$DIST"/*.deb "$DIST"/*.whl "$tree/packages/"
ours >"$work/before.txt"

install_debs() {
  in_tree "$tree" sh -c 'apt-get install -y --no-install-recommends /packages/modelbox_*.deb /packages/libmodelbox-dev_*.deb'
  # Packages that apt fetched are kept for the next run.
  cp -n "$tree"/var/cache/apt/archives/*.deb "$base/var/cache/apt/archives/" 2>/dev/null || true
}
check "apt installs modelbox on Debian's own packages" install_debs
check "the user is there, and its folders" in_tree "$tree" sh -euc '
  getent passwd modelbox
  for folder in lib log cache; do test "$(stat -c %U:%a /var/$folder/modelbox)" = modelbox:750; done'
check "systemd-analyze verify has nothing to say" silent in_tree "$tree" sh -c \
  'systemd-analyze verify --man=no /lib/systemd/system/modelbox.service /lib/systemd/system/modelbox@.service /lib/systemd/system/modelbox.socket \
   && XDG_RUNTIME_DIR=/run systemd-analyze verify --user --man=no /usr/lib/systemd/user/modelbox.service'
check "the configuration and the first graph are good" in_tree "$tree" modelbox --check
check "the hot modules run as machine code, unless told otherwise" in_tree "$tree" sh -euc '
  test "$(python3 -c "from modelboxd import compiled; print(compiled.in_use())")" = True
  test "$(MODELBOX_COMPILED=0 python3 -c "from modelboxd import compiled; print(compiled.in_use())")" = False'

# Starts in the background as user modelbox, is asked with Python's own client, ends by SIGTERM.
cat >"$tree/packages/ask.py" <<'P'
import sys, urllib.request
print(urllib.request.urlopen(urllib.request.Request(sys.argv[1], data=sys.argv[2].encode()), timeout=60).read().decode())
P
serve_and_ask() { # GRAPH-OPTION URL TEXT ANSWER [VARIABLE=VALUE]
  alone_in_tree "$tree" sh -euc '
    systemd-tmpfiles --create modelbox.conf
    env $5 modelbox -u modelbox -p /run/modelbox.pid $1
    answer=$(python3 /packages/ask.py "$2" "$3")
    pid=$(cat /run/modelbox.pid)
    kill -TERM "$pid"
    while kill -0 "$pid" 2>/dev/null; do sleep 0.2; done
    echo "answer: $answer"
    tail -3 /var/log/modelbox/modelbox.log
    test "$answer" = "$4"
    tail -1 /var/log/modelbox/modelbox.log | grep -q "stopped$"
  ' ask "$1" "$2" "$3" "$4" "${5:-A=}"
}
check "the texts name the commands of the package, their links lead somewhere" in_tree "$tree" sh -euc '
  cd /usr/share/doc/modelbox
  if grep -rn "[.]venv/bin" .; then exit 1; fi
  for file in *.md; do
    for link in $(grep -o "]([a-z0-9_./-]*[.]md)" "$file" | tr -d "()]"); do
      case $link in examples/ocr/* | examples/text_detection/*) ;; *) test -e "$link" || { echo "$file: $link"; exit 1; } ;; esac
    done
  done'
check "modelbox-tool server asks a server as root and as its user, and no one else" alone_in_tree "$tree" sh -euc '
  systemd-tmpfiles --create modelbox.conf
  modelbox -u modelbox -p /run/modelbox.pid --graph /usr/share/doc/modelbox/examples/word_count/graph/word_count.toml
  for user in root modelbox; do
    as="setpriv --reuid $user --regid $user --clear-groups"
    $as modelbox-tool server jobs | grep "^word_count  *running "
    $as modelbox-tool server stat | grep "^[0-9][0-9]*  *modelbox "
    $as modelbox-tool server slab | grep "^cpu:0 "
    $as modelbox-tool server stack | grep "^python stack of python worker word_count/count#0"
    $as modelbox-tool server log -setlevel WARN | grep "^Log Level : WARN"
    $as modelbox-tool server log -setlevel INFO
    $as modelbox-tool server reload | grep "^unchanged: word_count$"
  done
  setpriv --reuid nobody --regid nogroup --clear-groups modelbox-tool server jobs 2>/run/said.txt && exit 1
  grep "no permission for the control socket" /run/said.txt
  python3 /packages/ask.py http://127.0.0.1:1104/v2/models/word_count/infer \
    "{\"inputs\": [{\"name\": \"text\", \"datatype\": \"BYTES\", \"shape\": [1, 1], \"data\": [\"to be to\"]}]}" | grep "to.*: 2"
  modelbox-tool server drain | grep "has ended"
  test ! -e /run/modelbox/modelbox.sock'
check "what is missing for gRPC is named before the start" in_tree "$tree" sh -euc '
  printf "[inference]\ngrpc = true\n" >/run/grpc.conf
  modelbox -c /run/grpc.conf --check 2>/run/said.txt && exit 1
  grep "grpc.conf:2: .*apt install python3-grpcio python3-protobuf" /run/said.txt'
hello="--graph /usr/share/doc/modelbox/examples/hello_world/graph/hello_world.toml"
check "the first graph answers, as user modelbox, and ends when told" serve_and_ask "" http://127.0.0.1:7770/echo hi hi
check "a Python unit answers" serve_and_ask "$hello" http://127.0.0.1:7770/hello Ada "hello, Ada"
check "so it does without the machine code" serve_and_ask "$hello" http://127.0.0.1:7770/hello Ada "hello, Ada" MODELBOX_COMPILED=0
check "modelbox-tool lists the units; those without their libraries say why" in_tree "$tree" sh -euc '
  units=$(modelbox-tool driver -info)
  echo "$units"
  echo "$units" | grep -q httpserver_sync_receive
  echo "$units" | grep -q "not usable:.*image_decoder.*libopencv_imgcodecs"'
check "each command has its manual page, and each page that one names is there" in_tree "$tree" sh -euc '
  for command in /usr/bin/modelbox*; do ls /usr/share/man/man*/"${command##*/}".*; done
  for page in man5/modelbox.conf.5 man5/modelbox-graph.5; do test -s /usr/share/man/$page.gz; done
  for file in $(zcat /usr/share/man/man*/modelbox*.gz | tr -d "\\\\" | grep -oh "/usr/share/doc/modelbox/[a-z.-]*md"); do test -s "$file"; done'
template_builds() {
  mkdir "$work/template"
  cp "$tree"/usr/share/modelbox/template/* "$work/template/"
  PKG_CONFIG_SYSROOT_DIR=$tree PKG_CONFIG_PATH=$tree/usr/share/pkgconfig make -C "$work/template"
  cp "$work/template"/*.so "$tree/usr/lib/modelbox/"
  in_tree "$tree" modelbox-tool driver -info -details -name invert
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
    grep "# mine" /etc/modelbox/modelbox.conf
    apt-get remove -y modelbox libmodelbox-dev
    test ! -e /usr/bin/modelbox
    test ! -d /usr/lib/python3/dist-packages/modelboxd
    test ! -d /usr/lib/modelbox
    grep "# mine" /etc/modelbox/modelbox.conf
    test -e /var/lib/modelbox/job'
}
check "reinstalling and removing leave what the administrator changed" conffiles
purge() {
  in_tree "$tree" sh -euc '
    rm /etc/modelbox/graph/mine.toml
    apt-get purge -y modelbox'
  ours >"$work/after.txt"
  silent comm -13 "$work/before.txt" "$work/after.txt"
}
check "purging leaves nothing of modelbox" purge

# ---- the wheel ------------------------------------------------------------------------------------------

wheel() { # beside nothing of modelbox, on Debian's own packages
  in_tree "$tree" sh -euc '
    apt-get install -y --no-install-recommends python3-venv
    python3 -m venv --system-site-packages /packages/venv
    /packages/venv/bin/pip install --no-index --no-deps /packages/modelbox-*.whl
    /packages/venv/bin/python -c "from modelboxd import compiled; assert compiled.in_use()"
    /packages/venv/bin/modelbox-tool driver -info -type flowunit | grep httpserver_sync_receive'
  alone_in_tree "$tree" sh -euc '
    HOME=/packages /packages/venv/bin/modelbox -p /run/modelbox.pid --graph /packages/graph.conf
    test "$(python3 /packages/ask.py http://127.0.0.1:7770/echo hi)" = hi
    kill "$(cat /run/modelbox.pid)"'
  cp -n "$tree"/var/cache/apt/archives/*.deb "$base/var/cache/apt/archives/" 2>/dev/null || true
}
cp etc/modelbox/graph.conf "$tree/packages/"
check "pip installs the wheel into a venv, it answers" wheel

# ---- the rpms -------------------------------------------------------------------------------------------

rpm_in() { # rpm with its root in the tree, where the scriptlets find /proc
  unshare --mount --pid --fork -- sh -euc 'mount -t proc proc "$0/proc"; exec rpm --root "$0" "$@"' "$tree" --force-debian "$@"
}
rpms() {
  cp "$DIST"/modelbox*.x86_64.rpm "$DIST"/modelbox-devel*.rpm "$tree/packages/"
  rpmdb --root "$tree" --initdb
  # The scriptlets run in the tree, with Debian's useradd and systemd's tools.
  rpm_in -i --nodeps "$tree"/packages/*.rpm
  rpm_in -qa | sort
  rpm_in -V --nodeps modelbox modelbox-devel modelbox-onnx
  in_tree "$tree" sh -euc '
    getent passwd modelbox
    test "$(stat -c %U:%a /var/log/modelbox)" = modelbox:750
    systemd-analyze verify --man=no /usr/lib/systemd/system/modelbox.service
    PYTHONPATH=/usr/lib64/python3.11/site-packages modelbox --check'
}
check "the rpms install into an rpm root, and their files are as packed" rpms
rpm_upgrade() {
  echo "# mine" >>"$tree/etc/modelbox/modelbox.conf"
  rpm_in -U --replacepkgs --nodeps "$tree"/packages/modelbox-[0-9]*.rpm
  grep "# mine" "$tree/etc/modelbox/modelbox.conf"
  in_tree "$tree" getent passwd modelbox
}
check "an rpm upgrade keeps a changed configuration" rpm_upgrade
rpm_erase() {
  rpm_in -e --nodeps modelbox-onnx modelbox-devel modelbox
  grep "# mine" "$tree/etc/modelbox/modelbox.conf.rpmsave"
  rm -r "$tree/etc/modelbox"
  ours | awk '!/^\/var\/(log|lib)\/modelbox/' >"$work/erased.txt"
  silent comm -13 "$work/before.txt" "$work/erased.txt"
}
check "erasing the rpms takes their files away" rpm_erase
exit $failed
