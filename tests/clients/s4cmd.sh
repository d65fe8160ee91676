#!/usr/bin/env bash
# s4cmd against a server. Environment: STELE_ENDPOINT, AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY, AWS_REGION, WORK.
set -euo pipefail
cd "$WORK"
export S3_ACCESS_KEY="$AWS_ACCESS_KEY_ID" S3_SECRET_KEY="$AWS_SECRET_ACCESS_KEY" AWS_DEFAULT_REGION="$AWS_REGION" HOME="$WORK"
s4() { s4cmd --endpoint-url "$STELE_ENDPOINT" --retry 1 "$@"; }

bucket=s4cmd-bucket
mkdir -p folder/sub
head -c 300000 /dev/urandom >folder/small.bin
head -c 30000000 /dev/urandom >folder/large.bin
printf 'two' >'folder/sub/b c+d.txt'

s4 mb "s3://$bucket"
s4 put -r folder "s3://$bucket/" --multipart-split-size 8388608 --max-singlepart-upload-size 8388608
[ "$(s4 ls -r "s3://$bucket/" | grep -c .)" = 3 ]
s4 get -r "s3://$bucket/folder" folder.back
diff -r folder folder.back
s4 cp "s3://$bucket/folder/small.bin" "s3://$bucket/copy.bin"
s4 get "s3://$bucket/copy.bin" copy.back
cmp folder/small.bin copy.back
s4 mv "s3://$bucket/copy.bin" "s3://$bucket/moved.bin"
printf 'changed' >folder/small.bin
s4 sync folder "s3://$bucket/folder" --force
s4 get -f "s3://$bucket/folder/small.bin" small.back
cmp folder/small.bin small.back
s4 del -r "s3://$bucket/"
[ -z "$(s4 ls -r "s3://$bucket/")" ]
echo "s4cmd: ok"
