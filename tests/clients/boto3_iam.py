#!/usr/bin/env python3
"""IAM and STS of boto3 against a server: users, keys, groups, policies, roles and temporary keys, and what each may then do in S3.

Environment: STELE_ENDPOINT, AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY, AWS_REGION, WORK.
"""

import json
import os
import urllib.request

import boto3
from botocore.client import Config
from botocore.exceptions import ClientError

BUCKET = "boto3-iam-bucket"


def client(service, keys=None):
    keys = keys or (os.environ["AWS_ACCESS_KEY_ID"], os.environ["AWS_SECRET_ACCESS_KEY"])
    return boto3.client(
        service,
        endpoint_url=os.environ["STELE_ENDPOINT"],
        region_name=os.environ["AWS_REGION"],
        aws_access_key_id=keys[0],
        aws_secret_access_key=keys[1],
        aws_session_token=keys[2] if len(keys) > 2 else None,
        config=Config(signature_version="s3v4" if service == "s3" else None, retries={"max_attempts": 1}),
    )


def keys_of(credentials):
    return credentials["AccessKeyId"], credentials["SecretAccessKey"], credentials["SessionToken"]


def refused(code, call, **arguments):
    try:
        call(**arguments)
    except ClientError as error:
        got = error.response["Error"]["Code"]
        assert got == code, f"expected {code}, got {got}: {error}"
        return
    raise AssertionError(f"expected {code}, and it was done: {arguments}")


def policy(action, **more):
    statement = {"Effect": "Allow", "Action": action, **more}
    return json.dumps({"Version": "2012-10-17", "Statement": [statement]})


iam, s3, sts = client("iam"), client("s3"), client("sts")
account = sts.get_caller_identity()["Account"]
s3.create_bucket(Bucket=BUCKET)
obj = {"Bucket": BUCKET, "Key": "k"}
s3.put_object(**obj, Body=b"x")

# A user may do nothing until a policy allows it, and no more when its key is off.
user = iam.create_user(UserName="anna", Path="/staff/")["User"]
assert user["Arn"] == f"arn:aws:iam::{account}:user/staff/anna", user
made = iam.create_access_key(UserName="anna")["AccessKey"]
key = made["AccessKeyId"], made["SecretAccessKey"]
anna = client("s3", key)
refused("AccessDenied", anna.get_object, **obj)
refused("AccessDenied", client("iam", key).list_users)
read = policy("s3:GetObject", Resource=f"arn:aws:s3:::{BUCKET}/*")
iam.put_user_policy(UserName="anna", PolicyName="read", PolicyDocument=read)
assert iam.get_user_policy(UserName="anna", PolicyName="read")["PolicyDocument"] == json.loads(read)
anna.get_object(**obj)
refused("AccessDenied", anna.put_object, **obj)
iam.update_access_key(UserName="anna", AccessKeyId=key[0], Status="Inactive")
refused("InvalidAccessKeyId", anna.get_object, **obj)
iam.update_access_key(UserName="anna", AccessKeyId=key[0], Status="Active")

# Policies by themselves, attached to users and groups.
write = iam.create_policy(PolicyName="write", PolicyDocument=policy("s3:*", Resource="*"), Description="all")["Policy"]["Arn"]
iam.attach_user_policy(UserName="anna", PolicyArn=write)
anna.put_object(**obj, Body=b"y")
refused("DeleteConflict", iam.delete_policy, PolicyArn=write)
assert iam.get_policy_version(PolicyArn=write, VersionId="v1")["PolicyVersion"]["Document"]
iam.detach_user_policy(UserName="anna", PolicyArn=write)
refused("AccessDenied", anna.put_object, **obj)
iam.create_group(GroupName="writers")
iam.add_user_to_group(GroupName="writers", UserName="anna")
iam.attach_group_policy(GroupName="writers", PolicyArn="arn:aws:iam::aws:policy/AmazonS3FullAccess")
anna.put_object(**obj, Body=b"z")
assert [one["UserName"] for one in iam.get_group(GroupName="writers")["Users"]] == ["anna"]
assert [one["GroupName"] for one in iam.list_groups_for_user(UserName="anna")["Groups"]] == ["writers"]
listed = [one["UserName"] for page in iam.get_paginator("list_users").paginate() for one in page["Users"]]
assert listed == ["anna"], listed

# A role, taken by whom it trusts, with a token that is as good as its key.
trust = policy("sts:AssumeRole", Principal={"AWS": user["Arn"]})
role = iam.create_role(RoleName="auditor", AssumeRolePolicyDocument=trust)["Role"]["Arn"]
iam.put_role_policy(RoleName="auditor", PolicyName="read", PolicyDocument=read)
refused("AccessDenied", sts.assume_role, RoleArn=role, RoleSessionName="me")
taken = client("sts", key).assume_role(RoleArn=role, RoleSessionName="audit")
session = keys_of(taken["Credentials"])
auditor = client("s3", session)
auditor.get_object(**obj)
refused("AccessDenied", auditor.put_object, **obj)
assert client("sts", session).get_caller_identity()["Arn"] == f"arn:aws:sts::{account}:assumed-role/auditor/audit"
refused("InvalidToken", client("s3", session[:2]).get_object, **obj)
refused("InvalidToken", client("s3", (*session[:2], "no token")).get_object, **obj)
refused("SignatureDoesNotMatch", client("s3", (session[0], "wrong", session[2])).get_object, **obj)
with urllib.request.urlopen(auditor.generate_presigned_url("get_object", Params=obj)) as answer:
    assert answer.status == 200
own = client("s3", keys_of(client("sts", key).get_session_token()["Credentials"]))
own.get_object(**obj)

# What can't be done, in AWS's words.
refused("SignatureDoesNotMatch", client("iam", (key[0], "wrong")).list_users)
refused("InvalidClientTokenId", client("iam", ("NOBODY", "wrong")).list_users)
refused("InvalidAction", iam.list_virtual_mfa_devices)
refused("MalformedPolicyDocument", iam.put_user_policy, UserName="anna", PolicyName="p", PolicyDocument="{}")
refused("ValidationError", iam.create_user, UserName="u", Tags=[{"Key": "a", "Value": "b"}])
refused("EntityAlreadyExists", iam.create_user, UserName="ANNA")
refused("NoSuchEntity", iam.get_user, UserName="nobody")
refused("DeleteConflict", iam.delete_user, UserName="anna")

# What tools look for before they take something away, and nobody has here.
assert iam.list_instance_profiles_for_role(RoleName="auditor")["InstanceProfiles"] == []
assert iam.list_role_tags(RoleName="auditor")["Tags"] == [] == iam.list_user_tags(UserName="anna")["Tags"]
assert iam.list_policy_tags(PolicyArn=write)["Tags"] == [] == iam.list_account_aliases()["AccountAliases"]
assert iam.list_mfa_devices(UserName="anna")["MFADevices"] == [] == iam.list_ssh_public_keys(UserName="anna")["SSHPublicKeys"]
assert iam.list_signing_certificates(UserName="anna")["Certificates"] == []
assert iam.list_service_specific_credentials(UserName="anna")["ServiceSpecificCredentials"] == []
refused("NoSuchEntity", iam.get_login_profile, UserName="anna")
refused("NoSuchEntity", iam.delete_login_profile, UserName="anna")
refused("NoSuchEntity", iam.list_instance_profiles_for_role, RoleName="nobody")

# Who is gone signs nothing, nor does what was given out before.
iam.remove_user_from_group(GroupName="writers", UserName="anna")
iam.delete_user_policy(UserName="anna", PolicyName="read")
iam.delete_access_key(UserName="anna", AccessKeyId=key[0])
iam.delete_user(UserName="anna")
refused("InvalidAccessKeyId", anna.get_object, **obj)
refused("InvalidToken", own.get_object, **obj)
auditor.get_object(**obj)
iam.delete_role_policy(RoleName="auditor", PolicyName="read")
iam.delete_role(RoleName="auditor")
refused("InvalidToken", auditor.get_object, **obj)
print("ok")
