# SPDX-License-Identifier: BSD-3-Clause
# What the cases in the guest share. Standard input and output are the way to
# the host, where tests/guest/run and tests/guest/power read the lines
#
#   PASS what               a check that held
#   FAIL what: why          one that did not; the cases end with the first
#   NOTE words              for people
#   HOST word ...           a request, answered with one line
#
# Every command is bounded (limit). What hangs beyond that, in the kernel, is
# shown by the watchdog and meets the host's bound. WATCHDOG_S comes by the
# kernel's command line.
# shellcheck shell=busybox disable=SC3045 # read has -t
set -u

say() { echo "$*"; }
# The host ends the guest at FAIL, so what helps to understand it goes to the
# console first.
fail() {
  dump >&2
  sleep 0.5
  say "FAIL $*"
  exit 1
}
# What waits for what.
dump() {
  echo "--- the guest after $(cut -d ' ' -f 1 /proc/uptime) s"
  echo "threads that read replies: $(readers)"
  cat /proc/net/tcp /sys/block/nbd*/inflight
  grep -E '^(MemTotal|MemFree|MemAvailable|Dirty|Writeback|Unevictable)' \
    /proc/meminfo
  echo w >/proc/sysrq-trigger
  dmesg | tail -n 100
  if [ -e /run/volume.log ]; then
    echo "--- the server in the guest"
    tail -n 15 /run/volume.log
  fi
}
uptime_ms() {
  read -r now _ </proc/uptime
  echo "${now%.*}${now#*.}0"
}
# Generous, as the machine may be busy; what is slow by itself is measured.
limit() { timeout -s KILL 90 "$@"; }

# check WHAT COMMAND...: the command succeeds. refuse: it fails.
check() {
  what=$1
  shift
  "$@" >/tmp/output 2>&1 ||
    fail "$what: $* ended with $?: $(tail -n 4 /tmp/output | tr '\n' ' ')"
  say "PASS $what"
}
refuse() {
  what=$1
  shift
  "$@" >/tmp/output 2>&1
  case $? in
    0) fail "$what: $* succeeded" ;;
    137) fail "$what: $* was not answered" ;;
  esac
  say "PASS $what"
}
# at_least WHAT MINIMUM VALUE; at_most WHAT MAXIMUM VALUE
at_least() { [ "$3" -ge "$2" ] || fail "$1: $3, expected at least $2"; say "PASS $1: $3"; }
at_most() { [ "$3" -le "$2" ] || fail "$1: $3, expected at most $2"; say "PASS $1: $3"; }
# eventually TENTHS COMMAND...
eventually() {
  tenths=$1
  shift
  until "$@" >/dev/null 2>&1; do
    tenths=$((tenths - 1))
    [ "$tenths" -gt 0 ] || return 1
    sleep 0.1
  done
}

# host WORDS...: the host's answer is in $answer.
host() {
  say "HOST $*"
  IFS= read -r -t 90 answer || fail "the host did not answer: $*"
  case $answer in ERROR*) fail "host: $*: $answer" ;; esac
}
steer() { host steer "$@"; }

# No process waits in the kernel without end: none is found in state D in each
# of 10 looks. (The kernel's own detector passes over some waits, so this is
# looked for here; what it does report is looked for at the end.)
stuck_now() {
  for stat in /proc/[0-9]*/stat; do
    { read -r line <"$stat"; } 2>/dev/null || continue
    rest=${line##*) }
    [ "${rest%% *}" != D ] || echo "${line%%)*})"
  done
}
no_task_is_stuck() {
  stuck_now >/tmp/stuck
  for _ in 1 2 3 4 5 6 7 8 9; do
    [ -s /tmp/stuck ] || return 0
    sleep 0.2
    stuck_now | grep -Fx -f /tmp/stuck >/tmp/stuck.new
    mv /tmp/stuck.new /tmp/stuck
  done
  [ -s /tmp/stuck ] || return 0
  cat /tmp/stuck
  return 1
}

forget() { limit sync && echo 3 >/proc/sys/vm/drop_caches; }
# same DIRECTORY FILES...: as the originals in memory, after the page cache is
# forgotten.
same() {
  directory=$1
  shift
  forget || return 1
  for file in "$@"; do
    limit cmp "/tmp/$file" "$directory/$file" || return 1
  done
}
# copy DIRECTORY FILES...
copy() {
  directory=$1
  shift
  for file in "$@"; do
    limit cp "/tmp/$file" "$directory/$file" || return 1
  done
  limit sync
}
# first_sector FILE: where its first byte lies on the disk, in sectors of 512.
first_sector() {
  filefrag -v -b512 "$1" |
    sed -n 's/^ *0: *0\.\. *[0-9]*: *\([0-9]*\)\.\..*/\1/p'
}
empty_again() { [ "$(cat /sys/block/"$1"/size)" = 0 ] && [ ! -e "/sys/block/$1/pid" ]; }
# detach NBD: nothing is left of it. How long it took is in $detached_ms.
detach() {
  began=$(uptime_ms)
  check "$1 is detached" limit nbd-client -d "/dev/$1"
  check "$1 is empty again" eventually 300 empty_again "$1"
  detached_ms=$(($(uptime_ms) - began))
  check "no task is stuck after detaching $1" no_task_is_stuck
}
# detach_fast NBD ATTACH: in less than a second; on a busy machine the
# quickest of up to five.
detach_fast() {
  nbd=$1 again=$2
  detach "$nbd"
  fastest=$detached_ms
  for _ in 1 2 3 4; do
    [ "$fastest" -ge 1000 ] || break
    $again
    detach "$nbd"
    [ "$detached_ms" -ge "$fastest" ] || fastest=$detached_ms
  done
  at_most "$nbd was gone within (ms)" 999 "$fastest"
}

# The kernel reads the replies of each connection in a work item that never
# ends. When it cannot start a thread for each within 10 ms, as on a busy
# machine, one spare thread (the workqueue's rescuer) does those that wait one
# after the other, thus the first one only: the replies of the other connections
# then lie unread in their sockets until -timeout. That is the kernel's. The
# threads that came too late are there at the next attach.
readers() { cat /proc/[0-9]*/stack 2>/dev/null | grep -c 'recv_work.*nbd'; }
all_are_read() { [ "$(readers)" = "$1" ]; }
# attach WHO NBD CONNECTIONS WORDS OF NBD-CLIENT...
attach() {
  who=$1 nbd=$2 wanted=$3
  shift 3
  for _ in 1 2 3 4 5; do
    began=$(uptime_ms)
    check "$who: attach" limit nbd-client "$@" "/dev/$nbd" -C "$wanted"
    attached_ms=$(($(uptime_ms) - began))
    if eventually 10 all_are_read "$wanted"; then return; fi
    say "NOTE the kernel reads from $(readers) of $wanted connections; attach again"
    detach "$nbd"
  done
  fail "$who: the kernel reads from some connections only, again and again"
}

# The volume over the disks $main and $spare, in the guest.
ctl() { limit nbd-remapctl --socket=/run/volume.ctl "$@"; }
# member NAME: a number out of the status.
member() {
  ctl --json volume show | tr -d ' \n' | sed -n "s/.*\"$1\":\([0-9]*\).*/\1/p"
}
listening() { [ -S /run/volume.sock ] && ctl volume list; }
serve() {
  rm -f /run/volume.sock /run/volume.ctl
  nbdkit -f -U /run/volume.sock /plugins/nbdkit-remap-plugin.so \
    "main=/dev/$main" "spare=/dev/$spare" control=/run/volume.ctl \
    2>>/run/volume.log &
  server=$!
  check "$1: the volume is served" eventually 600 listening
}

# ended PID: however.
ended() { ! grep -q '^State:.[^XZ]' "/proc/$1/status"; }

kernel_is_calm() {
  ! dmesg | grep -E 'blocked for more|BUG:|Oops|WARNING:|Call Trace|lockup'
}

(
  sleep "$WATCHDOG_S"
  dump >&2
) &
