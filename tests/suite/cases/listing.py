"""Listing keys, in both versions of the call."""

from kit import *


def lister(v):
    def ask(b, client=None, **kw):
        c = client or main()
        if v == 1:
            return c.list_objects(Bucket=b, **kw)
        if 'Marker' in kw:
            kw['StartAfter'] = kw.pop('Marker')
        return c.list_objects_v2(Bucket=b, **kw)

    return ask


def keys(r):
    return [o['Key'] for o in r.get('Contents', [])]


def prefixes(r):
    return [p['Prefix'] for p in r.get('CommonPrefixes', [])]


def both(what, fn, versions=(1, 2)):
    for v in versions:
        name = f'test_bucket_{"list" if v == 1 else "listv2"}_{what}'

        def run(v=v):
            fn(lister(v), v)

        case('list', name)(run)


def many(ask, v):
    b = fill(['foo', 'bar', 'baz'])
    r = ask(b, MaxKeys=2)
    eq((keys(r), r['IsTruncated']), (['bar', 'baz'], True))
    r = ask(b, Marker='baz', MaxKeys=2)
    eq((keys(r), r['IsTruncated']), (['foo'], False))


both('many', many)


def delimited(ks, d, want_keys, want_prefixes, **kw):
    def fn(ask, v):
        b = fill(ks)
        r = ask(b, Delimiter=d, **kw)
        if d:
            eq(r['Delimiter'], d)
        else:
            eq('Delimiter' in r, False)
        eq((keys(r), prefixes(r)), (want_keys, want_prefixes))
        if v == 2:
            eq(r['KeyCount'], len(want_keys) + len(want_prefixes))

    return fn


A4 = ['bar', 'baz', 'cab', 'foo']
both('delimiter_basic', delimited(['foo/bar', 'foo/bar/xyzzy', 'quux/thud', 'asdf'], '/', ['asdf'], ['foo/', 'quux/']))
both(
    'encoding_basic',
    delimited(
        ['foo+1/bar', 'foo/bar/xyzzy', 'quux ab/thud', 'asdf+b'],
        '/',
        ['asdf%2Bb'],
        ['foo%2B1/', 'foo/', 'quux%20ab/'],
        EncodingType='url',
    ),
)
both('delimiter_prefix_ends_with_delimiter', delimited(['asdf/'], '/', ['asdf/'], [], Prefix='asdf/'))
both('delimiter_alt', delimited(A4, 'a', ['foo'], ['ba', 'ca']))
both('delimiter_percentage', delimited(['b%ar', 'b%az', 'c%ab', 'foo'], '%', ['foo'], ['b%', 'c%']))
both('delimiter_whitespace', delimited(['b ar', 'b az', 'c ab', 'foo'], ' ', ['foo'], ['b ', 'c ']))
both('delimiter_dot', delimited(['b.ar', 'b.az', 'c.ab', 'foo'], '.', ['foo'], ['b.', 'c.']))
both('delimiter_unreadable', delimited(A4, '\x0a', A4, []))
both('delimiter_empty', delimited(A4, '', A4, []))
both('delimiter_not_exist', delimited(A4, '/', A4, []))
both(
    'prefix_delimiter_basic',
    delimited(['foo/bar', 'foo/baz/xyzzy', 'quux/thud', 'asdf'], '/', ['foo/bar'], ['foo/baz/'], Prefix='foo/'),
)
both('prefix_delimiter_alt', delimited(['bar', 'bazar', 'cab', 'foo'], 'a', ['bar'], ['baza'], Prefix='ba'))
both('prefix_delimiter_prefix_not_exist', delimited(['b/a/r', 'b/a/c', 'b/a/g', 'g'], 'd', [], [], Prefix='/'))
both(
    'prefix_delimiter_delimiter_not_exist',
    delimited(['b/a/c', 'b/a/g', 'b/a/r', 'g'], 'z', ['b/a/c', 'b/a/g', 'b/a/r'], [], Prefix='b'),
)
both(
    'prefix_delimiter_prefix_delimiter_not_exist', delimited(['b/a/c', 'b/a/g', 'b/a/r', 'g'], 'z', [], [], Prefix='y')
)


def paged(prefix_cases):
    def fn(ask, v):
        for ks, prefix, pages in prefix_cases:
            b = fill(ks)
            for size, want in pages:
                after = {}
                for n, (wk, wp) in enumerate(want):
                    r = ask(b, Delimiter='/', Prefix=prefix, MaxKeys=size, **after)
                    eq((keys(r), prefixes(r), r['IsTruncated']), (wk, wp, n + 1 < len(want)))
                    if n + 1 < len(want):
                        after = (
                            {'Marker': r['NextMarker']} if v == 1 else {'ContinuationToken': r['NextContinuationToken']}
                        )
                    else:
                        eq(r.get('NextMarker' if v == 1 else 'NextContinuationToken'), None)

    return fn


B5 = ['asdf', 'boo/bar', 'boo/baz/xyzzy', 'cquux/thud', 'cquux/bla']
both(
    'delimiter_prefix',
    paged(
        [
            (
                B5,
                '',
                [
                    (1, [(['asdf'], []), ([], ['boo/']), ([], ['cquux/'])]),
                    (2, [(['asdf'], ['boo/']), ([], ['cquux/'])]),
                ],
            ),
            (B5, 'boo/', [(1, [(['boo/bar'], []), ([], ['boo/baz/'])]), (2, [(['boo/bar'], ['boo/baz/'])])]),
        ]
    ),
)
U5 = ['_obj1_', '_under1/bar', '_under1/baz/xyzzy', '_under2/thud', '_under2/bla']
both(
    'delimiter_prefix_underscore',
    paged(
        [
            (U5, '', [(1, [(['_obj1_'], []), ([], ['_under1/']), ([], ['_under2/'])])]),
            (U5, '_under1/', [(1, [(['_under1/bar'], []), ([], ['_under1/baz/'])])]),
        ]
    ),
)


def none(ask, v):
    b = fill(A4)
    r = ask(b)
    eq(('Delimiter' in r, keys(r), prefixes(r)), (False, A4, []))


both('delimiter_none', none)


def under(ks, prefix, want):
    def fn(ask, v):
        r = ask(fill(ks), **({} if prefix is None else {'Prefix': prefix}))
        eq((r.get('Prefix', ''), keys(r)), (prefix or '', want))

    return fn


F3 = ['foo/bar', 'foo/baz', 'quux']
both('prefix_basic', under(F3, 'foo/', ['foo/bar', 'foo/baz']))
both('prefix_alt', under(['bar', 'baz', 'foo'], 'ba', ['bar', 'baz']))
both('prefix_empty', under(F3, '', F3))
both('prefix_none', under(F3, None, F3))
both('prefix_not_exist', under(F3, 'd', []))
both('prefix_unreadable', under(F3, '\x0a', []))


def maxkeys_one(ask, v):
    b = fill(['bar', 'baz', 'foo', 'quxx'])
    r = ask(b, MaxKeys=1)
    eq((r['IsTruncated'], keys(r)), (True, ['bar']))
    r = ask(b, Marker='bar')
    eq((r['IsTruncated'], keys(r)), (False, ['baz', 'foo', 'quxx']))


def maxkeys_zero(ask, v):
    r = ask(fill(['bar', 'baz']), MaxKeys=0)
    eq((r['IsTruncated'], keys(r)), (False, []))


def maxkeys_none(ask, v):
    r = ask(fill(A4))
    eq((r['IsTruncated'], keys(r), r['MaxKeys']), (False, A4, 1000))


both('maxkeys_one', maxkeys_one)
both('maxkeys_zero', maxkeys_zero)
both('maxkeys_none', maxkeys_none)


def unordered(ask, v):
    ks = ['ado', 'bot', 'cob', 'dog', 'emu', 'fez', 'gnu', 'hex', 'abc/ink', 'abc/jet', 'abc/kin', 'abc/lax']
    b = fill(ks)
    c = fresh()

    def add(request, **_):
        request.url += ('&' if '?' in request.url else '?') + 'allow-unordered=true'

    op = 'ListObjects' if v == 1 else 'ListObjectsV2'
    c.meta.events.register(f'request-created.s3.{op}', lambda request, **_: None)

    def param(params, **_):
        params['url'] += ('&' if '?' in params['url'] else '?') + 'allow-unordered=true'

    c.meta.events.register(f'before-call.s3.{op}', param)
    eq(sorted(keys(ask(b, client=c, MaxKeys=1000))), sorted(ks))
    refused(400, 'InvalidArgument', ask, b, client=c, Delimiter='/')


both('unordered', unordered)


def anonymous(ask, v):
    b = bucket()
    main().put_bucket_acl(Bucket=b, ACL='public-read')
    ask(b, client=nobody())


def anonymous_fail(ask, v):
    refused(403, 'AccessDenied', ask, bucket(), client=nobody())


both('objects_anonymous', anonymous)
both('objects_anonymous_fail', anonymous_fail)


@case('list')
def test_bucket_list_empty():
    eq(keys(main().list_objects(Bucket=bucket())), [])


@case('list')
def test_bucket_list_distinct():
    a, b = bucket(), bucket()
    main().put_object(Bucket=a, Key='asdf', Body=b'x')
    eq(keys(main().list_objects(Bucket=b)), [])


@case('list')
def test_bucket_list_delimiter_not_skip_special():
    ks = [f'0/{i}' for i in range(1000, 1999)] + ['1999', '1999#', '1999+', '2000']
    from concurrent.futures import ThreadPoolExecutor

    b = bucket()
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda k: main().put_object(Bucket=b, Key=k, Body=b''), ks))
    r = main().list_objects(Bucket=b, Delimiter='/')
    eq((keys(r), prefixes(r)), (['1999', '1999#', '1999+', '2000'], ['0/']))


@case('list')
def test_bucket_list_maxkeys_invalid():
    c = fresh()

    def param(params, **_):
        params['query_string']['max-keys'] = 'blah'
        params['url'] += ('&' if '?' in params['url'] else '?') + 'max-keys=blah'

    c.meta.events.register('before-call.s3.ListObjects', param)
    refused(400, 'InvalidArgument', c.list_objects, Bucket=fill(['a']))


def marker(m, want, echo=None):
    def fn():
        r = main().list_objects(Bucket=fill(A4), Marker=m)
        eq((r['Marker'], keys(r)), (m, want))

    return fn


case('list', 'test_bucket_list_marker_empty')(marker('', A4))
case('list', 'test_bucket_list_marker_unreadable')(marker('\x0a', A4))
case('list', 'test_bucket_list_marker_not_in_list')(marker('blah', ['cab', 'foo']))
case('list', 'test_bucket_list_marker_after_list')(marker('zzz', []))


@case('list')
def test_bucket_list_marker_none():
    eq(main().list_objects(Bucket=fill(A4))['Marker'], '')


def after(s, want):
    def fn():
        r = main().list_objects_v2(Bucket=fill(A4), StartAfter=s)
        eq((r['StartAfter'], r['IsTruncated'], keys(r)), (s, False, want))

    return fn


case('list', 'test_bucket_listv2_startafter_unreadable')(after('\x0a', A4))
case('list', 'test_bucket_listv2_startafter_not_in_list')(after('blah', ['cab', 'foo']))
case('list', 'test_bucket_listv2_startafter_after_list')(after('zzz', []))


@case('list')
def test_bucket_listv2_continuationtoken_empty():
    r = main().list_objects_v2(Bucket=fill(A4), ContinuationToken='')
    eq((r['ContinuationToken'], r['IsTruncated'], keys(r)), ('', False, A4))


@case('list')
def test_bucket_listv2_continuationtoken():
    b = fill(A4)
    t = main().list_objects_v2(Bucket=b, MaxKeys=1)['NextContinuationToken']
    r = main().list_objects_v2(Bucket=b, ContinuationToken=t)
    eq((r['ContinuationToken'], r['IsTruncated'], keys(r)), (t, False, A4[1:]))


@case('list')
def test_bucket_listv2_both_continuationtoken_startafter():
    b = fill(A4)
    t = main().list_objects_v2(Bucket=b, StartAfter='bar', MaxKeys=1)['NextContinuationToken']
    r = main().list_objects_v2(Bucket=b, StartAfter='bar', ContinuationToken=t)
    eq((r['ContinuationToken'], r['StartAfter'], r['IsTruncated'], keys(r)), (t, 'bar', False, ['cab', 'foo']))


for what, kw, has in [
    ('notempty', {'FetchOwner': True}, True),
    ('defaultempty', {}, False),
    ('empty', {'FetchOwner': False}, False),
]:

    def owner(kw=kw, has=has):
        eq('Owner' in main().list_objects_v2(Bucket=fill(['foo']), **kw)['Contents'][0], has)

    case('list', f'test_bucket_listv2_fetchowner_{what}')(owner)


@case('list')
def test_basic_key_count():
    eq(main().list_objects_v2(Bucket=fill('01234'))['KeyCount'], 5)


@case('list')
def test_bucket_list_return_data():
    b = fill(['bar', 'baz', 'foo'])
    for o in main().list_objects(Bucket=b)['Contents']:
        h = main().head_object(Bucket=b, Key=o['Key'])
        a = main().get_object_acl(Bucket=b, Key=o['Key'])
        eq(
            (o['ETag'], o['Size'], o['Owner'], o['LastModified'].replace(microsecond=0)),
            (h['ETag'], h['ContentLength'], a['Owner'], h['LastModified']),
        )


@case('list')
def test_bucket_list_special_prefix():
    b = fill(['Bla/1', 'Bla/2', 'Bla/3', 'Bla/4', 'abcd'])
    eq((len(keys(main().list_objects(Bucket=b))), len(keys(main().list_objects(Bucket=b, Prefix='Bla/')))), (5, 4))


@case('list')
def test_bucket_list_long_name():
    n = 'a' * 50 + new_name()
    n = n[:61]
    main().create_bucket(Bucket=n)
    eq(keys(main().list_objects(Bucket=n)), [])


@case('list')
def test_bucket_notexist():
    refused(404, 'NoSuchBucket', main().list_objects, Bucket=new_name())


@case('list')
def test_bucketv2_notexist():
    refused(404, 'NoSuchBucket', main().list_objects_v2, Bucket=new_name())


@case('list')
def test_bucket_list_return_data_versioning():
    b = versioned()
    wanted = {}
    for k in ('bar', 'baz', 'foo'):
        v = main().put_object(Bucket=b, Key=k, Body=k.encode())['VersionId']
        h = main().head_object(Bucket=b, Key=k)
        a = main().get_object_acl(Bucket=b, Key=k)['Owner']
        wanted[k] = (h['ETag'], h['ContentLength'], h['LastModified'], v, a['ID'], a.get('DisplayName'))
    found = {
        v['Key']: (
            v['ETag'],
            v['Size'],
            v['LastModified'],
            v['VersionId'],
            v['Owner']['ID'],
            v['Owner'].get('DisplayName'),
        )
        for v in main().list_object_versions(Bucket=b)['Versions']
    }
    eq(set(found), set(wanted))
    for k, (etag, size, modified, *rest) in wanted.items():
        eq((found[k][0], found[k][1], found[k][3:]), (etag, size, tuple(rest)))
        eq(abs((found[k][2] - modified).total_seconds()) < 2, True)
