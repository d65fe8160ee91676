"""Copies."""

from kit import *


def copied(what, size=3, same=True, **kw):
    @case('copy', f'test_object_copy_{what}')
    def run():
        a = bucket()
        b = a if same else bucket()
        body = b'x' * size
        main().put_object(Bucket=a, Key='foo123bar', Body=body, ContentType='text/bla')
        main().copy_object(Bucket=b, Key='bar321foo', CopySource={'Bucket': a, 'Key': 'foo123bar'}, **kw)
        r = main().get_object(Bucket=b, Key='bar321foo')
        eq((r['Body'].read(), r['ContentType']), (body, 'text/bla'))


copied('zero_size', 0)
copied('16m', 16 * MIB)
copied('same_bucket')
copied('verify_contenttype')
copied('diff_bucket', same=False)


@case('copy')
def test_object_copy_to_itself():
    b = fill(['foo'])
    refused(400, 'InvalidRequest', main().copy_object, Bucket=b, Key='foo', CopySource={'Bucket': b, 'Key': 'foo'})


@case('copy')
def test_object_copy_to_itself_with_metadata():
    b = fill(['foo'])
    main().copy_object(
        Bucket=b,
        Key='foo',
        CopySource={'Bucket': b, 'Key': 'foo'},
        Metadata={'foo': 'bar'},
        MetadataDirective='REPLACE',
    )
    eq(main().get_object(Bucket=b, Key='foo')['Metadata'], {'foo': 'bar'})


for what, kw, want in [
    ('retaining', {}, ({'key1': 'value1', 'key2': 'value2'}, 'image/ogg')),
    (
        'replacing',
        {'MetadataDirective': 'REPLACE', 'Metadata': {'key3': 'value3'}, 'ContentType': 'audio/mpeg'},
        ({'key3': 'value3'}, 'audio/mpeg'),
    ),
]:

    def meta(kw=kw, want=want):
        for size in (3, MIB):
            b = bucket()
            main().put_object(
                Bucket=b,
                Key='a',
                Body=b'x' * size,
                Metadata={'key1': 'value1', 'key2': 'value2'},
                ContentType='image/ogg',
            )
            main().copy_object(Bucket=b, Key='b', CopySource={'Bucket': b, 'Key': 'a'}, **kw)
            r = main().get_object(Bucket=b, Key='b')
            eq((r['Metadata'], r['ContentType'], r['ContentLength']), (*want, size))

    case('copy', f'test_object_copy_{what}_metadata')(meta)


@case('copy')
def test_object_copy_bucket_not_found():
    b = bucket()
    refused(404, 'NoSuchBucket', main().copy_object, Bucket=b, Key='b', CopySource={'Bucket': b + '-fake', 'Key': 'a'})


@case('copy')
def test_object_copy_key_not_found():
    b = bucket()
    refused(404, 'NoSuchKey', main().copy_object, Bucket=b, Key='b', CopySource={'Bucket': b, 'Key': 'a'})


@case('copy')
def test_object_copy_not_owned_bucket():
    a = fill(['foo'])
    b = bucket(alt())
    refused(403, 'AccessDenied', alt().copy_object, Bucket=b, Key='bar', CopySource={'Bucket': a, 'Key': 'foo'})


def copy_if(what, kw, status):
    @case('copy', f'test_copy_object_{what}')
    def run():
        b = bucket()
        e = main().put_object(Bucket=b, Key='a', Body=b'x')['ETag']
        args = {k: e if v == 'ETAG' else v for k, v in kw.items()}
        if status == 200:
            main().copy_object(Bucket=b, Key='b', CopySource={'Bucket': b, 'Key': 'a'}, **args)
        else:
            refused(
                status,
                'PreconditionFailed',
                main().copy_object,
                Bucket=b,
                Key='b',
                CopySource={'Bucket': b, 'Key': 'a'},
                **args,
            )


copy_if('ifmatch_good', {'CopySourceIfMatch': 'ETAG'}, 200)
copy_if('ifmatch_failed', {'CopySourceIfMatch': 'ABCORZ'}, 412)
copy_if('ifnonematch_good', {'CopySourceIfNoneMatch': 'ABCORZ'}, 200)
copy_if('ifnonematch_failed', {'CopySourceIfNoneMatch': 'ETAG'}, 412)


@case('copy')
def test_object_copy_not_owned_object_bucket():
    b = fill(['foo123bar'])
    full = {'Grantee': {'ID': user_id('alt'), 'Type': 'CanonicalUser'}, 'Permission': 'FULL_CONTROL'}
    for get, put, what in (
        (main().get_bucket_acl, main().put_bucket_acl, {}),
        (main().get_object_acl, main().put_object_acl, {'Key': 'foo123bar'}),
    ):
        acl = get(Bucket=b, **what)
        put(Bucket=b, AccessControlPolicy={'Grants': acl['Grants'] + [full], 'Owner': acl['Owner']}, **what)
    alt().copy_object(Bucket=b, Key='bar321foo', CopySource={'Bucket': b, 'Key': 'foo123bar'})


@case('copy')
def test_object_copy_canned_acl():
    b = fill(['foo123bar'])
    source = {'Bucket': b, 'Key': 'foo123bar'}
    main().copy_object(Bucket=b, Key='bar321foo', CopySource=source, ACL='public-read')
    alt().get_object(Bucket=b, Key='bar321foo')
    main().copy_object(
        Bucket=b,
        Key='foo123bar',
        CopySource={'Bucket': b, 'Key': 'bar321foo'},
        ACL='public-read',
        Metadata={'abc': 'def'},
        MetadataDirective='REPLACE',
    )
    alt().get_object(Bucket=b, Key='foo123bar')


@case('copy')
def test_object_copy_versioning_multipart_upload():
    b = versioned()
    up, listed, whole = parts_upload(
        main(), b, 'src', [5 * MIB, 5 * MIB, 1000], ContentType='text/bla', Metadata={'foo': 'bar'}
    )
    v = complete(main(), b, 'src', up, listed)['VersionId']
    source = lambda key, version: {'Bucket': b, 'Key': key, 'VersionId': version}
    for target, k in ((b, 'copy1'), (bucket(), 'copy2'), (versioned(), 'copy3')):
        r = main().copy_object(Bucket=target, Key=k, CopySource=source('src', v))
        got = main().get_object(Bucket=target, Key=k)
        eq((got['Body'].read() == whole, got['Metadata'], got['ContentType']), (True, {'foo': 'bar'}, 'text/bla'))
        if target == b:
            main().copy_object(Bucket=b, Key='copy4', CopySource=source('copy1', r['VersionId']))
