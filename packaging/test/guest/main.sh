# Runs in the guest of boot.sh, as root, below systemd: the parts beside it whose names stand in ./wanted (all when that is
# empty), after install.sh, which every one needs. A line a check goes to the console and to out/checks.txt.
set -uo pipefail
export PATH=/usr/sbin:/usr/bin:/sbin:/bin LC_ALL=C.UTF-8 DEBIAN_FRONTEND=noninteractive HOME=/root
cd /orders
failed=0
# The console's login prompt has no line end.
say() { echo "$*" >>out/checks.txt; printf '\nCHECK %s\n' "$*" >/dev/ttyS0; }
# check TEXT COMMAND...: in a shell of its own, where the first failure is the end.
check() {
  local text=$1 code
  shift
  printf '\n## %s\n' "$text" >>out/log.txt
  (set -e; "$@") >>out/log.txt 2>&1
  code=$?
  if [ $code = 0 ]; then
    say "ok    $text"
  else
    say "FAIL  $text"
    failed=1
    { echo "exit code $code"; systemctl status --no-pager -l modelbox; journalctl -u modelbox -n 30 --no-pager; } >>out/log.txt 2>&1
  fi
}
# Waits until a command succeeds, SECONDS at most.
within() {
  local end=$((SECONDS + $1))
  shift
  until "$@" >/dev/null 2>&1; do
    [ $SECONDS -lt $end ] || { echo "not within its time: $*"; return 1; }
    sleep 0.3
  done
}
not() { ! "$@"; } # "! command" alone does not end a shell with set -e
ask() { # PORT/PATH TEXT ANSWER
  local answer
  answer=$(curl -sS -m 60 --data-binary "$2" "http://127.0.0.1:$1") || return 1
  echo "answer: $answer"
  [ "$answer" = "$3" ]
}
echo_answers() { ask 7770/echo hi hi; }
main_pid() { systemctl show -p MainPID --value modelbox; }
restarts() { systemctl show -p NRestarts --value modelbox; }
status_page() { systemctl status --no-pager -l modelbox || true; } # its exit code tells the state
status_says() { systemctl show -p StatusText --value modelbox | tee -a out/log.txt | grep -q -- "$1"; }
log_says() { journalctl -u modelbox --no-pager -o cat | grep -q -- "$1"; }
# Asks URL again and again until the shell ends; a status code a line goes to FILE. 000 = no connection, or one that was cut.
load() { # URL FILE
  : >"$2"
  while :; do curl -sS -m 60 -o /dev/null -w '%{http_code}\n' -d hi "$1" 2>/dev/null >>"$2" || :; done & # whatever becomes of one
  # shellcheck disable=SC2064
  trap "kill $!" EXIT
}
answered() { test "$(grep -c 200 "$1")" -ge "$2"; }

wanted=$(cat wanted)
for part in install sandbox denials reload control failures stop upgrade several purge; do
  if [ -z "$wanted" ] || [ $part = install ] || grep -qw "$part" <<<"$wanted"; then
    . "./guest/$part.sh"
  fi
done
exit $failed
