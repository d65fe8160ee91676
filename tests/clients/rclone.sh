#!/usr/bin/env bash
# rclone against a server. Environment: STELE_ENDPOINT, AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY, AWS_REGION, WORK.
set -euo pipefail
# A CA bundle for the other clients is nothing that rclone can use, and the server speaks plain HTTP.
unset AWS_CA_BUNDLE
cd "$WORK"
cat >rclone.conf <<CFG
[stele]
type = s3
provider = Other
access_key_id = $AWS_ACCESS_KEY_ID
secret_access_key = $AWS_SECRET_ACCESS_KEY
region = $AWS_REGION
endpoint = $STELE_ENDPOINT
force_path_style = true
CFG
rc() { rclone --config rclone.conf --retries 1 "$@"; }

bucket=rclone-bucket
mkdir -p folder/sub/empty-file-here
head -c 300000 /dev/urandom >folder/small.bin
head -c 12000000 /dev/urandom >folder/large.bin
: >folder/sub/empty-file-here/empty
printf 'two' >'folder/sub/b c+d%.txt'
printf 'three' >'folder/sub/ümläut.txt'

rc mkdir "stele:$bucket"
rc sync --s3-upload-cutoff 5M --s3-chunk-size 5M folder "stele:$bucket/folder"
rc check folder "stele:$bucket/folder"
rc check --download folder "stele:$bucket/folder"
rc copy "stele:$bucket/folder" folder.back
diff -r folder folder.back
[ "$(rc lsf "stele:$bucket/folder" | wc -l)" = 3 ]
[ "$(rc lsf -R --files-only "stele:$bucket" | wc -l)" = 5 ]
rc copyto "stele:$bucket/folder/small.bin" "stele:$bucket/copy.bin" # server-side copy
rc cat "stele:$bucket/copy.bin" | cmp - folder/small.bin
rc moveto "stele:$bucket/copy.bin" "stele:$bucket/moved.bin"
rc deletefile "stele:$bucket/moved.bin"
rm folder/small.bin
rc sync folder "stele:$bucket/folder"
rc check folder "stele:$bucket/folder"
rc purge "stele:$bucket"

versions=rclone-versions
rc mkdir "stele:$versions"
[ "$(rc backend versioning "stele:$versions")" = Unversioned ]
[ "$(rc backend versioning "stele:$versions" Enabled)" = Enabled ]
printf 'one' >file.txt
rc copyto file.txt "stele:$versions/file.txt"
sleep 1.1 # rclone tells versions apart by their seconds
printf 'two' >file.txt
rc copyto file.txt "stele:$versions/file.txt"
[ "$(rc cat "stele:$versions/file.txt")" = two ]
[ "$(rc lsf --s3-versions "stele:$versions" | wc -l)" = 2 ]
old=$(rc lsf --s3-versions "stele:$versions" | grep -v '^file.txt$')
[ "$(rc cat --s3-versions "stele:$versions/$old")" = one ]
rc deletefile "stele:$versions/file.txt"
[ -z "$(rc lsf "stele:$versions")" ]
[ "$(rc lsf --s3-versions "stele:$versions" | wc -l)" = 2 ]
rc backend cleanup-hidden "stele:$versions"
[ -z "$(rc lsf --s3-versions "stele:$versions")" ]
echo "rclone: ok"
