# modelbox-tool server, the inference protocol, a service plugin.
ann_refused() {
  not runuser -u ann -- modelbox-tool server jobs 2>/tmp/ann.txt
  cat /tmp/ann.txt
  grep "no permission for the control socket /run/modelbox/modelbox.sock: only root and the user of the server" /tmp/ann.txt
}
check "modelbox-tool server refuses another user" ann_refused
asked() { # as root or USER
  "$@" modelbox-tool server jobs | grep "^echo  *running "
  "$@" modelbox-tool server stat | grep "^$(main_pid)  *modelbox "
  "$@" modelbox-tool server slab | grep "^cpu:0 "
  "$@" modelbox-tool server stack >/tmp/stack.txt
  grep "^native stack of thread .*libc.so" /tmp/stack.txt
  grep "^python stack of python worker hello_world/hello#0" /tmp/stack.txt
  "$@" modelbox-tool server log -getlevel | grep "^Log Level : INFO$"
  "$@" modelbox-tool server log -setlevel WARN | grep "^Log Level : WARN$"
  "$@" modelbox-tool server log -setlevel INFO | grep "^Log Level : INFO$"
  "$@" modelbox-tool server reload | grep "^unchanged: .*echo"
}
check "it answers root" asked env
check "it answers the service's user" asked runuser -u modelbox --
drains() {
  modelbox-tool server drain | grep "has ended"
  within 60 not systemctl is-active -q modelbox
  [ "$(systemctl show -p Result --value modelbox)" = success ]
  not test -e /run/modelbox/modelbox.sock
  systemctl start modelbox
  echo_answers
}
check "server drain ends it; systemd does not start it again" drains
plugin() {
  (cd /srv && modelbox-tool template -service-plugin -name shop)
  printf '[plugin]\nfiles = ["/srv/src/service-plugin/shop/shop.py"]\n' >/etc/modelbox/conf.d/shop.conf
  cp -r /usr/share/doc/modelbox/examples/word_count /srv/
  sed 's|"../flowunit"|"/srv/word_count/flowunit"|' /srv/word_count/graph/word_count.toml >/etc/modelbox/graph/word_count.toml
  systemctl restart modelbox
  curl -sS http://127.0.0.1:1104/shop/hello/Ada | tee /tmp/shop.txt
  grep "hello, Ada" /tmp/shop.txt
}
check "a service plugin from a file answers" plugin
infers() {
  curl -sS http://127.0.0.1:1104/v2/health/ready | grep '"ready": true'
  curl -sS http://127.0.0.1:1104/v2/models/word_count/infer \
    -d '{"inputs": [{"name": "text", "datatype": "BYTES", "shape": [1, 1], "data": ["to be or to"]}]}' | tee /tmp/infer.txt
  grep '{\\"to\\": 2' /tmp/infer.txt
}
check "the inference protocol answers" infers
grpc() {
  printf '[inference]\ngrpc = true\n' >/etc/modelbox/conf.d/grpc.conf
  not modelbox --check 2>/tmp/grpc.txt
  cat /tmp/grpc.txt
  grep "grpc.conf:2: inference.grpc = true needs .*apt install python3-grpcio python3-protobuf" /tmp/grpc.txt
  rm /etc/modelbox/conf.d/grpc.conf
}
check "gRPC without its packages is told, with what to install" grpc
rm -r /etc/modelbox/conf.d/shop.conf /etc/modelbox/graph/word_count.toml
systemctl restart modelbox
