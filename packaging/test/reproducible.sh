#!/bin/bash
# Builds all packages twice, in folders of different names and at different times, and compares them byte by byte.
set -euo pipefail
top=$(cd "$(dirname "$0")/../.." && pwd)
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
for name in a "folder with a longer name"; do
  mkdir -p "$work/$name"
  (cd "$top" && git ls-files -z --cached --others --exclude-standard | xargs -0 tar cf - 2>/dev/null) | tar xf - -C "$work/$name"
  mkdir -p "$work/$name/build" "$work/$name/.venv"
  cp -r "$top/build/wheels" "$work/$name/build/" 2>/dev/null || true
  ln -s "$top/.venv/bin" "$work/$name/.venv/bin"
  (cd "$work/$name" && "$top/.venv/bin/python" packaging/build.py "$@" >"$work/log" 2>&1) || { tail -20 "$work/log"; exit 1; }
  touch "$work/$name/later"
done
differ=0
for file in "$work/a/dist"/*; do
  name=${file##*/}
  if cmp -s "$file" "$work/folder with a longer name/dist/$name"; then
    echo "same    $name"
  else
    echo "DIFFERS $name"
    differ=1
  fi
done
exit $differ
