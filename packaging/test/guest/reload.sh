# systemctl reload, with what is right and what is wrong.
reload_good() {
  local pid
  pid=$(main_pid)
  sed 's/7770/7775/; s/digraph echo/digraph again/; s/"echo"/"again"/' /etc/modelbox/graph.conf >/etc/modelbox/graph/again.toml
  systemctl reload modelbox
  [ "$(main_pid)" = "$pid" ]
  systemctl is-active modelbox
  echo_answers
  within 60 ask 7775/echo hi hi
  within 60 status_says "^$((graphs + 1)) jobs run: .*again"
  rm /etc/modelbox/graph/again.toml
  systemctl reload modelbox
  within 60 not curl -sS -o /tmp/gone -d hi http://127.0.0.1:7775/echo
  within 60 status_says "^$graphs jobs run: "
}
check "a good reload: the same process goes on, a new graph answers, and ends when its file is gone" reload_good
reload_bad() {
  local pid
  pid=$(main_pid)
  cp /etc/modelbox/modelbox.conf /tmp/good.conf
  echo 'nonsense = [' >>/etc/modelbox/modelbox.conf
  not systemctl reload modelbox
  cp /tmp/good.conf /etc/modelbox/modelbox.conf
  [ "$(main_pid)" = "$pid" ]
  systemctl is-active modelbox
  echo_answers
  status_page | grep "modelbox.conf:[0-9]*"
}
check "a bad reload is refused, the old state goes on, status says why" reload_bad
reload_bad_graph() {
  local pid
  pid=$(main_pid)
  cp /etc/modelbox/graph.conf /tmp/good.graph
  sed -i 's/flowunit=httpserver_sync_reply/flowunit=no_such_unit/' /etc/modelbox/graph.conf
  not systemctl reload modelbox
  status_page | grep "no_such_unit"
  kill -HUP "$pid" # and past the check of the unit file
  within 60 status_says "Reload failed, the rest goes on: .*no_such_unit"
  cp /tmp/good.graph /etc/modelbox/graph.conf
  [ "$(main_pid)" = "$pid" ]
  systemctl is-active modelbox
  echo_answers
  systemctl reload modelbox
  within 60 status_says "^$graphs jobs run"
}
check "a reload with a bad graph: its job goes on as it was, status says why" reload_bad_graph
