"""Buckets."""

from kit import *


def bad_name(what, name):
    @case('bucket', f'test_bucket_create_naming_{what}')
    def run():
        c = fresh()
        c.meta.events.unregister('before-parameter-build.s3', botocore.handlers.validate_bucket_name)
        refused(400, 'InvalidBucketName', c.create_bucket, Bucket=name)


for what, name in [
    ('bad_short_one', 'a'),
    ('bad_short_two', 'aa'),
    ('bad_starts_nonalpha', '_alphasoup'),
    ('bad_ip', '192.168.5.123'),
    ('dns_underscore', 'foo_bar'),
    ('dns_long', 'a' * 64),
    ('dns_dash_at_end', 'foo-'),
    ('dns_dot_dot', 'foo..bar'),
    ('dns_dot_dash', 'foo.-bar'),
    ('dns_dash_dot', 'foo-.bar'),
    ('bad_punctuation', 'alpha!soup'),
]:
    bad_name(what, name)
for what, make in [
    ('good_long_60', lambda: (new_name() + 'a' * 60)[:60]),
    ('good_long_61', lambda: (new_name() + 'a' * 61)[:61]),
    ('good_long_62', lambda: (new_name() + 'a' * 62)[:62]),
    ('good_long_63', lambda: (new_name() + 'a' * 63)[:63]),
    ('good_starts_alpha', lambda: 'a' + new_name()),
    ('good_starts_digit', lambda: '0' + new_name()),
    ('good_contains_period', lambda: new_name() + '.b'),
    ('good_contains_hyphen', lambda: new_name() + '-b'),
]:

    def good(make=make):
        n = make()
        main().create_bucket(Bucket=n)
        main().head_bucket(Bucket=n)

    case('bucket', f'test_bucket_create_naming_{what}')(good)


@case('bucket')
def test_bucket_create_exists():
    b = bucket()
    main().create_bucket(Bucket=b)


@case('bucket')
def test_bucket_create_exists_nonowner():
    refused(409, 'BucketAlreadyExists', alt().create_bucket, Bucket=bucket())


@case('bucket')
def test_bucket_recreate_not_overriding():
    b = fill(['a', 'b'])
    main().create_bucket(Bucket=b)
    eq([o['Key'] for o in main().list_objects(Bucket=b)['Contents']], ['a', 'b'])


@case('bucket')
def test_bucket_recreate_overwrite_acl():
    b = bucket(ACL='public-read')
    refused(409, 'BucketAlreadyExists', main().create_bucket, Bucket=b)


@case('bucket')
def test_bucket_recreate_new_acl():
    b = bucket()
    refused(409, 'BucketAlreadyExists', main().create_bucket, Bucket=b, ACL='public-read')


@case('bucket')
def test_bucket_create_special_key_names():
    ks = [' ', '"', '$', '%', '&', "'", '<', '>', '_', '_ ', '_ _', '__']
    b = fill(ks)
    eq([o['Key'] for o in main().list_objects(Bucket=b)['Contents']], ks)
    for k in ks:
        eq(read(main(), b, k), k.encode())
        main().put_object_acl(Bucket=b, Key=k, ACL='private')


@case('bucket')
def test_bucket_delete_notexist():
    refused(404, 'NoSuchBucket', main().delete_bucket, Bucket=new_name())


@case('bucket')
def test_bucket_delete_nonempty():
    refused(409, 'BucketNotEmpty', main().delete_bucket, Bucket=fill(['a']))


@case('bucket')
def test_bucket_head():
    main().head_bucket(Bucket=bucket())


@case('bucket')
def test_bucket_head_notexist():
    refused(404, '404', main().head_bucket, Bucket=new_name())


@case('bucket')
def test_bucket_get_location():
    b = bucket(CreateBucketConfiguration={'LocationConstraint': 'eu-central-1'})
    eq(main().get_bucket_location(Bucket=b)['LocationConstraint'], 'eu-central-1')


@case('bucket')
def test_buckets_create_then_list():
    made = [bucket() for _ in range(5)]
    listed = [b['Name'] for b in main().list_buckets()['Buckets']]
    eq([b for b in made if b not in listed], [])


@case('bucket')
def test_buckets_list_ctime():

    before = datetime.datetime.now(datetime.timezone.utc) - datetime.timedelta(days=1)
    bucket()
    for b in main().list_buckets()['Buckets']:
        assert b['CreationDate'] >= before


@case('bucket')
def test_list_buckets_paginated():
    bucket()
    bucket()
    r = main().list_buckets(MaxBuckets=1)
    eq(len(r['Buckets']), 1)
    r2 = main().list_buckets(MaxBuckets=1, ContinuationToken=r['ContinuationToken'])
    eq(r2['Buckets'][0]['Name'] > r['Buckets'][0]['Name'], True)


def broken_keys(what, access, secret, code):
    @case('bucket', f'test_list_buckets_{what}')
    def run():
        c = boto3.client(
            's3',
            endpoint_url=ENV['endpoint'],
            region_name='us-east-1',
            aws_access_key_id=access or ENV['accounts']['main']['access_key'],
            aws_secret_access_key=secret,
            config=Config(retries={'total_max_attempts': 1}),
        )
        refused(403, code, c.list_buckets)


broken_keys('invalid_auth', 'aaaaaaaaaaaaaaa', 'b' * 40, 'InvalidAccessKeyId')
broken_keys('bad_auth', None, 'b' * 40, 'SignatureDoesNotMatch')


@case('bucket')
def test_list_buckets_anonymous():
    eq(nobody().list_buckets()['Buckets'], [])


@case('bucket')
def test_expected_bucket_owner():
    b = bucket(ACL='public-read-write')
    main().put_object(Bucket=b, Key='a', Body=b'', ExpectedBucketOwner=user_id('main'))
    refused(403, 'AccessDenied', alt().list_objects, Bucket=b, ExpectedBucketOwner='unknown')


@case('bucket')
def test_bucket_concurrent_set_canned_acl():
    b = bucket()
    failed = []

    def put():
        try:
            fresh().put_bucket_acl(Bucket=b, ACL='public-read')
        except ClientError as e:
            failed.append(e)

    all_ = [threading.Thread(target=put) for _ in range(50)]
    [t.start() for t in all_]
    [t.join() for t in all_]
    eq(failed, [])
