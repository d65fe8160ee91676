#!/usr/bin/env bash
# restic against a server: backup, check, restore, forget. Environment: STELE_ENDPOINT, AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY, AWS_REGION, WORK.
set -euo pipefail
cd "$WORK"
export RESTIC_REPOSITORY="s3:$STELE_ENDPOINT/restic-bucket/repository" RESTIC_PASSWORD="a password of this test"
export RESTIC_CACHE_DIR="$WORK/cache" AWS_DEFAULT_REGION="$AWS_REGION"
# A CA bundle for the other clients is none of restic's business: the server speaks plain HTTP.
unset AWS_CA_BUNDLE
back() { # back DIRECTORY SNAPSHOT: what was backed up comes back
  restic restore "$2" --target "$1" --quiet
  diff -r folder "$1$WORK/folder"
}

mkdir -p folder/sub/empty
head -c 300000 /dev/urandom >folder/small.bin
head -c 20000000 /dev/urandom >folder/large.bin
printf 'two' >'folder/sub/b c+d%.txt'
printf 'three' >'folder/sub/ümläut.txt'

restic init --quiet
if restic init --quiet 2>/dev/null; then echo "a repository was made twice" >&2; exit 1; fi
restic backup --quiet "$WORK/folder"
back first latest
printf 'changed' >folder/small.bin
rm folder/sub/ümläut.txt
restic backup --quiet "$WORK/folder"
[ "$(restic snapshots --json | grep -o '"short_id"' | wc -l)" = 2 ]
restic check --read-data --quiet
back second latest
restic forget --keep-last 1 --prune --quiet
restic check --read-data --quiet
back third latest
if RESTIC_PASSWORD=wrong restic snapshots --quiet 2>/dev/null; then echo "a wrong password opened it" >&2; exit 1; fi
echo "restic: ok"
