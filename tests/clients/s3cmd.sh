#!/usr/bin/env bash
# s3cmd against a server. Environment: STELE_ENDPOINT, AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY, AWS_REGION, WORK.
set -euo pipefail
cd "$WORK"
host=${STELE_ENDPOINT#http://}
cat >s3cfg <<CFG
[default]
access_key = $AWS_ACCESS_KEY_ID
secret_key = $AWS_SECRET_ACCESS_KEY
bucket_location = $AWS_REGION
host_base = $host
host_bucket = $host
use_https = False
signature_v2 = False
multipart_chunk_size_mb = 5
CFG
s3() { s3cmd --config s3cfg --no-progress "$@"; }
same() { cmp -- "$1" "$2" || { echo "differ: $1 $2" >&2; exit 1; }; }

bucket=s3cmd-bucket
s3 mb "s3://$bucket"
head -c 300000 /dev/urandom >small.bin
head -c 12000000 /dev/urandom >large.bin
mkdir -p folder/sub
printf 'one' >folder/a.txt
printf 'two' >'folder/sub/b c+d.txt'

s3 put small.bin "s3://$bucket/small.bin"
s3 put large.bin "s3://$bucket/large.bin" # multipart
s3 get "s3://$bucket/small.bin" small.back
s3 get "s3://$bucket/large.bin" large.back
same small.bin small.back
same large.bin large.back
s3 sync folder/ "s3://$bucket/folder/"
s3 sync "s3://$bucket/folder/" folder.back/
diff -r folder folder.back
[ "$(s3 ls "s3://$bucket/" | grep -c .)" = 3 ]
s3 cp "s3://$bucket/small.bin" "s3://$bucket/copy.bin"
s3 get "s3://$bucket/copy.bin" copy.back
same small.bin copy.back
s3 mv "s3://$bucket/copy.bin" "s3://$bucket/moved.bin"
s3 del "s3://$bucket/moved.bin"
s3 del --recursive --force "s3://$bucket/"
s3 rb "s3://$bucket"
echo "s3cmd: ok"
