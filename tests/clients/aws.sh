#!/usr/bin/env bash
# The AWS command line against a server. Environment: STELE_ENDPOINT, AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY, AWS_REGION, WORK.
set -euo pipefail
cd "$WORK"
export AWS_DEFAULT_REGION="$AWS_REGION" AWS_EC2_METADATA_DISABLED=true AWS_PAGER=""
export AWS_CONFIG_FILE="$WORK/aws-config" AWS_SHARED_CREDENTIALS_FILE="$WORK/none"
printf '[default]\ns3 =\n  addressing_style = path\n  signature_version = s3v4\n' >"$AWS_CONFIG_FILE"
s3() { aws --endpoint-url "$STELE_ENDPOINT" s3 "$@" --no-progress; }
bare() { aws --endpoint-url "$STELE_ENDPOINT" s3 "$@"; }
api() { aws --endpoint-url "$STELE_ENDPOINT" s3api --output text "$@"; }
same() { cmp -- "$1" "$2" || { echo "differ: $1 $2" >&2; exit 1; }; }
refused() { # refused CODE command...: the command fails with this S3 code
  local code=$1 out
  shift
  if out=$("$@" 2>&1); then echo "was not refused: $*" >&2; exit 1; fi
  case "$out" in *"$code"*) ;; *) echo "expected $code: $out" >&2; exit 1 ;; esac
}

bucket=aws-cli-bucket
bare mb "s3://$bucket"
head -c 300000 /dev/urandom >small.bin
head -c 20000000 /dev/urandom >large.bin
mkdir -p folder/sub
printf 'one' >folder/a.txt
printf 'two' >'folder/sub/b c+d%.txt'
printf 'three' >'folder/sub/ümläut.txt'

s3 cp small.bin "s3://$bucket/small.bin" --metadata office=berlin --content-type application/x-test
s3 cp large.bin "s3://$bucket/large.bin" # multipart
s3 cp "s3://$bucket/small.bin" small.back
s3 cp "s3://$bucket/large.bin" large.back
same small.bin small.back
same large.bin large.back
[ "$(api head-object --bucket "$bucket" --key small.bin --query '[ContentType,Metadata.office]')" = $'application/x-test\tberlin' ]

s3 sync folder "s3://$bucket/folder"
s3 sync "s3://$bucket/folder" folder.back
diff -r folder folder.back
[ "$(bare ls "s3://$bucket/" | grep -c .)" = 3 ]
[ "$(bare ls --recursive "s3://$bucket/folder/" | grep -c .)" = 3 ]
[ -z "$(s3 sync folder "s3://$bucket/folder")" ] # nothing left to do

s3 cp "s3://$bucket/small.bin" "s3://$bucket/copy.bin"
s3 cp "s3://$bucket/copy.bin" copy.back
same small.bin copy.back
s3 cp "s3://$bucket/large.bin" "s3://$bucket/large-copy.bin" # UploadPartCopy
s3 cp "s3://$bucket/large-copy.bin" large-copy.back
same large.bin large-copy.back
api get-object --bucket "$bucket" --key small.bin --range bytes=1000-1999 range.back >/dev/null
dd if=small.bin of=range.bin bs=1000 skip=1 count=1 status=none
same range.bin range.back

for algorithm in CRC32 SHA1 SHA256; do # the others need a library that this client may lack: tests/tests/sdk.rs has them
  api put-object --bucket "$bucket" --key "sum-$algorithm" --body small.bin --checksum-algorithm "$algorithm" >/dev/null
  api get-object --bucket "$bucket" --key "sum-$algorithm" --checksum-mode ENABLED sum.back >/dev/null
  same small.bin sum.back
done
api put-object --bucket "$bucket" --key secret --body small.bin --server-side-encryption AES256 >/dev/null
[ "$(api head-object --bucket "$bucket" --key secret --query ServerSideEncryption)" = AES256 ]

url=$(bare presign "s3://$bucket/small.bin")
curl -fsS "$url" -o presigned.back
same small.bin presigned.back
refused NoSuchKey api get-object --bucket "$bucket" --key absent nothing
refused BucketNotEmpty api delete-bucket --bucket "$bucket"
refused NoSuchBucket api list-objects-v2 --bucket aws-cli-absent
AWS_SECRET_ACCESS_KEY=wrong refused SignatureDoesNotMatch api list-buckets
AWS_ACCESS_KEY_ID=WRONGWRONGWRONGWRONG refused InvalidAccessKeyId api list-buckets

bare rm --recursive "s3://$bucket" >/dev/null
bare rb "s3://$bucket"
echo "aws: ok"
