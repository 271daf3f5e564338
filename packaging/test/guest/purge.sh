removed() {
  apt-get remove -y modelbox
  not pgrep -f '^modelbox'
  test -e /etc/modelbox/modelbox.conf
  test -d /var/lib/modelbox
}
check "apt remove stops it, keeps configuration and state" removed
purged() {
  rm -rf /etc/modelbox/two /etc/modelbox/graph/*.toml /etc/systemd/system/modelbox.socket.d
  apt-get purge -y modelbox # modelbox-onnx went with it
  # The user stays: files elsewhere may be its own. So does what dpkg, systemd and the journal remember, and what root's own commands
  # have kept in its home, as anybody's.
  find / -xdev \( -name '*modelbox*' -o -path '*/modelbox/*' \) -not -path '/orders/*' -not -path '/var/cache/apt/*' -not -path '/home/*' -not -path '/root/.cache/*' \
    -not -path '/var/lib/dpkg/*' -not -path '/proc/*' -not -path '/tmp/*' -not -path '/var/lib/apt/*' >/tmp/left.txt
  cat /tmp/left.txt
  not test -s /tmp/left.txt
}
check "apt purge leaves nothing but the user" purged
