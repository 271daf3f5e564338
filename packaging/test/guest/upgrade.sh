upgrade() {
  echo "# mine" >>/etc/modelbox/modelbox.conf
  load http://127.0.0.1:7770/echo /tmp/load.txt
  within 30 answered /tmp/load.txt 5
  apt-get install -y --no-install-recommends ./modelbox_9.0.0-1_amd64.deb
  within 120 answered /tmp/load.txt $(($(grep -c 200 /tmp/load.txt) + 5))
  sort /tmp/load.txt | uniq -c
  # Answers, refused connections (000) or 503 while it restarts; nothing is wrong.
  not grep -v '^200$\|^000$\|^503$' /tmp/load.txt
  log_says "modelbox 9.0.0 is ready"
  grep "# mine" /etc/modelbox/modelbox.conf
  systemctl is-active modelbox
}
check "an upgrade under load: the new version answers, configuration is kept" upgrade
say "      requests meanwhile, by status: $(sort /tmp/load.txt | uniq -c | tr -s ' \n' ' ')"
