#!/bin/bash
# Builds all packages twice and compares them byte by byte: in folders of different names, at different times, with another umask,
# locale, time zone and order of hashes, with git and without. Arguments as of packaging/build.py.
#   KEEP=1 leaves both in build/reproducible/
set -euo pipefail
top=$(cd "$(dirname "$0")/../.." && pwd)
work=$top/build/reproducible
rm -rf "$work"
[ -n "${KEEP:-}" ] || trap 'rm -rf "$work"' EXIT

copy() { # FOLDER
  mkdir -p "$1/build" "$1/.venv"
  (cd "$top" && git ls-files -z --cached --others --exclude-standard | xargs -0 tar cf - 2>/dev/null) | tar xf - -C "$1"
  cp -r "$top/build/wheels" "$1/build/" 2>/dev/null || true
  ln -s "$top/.venv/bin" "$1/.venv/bin"
}
build() { # FOLDER ARGUMENTS...
  local folder=$1
  shift
  (cd "$folder" && "$top/.venv/bin/python" packaging/build.py "$@" >"$work/log" 2>&1) || { tail -20 "$work/log"; exit 1; }
}
one=$work/a
other=$work/folder-with-a-longer-name
(umask 022 && copy "$one" && cd "$one" && git init -q && git add -A)
(umask 077 && copy "$other")
(umask 022 && LC_ALL=C.UTF-8 TZ=UTC PYTHONHASHSEED=1 build "$one" "$@")
(umask 077 && LC_ALL=C TZ=Asia/Kolkata PYTHONHASHSEED=2 build "$other" "$@")
# A source rpm's header holds its spec with all macros replaced, the folder of the build among them, and the other rpms name the
# source rpm by its digest. So of rpms their files, scripts and dependencies are compared.
content() { rpm2cpio "$1" | sha256sum; rpm -qp --nosignature --dump --scripts --requires --provides --recommends --suggests "$1"; }
same_rpm() { case $1 in *.rpm) diff <(content "$1") <(content "$2") ;; *) false ;; esac }
differ=0
for file in "$one/dist"/*; do
  name=${file##*/}
  if cmp -s "$file" "$other/dist/$name"; then
    echo "same    $name"
  elif same_rpm "$file" "$other/dist/$name"; then
    echo "same    $name (but for what names the folder of the build)"
  else
    echo "DIFFERS $name"
    differ=1
  fi
done
exit $differ
