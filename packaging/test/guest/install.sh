# From nothing to an answer; and the graphs that the other parts ask.
before=$SECONDS
check "apt install ./modelbox.deb" apt-get install -y --no-install-recommends ./modelbox.deb python3-uvloop
check "the first graph answers" within 60 echo_answers
say "      from apt install to the first answer: $((SECONDS - before)) s (all of the machine is emulated)"
check "systemctl start modelbox" systemctl start modelbox
belongs() {
  systemctl is-active modelbox
  [ "$(ps -o user= -p "$(main_pid)")" = modelbox ]
}
check "it is active, of the user modelbox" belongs
check "systemctl status tells what runs" status_says "1 jobs run: echo"
check "the journal has fields" sh -c 'test "$(journalctl -q --no-pager MODELBOX_JOB=echo MODELBOX_NODE=receive | wc -l)" -gt 0'
check "the hot modules run as machine code" sh -c 'grep -q modelboxd__mypyc "/proc/$(systemctl show -p MainPID --value modelbox)/maps"'

cp -r graphs/units /srv/units
[ ! -e modelbox-onnx.deb ] || check "modelbox-onnx installs" apt-get install -y --no-install-recommends ./modelbox-onnx.deb
cp graphs/*.toml /etc/modelbox/graph/
sed 's|"../flowunit"|"/usr/share/doc/modelbox/examples/hello_world/flowunit"|; s|7770/hello|7774/hello|' \
  /usr/share/doc/modelbox/examples/hello_world/graph/hello_world.toml >/etc/modelbox/graph/hello_world.toml
[ -e modelbox-onnx.deb ] || rm /etc/modelbox/graph/double.toml
graphs=$(($(ls /etc/modelbox/graph/*.toml | wc -l) + 1))
more() {
  systemctl restart modelbox
  status_says "^$graphs jobs run: "
}
check "systemctl restart with more graphs" more
