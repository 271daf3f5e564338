stops() {
  curl -sS -m 60 -d 5 http://127.0.0.1:7771/slow >/tmp/slow.txt &
  local client=$!
  within 30 sh -c 'ss -tn state established "( sport = :7771 )" | grep -q 7771'
  systemctl stop modelbox
  wait $client
  grep slept /tmp/slow.txt
  [ "$(systemctl show -p Result --value modelbox)" = success ]
  not pgrep -f '^modelbox'
}
check "a stop drains: the request under way is answered, nothing is left" stops
systemctl start modelbox
