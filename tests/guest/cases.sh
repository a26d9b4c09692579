#!/bin/sh
# SPDX-License-Identifier: BSD-3-Clause
# What happens in the guest. Standard input and output are the way to the
# host, where tests/guest/run reads the lines
#
#   PASS what               a check that held
#   FAIL what: why          one that did not; the cases end with the first
#   HOST word ...           a request, answered with one line
#
# Every command is bounded (limit). What hangs beyond that, in the kernel, is
# shown by the watchdog and meets the host's bound. WATCHDOG_S comes by the
# kernel's command line.
# shellcheck disable=SC3045 # busybox's read has -t
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
  echo w >/proc/sysrq-trigger
  dmesg | tail -n 80
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

# --- Over TCP: the host's volume, whose MAIN is a bad disk ---------------

connections() { netstat -tn 2>/dev/null | grep "10.0.2.2:$1 " | grep -c ESTABLISHED; }
four_connections() { [ "$(connections "$1")" = 4 ]; }

# tcp_files EXT4|XFS DISK-CHECK...: one file system's life.
tcp_files() {
  fs=$1
  shift
  steer bad '{"count":600,"seed":'"$seed"',"mode":"write"}'
  host volume .blocks.remapped
  remapped=$answer
  host disk .fired.write
  fired=$answer
  case $fs in
    ext4) check "ext4: mkfs" limit mkfs.ext4 -q -F /dev/nbd0 ;;
    xfs) check "xfs: mkfs" limit mkfs.xfs -q -f /dev/nbd0 ;;
  esac
  check "$fs: mount" limit mount -t "$fs" /dev/nbd0 /mnt
  check "$fs: files are written" copy /mnt a1 a2
  # More goes bad under way.
  copy /mnt b1 b2 b3 &
  copying=$!
  steer bad '{"count":600,"seed":'$((seed + 1))',"mode":"write"}'
  check "$fs: files are written while sectors go bad" wait $copying
  check "$fs: files are the same" same /mnt a1 a2 b1 b2 b3
  host disk .fired.write
  at_least "$fs: writes that the bad disk failed" $((fired + 1)) "$answer"
  host volume .blocks.remapped
  at_least "$fs: blocks remapped" $((remapped + 1)) "$answer"

  # What cannot be read is an error, until it is written again.
  at=$(first_sector /mnt/a1)
  at_least "$fs: a file's first sector" 1 "${at:-0}"
  forget
  steer bad '{"ranges":"'"$at"'+8","mode":"both"}'
  host disk .fired.read
  fired=$answer
  refuse "$fs: what cannot be read is an error" limit cat /mnt/a1
  host disk .fired.read
  at_least "$fs: reads that the bad disk failed" $((fired + 1)) "$answer"
  check "$fs: the other files are the same" same /mnt a2 b1 b2 b3
  cp /tmp/c1 /tmp/a1
  check "$fs: it is written again" \
    limit dd if=/tmp/a1 of=/mnt/a1 bs=64k conv=notrunc,fsync
  check "$fs: and can be read" same /mnt a1 a2

  # Discard.
  host disk .requests.trim
  trims=$answer
  rm /mnt/b1 /mnt/a2
  sync
  check "$fs: fstrim" limit fstrim /mnt
  host disk .requests.trim
  at_least "$fs: discards that reached the disk" $((trims + 1)) "$answer"
  check "$fs: what is left is the same" same /mnt a1 b2 b3
  check "$fs: umount" limit umount /mnt
  check "$fs: is consistent" "$@"
  seed=$((seed + 2))
}

attach_tcp() { attach tcp nbd0 4 -N "" 10.0.2.2 "$port" -timeout 30; }
# Each CPU has a queue, and each queue a connection of its own.
every_cpu_reads() {
  for cpu in 0 1 2 3; do
    [ -d "/sys/block/nbd0/mq/$cpu" ] || return 1
    limit taskset -c $cpu dd if=/dev/nbd0 of=/dev/null bs=64k count=2 \
      skip=$cpu iflag=direct || return 1
  done
}

over_tcp() {
  ip link set eth0 up
  ip addr add 10.0.2.15/24 dev eth0
  host port
  port=$answer
  attach_tcp
  at_most "tcp: attached within (ms)" 20000 "$attached_ms"
  check "tcp: four connections" eventually 300 four_connections "$port"
  check "tcp: each of them is used" every_cpu_reads
  host size
  check "tcp: its size" [ "$(cat /sys/block/nbd0/size)" = $((answer / 512)) ]
  seed=1
  tcp_files ext4 limit e2fsck -f -n /dev/nbd0
  tcp_files xfs limit xfs_repair -n /dev/nbd0
  check "tcp: no task is stuck" no_task_is_stuck
  at_most "tcp: requests that met the time-out" 0 \
    "$(dmesg | grep -c 'nbd0: Connection timed out')"
  detach_fast nbd0 attach_tcp
}

# --- The whole appliance in the guest -----------------------------------

# Which disks scsi_debug made: their letters vary from boot to boot.
debug_disks() {
  for model in /sys/block/sd*/device/model; do
    case $(cat "$model" 2>/dev/null) in
      scsi_debug*) echo "$model" | cut -d / -f 4 ;;
    esac
  done
}
two_disks() { [ "$(debug_disks | wc -l)" = 2 ]; }
parameter() { echo "$2" >"/sys/module/scsi_debug/parameters/$1"; }
# medium_errors FIRST-SECTOR COUNT, on both disks
medium_errors() {
  parameter opts 0
  parameter medium_error_start "$1"
  parameter medium_error_count "$2"
  parameter opts 2
}
read_page() { limit dd if="$1" of=/dev/null bs=4k skip="$2" count=1; }

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
attach_unix() {
  attach "$1" nbd1 2 -unix /run/volume.sock -timeout 4
}

bad=22000 # within the first file, which ext4 puts at sector 20482
appliance() {
  modprobe scsi_debug dev_size_mb=32 add_host=2 per_host_store=1 delay=0
  modprobe sd_mod
  check "appliance: two SCSI disks" eventually 300 two_disks
  # shellcheck disable=SC2046
  set -- $(debug_disks)
  main=$1
  spare=$2
  check "appliance: SPARE is formatted" limit nbd-remapctl spare format \
    "--main=/dev/$main" "--spare=/dev/$spare"
  serve appliance
  attach_unix appliance

  # Sectors that never could be read: found by reading, then written over.
  medium_errors $bad 64
  refuse "appliance: MAIN has a medium error" read_page "/dev/$main" $((bad / 8))
  page=0
  while [ $page -lt 8 ]; do
    refuse "appliance: page $page cannot be read" \
      read_page /dev/nbd1 $((bad / 8 + page))
    page=$((page + 1))
  done
  at_least "appliance: pending blocks" 8 "$(member pending)"
  check "appliance: a good page can be read" read_page /dev/nbd1 $((bad / 8 - 1))
  check "appliance: mkfs.ext4" limit mkfs.ext4 -q -F /dev/nbd1
  check "appliance: mount" limit mount -t ext4 /dev/nbd1 /mnt
  check "appliance: files are written over the bad area" copy /mnt big1 big2
  check "appliance: they are the same" same /mnt big1 big2
  at_least "appliance: blocks remapped" 8 "$(member remapped)"
  check "appliance: volume show" ctl volume show
  while read -r line; do say "NOTE $line"; done </tmp/output
  refuse "appliance: MAIN still has it" read_page "/dev/$main" $((bad / 8))

  # MAIN's copy of a remapped block is never read again: it has older data.
  cp /tmp/big3 /tmp/big1
  check "appliance: other content is written" \
    limit dd if=/tmp/big1 of=/mnt/big1 bs=64k conv=notrunc,fsync
  cp /tmp/big4 /tmp/big2
  check "appliance: other content is written here too" \
    limit dd if=/tmp/big2 of=/mnt/big2 bs=64k conv=notrunc,fsync
  parameter opts 0
  check "appliance: MAIN can be read now" read_page "/dev/$main" $((bad / 8))
  check "appliance: the newer data is read" same /mnt big1 big2

  # Data that is lost is an error, and never anything else.
  at=$(first_sector /mnt/big1)
  at_least "appliance: a file's first sector" 1 "${at:-0}"
  medium_errors $((at / 8 * 8)) 16
  forget
  refuse "appliance: lost data is an error" limit cat /mnt/big1
  check "appliance: the other file is the same" same /mnt big2
  check "appliance: it is written again" \
    limit dd if=/tmp/big1 of=/mnt/big1 bs=64k conv=notrunc,fsync
  check "appliance: and can be read" same /mnt big1 big2
  at_least "appliance: more blocks remapped" 9 "$(member remapped)"
}

# --- kill -9 of the server under a mounted file system ------------------

write_on() {
  while dd if=/dev/zero of=/mnt/w bs=64k count=16 conv=fsync; do :; done
}

killed() {
  check "kill: synced" limit sync
  blocks=$(member remapped)
  write_on >/dev/null 2>&1 &
  writing=$!
  check "kill: somebody writes" eventually 300 [ -s /mnt/w ]
  began=$(uptime_ms)
  kill -9 $server
  wait $server 2>/dev/null
  check "kill: the writer ends with an error" wait_for $writing 40
  at_most "kill: after (ms)" 20000 $(($(uptime_ms) - began))
  refuse "kill: reading is an error" read_page /dev/nbd1 100
  began=$(uptime_ms)
  check "kill: umount" limit umount /mnt
  at_most "kill: umount took (ms)" 10000 $(($(uptime_ms) - began))
  detach nbd1
  at_most "kill: detach took (ms)" 10000 "$detached_ms"

  serve again
  at_least "again: blocks remapped" "$blocks" "$(member remapped)"
  attach_unix again
  check "again: the journal is replayed" mends limit e2fsck -p /dev/nbd1
  check "again: the file system is consistent" limit e2fsck -f -n /dev/nbd1
  check "again: mount" limit mount -t ext4 /dev/nbd1 /mnt
  check "again: synced files are the same" same /mnt big1 big2
  check "again: umount" limit umount /mnt
  detach_fast nbd1 "attach_unix again"
  kill -TERM $server
  check "again: the server stops" wait_for $server 30
  check "again: SPARE is in order" limit nbd-remapctl spare check \
    "/dev/$spare" "--main=/dev/$main"
}
# wait_for PID SECONDS: until it has ended, however.
ended() { ! grep -q '^State:.[^XZ]' "/proc/$1/status"; }
wait_for() { eventually $(($2 * 10)) ended "$1"; }
# e2fsck's 1 says that it mended.
mends() {
  "$@"
  [ $? -le 1 ]
}

kernel_is_calm() {
  ! dmesg | grep -E 'blocked for more|BUG:|Oops|WARNING:|Call Trace|lockup'
}

(
  sleep "$WATCHDOG_S"
  dump >&2
) &
modprobe e1000
modprobe crc32c_generic
modprobe nbd nbds_max=2
modprobe ext4
modprobe xfs
mv /originals/* /tmp
over_tcp
appliance
killed
check "the kernel complained of nothing" kernel_is_calm
