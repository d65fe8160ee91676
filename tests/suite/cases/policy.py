"""Bucket policies."""

from cases.acl import OWN, grants
from kit import *


def both_ways(name, fn):
    for n, op in ((name, 'list_objects'), (name.replace('bucket_', 'bucketv2_'), 'list_objects_v2')):
        case('policy', n)(lambda op=op: fn(op))


def listing(op):
    b = fill(['asdf'])
    put_policy(b, allow('s3:ListBucket', [arn(b), arn(b, '/*')]))
    eq(len(getattr(alt(), op)(Bucket=b)['Contents']), 1)


def denying(op):
    b = fill(['asdf'])
    main().put_bucket_acl(Bucket=b, ACL='authenticated-read')
    put_policy(b, allow('s3:ListBucket', [arn(b), arn(b, '/*')], effect='Deny'))
    refused(403, 'AccessDenied', getattr(alt(), op), Bucket=b)


def another(op):
    b, b2 = fill(['asdf']), fill(['abcd'])
    put_policy(b, allow('s3:ListBucket', ['arn:aws:s3:::*', 'arn:aws:s3:::*/*']))
    getattr(alt(), op)(Bucket=b)
    refused(403, 'AccessDenied', getattr(alt(), op), Bucket=b2)
    main().put_bucket_policy(Bucket=b2, Policy=main().get_bucket_policy(Bucket=b)['Policy'])
    getattr(alt(), op)(Bucket=b2)


both_ways('test_bucket_policy', listing)
both_ways('test_bucket_policy_acl', denying)
both_ways('test_bucket_policy_another_bucket', another)


@case('policy')
def test_set_get_del_bucket_policy():
    b = bucket()
    p = policy(b, allow('s3:ListBucket', [arn(b)]))
    main().put_bucket_policy(Bucket=b, Policy=p)
    eq(main().get_bucket_policy(Bucket=b)['Policy'], p)
    main().delete_bucket_policy(Bucket=b)
    refused(404, 'NoSuchBucketPolicy', main().get_bucket_policy, Bucket=b)


def status(name, prepare, public):
    @case('policy', name)
    def run():
        b = bucket()
        prepare(b)
        eq(main().get_bucket_policy_status(Bucket=b)['PolicyStatus']['IsPublic'], public)


IP = {'IpAddress': {'aws:SourceIp': '10.0.0.0/32'}}
status('test_get_bucket_policy_status', lambda b: None, False)
status('test_get_public_acl_bucket_policy_status', lambda b: main().put_bucket_acl(Bucket=b, ACL='public-read'), True)
status(
    'test_get_authpublic_acl_bucket_policy_status',
    lambda b: main().put_bucket_acl(Bucket=b, ACL='authenticated-read'),
    True,
)
status(
    'test_get_publicpolicy_acl_bucket_policy_status',
    lambda b: put_policy(b, allow('s3:ListBucket', [arn(b), arn(b, '/*')])),
    True,
)
status(
    'test_get_nonpublicpolicy_acl_bucket_policy_status',
    lambda b: put_policy(b, allow('s3:ListBucket', [arn(b), arn(b, '/*')], condition=IP)),
    False,
)
status(
    'test_get_nonpublicpolicy_principal_bucket_policy_status',
    lambda b: put_policy(b, allow('s3:ListBucket', [arn(b), arn(b, '/*')], 'arn:aws:iam::s3tenant1:root')),
    False,
)


@case('policy')
def test_bucket_policy_allow_notprincipal():
    b = fill(['asdf'])
    s = allow('s3:ListBucket', [arn(b), arn(b, '/*')])
    s['NotPrincipal'] = s.pop('Principal')
    refused(400, None, put_policy, b, s)


@case('policy')
def test_bucket_policy_multipart():
    b = bucket()
    put_policy(b, allow('s3:PutObject', arn(b, '/*'), effect='Deny'), allow(['s3:ListBucket'], arn(b)))
    refused(403, 'AccessDenied', alt().create_multipart_upload, Bucket=b, Key='m')
    main().delete_bucket_policy(Bucket=b)
    put_policy(b, allow('s3:PutObject', arn(b, '/*')))
    up = alt().create_multipart_upload(Bucket=b, Key='m')['UploadId']
    alt().upload_part(Bucket=b, Key='m', UploadId=up, PartNumber=1, Body=b'x')


@case('policy')
def test_multipart_upload_on_a_bucket_with_policy():
    b = bucket()
    put_policy(b, allow('*', [arn(b), arn(b, '/*')]))
    up, l, _ = parts_upload(main(), b, 'foo', [3])
    eq(complete(main(), b, 'foo', up, l)['ResponseMetadata']['HTTPStatusCode'], 200)


TAGS = [{'Key': 'security', 'Value': 'public'}, {'Key': 'foo', 'Value': 'bar'}]


def existing(name, action, call, blocked=None):
    @case('policy', name)
    def run():
        b = fill(['publictag', 'privatetag', 'invalidtag'])
        put_policy(
            b, allow(action, arn(b, '/*'), condition={'StringEquals': {'s3:ExistingObjectTag/security': 'public'}})
        )
        for k, t in (
            ('publictag', TAGS),
            ('privatetag', [{'Key': 'security', 'Value': 'private'}]),
            ('invalidtag', [{'Key': 'security1', 'Value': 'public'}]),
        ):
            main().put_object_tagging(Bucket=b, Key=k, Tagging={'TagSet': t})
        call(b, 'publictag')
        for k in ('privatetag', 'invalidtag'):
            refused(403, 'AccessDenied', call, b, k)
        if blocked:
            refused(403, 'AccessDenied', blocked, b, 'publictag')


existing(
    'test_bucket_policy_get_obj_existing_tag',
    's3:GetObject',
    lambda b, k: alt().get_object(Bucket=b, Key=k),
    lambda b, k: alt().get_object_tagging(Bucket=b, Key=k),
)
existing(
    'test_bucket_policy_get_obj_tagging_existing_tag',
    's3:GetObjectTagging',
    lambda b, k: alt().get_object_tagging(Bucket=b, Key=k),
    lambda b, k: alt().get_object(Bucket=b, Key=k),
)
existing(
    'test_bucket_policy_put_obj_tagging_existing_tag',
    's3:PutObjectTagging',
    lambda b, k: alt().put_object_tagging(Bucket=b, Key=k, Tagging={'TagSet': TAGS}),
)
existing(
    'test_bucket_policy_get_obj_acl_existing_tag',
    's3:GetObjectAcl',
    lambda b, k: alt().get_object_acl(Bucket=b, Key=k),
    lambda b, k: alt().get_object(Bucket=b, Key=k),
)


@case('policy')
def test_bucket_policy_upload_part_copy():
    b = fill(['public/foo', 'public/bar', 'private/foo'])
    put_policy(b, allow('s3:GetObject', arn(b, '/public/*')))
    t = bucket(alt())
    up = alt().create_multipart_upload(Bucket=t, Key='n')['UploadId']
    for k in ('public/foo', 'public/bar'):
        alt().upload_part_copy(Bucket=t, Key='n', UploadId=up, PartNumber=1, CopySource={'Bucket': b, 'Key': k})
    refused(
        403,
        'AccessDenied',
        alt().upload_part_copy,
        Bucket=t,
        Key='n',
        UploadId=up,
        PartNumber=1,
        CopySource={'Bucket': b, 'Key': 'private/foo'},
    )


@case('policy')
def test_bucket_policy_put_obj_copy_source():
    s = fill(['public/foo', 'public/bar', 'private/foo'])
    put_policy(s, allow('s3:GetObject', arn(s, '/*')))
    t = bucket()
    put_policy(
        t, allow('s3:PutObject', arn(t, '/*'), condition={'StringLike': {'s3:x-amz-copy-source': f'{s}/public/*'}})
    )
    alt().copy_object(Bucket=t, Key='a', CopySource={'Bucket': s, 'Key': 'public/foo'})
    refused(403, 'AccessDenied', alt().copy_object, Bucket=t, Key='b', CopySource={'Bucket': s, 'Key': 'private/foo'})


@case('policy')
def test_bucket_policy_put_obj_copy_source_meta():
    s = fill(['public/foo'])
    put_policy(s, allow('s3:GetObject', arn(s, '/*')))
    t = bucket()
    put_policy(
        t, allow('s3:PutObject', arn(t, '/*'), condition={'StringEquals': {'s3:x-amz-metadata-directive': 'COPY'}})
    )
    alt().copy_object(Bucket=t, Key='a', CopySource={'Bucket': s, 'Key': 'public/foo'}, MetadataDirective='COPY')
    refused(403, 'AccessDenied', alt().copy_object, Bucket=t, Key='b', CopySource={'Bucket': s, 'Key': 'public/foo'})


@case('policy')
def test_bucket_policy_put_obj_acl():
    b = bucket()
    put_policy(
        b,
        allow('s3:PutObject', arn(b, '/*')),
        allow('s3:PutObject', arn(b, '/*'), effect='Deny', condition={'StringLike': {'s3:x-amz-acl': 'public*'}}),
    )
    alt().put_object(Bucket=b, Key='private', Body=b'')
    refused(403, 'AccessDenied', alt().put_object, Bucket=b, Key='p', Body=b'', ACL='public-read')


@case('policy')
def test_bucket_policy_put_obj_grant():
    b, b2 = bucket(), bucket()
    put_policy(
        b,
        allow(
            's3:PutObject',
            arn(b, '/*'),
            condition={'StringEquals': {'s3:x-amz-grant-full-control': 'id=' + user_id('main')}},
        ),
    )
    put_policy(b2, allow('s3:PutObject', arn(b2, '/*')))
    alt().put_object(Bucket=b, Key='k', Body=b'', GrantFullControl='id=' + user_id('main'))
    eq(grants(main().get_object_acl(Bucket=b, Key='k')), [OWN()])
    alt().put_object(Bucket=b2, Key='k', Body=b'')
    refused(403, 'AccessDenied', main().get_object_acl, Bucket=b2, Key='k')


@case('policy')
def test_bucket_policy_put_obj_request_obj_tag():
    b = bucket()
    put_policy(
        b,
        allow(
            ['s3:PutObject', 's3:PutObjectTagging'],
            arn(b, '/*'),
            condition={'StringEquals': {'s3:RequestObjectTag/security': 'public'}},
        ),
    )
    refused(403, 'AccessDenied', alt().put_object, Bucket=b, Key='k', Body=b'')
    alt().put_object(Bucket=b, Key='k', Body=b'', Tagging='security=public')


def encryption_policy(name, conditions, good, bad):
    @case('policy', name)
    def run():
        b = bucket()
        put_policy(b, *[allow('s3:PutObject', arn(b, '/*'), effect='Deny', condition=c) for c in conditions])
        refused(403, 'AccessDenied', main().put_object, Bucket=b, Key='k', Body=b'', **bad)
        main().put_object(Bucket=b, Key='k', Body=b'', **good)


SSE = 's3:x-amz-server-side-encryption'
encryption_policy(
    'test_bucket_policy_put_obj_s3_noenc',
    [{'StringNotEquals': {SSE: 'AES256'}}, {'Null': {SSE: 'true'}}],
    {'ServerSideEncryption': 'AES256'},
    {},
)
encryption_policy(
    'test_bucket_policy_put_obj_s3_incorrect_algo_sse_s3',
    [{'StringNotEquals': {SSE: 'AES256'}}, {'Null': {SSE: 'true'}}],
    {'ServerSideEncryption': 'AES256'},
    {'ServerSideEncryption': 'AES192'},
)
encryption_policy(
    'test_bucket_policy_put_obj_kms_noenc',
    [{'StringNotEquals': {SSE: 'aws:kms'}}, {'Null': {SSE: 'true'}}],
    {'ServerSideEncryption': 'aws:kms', 'SSEKMSKeyId': 'testkey-1'},
    {},
)
encryption_policy(
    'test_bucket_policy_put_obj_s3_kms',
    [{'StringNotEquals': {SSE: 'AES256'}}, {'Null': {SSE: 'true'}}],
    {'ServerSideEncryption': 'AES256'},
    {'ServerSideEncryption': 'aws:kms', 'SSEKMSKeyId': 'testkey-1'},
)
encryption_policy(
    'test_bucket_policy_put_obj_kms_s3',
    [{'StringNotEquals': {SSE: 'aws:kms'}}, {'Null': {SSE: 'true'}}],
    {'ServerSideEncryption': 'aws:kms', 'SSEKMSKeyId': 'testkey-1'},
    {'ServerSideEncryption': 'AES256'},
)


@case('policy')
def test_bucket_policy_set_condition_operator_end_with_IfExists():
    b = fill(['foo'])
    put_policy(
        b,
        allow(
            's3:GetObject', arn(b, '/*'), condition={'StringLikeIfExists': {'aws:Referer': 'http://www.example.com/*'}}
        ),
    )
    u = f"{ENV['endpoint']}/{b}/foo"
    eq(
        (
            fetch(u, headers={'Referer': 'http://www.example.com/'})[0],
            fetch(u, headers={'Referer': 'http://www.example.com/index.html'})[0],
            fetch(u)[0],
            fetch(u, headers={'Referer': 'http://example.com'})[0],
        ),
        (200, 200, 200, 403),
    )


@case('policy')
def test_head_object_404_with_policy_prefix():
    b = fill(['foo/a'])
    put_policy(
        b,
        allow('s3:ListBucket', arn(b), condition={'StringLike': {'s3:prefix': 'foo/*'}}),
        allow('s3:GetObject', arn(b, '/*')),
    )
    refused(403, None, alt().head_object, Bucket=b, Key='nope')


def of_tenant(name, operation):
    """A policy that names the bucket with its account, between the colons."""

    @case('policy', name)
    def run():
        b = bucket(tenant())
        tenant().put_object(Bucket=b, Key='asdf', Body=b'asdf')
        named = f"arn:aws:s3::{ENV['accounts']['tenant']['name']}:{b}"
        tenant().put_bucket_policy(Bucket=b, Policy=policy(b, allow('s3:ListBucket', [named, named + '/*'])))
        eq(len(operation(main(), b)['Contents']), 1)


def of_wildcard_tenant(name, operation):
    @case('policy', name)
    def run():
        b = fill(['asdf'])
        main().put_bucket_policy(
            Bucket=b, Policy=policy(b, allow('s3:ListBucket', [f'arn:aws:s3::*:{b}', f'arn:aws:s3::*:{b}/*']))
        )
        eq(len(operation(tenant(), b)['Contents']), 1)


of_tenant('test_bucket_policy_tenanted_bucket', lambda c, b: c.list_objects(Bucket=b))
of_wildcard_tenant('test_bucket_policy_different_tenant', lambda c, b: c.list_objects(Bucket=b))
of_wildcard_tenant('test_bucketv2_policy_different_tenant', lambda c, b: c.list_objects_v2(Bucket=b))


def locked_out(name, confirmed):
    """A policy that denies its writer to write another one, written by a user and by the account's root."""

    @case('policy', name)
    def run():
        who = 'iam root'
        root = _root(who)
        b = bucket(root)
        text = policy(
            b, allow(['s3:PutBucketPolicy', 's3:GetBucketPolicy', 's3:DeleteBucketPolicy'], arn(b), effect='Deny')
        )
        root.put_bucket_policy(Bucket=b, Policy=text, **({'ConfirmRemoveSelfBucketAccess': True} if confirmed else {}))
        for again in (root.get_bucket_policy, root.delete_bucket_policy):
            if confirmed:
                refused(403, 'AccessDenied', again, Bucket=b)
            else:
                again(Bucket=b)


def _root(who):
    if who not in ENV['accounts']:
        raise Differs(f'the account {who!r} is not in the accounts file')
    return fresh(who)


locked_out('test_bucket_policy_deny_self_denied_policy', False)
locked_out('test_bucket_policy_deny_self_denied_policy_confirm_header', True)
