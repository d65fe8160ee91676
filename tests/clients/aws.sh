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

# versions
api put-bucket-versioning --bucket "$bucket" --versioning-configuration Status=Enabled
first=$(api put-object --bucket "$bucket" --key v --body folder/a.txt --query VersionId)
second=$(api put-object --bucket "$bucket" --key v --body 'folder/sub/b c+d%.txt' --query VersionId)
[ "$first" != "$second" ]
api delete-object --bucket "$bucket" --key v >/dev/null
refused NoSuchKey api get-object --bucket "$bucket" --key v nothing
api get-object --bucket "$bucket" --key v --version-id "$first" v.back >/dev/null
same folder/a.txt v.back
[ "$(api list-object-versions --bucket "$bucket" --prefix v --query 'length(Versions)')" = 2 ]
[ "$(api list-object-versions --bucket "$bucket" --prefix v --query 'length(DeleteMarkers)')" = 1 ]

# tags, policy, public access, lifecycle, CORS, as the command line writes them
api put-bucket-tagging --bucket "$bucket" --tagging 'TagSet=[{Key=office,Value=berlin}]'
[ "$(api get-bucket-tagging --bucket "$bucket" --query 'TagSet[0].Value')" = berlin ]
api put-object-tagging --bucket "$bucket" --key small.bin --tagging 'TagSet=[{Key=kind,Value=letter}]'
[ "$(api get-object-tagging --bucket "$bucket" --key small.bin --query 'TagSet[0].Value')" = letter ]
printf '{"Version":"2012-10-17","Statement":[{"Effect":"Allow","Principal":"*","Action":"s3:GetObject","Resource":"arn:aws:s3:::%s/small.bin"}]}' "$bucket" >policy.json
api put-bucket-policy --bucket "$bucket" --policy file://policy.json
curl -fsS "$STELE_ENDPOINT/$bucket/small.bin" -o anonymous.back
same small.bin anonymous.back
[ "$(api get-bucket-policy-status --bucket "$bucket" --query PolicyStatus.IsPublic)" = True ]
api put-public-access-block --bucket "$bucket" --public-access-block-configuration \
  BlockPublicAcls=true,IgnorePublicAcls=true,BlockPublicPolicy=true,RestrictPublicBuckets=true
[ "$(curl -s -o /dev/null -w '%{http_code}' "$STELE_ENDPOINT/$bucket/small.bin")" = 403 ]
api put-bucket-lifecycle-configuration --bucket "$bucket" --lifecycle-configuration \
  '{"Rules":[{"ID":"old","Status":"Enabled","Filter":{"Prefix":"logs/"},"Expiration":{"Days":30}}]}' >/dev/null
[ "$(api get-bucket-lifecycle-configuration --bucket "$bucket" --query 'Rules[0].Expiration.Days')" = 30 ]
api put-bucket-cors --bucket "$bucket" --cors-configuration \
  '{"CORSRules":[{"AllowedMethods":["GET"],"AllowedOrigins":["https://example.org"]}]}'
[ "$(curl -s -o /dev/null -D - -H 'Origin: https://example.org' "$(bare presign "s3://$bucket/small.bin")" | grep -ci '^access-control-allow-origin: https://example.org')" = 1 ]

# locks
locked=aws-cli-locked
api create-bucket --bucket "$locked" --object-lock-enabled-for-bucket >/dev/null
version=$(api put-object --bucket "$locked" --key k --body small.bin --object-lock-mode GOVERNANCE \
  --object-lock-retain-until-date "$(date -u -d '+1 day' +%Y-%m-%dT%H:%M:%SZ)" --query VersionId)
refused AccessDenied api delete-object --bucket "$locked" --key k --version-id "$version"
api put-object-legal-hold --bucket "$locked" --key k --legal-hold Status=ON
refused AccessDenied api delete-object --bucket "$locked" --key k --version-id "$version" --bypass-governance-retention
api put-object-legal-hold --bucket "$locked" --key k --legal-hold Status=OFF
api delete-object --bucket "$locked" --key k --version-id "$version" --bypass-governance-retention >/dev/null
bare rb "s3://$locked"

# users
iam() { aws --endpoint-url "$STELE_ENDPOINT" iam --output text "$@"; }
iam create-user --user-name clerk >/dev/null
read -r id secret < <(iam create-access-key --user-name clerk --query 'AccessKey.[AccessKeyId,SecretAccessKey]')
as_clerk() { AWS_ACCESS_KEY_ID=$id AWS_SECRET_ACCESS_KEY=$secret "$@"; }
as_clerk refused AccessDenied api list-objects-v2 --bucket "$bucket"
printf '{"Version":"2012-10-17","Statement":[{"Effect":"Allow","Action":["s3:GetObject","s3:ListBucket"],"Resource":["arn:aws:s3:::%s","arn:aws:s3:::%s/*"]}]}' "$bucket" "$bucket" >user.json
iam put-user-policy --user-name clerk --policy-name reads --policy-document file://user.json
as_clerk api get-object --bucket "$bucket" --key small.bin clerk.back >/dev/null
same small.bin clerk.back
as_clerk refused AccessDenied api put-object --bucket "$bucket" --key mine --body small.bin
[ "$(as_clerk aws --endpoint-url "$STELE_ENDPOINT" sts get-caller-identity --output text --query Arn | grep -c 'user/clerk$')" = 1 ]
iam delete-user-policy --user-name clerk --policy-name reads
iam delete-access-key --user-name clerk --access-key-id "$id"
as_clerk refused InvalidAccessKeyId api list-objects-v2 --bucket "$bucket"
iam delete-user --user-name clerk

api delete-public-access-block --bucket "$bucket"
api list-object-versions --bucket "$bucket" --output json \
  --query '{Objects: [Versions, DeleteMarkers][][].{Key: Key, VersionId: VersionId}}' >all.json
api delete-objects --bucket "$bucket" --delete file://all.json >/dev/null
bare rb "s3://$bucket"
echo "aws: ok"
