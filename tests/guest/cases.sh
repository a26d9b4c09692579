#!/bin/sh
# SPDX-License-Identifier: BSD-3-Clause
# What happens in the guest of tests/guest/run, see lib.sh.
. /lib.sh

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
wait_for() { eventually $(($2 * 10)) ended "$1"; }
# e2fsck's 1 says that it mended.
mends() {
  "$@"
  [ $? -le 1 ]
}

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
