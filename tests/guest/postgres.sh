# SPDX-License-Identifier: BSD-3-Clause
# PostgreSQL, on ext4, as a judge of power cuts: sourced by power.sh. Sums,
# counts, its own checksums of pages and amcheck of every table and index.
# shellcheck shell=busybox
bin=/usr/lib/postgresql/15/bin

as_nobody() { su -s /bin/sh nobody -c "$*"; }
sql() {
  limit $bin/psql -h /run/postgres -U nobody -d postgres -qAtX \
    -v ON_ERROR_STOP=1 "$@"
}
# answers WHAT EXPECTED QUERY
answers() {
  is=$(sql -c "$3" 2>/tmp/output) || fail "$1: $(tail -n 2 /tmp/output)"
  [ "$is" = "$2" ] || fail "$1: $is, expected $2"
  say "PASS $1"
}
is_up() { sql -c 'select 1'; }
start_database() {
  mkdir -p /run/postgres && chown nobody /run/postgres
  as_nobody $bin/postgres -D /mnt/cluster >>/run/volume.log 2>&1 &
  postgres=$!
  check "the database is up" eventually 600 is_up
}
stop_database() {
  kill -INT "$(head -n 1 /mnt/cluster/postmaster.pid)"
  check "the database stops" eventually 600 ended $postgres
}

# initdb ran on the host (make-image).
make_database() {
  check "a cluster" limit cp -a /cluster /mnt/cluster
  chown -R nobody /mnt/cluster
  start_database
  check "tables" sql -c 'create extension amcheck;
    create table rows (n bigint primary key, words text);
    create table transfers (n bigint primary key);
    create table accounts as select id, 1000 as balance
      from generate_series(0, 99) id;
    create unique index on accounts (id);'
}
number_of_last() {
  acked "$1"
  found=$(sql -c "select coalesce(max(n), 0) from $1" 2>/tmp/output) ||
    fail "$1: $(tail -n 2 /tmp/output)"
  at_least "$1: the last" "$acked" "$found"
  answers "$1: all before it" "$found" "select count(*) from $1"
}
database_is_right() {
  number_of_last rows
  rows=$found
  answers "rows: each has its words" 0 \
    "select count(*) from rows where words <> repeat(n || ' ', 50)"
  number_of_last transfers
  transfers=$found
  answers "accounts: nothing is lost" "100|100000" \
    "select count(*), sum(balance) from accounts"
  answers "amcheck: tables" 0 "select count(*) from pg_class c,
    verify_heapam(c.oid) where c.relkind in ('r', 't')"
  check "amcheck: indexes" sql -c "select bt_index_check(c.oid, true)
    from pg_class c join pg_am a on a.oid = c.relam
    where c.relkind = 'i' and a.amname = 'btree'"
}
pages_are_right() { as_nobody $bin/pg_checksums --check -D /mnt/cluster; }

insert_rows() {
  n=$1
  while :; do
    n=$((n + 1))
    echo "insert into rows values ($n, repeat('$n ', 50));"
    echo "\\echo ACK rows $n"
  done | sql
}
transfer() {
  n=$1
  while :; do
    n=$((n + 1))
    echo "begin; insert into transfers values ($n);"
    echo "update accounts set balance = balance - 7 where id = $((n % 100));"
    echo "update accounts set balance = balance + 7 where id = $((n * 7 % 100));"
    echo "commit;"
    echo "\\echo ACK transfers $n"
  done | sql
}
