#!/usr/bin/env python3
"""boto3 against a server.

Environment: STELE_ENDPOINT, AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY, AWS_REGION, WORK.
"""

import base64
import datetime
import hashlib
import io
import os
import urllib.request
import zlib

import boto3
from boto3.s3.transfer import TransferConfig
from botocore.client import Config
from botocore.exceptions import ClientError

BUCKET = "boto3-bucket"
MIB = 1024 * 1024


def client(**overrides):
    settings = {
        "endpoint_url": os.environ["STELE_ENDPOINT"],
        "region_name": os.environ["AWS_REGION"],
        "config": Config(signature_version="s3v4", s3={"addressing_style": "path"}, retries={"max_attempts": 1}),
    }
    settings.update(overrides)
    return boto3.client("s3", **settings)


def refused(code, status, call, **arguments):
    try:
        call(**arguments)
    except ClientError as error:
        got = error.response["Error"]["Code"], error.response["ResponseMetadata"]["HTTPStatusCode"]
        assert got == (code, status), f"expected {code} {status}, got {got}"
        assert error.response["ResponseMetadata"].get("RequestId"), "no request id"
        return
    raise AssertionError(f"was not refused with {code}")


def objects(s3):
    data = os.urandom(200_000)
    put = s3.put_object(Bucket=BUCKET, Key="a/b.bin", Body=data, ContentType="text/x", Metadata={"office": "berlin"})
    assert put["ETag"] == f'"{hashlib.md5(data).hexdigest()}"'
    got = s3.get_object(Bucket=BUCKET, Key="a/b.bin")
    assert got["Body"].read() == data
    assert got["ContentType"] == "text/x" and got["Metadata"] == {"office": "berlin"}
    part = s3.get_object(Bucket=BUCKET, Key="a/b.bin", Range="bytes=-10")
    assert part["Body"].read() == data[-10:] and part["ContentRange"] == "bytes 199990-199999/200000"
    assert part["ResponseMetadata"]["HTTPStatusCode"] == 206
    refused("InvalidRange", 416, s3.get_object, Bucket=BUCKET, Key="a/b.bin", Range="bytes=200000-")
    refused("PreconditionFailed", 412, s3.get_object, Bucket=BUCKET, Key="a/b.bin", IfMatch='"0"')
    refused("304", 304, s3.get_object, Bucket=BUCKET, Key="a/b.bin", IfNoneMatch=put["ETag"])
    refused("404", 404, s3.head_object, Bucket=BUCKET, Key="absent")
    refused("NoSuchKey", 404, s3.get_object, Bucket=BUCKET, Key="absent")
    refused("PreconditionFailed", 412, s3.put_object, Bucket=BUCKET, Key="a/b.bin", Body=b"", IfNoneMatch="*")
    refused("BadDigest", 400, s3.put_object, Bucket=BUCKET, Key="x", Body=b"x", ContentMD5="XrY7u+Ae7tCTyyK7j1rNww==")
    refused("InvalidDigest", 400, s3.put_object, Bucket=BUCKET, Key="x", Body=b"x", ContentMD5="short")
    refused("KeyTooLongError", 400, s3.put_object, Bucket=BUCKET, Key="k" * 1025, Body=b"")
    refused("MetadataTooLarge", 400, s3.put_object, Bucket=BUCKET, Key="x", Body=b"", Metadata={"m": "v" * 2100})
    empty = s3.put_object(Bucket=BUCKET, Key="empty", Body=b"")
    assert empty["ETag"] == '"d41d8cd98f00b204e9800998ecf8427e"'
    assert s3.get_object(Bucket=BUCKET, Key="empty")["Body"].read() == b""
    s3.delete_object(Bucket=BUCKET, Key="never-there")


def checksums(s3):
    data = os.urandom(70_000)
    crc32 = base64.b64encode(zlib.crc32(data).to_bytes(4, "big")).decode()
    sha256 = base64.b64encode(hashlib.sha256(data).digest()).decode()
    put = s3.put_object(Bucket=BUCKET, Key="sums", Body=data, ChecksumCRC32=crc32)
    assert put["ChecksumCRC32"] == crc32
    assert s3.head_object(Bucket=BUCKET, Key="sums", ChecksumMode="ENABLED")["ChecksumCRC32"] == crc32
    put = s3.put_object(Bucket=BUCKET, Key="sums", Body=data, ChecksumSHA256=sha256)
    assert put["ChecksumSHA256"] == sha256
    refused("BadDigest", 400, s3.put_object, Bucket=BUCKET, Key="sums", Body=b"other", ChecksumSHA256=sha256)
    refused("BadDigest", 400, s3.put_object, Bucket=BUCKET, Key="sums", Body=b"other", ChecksumCRC32=crc32)
    assert s3.get_object(Bucket=BUCKET, Key="sums", ChecksumMode="ENABLED")["Body"].read() == data


def listing(s3):
    keys = ["l/1", "l/2", "l/dir/a", "l/dir/b", "l/ü b+c%", "l/z"]
    for key in keys:
        s3.put_object(Bucket=BUCKET, Key=key, Body=b"x")
    pages = list(s3.get_paginator("list_objects_v2").paginate(Bucket=BUCKET, Prefix="l/", PaginationConfig={"PageSize": 2}))
    assert [o["Key"] for page in pages for o in page["Contents"]] == sorted(keys, key=str.encode)
    assert [page["KeyCount"] for page in pages] == [2, 2, 2]
    pages = list(s3.get_paginator("list_objects").paginate(Bucket=BUCKET, Prefix="l/", Delimiter="/", PaginationConfig={"PageSize": 2}))
    assert [p["Prefix"] for page in pages for p in page.get("CommonPrefixes", [])] == ["l/dir/"]
    assert len([o for page in pages for o in page.get("Contents", [])]) == 4
    assert s3.list_objects_v2(Bucket=BUCKET, MaxKeys=0)["KeyCount"] == 0
    owner = s3.list_objects_v2(Bucket=BUCKET, FetchOwner=True, MaxKeys=1)["Contents"][0]["Owner"]
    assert owner["ID"]
    versions = s3.list_object_versions(Bucket=BUCKET, Prefix="l/1")["Versions"]
    assert [(v["Key"], v["VersionId"], v["IsLatest"]) for v in versions] == [("l/1", "null", True)]
    assert "Status" not in s3.get_bucket_versioning(Bucket=BUCKET)
    deleted = s3.delete_objects(Bucket=BUCKET, Delete={"Objects": [{"Key": k} for k in keys + ["l/absent"]]})
    assert len(deleted["Deleted"]) == len(keys) + 1
    assert s3.list_objects_v2(Bucket=BUCKET, Prefix="l/")["KeyCount"] == 0


def multipart(s3):
    data = os.urandom(12 * MIB)
    path = os.path.join(os.environ["WORK"], "large.bin")
    with open(path, "wb") as file:
        file.write(data)
    s3.upload_file(path, BUCKET, "large", Config=TransferConfig(multipart_threshold=5 * MIB, multipart_chunksize=5 * MIB))
    s3.download_file(BUCKET, "large", path + ".back")
    with open(path + ".back", "rb") as file:
        assert file.read() == data
    head = s3.head_object(Bucket=BUCKET, Key="large")
    assert head["ETag"].endswith('-3"') and head["ContentLength"] == len(data)
    second = s3.get_object(Bucket=BUCKET, Key="large", PartNumber=2)
    assert second["PartsCount"] == 3 and second["Body"].read() == data[5 * MIB : 10 * MIB]

    upload = s3.create_multipart_upload(Bucket=BUCKET, Key="by-hand")["UploadId"]
    one = s3.upload_part(Bucket=BUCKET, Key="by-hand", UploadId=upload, PartNumber=1, Body=data[: 5 * MIB])["ETag"]
    two = s3.upload_part_copy(
        Bucket=BUCKET,
        Key="by-hand",
        UploadId=upload,
        PartNumber=7,
        CopySource={"Bucket": BUCKET, "Key": "large"},
        CopySourceRange=f"bytes={5 * MIB}-{6 * MIB - 1}",
    )["CopyPartResult"]["ETag"]
    listed = s3.list_parts(Bucket=BUCKET, Key="by-hand", UploadId=upload)["Parts"]
    assert [(p["PartNumber"], p["Size"]) for p in listed] == [(1, 5 * MIB), (7, MIB)]
    uploads = s3.list_multipart_uploads(Bucket=BUCKET)["Uploads"]
    assert [(u["Key"], u["UploadId"]) for u in uploads] == [("by-hand", upload)]
    complete = s3.complete_multipart_upload
    where = {"Bucket": BUCKET, "Key": "by-hand", "UploadId": upload}
    wrong = {"Parts": [{"PartNumber": 1, "ETag": two}, {"PartNumber": 7, "ETag": one}]}
    refused("InvalidPart", 400, complete, **where, MultipartUpload=wrong)
    disorder = {"Parts": [{"PartNumber": 7, "ETag": two}, {"PartNumber": 1, "ETag": one}]}
    refused("InvalidPartOrder", 400, complete, **where, MultipartUpload=disorder)
    good = {"Parts": [{"PartNumber": 1, "ETag": one}, {"PartNumber": 7, "ETag": two}]}
    complete(**where, MultipartUpload=good)
    assert s3.get_object(Bucket=BUCKET, Key="by-hand")["Body"].read() == data[: 6 * MIB]

    upload = s3.create_multipart_upload(Bucket=BUCKET, Key="small-parts")["UploadId"]
    where = {"Bucket": BUCKET, "Key": "small-parts", "UploadId": upload}
    tags = [s3.upload_part(**where, PartNumber=n, Body=b"x")["ETag"] for n in (1, 2)]
    parts = {"Parts": [{"PartNumber": n + 1, "ETag": tag} for n, tag in enumerate(tags)]}
    refused("EntityTooSmall", 400, complete, **where, MultipartUpload=parts)
    s3.abort_multipart_upload(**where)
    refused("NoSuchUpload", 404, s3.list_parts, **where)


def copies(s3):
    s3.put_object(Bucket=BUCKET, Key="from ü", Body=b"copy me", Metadata={"a": "1"}, ContentType="text/a")
    source = {"Bucket": BUCKET, "Key": "from ü"}
    s3.copy_object(Bucket=BUCKET, Key="to", CopySource=source)
    assert s3.head_object(Bucket=BUCKET, Key="to")["Metadata"] == {"a": "1"}
    s3.copy_object(Bucket=BUCKET, Key="to", CopySource=source, MetadataDirective="REPLACE", Metadata={"b": "2"})
    assert s3.head_object(Bucket=BUCKET, Key="to")["Metadata"] == {"b": "2"}
    refused("InvalidRequest", 400, s3.copy_object, Bucket=BUCKET, Key="from ü", CopySource=source)
    refused("PreconditionFailed", 412, s3.copy_object, Bucket=BUCKET, Key="to", CopySource=source, CopySourceIfMatch='"0"')
    refused("NoSuchKey", 404, s3.copy_object, Bucket=BUCKET, Key="to", CopySource={"Bucket": BUCKET, "Key": "absent"})


def encryption(s3):
    s3.put_object(Bucket=BUCKET, Key="secret", Body=b"secret", ServerSideEncryption="AES256")
    assert s3.head_object(Bucket=BUCKET, Key="secret")["ServerSideEncryption"] == "AES256"
    key = {"SSECustomerKey": "k" * 32, "SSECustomerAlgorithm": "AES256"}
    s3.put_object(Bucket=BUCKET, Key="own", Body=b"secret", **key)
    assert s3.get_object(Bucket=BUCKET, Key="own", **key)["Body"].read() == b"secret"
    refused("InvalidRequest", 400, s3.get_object, Bucket=BUCKET, Key="own")
    refused("InvalidArgument", 400, s3.put_object, Bucket=BUCKET, Key="x", Body=b"", ServerSideEncryption="rot13")
    refused("NotImplemented", 501, s3.put_bucket_website, Bucket=BUCKET, WebsiteConfiguration={"IndexDocument": {"Suffix": "i"}})


def resources(s3):
    """The resource API, and its managed transfers with their callbacks."""
    s3 = boto3.resource("s3", endpoint_url=os.environ["STELE_ENDPOINT"], region_name=os.environ["AWS_REGION"])
    bucket = s3.Bucket("boto3-resources")
    bucket.create()
    bucket.wait_until_exists()
    bucket.Versioning().enable()
    assert bucket.Versioning().status == "Enabled"
    data = os.urandom(11 * MIB)
    config = TransferConfig(multipart_threshold=5 * MIB, multipart_chunksize=5 * MIB, max_concurrency=4)
    sent, received = [], []
    bucket.upload_fileobj(io.BytesIO(data), "big", Config=config, Callback=sent.append, ExtraArgs={"Metadata": {"a": "1"}})
    back = io.BytesIO()
    bucket.download_fileobj("big", back, Config=config, Callback=received.append)
    assert back.getvalue() == data and sum(sent) == sum(received) == len(data)
    bucket.copy({"Bucket": bucket.name, "Key": "big"}, "copied", Config=config)  # in parts, which takes no metadata along
    assert bucket.Object("copied").content_length == len(data)
    bucket.put_object(Key="small", Body=b"one")
    bucket.put_object(Key="small", Body=b"two")
    assert sorted(o.key for o in bucket.objects.all()) == ["big", "copied", "small"]
    versions = list(bucket.object_versions.filter(Prefix="small"))
    assert sorted(v.get()["Body"].read() for v in versions) == [b"one", b"two"]
    bucket.Object("small").delete()
    assert [o.key for o in bucket.objects.filter(Prefix="small")] == []
    acl = bucket.Acl()
    assert acl.owner["ID"] and [g["Permission"] for g in acl.grants] == ["FULL_CONTROL"]
    bucket.object_versions.delete()
    bucket.delete()
    bucket.wait_until_not_exists()


def settings(s3):
    """What is kept with a bucket comes back as it was put."""
    s3.put_bucket_tagging(Bucket=BUCKET, Tagging={"TagSet": [{"Key": "office", "Value": "berlin"}]})
    assert s3.get_bucket_tagging(Bucket=BUCKET)["TagSet"] == [{"Key": "office", "Value": "berlin"}]
    s3.put_object(Bucket=BUCKET, Key="tagged", Body=b"", Tagging="a=1&b=2")
    assert s3.head_object(Bucket=BUCKET, Key="tagged")["ResponseMetadata"]["HTTPHeaders"]["x-amz-tagging-count"] == "2"
    rule = {"ID": "old", "Status": "Enabled", "Filter": {"Prefix": "logs/"}, "Expiration": {"Days": 30}}
    s3.put_bucket_lifecycle_configuration(Bucket=BUCKET, LifecycleConfiguration={"Rules": [rule]})
    assert s3.get_bucket_lifecycle_configuration(Bucket=BUCKET)["Rules"] == [rule]
    s3.delete_bucket_lifecycle(Bucket=BUCKET)
    cors = {"AllowedMethods": ["GET"], "AllowedOrigins": ["https://example.org"]}
    s3.put_bucket_cors(Bucket=BUCKET, CORSConfiguration={"CORSRules": [cors]})
    assert s3.get_bucket_cors(Bucket=BUCKET)["CORSRules"] == [cors]
    form = s3.generate_presigned_post(BUCKET, "posted/${filename}", Conditions=[["content-length-range", 0, 100]])
    mark, body = "boto3-form", b""
    for name, value in form["fields"].items():
        body += f'--{mark}\r\nContent-Disposition: form-data; name="{name}"\r\n\r\n{value}\r\n'.encode()
    body += f'--{mark}\r\nContent-Disposition: form-data; name="file"; filename="f"\r\n\r\nposted\r\n--{mark}--\r\n'.encode()
    request = urllib.request.Request(form["url"], body, {"Content-Type": f"multipart/form-data; boundary={mark}"})
    with urllib.request.urlopen(request) as answer:
        assert answer.status == 204
    assert s3.get_object(Bucket=BUCKET, Key="posted/f")["Body"].read() == b"posted"


def locks(s3):
    bucket = "boto3-locks"
    s3.create_bucket(Bucket=bucket, ObjectLockEnabledForBucket=True)
    until = datetime.datetime.now(datetime.timezone.utc) + datetime.timedelta(days=1)
    version = s3.put_object(Bucket=bucket, Key="k", Body=b"", ObjectLockMode="COMPLIANCE", ObjectLockRetainUntilDate=until)["VersionId"]
    refused("AccessDenied", 403, s3.delete_object, Bucket=bucket, Key="k", VersionId=version, BypassGovernanceRetention=True)
    shorter = {"Mode": "COMPLIANCE", "RetainUntilDate": until - datetime.timedelta(hours=1)}
    refused("AccessDenied", 403, s3.put_object_retention, Bucket=bucket, Key="k", VersionId=version, Retention=shorter)
    s3.delete_object(Bucket=bucket, Key="k")  # a marker: the version stays
    assert s3.head_object(Bucket=bucket, Key="k", VersionId=version)["ObjectLockMode"] == "COMPLIANCE"
    refused("BucketNotEmpty", 409, s3.delete_bucket, Bucket=bucket)


def buckets(s3):
    s3.create_bucket(Bucket=BUCKET)
    s3.create_bucket(Bucket=BUCKET)  # us-east-1: owning it already is no error
    refused("InvalidBucketName", 400, s3.create_bucket, Bucket="x.-y")
    assert BUCKET in [b["Name"] for b in s3.list_buckets()["Buckets"]]
    assert s3.get_bucket_location(Bucket=BUCKET)["LocationConstraint"] is None
    s3.head_bucket(Bucket=BUCKET)
    refused("404", 404, s3.head_bucket, Bucket="boto3-absent")


def access(s3):
    refused("SignatureDoesNotMatch", 403, client(aws_access_key_id=os.environ["AWS_ACCESS_KEY_ID"], aws_secret_access_key="x").list_buckets)
    refused("InvalidAccessKeyId", 403, client(aws_access_key_id="X" * 20, aws_secret_access_key="x").list_buckets)
    url = s3.generate_presigned_url("get_object", Params={"Bucket": BUCKET, "Key": "to", "ResponseContentType": "text/over"})
    with urllib.request.urlopen(url) as answer:
        assert answer.read() == b"copy me" and answer.headers["Content-Type"] == "text/over"


def main():
    s3 = client()
    buckets(s3)
    for step in (objects, checksums, listing, multipart, copies, encryption, resources, settings, locks, access):
        step(s3)
        print(f"boto3: {step.__name__}")
    for page in s3.get_paginator("list_objects_v2").paginate(Bucket=BUCKET):
        s3.delete_objects(Bucket=BUCKET, Delete={"Objects": [{"Key": o["Key"]} for o in page["Contents"]], "Quiet": True})
    s3.delete_bucket(Bucket=BUCKET)
    print("boto3: ok")


if __name__ == "__main__":
    main()
