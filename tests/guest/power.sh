#!/bin/sh
# SPDX-License-Identifier: BSD-3-Clause
# What happens in the guest of tests/guest/power between two power cuts: the
# appliance starts over its two disks, the file system is mounted, what was
# acknowledged before the cut is compared with what is there, the file system's
# own check must be content; then four writers work until the machine is no
# more. To the host, beside what lib.sh says:
#
#   WORKING          checks are over
#   ACK WRITER N     everything up to number N is durable
#   STOPPED WRITER   something failed: right only when the disks lose their power
#                    before the machine does
#   END 0            the last start: all was checked and stopped in order
#
# By the kernel's command line: KIND (ext4, btrfs, or postgres, which is a database
# on ext4), START (0: makes the file system; last: no more work; else only
# another start), WORK (all writers, or one by its name: then nobody else's flush
# comes to its help).
. /lib.sh
case $KIND in
  postgres) FS=ext4 && . /postgres.sh ;;
  *) FS=$KIND ;;
esac

main=vda
spare=vdb

disks_are_there() { [ -b /dev/$main ] && [ -b /dev/$spare ]; }
attach_volume() { attach power nbd0 2 -unix /run/volume.sock -timeout 30; }

# --- What is written: lines of 32 bytes that say by whom and which -------

line() { printf '%-15s%16d' "$1" "$2"; }
# file WRITER N: its content
file() {
  yes "$(line "$1" "$2")" | head -c $((32 + $2 * 7919 % 100000))
}
# number WRITER: of the line on standard input; empty if it is not such a line.
number() {
  read -r who n rest && [ "$who" = "$1" ] && [ -z "$rest" ] && echo "$n"
}
# latest ACKED PLACE PLACES: which of 1..ACKED was the last for that place; 0 or
# less: none.
latest() { echo $(($1 - ($1 - $2 + $3) % $3)); }

# What may be there: all up to the last that was acknowledged, and, as an
# acknowledgement may not have reached the host, what came after it, whole.
# The last number found is in $found.

# Files, each written, synced, renamed over the one of 8 numbers before.
files_are_right() {
  found=$2
  for place in 0 1 2 3 4 5 6 7; do
    least=$(latest "$2" $place 8)
    name=/mnt/$1/$place
    if [ "$least" -lt 1 ] && [ ! -e $name ]; then continue; fi
    n=$(number "$1" <$name)
    [ "${n:-0}" -ge "$least" ] && [ $((n % 8)) = $place ] ||
      fail "$name has number ${n:-?}, expected at least $least"
    file "$1" "$n" | limit cmp - $name >/tmp/output 2>&1 ||
      fail "$name, number $n: $(cat /tmp/output)"
    [ "$n" -le "$found" ] || found=$n
  done
}
work_on_files() {
  n=$2
  while :; do
    n=$((n + 1))
    file "$1" $n >"/mnt/$1/new" && sync "/mnt/$1/new" &&
      mv "/mnt/$1/new" "/mnt/$1/$((n % 8))" && sync "/mnt/$1" || return
    say "ACK $1 $n"
  done
}

# Records of a file that are written over in place, synced without the file's
# times: then ext4 sends a flush and no FUA. The one that was being written may
# be torn; a torn one has lines of two numbers.
record() {
  yes "$(line records "$1")" | dd iflag=fullblock of=/mnt/records bs=8192 \
    count=1 seek=$(($1 % 16)) conv=notrunc status=none && sync -d /mnt/records
}
records_are_right() {
  found=$1
  torn=
  [ "$(wc -c </mnt/records)" = $((16 * 8192)) ] || fail "records: their size"
  for place in 0 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15; do
    least=$(latest "$1" $place 16)
    dd if=/mnt/records bs=8192 skip=$place count=1 2>/dev/null |
      sort -u >/tmp/lines
    old=$(number records </tmp/lines)
    new=$(tail -n 1 /tmp/lines | number records)
    [ "${old:-0}" -ge "$least" ] && [ $((old % 16)) = $place ] ||
      fail "record $place has number ${old:-?}, expected at least $least"
    case $(wc -l </tmp/lines) in
      1) [ "$old" -le "$found" ] || found=$old ;;
      2)
        [ "$new" = $((old + 16)) ] && [ "$new" -gt "$1" ] && [ -z "$torn" ] ||
          fail "record $place is torn: numbers $old and $new, $1 was the last"
        torn=$new
        ;;
      *) fail "record $place has $(wc -l </tmp/lines) different lines" ;;
    esac
  done
  # Nothing was written behind the one that is torn.
  [ -z "$torn" ] || [ "$found" -lt "$torn" ] ||
    fail "record number $torn is torn, but $found was written later"
}
work_on_records() {
  n=$1
  while :; do
    n=$((n + 1))
    record $n || return
    say "ACK records $n"
  done
}

# A log: line after line, each one write, which cannot be there in part.
log_line() { printf '%-15s%16d\n' log "$1"; }
# Behind what was acknowledged the file may be longer than what came of it to the
# disk: ext4 fills that with zeroes.
log_is_right() {
  lines=$(($(wc -c </mnt/log) / 32))
  n=0
  while [ $n -lt "$lines" ]; do
    n=$((n + 1))
    log_line $n
  done >/tmp/log
  wrong=$(limit cmp -l /tmp/log /mnt/log 2>/dev/null |
    sed -n '1s/^ *\([0-9]*\) .*/\1/p')
  found=$(((${wrong:-$((lines * 32 + 1))} - 1) / 32))
  [ "$found" -ge "$1" ] || fail "log: $found lines, expected at least $1"
  [ "$(tail -c +$((found * 32 + 1)) /mnt/log | tr -d '\0' | wc -c)" = 0 ] ||
    fail "log: line $((found + 1)) is neither that line nor zeroes"
  truncate -s $((found * 32)) /mnt/log
}
work_on_log() {
  n=$1
  while :; do
    n=$((n + 1))
    log_line $n >>/mnt/log && sync /mnt/log || return
    say "ACK log $n"
  done
}

# Nobody asks for it, nothing is synced: so there is much in the disks' caches,
# and blocks that have just moved to SPARE, when the power fails.
make_noise() {
  mkdir -p /mnt/noise
  n=0
  while n=$((n + 1)); do
    dd if=/dev/zero of=/mnt/noise/$((n % 40)) bs=64k count=8 2>/dev/null ||
      return
  done
}

acked() {
  host acked "$1"
  acked=$answer
}
make_work() {
  one=0 two=0 records=16 log=0 rows=0 transfers=0
  case $KIND in
    postgres)
      make_database
      stop_database
      ;;
    *)
      mkdir /mnt/one /mnt/two
      : >/mnt/log
      n=0
      while [ $n -lt $records ]; do
        n=$((n + 1))
        record $n || fail "record $n"
      done
      ;;
  esac
}
work_is_right() {
  if [ "$KIND" = postgres ]; then
    start_database
    database_is_right
    stop_database
    check "checksums of all pages" pages_are_right
    return
  fi
  for writer in one two; do
    acked $writer
    files_are_right $writer "$acked"
    eval "$writer=$found"
  done
  acked records
  records_are_right "$acked"
  records=$found
  acked log
  log_is_right "$acked"
  log=$found
}
writer() {
  case $1 in
    one) work_on_files one $one ;;
    two) work_on_files two $two ;;
    records) work_on_records $records ;;
    log) work_on_log $log ;;
    noise)
      make_noise
      return # for want of room, perhaps
      ;;
    rows) insert_rows $rows ;;
    transfers) transfer $transfers ;;
    *) fail "WORK=$WORK" ;;
  esac
  say "STOPPED $1"
  dump >&2
}
begin_to_work() {
  [ "$KIND" != postgres ] || start_database
  case $KIND-$WORK in
    postgres-all) writers="rows transfers noise" ;;
    *-all) writers="one two records log noise" ;;
    *) writers=$WORK ;;
  esac
  for who in $writers; do writer "$who" & done
}

# --- The file systems ---------------------------------------------------

format_spare() {
  check "SPARE is formatted" limit nbd-remapctl spare format \
    "--main=/dev/$main" "--spare=/dev/$spare"
}
make_ext4() { limit mkfs.ext4 -q -F -b 4096 /dev/nbd0; }
make_btrfs() { limit mkfs.btrfs -q -f /dev/nbd0; }
mount_it() { limit mount -t "$FS" -o discard /dev/nbd0 /mnt; }
umount_it() { limit umount /mnt; }
check_ext4() { limit e2fsck -f -n /dev/nbd0; }
check_btrfs() { limit btrfs check --readonly /dev/nbd0; }
scrub_ext4() { :; }
scrub_btrfs() { limit btrfs scrub start -B -R /mnt; }

# Written back soon.
echo 10 >/proc/sys/vm/dirty_writeback_centisecs
echo 10 >/proc/sys/vm/dirty_expire_centisecs
echo 1000000 >/proc/sys/vm/dirty_bytes
modprobe crc32c_generic
modprobe virtio_pci
modprobe virtio_blk
modprobe nbd nbds_max=1
modprobe "$FS"
check "two disks" eventually 300 disks_are_there
[ "$START" != 0 ] || format_spare
check "SPARE is in order" limit nbd-remapctl spare check "/dev/$spare" \
  "--main=/dev/$main"
serve power
attach_volume
if [ "$START" = 0 ]; then
  check "mkfs" "make_$FS"
  check "mount" mount_it
  make_work
  check "sync" limit sync
else
  check "mount" mount_it
  work_is_right
  say "PASS what was acknowledged is there"
  check "scrub" "scrub_$FS"
  check "umount" umount_it
  check "the file system is consistent" "check_$FS"
  check "mount again" mount_it
fi
if [ "$START" = last ]; then
  at_least "blocks remapped" 10 "$(member remapped)"
  check "umount" umount_it
  detach nbd0
  kill -TERM $server
  check "the server stops" eventually 300 ended $server
  check "SPARE is in order" limit nbd-remapctl spare check "/dev/$spare" \
    "--main=/dev/$main"
  check "the kernel complained of nothing" kernel_is_calm
  exit 0
fi
begin_to_work
say WORKING
wait
# Their disks have lost their power before the machine has; it is next.
sleep 60
