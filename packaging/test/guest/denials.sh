# Which system calls the filter of the unit file takes from the server: the same work with a filter that only logs.
denied_calls() {
  local drop_in=/run/systemd/system/modelbox.service.d/log.conf since
  since=$(date +%s)
  mkdir -p "${drop_in%/*}"
  {
    echo "[Service]"
    # All that the unit file allows, once more; everything else is allowed as well, but told.
    systemctl cat modelbox | sed -n 's/^SystemCallFilter=~*/SystemCallLog=~/p' | head -1
    echo "SystemCallFilter="
    echo "SystemCallLog=@privileged @resources"
    echo "SystemCallLog=~sched_setaffinity"
  } >"$drop_in"
  cat "$drop_in"
  systemctl daemon-reload
  systemctl restart modelbox
  ask 7774/hello Ada "hello, Ada"
  [ ! -e modelbox-onnx.deb ] || ask 7772/double "1 2 3 4.5" "2.0 4.0 6.0 9.0"
  [ ! -e /etc/modelbox/graph/video.toml ] || ask 7777/video 12 "12 frames of (48, 64, 3)"
  journalctl -k --no-pager -o cat --since "@$since" | grep -o 'type=1326.*' | grep -o 'comm="[^"]*".*syscall=[0-9]*' \
    | sed 's/ exe=.* syscall/ syscall/' | sort | uniq -c | tee /tmp/denied.txt
  rm "$drop_in"
  systemctl daemon-reload
  systemctl restart modelbox
  # 238 = set_mempolicy: libraries try it, and do without.
  not grep -v 'syscall=238$' /tmp/denied.txt
}
check "no system call that the filter denies is tried, but for set_mempolicy" denied_calls
