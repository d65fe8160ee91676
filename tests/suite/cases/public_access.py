"""Object ownership and the public access block."""

from kit import *


@case('ownership')
def test_create_bucket_no_ownership_controls():
    refused(404, 'OwnershipControlsNotFoundError', main().get_bucket_ownership_controls, Bucket=bucket())


def rules(o):
    return {'Rules': [{'ObjectOwnership': o}]}


@case('ownership')
def test_bucket_create_delete_bucket_ownership():
    b = bucket()
    main().put_bucket_ownership_controls(Bucket=b, OwnershipControls=rules('BucketOwnerEnforced'))
    eq(main().get_bucket_ownership_controls(Bucket=b)['OwnershipControls'], rules('BucketOwnerEnforced'))
    main().delete_bucket_ownership_controls(Bucket=b)
    refused(404, 'OwnershipControlsNotFoundError', main().get_bucket_ownership_controls, Bucket=b)


def ownership(name, o, later):
    @case('ownership', name)
    def run():
        b = bucket() if later else bucket(ObjectOwnership=o)
        if later:
            main().put_bucket_ownership_controls(Bucket=b, OwnershipControls=rules(o))
        eq(main().get_bucket_ownership_controls(Bucket=b)['OwnershipControls'], rules(o))
        put_policy(b, allow('s3:*', [arn(b), arn(b, '/*')]))
        alt().put_object(Bucket=b, Key='k', Body=b'')

        def owner_of(k, c):
            return [x['Owner']['ID'] for x in c.list_objects(Bucket=b)['Contents'] if x['Key'] == k][0]

        if o == 'BucketOwnerEnforced':
            eq(owner_of('k', main()), user_id('main'))
            refused(400, 'AccessControlListNotSupported', main().put_object, Bucket=b, Key='x', ACL='public-read')
            refused(400, 'AccessControlListNotSupported', main().put_bucket_acl, Bucket=b, ACL='public-read')
        else:
            eq(owner_of('k', main()), user_id('alt'))
            alt().put_object(Bucket=b, Key='f', Body=b'', ACL='bucket-owner-full-control')
            eq(owner_of('f', main()), user_id('main' if o == 'BucketOwnerPreferred' else 'alt'))


for o, n in (
    ('BucketOwnerEnforced', 'bucket_owner_enforced'),
    ('BucketOwnerPreferred', 'bucket_owner_preferred'),
    ('ObjectWriter', 'object_writer'),
):
    ownership(f'test_create_bucket_{n}', o, False)
    ownership(f'test_put_bucket_ownership_{n}', o, True)


def block(acls=False, ignore=False, policy_=False, restrict=False):
    return {
        'BlockPublicAcls': acls,
        'IgnorePublicAcls': ignore,
        'BlockPublicPolicy': policy_,
        'RestrictPublicBuckets': restrict,
    }


def put_block(b, **kw):
    main().put_public_access_block(Bucket=b, PublicAccessBlockConfiguration=block(**kw))


@case('public access block')
def test_put_public_block():
    b = bucket()
    put_block(b, acls=True, ignore=True, policy_=True)
    eq(main().get_public_access_block(Bucket=b)['PublicAccessBlockConfiguration'], block(True, True, True, False))


@case('public access block')
def test_get_undefined_public_block():
    b = bucket()
    main().delete_public_access_block(Bucket=b)
    refused(404, 'NoSuchPublicAccessBlockConfiguration', main().get_public_access_block, Bucket=b)


@case('public access block')
def test_put_get_delete_public_block():
    b = bucket()
    put_block(b, acls=True)
    main().delete_public_access_block(Bucket=b)
    refused(404, 'NoSuchPublicAccessBlockConfiguration', main().get_public_access_block, Bucket=b)


@case('public access block')
def test_block_public_put_bucket_acls():
    b = bucket()
    put_block(b, acls=True, policy_=True)
    for a in ('public-read', 'public-read-write', 'authenticated-read'):
        refused(403, 'AccessDenied', main().put_bucket_acl, Bucket=b, ACL=a)


@case('public access block')
def test_block_public_object_canned_acls():
    b = bucket()
    put_block(b, acls=True)
    for a in ('public-read', 'public-read-write', 'authenticated-read'):
        refused(403, 'AccessDenied', main().put_object, Bucket=b, Key='foo', Body=b'', ACL=a)


@case('public access block')
def test_block_public_policy():
    b = bucket()
    put_block(b, policy_=True)
    refused(403, 'AccessDenied', put_policy, b, allow('s3:GetObject', arn(b, '/*')))


@case('public access block')
def test_block_public_policy_with_principal():
    b = bucket()
    put_block(b, policy_=True)
    put_policy(b, allow('s3:GetObject', arn(b, '/*'), 'arn:aws:iam::s3tenant1:root'))


@case('public access block')
def test_block_public_restrict_public_buckets():
    b = fill(['foo'])
    put_policy(b, allow('s3:GetObject', arn(b, '/*')))
    nobody().get_object(Bucket=b, Key='foo')
    put_block(b, restrict=True)
    refused(403, 'AccessDenied', nobody().get_object, Bucket=b, Key='foo')
    main().get_object(Bucket=b, Key='foo')


@case('public access block')
def test_ignore_public_acls():
    b = bucket()
    main().put_bucket_acl(Bucket=b, ACL='public-read')
    alt().list_objects(Bucket=b)
    put_block(b, ignore=True)
    main().put_object(Bucket=b, Key='k', Body=b'', ACL='public-read')
    refused(403, 'AccessDenied', alt().list_objects, Bucket=b)
    refused(403, 'AccessDenied', alt().get_object, Bucket=b, Key='k')


@case('public access block')
def test_get_public_block_deny_bucket_policy():
    b = bucket()
    put_block(b, acls=True)
    put_policy(b, allow('s3:GetBucketPublicAccessBlock', arn(b), effect='Deny'))
    refused(403, 'AccessDenied', main().get_public_access_block, Bucket=b)
