# Socket activation, several servers, a user's own, their logs.
activated() {
  systemctl stop modelbox
  # The demo graph's port as well, as operations.md says.
  mkdir -p /etc/systemd/system/modelbox.socket.d
  printf '[Socket]\nListenStream=127.0.0.1:7770\n' >/etc/systemd/system/modelbox.socket.d/endpoints.conf
  systemctl daemon-reload
  systemctl start modelbox.socket
  not systemctl is-active -q modelbox
  echo_answers # which starts it
  within 240 systemctl is-active -q modelbox # the first job may answer while others still start
  load http://127.0.0.1:7770/echo /tmp/activated.txt
  within 30 answered /tmp/activated.txt 3
  systemctl restart modelbox
  within 60 answered /tmp/activated.txt $(($(grep -c 200 /tmp/activated.txt) + 3))
  sort /tmp/activated.txt | uniq -c
  # A connection that was open when the server stopped may have been told so; none was refused or cut.
  not grep -v '^200$\|^503$' /tmp/activated.txt
}
check "socket activation: the first request starts it, a restart refuses no connection" activated
rm -rf /etc/systemd/system/modelbox.socket.d
systemctl daemon-reload
systemctl stop modelbox.socket modelbox
systemctl start modelbox
instance() {
  mkdir -p /etc/modelbox/two/graph
  printf '[server]\nport = 1204\n[log]\ntarget = "file"\nformat = "json"\n' >/etc/modelbox/two/modelbox.conf
  sed 's/7770/7790/' /etc/modelbox/graph.conf >/etc/modelbox/two/graph.conf
  systemctl start modelbox@two
  ask 7790/echo two two
  echo_answers
  systemctl reload modelbox@two
  journalctl -u modelbox@two --no-pager -o cat | grep "^unchanged: echo$" # asked at its own socket
  systemctl restart modelbox # which leaves the other one's folder
  modelbox-tool server -conn /run/modelbox/two/modelbox.sock jobs | grep "^echo  *running "
  python3 -c '
import json
lines = [json.loads(line) for line in open("/var/log/modelbox/two/modelbox.log")]
assert any("is ready" in line["message"] for line in lines)
assert any(line.get("job") == "echo" and line.get("node") == "receive" for line in lines), lines'
}
check "modelbox@two runs beside it, with a log file of JSON lines" instance
rotates() {
  printf '/var/log/modelbox/two/*.log {\n su modelbox modelbox\n create 0640 modelbox modelbox\n rotate 2\n missingok\n}\n' >/tmp/rotate
  logrotate -f /tmp/rotate
  logrotate -d /etc/logrotate.d/modelbox
  systemctl kill --kill-whom=main -s HUP modelbox@two
  within 30 test -s /var/log/modelbox/two/modelbox.log
  systemctl stop modelbox@two
  grep '"message": "stopped"' /var/log/modelbox/two/modelbox.log
}
check "logrotate moves its log, it goes on in a new one" rotates
user() {
  loginctl enable-linger ann
  within 60 test -d "/run/user/$(id -u ann)"
  install -d -o ann -g ann /home/ann/.config /home/ann/.config/modelbox
  sed 's/7770/7791/' /etc/modelbox/graph.conf >/home/ann/.config/modelbox/graph.conf
  printf '[server]\nport = 1304\n' >/home/ann/.config/modelbox/modelbox.conf
  within 60 systemctl --user -M ann@ start modelbox
  ask 7791/echo mine mine
  systemctl --user -M ann@ show -p StatusText --value modelbox | grep "1 jobs run: echo"
  sed 's/7770/7792/' /etc/modelbox/graph.conf >/home/ann/.config/modelbox/graph.conf
  systemctl --user -M ann@ reload modelbox
  ask 7792/echo mine mine
  systemctl --user -M ann@ stop modelbox
}
check "systemctl --user: a server of an ordinary user" user
