# SPDX-License-Identifier: BSD-3-Clause
# What tests/guest/run and tests/guest/power share: sourced, with $1 the build
# directory. Sets build, nbdkit, ctl, dir and pids; at the exit of the script
# every process of pids is ended, by its pid, and dir removed.
# shellcheck shell=bash
build=$(readlink -f "${1:?expected: ${0##*/} BUILD_DIR}")
here=$(dirname "$(readlink -f "$0")")
nbdkit=${NBDKIT:-nbdkit}
ctl=$build/bin/nbd-remapctl
dir=$(mktemp -d /tmp/nbd-remap-guest-XXXXXX)
pids=()
# no_timer_check: on a busy machine the emulated timer may stand still while the
# kernel looks whether it ticks, and it panics ("IO-APIC + timer doesn't work").
# shellcheck disable=SC2034 # of who sources this
kernel_words="console=ttyS0 quiet panic=-1 random.trust_cpu=on no_timer_check"

# TERM, and KILL if that does not end it.
cleanup() {
  local pid left
  for pid in "${pids[@]}"; do kill "$pid" 2>/dev/null || true; done
  for left in {1..50}; do
    for pid in "${pids[@]}"; do
      if kill -0 "$pid" 2>/dev/null; then sleep 0.1 && continue 2; fi
    done
    break
  done
  for pid in "${pids[@]}"; do kill -9 "$pid" 2>/dev/null || true; done
  [ "$left" -lt 50 ] || echo "guest: something had to be killed" >&2
  rm -rf "$dir"
}
trap cleanup EXIT
trap 'exit 1' INT TERM

give_up() {
  echo "guest: FAIL: $*" >&2
  {
    echo "--- the guest's console, its end"
    tail -n 180 "$dir/console" || true
    echo "--- what it said, and the servers on the host"
    tail -n 15 "$dir"/*.log || true
    timeout 5 "$ctl" --socket="$dir/volume.ctl" volume show || true
    local pid task
    for pid in "${pids[@]}"; do
      for task in /proc/"$pid"/task/*; do
        echo "${task#/proc/} $(cat "$task/comm" "$task/wchan" | xargs)"
      done
    done
  } >&2 2>/dev/null
  exit 1
}

# make_image MORE...: as tests/guest/make-image; or, loudly, exit status 77.
make_image() {
  rm -f "$build/guest-skipped"
  local status=0
  "$here/make-image" "$dir" "$build" "$build/guest-cache" "$@" \
    2>"$dir/make.log" || status=$?
  if [ $status = 77 ]; then
    tail -n 1 "$dir/make.log" >"$build/guest-skipped"
    {
      echo "=================================================================="
      echo "guest: NOT TESTED against the real kernel: $(tail -n 1 "$dir/make.log")"
      echo "=================================================================="
    } >&2
    exit 77
  fi
  [ $status = 0 ] || give_up "make-image: $(tail -n 3 "$dir/make.log")"
}

# answering SOCKET PID PATH: waits until the server answers, or has ended.
answering() {
  for _ in {1..600}; do
    kill -0 "$2" 2>/dev/null || return 1
    if [ -S "$1" ] && curl -sf -m 2 --unix-socket "$1" \
      "http://localhost$3" >/dev/null; then return 0; fi
    sleep 0.1
  done
  return 1
}

# bad_disk NAME FILE PARAMETERS...: serves it on $dir/NAME.sock.
bad_disk() {
  local name=$1
  shift
  "$nbdkit" -f --exit-with-parent -U "$dir/$name.sock" \
    "$build/plugins/nbdkit-baddisk-plugin.so" "$@" \
    control="$dir/$name.ctl" 2>"$dir/$name.log" &
  pids+=($!)
  answering "$dir/$name.ctl" $! /v1/baddisk || give_up "$name did not start"
}
# disk NAME [/ACTION BODY]
disk() {
  curl -sf -m 60 --unix-socket "$dir/$1.ctl" \
    "http://localhost/v1/baddisk${2:-}" ${3:+-d "$3"}
}
