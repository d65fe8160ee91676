"""Requests without a signature, and with one in the query."""

from kit import *


def raw(what, anonymous, bacl, oacl, gone, code):
    @case('object', f'test_object_raw_{what}')
    def run():
        b = bucket(ACL=bacl)
        main().put_object(Bucket=b, Key='foo', Body=b'foocontent', ACL=oacl)
        c = nobody() if anonymous else main()
        if gone:
            main().delete_object(Bucket=b, Key='foo')
        if gone == 'bucket':
            main().delete_bucket(Bucket=b)
        if code == 200:
            eq(read(c, b, 'foo'), b'foocontent')
        else:
            refused(
                code,
                {404: 'NoSuchBucket' if gone == 'bucket' else 'NoSuchKey', 403: 'AccessDenied'}[code],
                c.get_object,
                Bucket=b,
                Key='foo',
            )


for who, an in (('get', True), ('authenticated', False)):
    raw(who, an, 'public-read', 'public-read', None, 200)
    raw(f'{who}_bucket_gone', an, 'public-read', 'public-read', 'bucket', 404)
    raw(f'{who}_object_gone', an, 'public-read', 'public-read', 'object', 404)
    raw(f'{who}_bucket_acl', an, 'private', 'public-read', None, 200)
    raw(f'{who}_object_acl', an, 'public-read', 'private', None, 403 if an else 200)


@case('object')
def test_object_raw_response_headers():
    b = bucket()
    main().put_object(Bucket=b, Key='foo', Body=b'x')
    r = main().get_object(
        Bucket=b,
        Key='foo',
        ResponseCacheControl='no-cache',
        ResponseContentDisposition='bla',
        ResponseContentEncoding='aaa',
        ResponseContentLanguage='esperanto',
        ResponseContentType='foo/bar',
        ResponseExpires='123',
    )
    h = r['ResponseMetadata']['HTTPHeaders']
    eq(
        [
            h[x]
            for x in ('content-type', 'content-disposition', 'content-language', 'content-encoding', 'cache-control')
        ],
        ['foo/bar', 'bla', 'esperanto', 'aaa', 'no-cache'],
    )


for what, e, code in [
    ('not_expired', '100000', 200),
    ('out_range_zero', '0', 403),
    ('out_max_range', '609901', 403),
    ('out_positive_range', '-7', 403),
]:

    def presigned(e=e, code=code):

        b = bucket(ACL='public-read')
        main().put_object(Bucket=b, Key='foo', ACL='public-read')
        u = re.sub(
            r'X-Amz-Expires=\d+', f'X-Amz-Expires={e}', url(main(), b, 'foo', expires=int(e) if code == 200 else 100)
        )
        eq(fetch(u)[0], code)
        if code == 200:
            eq(fetch(u, 'OPTIONS')[0], 400)

    case('object', f'test_object_raw_get_x_amz_expires_{what}')(presigned)


@case('object')
def test_object_raw_put_authenticated_expired():
    b = bucket()
    u = url(main(), b, 'foo', 'put_object', expires=1)
    time.sleep(2.2)
    eq(fetch(u, 'PUT', b'foo')[0], 403)


@case('object')
def test_object_raw_get_x_amz_expires_not_expired_tenant():
    b = bucket(tenant())
    tenant().put_object(Bucket=b, Key='foo', Body=b'x')
    u = url(tenant(), b, 'foo', expires=100000)
    eq((fetch(u)[0], fetch(u, 'OPTIONS')[0]), (200, 400))
