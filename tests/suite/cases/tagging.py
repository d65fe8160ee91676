"""Tags."""

from kit import *


def tags(n, klen=0, vlen=0):
    return [
        {'Key': str(i).ljust(klen, 'k') if klen else str(i), 'Value': 'v' * vlen if vlen else str(i)} for i in range(n)
    ]


@case('tagging')
def test_set_bucket_tagging():
    b = bucket()
    refused(404, 'NoSuchTagSet', main().get_bucket_tagging, Bucket=b)
    main().put_bucket_tagging(Bucket=b, Tagging={'TagSet': [{'Key': 'Hello', 'Value': 'World'}]})
    eq(main().get_bucket_tagging(Bucket=b)['TagSet'], [{'Key': 'Hello', 'Value': 'World'}])
    main().delete_bucket_tagging(Bucket=b)
    refused(404, 'NoSuchTagSet', main().get_bucket_tagging, Bucket=b)


def object_tags(name, t, code=None):
    @case('tagging', name)
    def run():
        b = fill(['k'])
        if code:
            refused(400, code, main().put_object_tagging, Bucket=b, Key='k', Tagging={'TagSet': t})
            eq(main().get_object_tagging(Bucket=b, Key='k')['TagSet'], [])
        else:
            main().put_object_tagging(Bucket=b, Key='k', Tagging={'TagSet': t})
            eq(sorted(main().get_object_tagging(Bucket=b, Key='k')['TagSet'], key=str), sorted(t, key=str))


object_tags('test_get_obj_tagging', tags(2))
object_tags('test_put_max_tags', tags(10))
object_tags('test_put_excess_tags', tags(11), 'InvalidTag')
object_tags('test_put_max_kvsize_tags', tags(10, 128, 256))
object_tags('test_put_excess_key_tags', tags(10, 129, 256), 'InvalidTag')
object_tags('test_put_excess_val_tags', tags(10, 128, 257), 'InvalidTag')


@case('tagging')
def test_get_obj_head_tagging():
    b = fill(['k'])
    main().put_object_tagging(Bucket=b, Key='k', Tagging={'TagSet': tags(2)})
    eq(main().head_object(Bucket=b, Key='k')['ResponseMetadata']['HTTPHeaders']['x-amz-tagging-count'], '2')


@case('tagging')
def test_put_modify_tags():
    b = fill(['k'])
    for t in (tags(2), [{'Key': 'key3', 'Value': 'val3'}]):
        main().put_object_tagging(Bucket=b, Key='k', Tagging={'TagSet': t})
        eq(main().get_object_tagging(Bucket=b, Key='k')['TagSet'], t)


@case('tagging')
def test_put_delete_tags():
    b = fill(['k'])
    main().put_object_tagging(Bucket=b, Key='k', Tagging={'TagSet': tags(2)})
    eq(main().delete_object_tagging(Bucket=b, Key='k')['ResponseMetadata']['HTTPStatusCode'], 204)
    eq(main().get_object_tagging(Bucket=b, Key='k')['TagSet'], [])


@case('tagging')
def test_put_obj_with_tags():
    b = bucket()
    main().put_object(Bucket=b, Key='k', Body=b'', Tagging='foo=bar&bar')
    eq(
        main().get_object_tagging(Bucket=b, Key='k')['TagSet'],
        (
            [{'Key': 'bar', 'Value': ''}, {'Key': 'foo', 'Value': 'bar'}][::1]
            if main().get_object_tagging(Bucket=b, Key='k')['TagSet'][0]['Key'] == 'bar'
            else [{'Key': 'foo', 'Value': 'bar'}, {'Key': 'bar', 'Value': ''}]
        ),
    )


@case('tagging')
def test_set_multipart_tagging():
    b = bucket()
    up, l, _ = parts_upload(main(), b, 'm', [3], Tagging='Hello=World&foo=bar')
    complete(main(), b, 'm', up, l)
    eq(len(main().get_object_tagging(Bucket=b, Key='m')['TagSet']), 2)


for what, action, call in [
    ('get_tags_acl_public', 's3:GetObjectTagging', lambda c, b: c.get_object_tagging(Bucket=b, Key='k')),
    (
        'put_tags_acl_public',
        's3:PutObjectTagging',
        lambda c, b: c.put_object_tagging(Bucket=b, Key='k', Tagging={'TagSet': tags(2)}),
    ),
    ('delete_tags_obj_public', 's3:DeleteObjectTagging', lambda c, b: c.delete_object_tagging(Bucket=b, Key='k')),
]:

    def public(action=action, call=call):
        b = fill(['k'])
        refused(403, 'AccessDenied', call, alt(), b)
        put_policy(b, allow(action, arn(b, '/k')))
        call(alt(), b)

    case('tagging', 'test_' + what)(public)
