#!/bin/bash
# Boots a Debian image with systemd as PID 1 in qemu (software emulation is enough) and does there what an administrator does with
# modelbox: install, ask, reload, break, stop, upgrade, purge. A line a check. About 10 minutes; root; apt's network the first time.
#   boot.sh [PART...]    parts are the files in guest/, all of them when none is named; install.sh is always run
#   KEEP=1               keeps the guest's journal and output in build/test-boot/
set -euo pipefail
cd "$(dirname "$0")/../.."
for part in "$@"; do
  [ -e "packaging/test/guest/$part.sh" ] || { echo "there is no part $part in packaging/test/guest" >&2; exit 2; }
done
. packaging/test/image.sh
DIST=${DIST:-dist}
LIMIT=${LIMIT:-3000}
OUT=build/test-boot
[ "$(id -u)" = 0 ] || die "needs root, for debootstrap"
for tool in qemu-system-x86_64:qemu-system-x86 debootstrap:debootstrap mke2fs:e2fsprogs; do
  command -v "${tool%:*}" >/dev/null || apt_install "${tool#*:}"
done
ls "$DIST"/modelbox_*_amd64.deb >/dev/null 2>&1 || die "no packages in $DIST; make package"
rm -rf "$OUT"
mkdir -p "$OUT/orders" "$OUT/results"

# The same package with a higher version, for the upgrade.
next_version() {
  local tree=$OUT/next
  dpkg-deb -R "$DIST"/modelbox_*_amd64.deb "$tree"
  sed -i 's/^Version: .*/Version: 9.0.0-1/' "$tree/DEBIAN/control"
  sed -i 's/^VERSION = .*/VERSION = "9.0.0"/' "$tree/usr/lib/python3/dist-packages/modelbox/version.py"
  dpkg-deb -b --root-owner-group -Znone "$tree" "$OUT/orders/modelbox_9.0.0-1_amd64.deb" >/dev/null
  rm -r "$tree"
}
next_version
cp "$DIST"/modelbox_*_amd64.deb "$OUT/orders/modelbox.deb"
onnx=$(ls "$DIST"/modelbox-onnx_*_amd64.deb 2>/dev/null || true)
if [ -n "$onnx" ]; then
  # One that depends on any version, so that the upgrade is that of modelbox alone.
  dpkg-deb -R "$onnx" "$OUT/onnx"
  sed -i 's/modelbox (= [^)]*)/modelbox/' "$OUT/onnx/DEBIAN/control"
  dpkg-deb -b --root-owner-group -Znone "$OUT/onnx" "$OUT/orders/modelbox-onnx.deb" >/dev/null
  rm -r "$OUT/onnx"
fi
cp -r packaging/test/guest packaging/test/graphs "$OUT/orders/"
echo "$*" >"$OUT/orders/wanted"
.venv/bin/python packaging/test/make_model.py "$OUT/orders/graphs/units/double/double.onnx"

echo "making the image (kept in $CACHE)"
image=$(boot_image)
tree=$(boot_tree)
tar cf "$OUT/orders.tar" -C "$OUT/orders" .
truncate -s 64M "$OUT/results.raw"
: >"$OUT/console.log"
tail -n +1 -F "$OUT/console.log" 2>/dev/null | sed -un 's/^CHECK //p' &
shower=$!
trap 'kill $shower 2>/dev/null || true' EXIT
echo "booting"
timeout -k 5 "$LIMIT" qemu-system-x86_64 -accel tcg,thread=multi,tb-size=512 -cpu max -smp 2 -m 1536 -nodefaults -no-reboot \
  -display none -kernel "$(ls "$tree"/boot/vmlinuz-*)" -initrd "$(ls "$tree"/boot/initrd.img-*)" \
  -append "root=/dev/vda rw console=ttyS0 quiet mitigations=off net.ifnames=0 panic=-1" \
  -drive "file=$image,if=virtio,format=raw,snapshot=on,cache=unsafe" \
  -drive "file=$OUT/orders.tar,if=virtio,format=raw,readonly=on" -drive "file=$OUT/results.raw,if=virtio,format=raw,cache=unsafe" \
  -device virtio-rng-pci -serial "file:$OUT/console.log" </dev/null \
  || { tail -30 "$OUT/console.log"; die "qemu ended with $?"; }
tar xf "$OUT/results.raw" -C "$OUT/results" || die "no results; the console: $OUT/console.log"
kill $shower 2>/dev/null || true
code=$(cat "$OUT/results/code")
[ "$code" = 0 ] || echo "what the guest said: $OUT/results/"
if [ "$code" = 0 ] && [ -z "${KEEP:-}" ]; then
  rm -rf "$OUT"
fi
exit "$code"
