# What breaks, and what comes back.
worker_dies() {
  kill -9 "$(pgrep -f '^modelbox: python-worker hello_world/hello' | head -1)"
  within 60 ask 7774/hello Bob "hello, Bob"
  [ "$(restarts)" = 0 ]
  journalctl -q --no-pager MODELBOX_JOB=hello_world MODELBOX_NODE=hello "MODELBOX_WORKER=hello_world/hello#0" | grep "was killed by SIGKILL"
}
check "a Python worker that is killed is replaced, the server goes on" worker_dies
main_dies() {
  kill -9 "$(main_pid)"
  within 120 ask 7774/hello Cid "hello, Cid"
  echo_answers
  [ "$(restarts)" = 1 ]
  within 60 status_says "^$graphs jobs run: "
}
check "the main process is killed: systemd starts it again, all jobs are back" main_dies
one_master() { [ "$(pgrep -fc '^modelbox: python-master')" = 1 ]; }
check "no worker of the dead server is left" within 30 one_master
dump() {
  systemctl kill --kill-whom=main -s QUIT modelbox
  within 30 log_says "python stack of thread .* MainThread"
  within 30 log_says "job 'echo' node 'receive'"
  log_says "native stack of thread .*libc.so"
  within 30 log_says "^python stack of python worker hello_world/hello#0 "
  echo_answers
}
check "SIGQUIT writes stacks and queues, the server goes on" dump
freezes() {
  kill -STOP "$(main_pid)"
  restarted_twice() { [ "$(restarts)" = 2 ]; }
  within 240 restarted_twice
  within 120 echo_answers
  journalctl -u modelbox --no-pager | grep "Watchdog timeout"
}
check "it freezes: the watchdog ends it, systemd starts it again" freezes
bad_graph() {
  sed 's/flowunit=httpserver_sync_reply/flowunit=no_such_unit/; s/7770/7776/; s/"echo"/"bad"/' /etc/modelbox/graph.conf >/etc/modelbox/graph/bad.toml
  systemctl restart modelbox
  status_says "1 failed: bad: .*no_such_unit"
  echo_answers
}
check "a graph that is wrong: ready all the same, status says which and why" bad_graph
rm -f /etc/modelbox/graph/bad.toml
bad_conf() {
  cp /etc/modelbox/modelbox.conf /tmp/good.conf
  echo 'nonsense = [' >>/etc/modelbox/modelbox.conf
  not systemctl restart modelbox
  cp /tmp/good.conf /etc/modelbox/modelbox.conf
  [ "$(systemctl show -p ExecMainStatus --value modelbox)" = 78 ]
  [ "$(systemctl is-failed modelbox)" = failed ] # and it is not tried again and again
  status_page | grep "modelbox.conf:[0-9]*"
  systemctl restart modelbox
  echo_answers
}
check "a configuration that is wrong: failed with 78, not started again and again" bad_conf
often() { # someone who tries things out
  local n
  for n in 1 2 3 4 5 6; do systemctl restart modelbox; done
  within 60 echo_answers
}
check "it may be restarted six times in a row" often
