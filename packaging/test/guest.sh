# Runs in the guest of boot.sh, as root, below systemd. A line a check goes to the console and to out/checks.txt.
set -uo pipefail
export PATH=/usr/sbin:/usr/bin:/sbin:/bin LC_ALL=C.UTF-8 DEBIAN_FRONTEND=noninteractive HOME=/root
cd /orders
failed=0
say() { echo "$*" >>out/checks.txt; echo "CHECK $*" >/dev/ttyS0; }
check() {
  local text=$1
  shift
  echo "## $text" >>out/log.txt
  if "$@" >>out/log.txt 2>&1; then
    say "ok    $text"
  else
    say "FAIL  $text"
    failed=1
    { systemctl status --no-pager -l modelbox; journalctl -u modelbox -n 30 --no-pager; } >>out/log.txt 2>&1
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
ask() { # PATH TEXT ANSWER
  local answer
  answer=$(curl -sS -m 60 -d "$2" "http://127.0.0.1:$1") || return 1
  echo "answer: $answer"
  [ "$answer" = "$3" ]
}
echo_answers() { ask 7770/echo hi hi; }
main_pid() { systemctl show -p MainPID --value modelbox; }
status_says() { systemctl show -p StatusText --value modelbox | tee -a out/log.txt | grep -q -- "$1"; }

# ---- install, ask ---------------------------------------------------------------------------------------

before=$SECONDS
apt_install() {
  apt-get install -y --no-install-recommends ./modelbox.deb python3-uvloop
}
check "apt install ./modelbox.deb" apt_install
check "systemctl start modelbox" systemctl start modelbox
check "it is active, of the user modelbox" sh -c 'systemctl is-active modelbox && test "$(ps -o user= -p "$(systemctl show -p MainPID --value modelbox)")" = modelbox'
check "the demo graph answers" within 60 echo_answers
say "      from apt install to the first answer: $((SECONDS - before)) s (emulated)"
check "systemctl status tells what runs" status_says "1 jobs run: echo"
check "the journal has fields" sh -c 'test "$(journalctl -q --no-pager MODELBOX_JOB=echo MODELBOX_NODE=receive | wc -l)" -gt 0'
exposure() {
  systemd-analyze security --no-pager modelbox.service | tail -1
  systemd-analyze security --no-pager --threshold=20 modelbox.service >/dev/null
}
check "systemd-analyze security: $(systemd-analyze security --no-pager modelbox.service | tail -1 | grep -o '[0-9]*[.][0-9]')" exposure

# ---- all kinds of units in the sandbox --------------------------------------------------------------------

cp -r graphs/units /srv/units
[ ! -e modelbox-onnx.deb ] || check "modelbox-onnx installs" apt-get install -y --no-install-recommends ./modelbox-onnx.deb
cp -r graphs/slow.toml graphs/double.toml graphs/image.toml /etc/modelbox/graph/
sed 's|"../flowunit"|"/usr/share/doc/modelbox/examples/hello_world/flowunit"|; s|7770/hello|7774/hello|' \
  /usr/share/doc/modelbox/examples/hello_world/graph/hello_world.toml >/etc/modelbox/graph/hello_world.toml
[ -e modelbox-onnx.deb ] || rm /etc/modelbox/graph/double.toml
check "systemctl restart with more graphs" systemctl restart modelbox
check "a Python unit answers" ask 7774/hello Ada "hello, Ada"
[ ! -e modelbox-onnx.deb ] || check "an ONNX model answers, without memory that is writable and executable" \
  ask 7772/double "1 2 3 4.5" "2.0 4.0 6.0 9.0"
image() {
  python3 - <<'P' >/tmp/picture.png
import struct, sys, zlib
def chunk(name, data):
    return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))
rows = b"".join(b"\0" + bytes([200, 100, 50]) * 64 for _ in range(48))
sys.stdout.buffer.write(b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", struct.pack(">IIBBBBB", 64, 48, 8, 2, 0, 0, 0))
                        + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b""))
P
  local answer
  answer=$(curl -sS -m 60 --data-binary @/tmp/picture.png http://127.0.0.1:7773/image) || return 1
  echo "answer: $answer"
  [ "$answer" = "(10, 20, 3)" ]
}
check "a picture is decoded and resized" image
denied() { ! journalctl -k --no-pager -o cat | grep "type=1326"; } # AUDIT_SECCOMP
check "the kernel denied nothing" denied
writes() {
  local pid
  pid=$(main_pid)
  ! nsenter -t "$pid" -m -- touch /usr/bin/x && ! nsenter -t "$pid" -m -- ls /home/ann
  grep -q "^NoNewPrivs:.1" "/proc/$pid/status" && grep -q "^CapBnd:.0*$" "/proc/$pid/status" && grep -q "^Seccomp:.2" "/proc/$pid/status"
}
check "it sees no home and writes nowhere else" writes

# ---- reload -----------------------------------------------------------------------------------------------

reload_good() {
  local pid
  pid=$(main_pid)
  sed 's/7770/7775/; s/digraph echo/digraph again/; s/"echo"/"again"/' /etc/modelbox/graph.conf >/etc/modelbox/graph/again.toml
  systemctl reload modelbox || return 1
  [ "$(main_pid)" = "$pid" ] && systemctl is-active modelbox && echo_answers || return 1
  within 60 ask 7775/echo hi hi && within 60 status_says "5 jobs run: .*again\|6 jobs run: .*again" || return 1
  rm /etc/modelbox/graph/again.toml
  systemctl reload modelbox && within 60 sh -c '! curl -sS -o /tmp/gone -d hi http://127.0.0.1:7775/echo'
}
check "a good reload: the same process goes on, a new graph answers, and ends when its file is gone" reload_good
reload_bad() {
  local pid
  pid=$(main_pid)
  cp /etc/modelbox/modelbox.conf /tmp/good.conf
  echo 'nonsense = [' >>/etc/modelbox/modelbox.conf
  ! systemctl reload modelbox || return 1
  cp /tmp/good.conf /etc/modelbox/modelbox.conf
  [ "$(main_pid)" = "$pid" ] && systemctl is-active modelbox && echo_answers || return 1
  systemctl status --no-pager modelbox | tee -a out/log.txt | grep -q "modelbox.conf:[0-9]*"
}
check "a bad reload is refused, the old state goes on, status says why" reload_bad
reload_bad_graph() {
  local pid
  pid=$(main_pid)
  cp /etc/modelbox/graph.conf /tmp/good.graph
  sed -i 's/flowunit=httpserver_sync_reply/flowunit=no_such_unit/' /etc/modelbox/graph.conf
  ! systemctl reload modelbox || return 1
  kill -HUP "$pid" # and past the check of the unit file
  within 60 status_says "Reload failed, the rest goes on: .*no_such_unit" || return 1
  cp /tmp/good.graph /etc/modelbox/graph.conf
  [ "$(main_pid)" = "$pid" ] && systemctl is-active modelbox && echo_answers || return 1
  systemctl reload modelbox && within 60 status_says "^[0-9]* jobs run"
}
check "a reload with a bad graph: its job goes on as it was, status says why" reload_bad_graph

# ---- things that break ------------------------------------------------------------------------------------

worker_dies() {
  local pid
  pid=$(pgrep -f '^modelbox: python-worker hello_world/hello' | head -1)
  kill -9 "$pid"
  within 60 ask 7774/hello Bob "hello, Bob"
  [ "$(systemctl show -p NRestarts --value modelbox)" = 0 ]
}
check "a Python worker that is killed is replaced, the server goes on" worker_dies
main_dies() {
  kill -9 "$(main_pid)"
  within 120 ask 7774/hello Cid "hello, Cid" && echo_answers && [ "$(systemctl show -p NRestarts --value modelbox)" = 1 ]
}
check "the main process is killed: systemd starts it again, all jobs are back" main_dies
all_gone() { [ "$(pgrep -fc '^modelbox: python-master')" = 1 ]; }
check "no worker of the dead server is left" within 30 all_gone
dump() {
  systemctl kill --kill-whom=main -s QUIT modelbox
  within 30 sh -c "journalctl -u modelbox --no-pager | grep -q \"python stack of thread .* MainThread\"" \
    && within 30 sh -c "journalctl -u modelbox --no-pager | grep -q \"job 'echo' node 'receive'\"" \
    && journalctl -u modelbox --no-pager | grep -q "native stack of thread .*libc.so" && echo_answers
}
check "SIGQUIT writes stacks and queues, the server goes on" dump
freezes() {
  kill -STOP "$(main_pid)"
  within 240 sh -c 'test "$(systemctl show -p NRestarts --value modelbox)" = 2' && within 120 echo_answers \
    && journalctl -u modelbox --no-pager | grep "Watchdog timeout"
}
check "it freezes: the watchdog ends it, systemd starts it again" freezes
bad_graph() {
  sed 's/flowunit=httpserver_sync_reply/flowunit=no_such_unit/; s/7770/7776/; s/"echo"/"bad"/' /etc/modelbox/graph.conf >/etc/modelbox/graph/bad.toml
  systemctl restart modelbox && status_says "1 failed: bad: .*no_such_unit" && echo_answers
}
check "a graph that is wrong: ready all the same, status says which and why" bad_graph
rm -f /etc/modelbox/graph/bad.toml
bad_conf() {
  cp /etc/modelbox/modelbox.conf /tmp/good.conf
  echo 'nonsense = [' >>/etc/modelbox/modelbox.conf
  ! systemctl restart modelbox || return 1
  [ "$(systemctl show -p ExecMainStatus --value modelbox)" = 78 ] || return 1
  [ "$(systemctl is-failed modelbox)" = failed ] || return 1 # and it is not tried again and again
  cp /tmp/good.conf /etc/modelbox/modelbox.conf
  systemctl restart modelbox && echo_answers
}
check "a configuration that is wrong: failed with 78, not started again and again" bad_conf

# ---- stop, upgrade ----------------------------------------------------------------------------------------

stops() {
  curl -sS -m 60 -d 5 http://127.0.0.1:7771/slow >/tmp/slow.txt &
  local client=$!
  within 30 sh -c 'ss -tn state established "( sport = :7771 )" | grep -q 7771' || return 1
  systemctl stop modelbox || return 1
  wait $client || return 1
  grep -q slept /tmp/slow.txt && [ "$(systemctl show -p Result --value modelbox)" = success ] || return 1
  ! pgrep -f '^modelbox'
}
check "a stop drains: the request under way is answered, nothing is left" stops
systemctl start modelbox
upgrade() {
  local load
  echo "# mine" >>/etc/modelbox/modelbox.conf
  : >/tmp/load.txt
  while :; do
    curl -sS -m 20 -o /tmp/load.body -w '%{http_code}\n' -d hi http://127.0.0.1:7770/echo 2>/dev/null >>/tmp/load.txt
  done &
  load=$!
  within 30 sh -c 'test "$(grep -c 200 /tmp/load.txt)" -gt 5' || return 1
  apt-get install -y --no-install-recommends ./modelbox_9.0.0-1_amd64.deb || return 1
  local had
  had=$(grep -c 200 /tmp/load.txt)
  within 120 sh -c "test \"\$(grep -c 200 /tmp/load.txt)\" -gt $((had + 5))" || return 1
  kill $load
  sort /tmp/load.txt | uniq -c
  # Answers, refused connections (000) or 503 while it restarts; nothing is cut off or wrong.
  ! grep -qv '^200$\|^000$\|^503$' /tmp/load.txt || return 1
  journalctl -u modelbox --no-pager | grep -q "modelbox 9.0.0 is ready" && grep -q "# mine" /etc/modelbox/modelbox.conf
}
check "an upgrade under load: the new version answers, configuration is kept" upgrade
say "      requests meanwhile, by status: $(sort /tmp/load.txt | uniq -c | tr -s ' \n' ' ')"

# ---- several servers, a user's own, logs ---------------------------------------------------------------------

activated() {
  systemctl stop modelbox
  # The demo graph's port as well, as operations.md says.
  mkdir -p /etc/systemd/system/modelbox.socket.d
  printf '[Socket]\nListenStream=127.0.0.1:7770\n' >/etc/systemd/system/modelbox.socket.d/endpoints.conf
  systemctl daemon-reload
  systemctl start modelbox.socket && ! systemctl is-active -q modelbox || return 1
  echo_answers || return 1 # which starts it
  within 240 systemctl is-active -q modelbox || return 1 # the first job may answer while others still start
  : >/tmp/activated.txt
  while :; do curl -sS -m 60 -o /tmp/activated.body -w '%{http_code}\n' -d hi http://127.0.0.1:7770/echo 2>/dev/null >>/tmp/activated.txt; done &
  local load=$!
  systemctl restart modelbox
  local had
  had=$(wc -l </tmp/activated.txt)
  within 60 sh -c "test \$(wc -l </tmp/activated.txt) -gt $((had + 3))" || return 1
  kill $load
  sort /tmp/activated.txt | uniq -c
  ! grep -v '^200$\|^503$' /tmp/activated.txt || return 1
  rm -r /etc/systemd/system/modelbox.socket.d
  systemctl daemon-reload
  systemctl stop modelbox.socket modelbox
  systemctl start modelbox
}
check "socket activation: the first request starts it, a restart refuses no connection" activated
instance() {
  mkdir -p /etc/modelbox/two/graph
  printf '[server]\nport = 1204\n[log]\ntarget = "file"\nformat = "json"\n' >/etc/modelbox/two/modelbox.conf
  sed 's/7770/7790/' /etc/modelbox/graph.conf >/etc/modelbox/two/graph.conf
  systemctl start modelbox@two && ask 7790/echo two two && grep -q '"message": "modelbox .* is ready' /var/log/modelbox/two/modelbox.log
}
check "modelbox@two runs beside it, with a log file of JSON lines" instance
rotates() {
  printf '/var/log/modelbox/two/*.log {\n su modelbox modelbox\n create 0640 modelbox modelbox\n rotate 2\n missingok\n}\n' >/tmp/rotate
  logrotate -f /tmp/rotate && logrotate -d /etc/logrotate.d/modelbox && systemctl kill --kill-whom=main -s HUP modelbox@two || return 1
  within 30 test -e /var/log/modelbox/two/modelbox.log || return 1
  systemctl stop modelbox@two
  grep -q '"message": "stopped"' /var/log/modelbox/two/modelbox.log
}
check "logrotate moves its log, it goes on in a new one" rotates
user() {
  loginctl enable-linger ann
  within 60 test -d "/run/user/$(id -u ann)" || return 1
  install -d -o ann -g ann /home/ann/.config /home/ann/.config/modelbox
  sed 's/7770/7791/' /etc/modelbox/graph.conf >/home/ann/.config/modelbox/graph.conf
  printf '[server]\nport = 1304\n' >/home/ann/.config/modelbox/modelbox.conf
  within 60 systemctl --user -M ann@ start modelbox && ask 7791/echo mine mine && systemctl --user -M ann@ stop modelbox
}
check "systemctl --user: a server of an ordinary user" user

# ---- remove, purge ------------------------------------------------------------------------------------------

removed() {
  apt-get remove -y modelbox && ! pgrep -x modelbox && test -e /etc/modelbox/modelbox.conf && test -d /var/lib/modelbox
}
check "apt remove stops it, keeps configuration and state" removed
purged() {
  rm -rf /etc/modelbox/two /etc/modelbox/graph/*.toml /etc/systemd/system/modelbox.socket.d
  apt-get purge -y modelbox modelbox-onnx || return 1
  # The user stays: files elsewhere may be its own. So does what systemd and the journal remember.
  ! find / -xdev \( -name '*modelbox*' -o -path '*/modelbox/*' \) -not -path '/orders/*' -not -path '/var/cache/apt/*' -not -path '/home/*' \
    -not -path '/var/lib/dpkg/*' -not -path '/proc/*' -not -path '/tmp/*' -not -path '/var/lib/apt/*' | grep .
}
check "apt purge leaves nothing but the user" purged
exit $failed
