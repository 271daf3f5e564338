# systemctl reload, with what is right and what is wrong.
reload_good() {
  local pid
  pid=$(main_pid)
  sed 's/7770/7775/; s/digraph echo/digraph again/; s/"echo"/"again"/' /etc/modelbox/graph.conf >/etc/modelbox/graph/again.toml
  systemctl reload modelbox
  [ "$(main_pid)" = "$pid" ]
  systemctl is-active modelbox
  echo_answers
  ask 7775/echo hi hi # at once: systemctl has waited
  status_says "^$((graphs + 1)) jobs run: .*again"
  log_says "^added: again$"
  rm /etc/modelbox/graph/again.toml
  systemctl reload modelbox
  not curl -sS -o /tmp/gone -d hi http://127.0.0.1:7775/echo
  status_says "^$graphs jobs run: "
}
check "a good reload: the same process goes on, a new graph answers at once, and ends when its file is gone" reload_good
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
reload_bad_open() { # what no check can see
  local pid
  pid=$(main_pid)
  cp -r graphs/units/slow /srv/units/fragile
  mv /srv/units/fragile/slow.toml /srv/units/fragile/fragile.toml
  mv /srv/units/fragile/slow.py /srv/units/fragile/fragile.py
  sed -i 's/"slow"/"fragile"/; s/slow@Slow/fragile@Slow/' /srv/units/fragile/fragile.toml
  printf '    def open(self, config):\n        raise RuntimeError("the pump is broken")\n' >>/srv/units/fragile/fragile.py
  sed 's/flowunit=slow/flowunit=fragile/; s/digraph slow/digraph fragile/; s/7771/7776/' graphs/slow.toml >/etc/modelbox/graph/fragile.toml
  modelbox --check /etc/modelbox/graph/fragile.toml
  not systemctl reload modelbox
  status_page | grep "modelbox-tool: job 'fragile': .*the pump is broken"
  status_says "Reload failed, the rest goes on: fragile: .*the pump is broken"
  [ "$(main_pid)" = "$pid" ]
  systemctl is-active modelbox
  echo_answers
  sed -i '/def open/,$d' /srv/units/fragile/fragile.py
  systemctl reload modelbox
  ask 7776/slow 0 slept
  rm -r /etc/modelbox/graph/fragile.toml /srv/units/fragile
  systemctl reload modelbox
  status_says "^$graphs jobs run"
}
check "a reload with a unit that does not open fails, and says why; mended, it is there" reload_bad_open
reload_by_signal() {
  printf '[control]\nenable = false\n' >/etc/modelbox/conf.d/control.conf
  systemctl restart modelbox
  not test -e /run/modelbox/modelbox.sock
  sed 's/7770/7775/; s/digraph echo/digraph again/; s/"echo"/"again"/' /etc/modelbox/graph.conf >/etc/modelbox/graph/again.toml
  systemctl reload modelbox
  within 60 ask 7775/echo hi hi
  log_says "control.enable = false; sent SIGHUP to process $(main_pid)"
  rm /etc/modelbox/graph/again.toml /etc/modelbox/conf.d/control.conf
  systemctl restart modelbox
}
check "without the control socket, a reload is a signal" reload_by_signal
