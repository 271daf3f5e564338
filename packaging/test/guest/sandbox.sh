# All kinds of units work below the restrictions of the unit file.
exposure() {
  systemd-analyze security --no-pager modelbox.service | tail -1
  systemd-analyze security --no-pager --threshold=20 modelbox.service >/dev/null
}
check "systemd-analyze security: $(systemd-analyze security --no-pager modelbox.service | tail -1 | grep -o '[0-9]*[.][0-9]')" exposure
python3 - <<'P' >/tmp/picture.png
import struct, sys, zlib
def chunk(name, data):
    return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))
rows = b"".join(b"\0" + bytes([200, 100, 50]) * 64 for _ in range(48))
sys.stdout.buffer.write(b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", struct.pack(">IIBBBBB", 64, 48, 8, 2, 0, 0, 0))
                        + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b""))
P
python_answers() { ask 7774/hello Ada "hello, Ada"; }
onnx_answers() { [ ! -e modelbox-onnx.deb ] || ask 7772/double "1 2 3 4.5" "2.0 4.0 6.0 9.0"; }
image_answers() { ask 7773/image @/tmp/picture.png "(10, 20, 3)"; }
check "apt install python3-av" apt-get install -y --no-install-recommends python3-av
cp graphs/with-av/video.toml /etc/modelbox/graph/
graphs=$((graphs + 1))
video_answers() { ask 7777/video 12 "12 frames of (48, 64, 3)"; }
systemctl reload modelbox
check "a graph with video starts" within 120 status_says "^$graphs jobs run"
check "a Python unit answers" python_answers
check "an ONNX model answers, without memory that is writable and executable" onnx_answers
check "a picture is decoded and resized" image_answers
check "a video is encoded, decoded and scaled" video_answers
writes() {
  local pid
  pid=$(main_pid)
  not nsenter -t "$pid" -m -- touch /usr/bin/x
  not nsenter -t "$pid" -m -- ls /home/ann
  grep "^NoNewPrivs:.1" "/proc/$pid/status"
  grep "^CapBnd:.0*$" "/proc/$pid/status"
  grep "^Seccomp:.2" "/proc/$pid/status"
}
check "it sees no home and writes nowhere else" writes
jit() { # what operations.md says under 12
  ask 7778/jit callback "called 42"
  curl -sS -m 60 -d map http://127.0.0.1:7778/jit | tee /tmp/jit.txt
  grep "PermissionError: \[Errno 1\] Operation not permitted" /tmp/jit.txt
  mkdir -p /run/systemd/system/modelbox.service.d
  cp /usr/share/doc/modelbox/examples/systemd/units-with-jit.conf /run/systemd/system/modelbox.service.d/
  systemctl daemon-reload
  systemctl restart modelbox
  ask 7778/jit map mapped
  rm -r /run/systemd/system/modelbox.service.d
  systemctl daemon-reload
  systemctl restart modelbox
}
check "memory that is writable and executable is refused to units, and allowed by units-with-jit.conf" jit
drop_in() { # NAME COMMAND...
  mkdir -p /run/systemd/system/modelbox.service.d
  cp "/usr/share/doc/modelbox/examples/systemd/$1" /run/systemd/system/modelbox.service.d/
  systemctl daemon-reload
  systemctl restart modelbox
  shift
  "$@"
  echo_answers
}
low_port() {
  within 30 ask 80/low hi hi
}
drop_ins() {
  sed 's|7770/echo|80/low|; s/"echo"/"low"/' /etc/modelbox/graph.conf >/etc/modelbox/graph/low.toml
  drop_in low-ports.conf low_port
  rm -r /run/systemd/system/modelbox.service.d /etc/modelbox/graph/low.toml
  drop_in home.conf nsenter_sees_home
  drop_in resources.conf sh -c 'test "$(systemctl show -p TasksMax --value modelbox)" = 512'
  drop_in cpus.conf python_answers
  drop_in loopback.conf python_answers
  drop_in nvidia.conf python_answers
  rm -r /run/systemd/system/modelbox.service.d
  systemctl daemon-reload
  systemctl restart modelbox
}
nsenter_sees_home() { nsenter -t "$(main_pid)" -m -- ls /home/ann; }
check "the drop-ins of the documentation do what they say" drop_ins
