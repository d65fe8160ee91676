#!/usr/bin/env python3
"""The minio package for Python, which has a signer and a parser of its own, against a server.

Environment: STELE_ENDPOINT, AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY, AWS_REGION, WORK.
"""

import datetime
import io
import json
import os

from minio import Minio
from minio.commonconfig import ENABLED, GOVERNANCE, CopySource, Filter, Tags
from minio.deleteobjects import DeleteObject
from minio.error import S3Error
from minio.lifecycleconfig import Expiration, LifecycleConfig, Rule
from minio.objectlockconfig import DAYS, ObjectLockConfig
from minio.retention import Retention
from minio.versioningconfig import VersioningConfig

MIB = 1024 * 1024


def refused(code, call, *arguments, **named):
    try:
        call(*arguments, **named)
    except S3Error as error:
        assert error.code == code, f"expected {code}, got {error.code}"
        return
    raise AssertionError(f"was not refused with {code}")


def put(client, bucket, key, data, **named):
    return client.put_object(bucket, key, io.BytesIO(data), len(data), **named)


def read(client, bucket, key, **named):
    answer = client.get_object(bucket, key, **named)
    try:
        return answer.read()
    finally:
        answer.close()
        answer.release_conn()


def objects(client):
    bucket = "minio-bucket"
    client.make_bucket(bucket)
    assert client.bucket_exists(bucket) and not client.bucket_exists("minio-absent")
    data = os.urandom(300_000)
    put(client, bucket, "a/b c+d%.bin", data, content_type="text/x", metadata={"office": "berlin"})
    assert read(client, bucket, "a/b c+d%.bin") == data
    assert read(client, bucket, "a/b c+d%.bin", offset=10, length=20) == data[10:30]
    stat = client.stat_object(bucket, "a/b c+d%.bin")
    assert (stat.size, stat.content_type, stat.metadata["x-amz-meta-office"]) == (len(data), "text/x", "berlin")
    large = os.urandom(13 * MIB)
    client.put_object(bucket, "large", io.BytesIO(large), -1, part_size=5 * MIB)
    assert read(client, bucket, "large") == large
    client.copy_object(bucket, "copy", CopySource(bucket, "large"))
    assert client.stat_object(bucket, "copy").size == len(large)
    assert sorted(o.object_name for o in client.list_objects(bucket)) == ["a/", "copy", "large"]
    refused("NoSuchKey", client.stat_object, bucket, "absent")
    errors = list(client.remove_objects(bucket, [DeleteObject(o.object_name) for o in client.list_objects(bucket, recursive=True)]))
    assert errors == []
    client.remove_bucket(bucket)


def versions(client):
    bucket = "minio-versions"
    client.make_bucket(bucket)
    client.set_bucket_versioning(bucket, VersioningConfig(ENABLED))
    assert client.get_bucket_versioning(bucket).status == ENABLED
    ids = [put(client, bucket, "k", body).version_id for body in (b"one", b"two")]
    client.remove_object(bucket, "k")
    refused("NoSuchKey", client.stat_object, bucket, "k")
    assert read(client, bucket, "k", version_id=ids[0]) == b"one"
    listed = list(client.list_objects(bucket, include_version=True))
    assert [(v.version_id in ids, v.is_delete_marker) for v in listed].count((True, False)) == 2 and len(listed) == 3
    list(client.remove_objects(bucket, [DeleteObject(v.object_name, v.version_id) for v in listed]))
    client.remove_bucket(bucket)


def locks(client):
    bucket = "minio-locks"
    client.make_bucket(bucket, object_lock=True)
    client.set_object_lock_config(bucket, ObjectLockConfig(GOVERNANCE, 1, DAYS))
    assert client.get_object_lock_config(bucket).mode == GOVERNANCE
    version = put(client, bucket, "k", b"locked").version_id
    assert client.get_object_retention(bucket, "k").mode == GOVERNANCE
    refused("AccessDenied", client.remove_object, bucket, "k", version_id=version)
    until = datetime.datetime.now(datetime.timezone.utc) + datetime.timedelta(days=3)
    client.set_object_retention(bucket, "k", Retention(GOVERNANCE, until))
    client.enable_object_legal_hold(bucket, "k")
    assert client.is_object_legal_hold_enabled(bucket, "k")
    client.disable_object_legal_hold(bucket, "k")
    refused("BucketNotEmpty", client.remove_bucket, bucket)


def settings(client):
    bucket = "minio-settings"
    client.make_bucket(bucket)
    tags = Tags.new_bucket_tags()
    tags["office"] = "berlin"
    client.set_bucket_tags(bucket, tags)
    assert dict(client.get_bucket_tags(bucket)) == {"office": "berlin"}
    tags = Tags.new_object_tags()
    tags["kind"] = "letter"
    put(client, bucket, "k", b"x", tags=tags)
    assert dict(client.get_object_tags(bucket, "k")) == {"kind": "letter"}
    client.set_bucket_lifecycle(
        bucket, LifecycleConfig([Rule(ENABLED, rule_filter=Filter(prefix="logs/"), rule_id="old", expiration=Expiration(days=30))])
    )
    assert client.get_bucket_lifecycle(bucket).rules[0].expiration.days == 30
    client.delete_bucket_lifecycle(bucket)
    statement = {"Effect": "Allow", "Principal": {"AWS": ["*"]}, "Action": ["s3:GetObject"], "Resource": [f"arn:aws:s3:::{bucket}/*"]}
    client.set_bucket_policy(bucket, json.dumps({"Version": "2012-10-17", "Statement": [statement]}))
    anonymous = Minio(os.environ["STELE_ENDPOINT"].removeprefix("http://"), secure=False, region=os.environ["AWS_REGION"])
    assert read(anonymous, bucket, "k") == b"x"
    client.delete_bucket_policy(bucket)
    refused("AccessDenied", anonymous.get_object, bucket, "k")


def main():
    client = Minio(
        os.environ["STELE_ENDPOINT"].removeprefix("http://"),
        access_key=os.environ["AWS_ACCESS_KEY_ID"],
        secret_key=os.environ["AWS_SECRET_ACCESS_KEY"],
        region=os.environ["AWS_REGION"],
        secure=False,
    )
    for step in (objects, versions, locks, settings):
        step(client)
        print(f"minio: {step.__name__}")
    print("minio: ok")


if __name__ == "__main__":
    main()
