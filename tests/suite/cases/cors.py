"""CORS."""

from kit import *


def set_cors(b, *rules):
    main().put_bucket_cors(Bucket=b, CORSConfiguration={'CORSRules': list(rules)})


@case('cors')
def test_set_cors():
    b = bucket()
    refused(404, 'NoSuchCORSConfiguration', main().get_bucket_cors, Bucket=b)
    r = {'AllowedMethods': ['GET', 'PUT'], 'AllowedOrigins': ['*.get', '*.put']}
    set_cors(b, r)
    eq(main().get_bucket_cors(Bucket=b)['CORSRules'], [r])
    main().delete_bucket_cors(Bucket=b)
    refused(404, 'NoSuchCORSConfiguration', main().get_bucket_cors, Bucket=b)


def told(u, method, headers, code, origin, methods=None):
    s, h, _ = fetch(u, method, headers=headers)
    h = {k.lower(): v for k, v in h.items()}
    eq((s, h.get('access-control-allow-origin'), h.get('access-control-allow-methods')), (code, origin, methods))


@case('cors')
def test_cors_origin_response():
    b = bucket(ACL='public-read')
    set_cors(
        b,
        *[
            {'AllowedMethods': [m], 'AllowedOrigins': [o]}
            for m, o in (('GET', '*suffix'), ('GET', 'start*end'), ('GET', 'prefix*'), ('PUT', '*.put'))
        ],
    )
    u = f"{ENV['endpoint']}/{b}"
    told(u, 'GET', {}, 200, None)
    for o, ok in (
        ('foo.suffix', 1),
        ('foo.bar', 0),
        ('foo.suffix.get', 0),
        ('startend', 1),
        ('start1end', 1),
        ('start12end', 1),
        ('0start12end', 0),
        ('prefix', 1),
        ('prefix.suffix', 1),
        ('bla.prefix', 0),
    ):
        told(u, 'GET', {'Origin': o}, 200, o if ok else None, 'GET' if ok else None)
    told(u + '/bar', 'GET', {'Origin': 'foo.suffix'}, 404, 'foo.suffix', 'GET')
    for h, code, o in (
        ({'Origin': 'foo.suffix', 'Access-Control-Request-Method': 'GET'}, 200, 'foo.suffix'),
        ({'Origin': 'foo.bar', 'Access-Control-Request-Method': 'GET'}, 403, None),
        ({'Origin': 'foo.put', 'Access-Control-Request-Method': 'GET'}, 403, None),
        ({'Access-Control-Request-Method': 'GET'}, 400, None),
        ({'Origin': 'foo.suffix'}, 400, None),
    ):
        told(u, 'OPTIONS', h, code, o, 'GET' if o else None)
    told(u, 'OPTIONS', {'Origin': 'foo.put', 'Access-Control-Request-Method': 'PUT'}, 200, 'foo.put', 'PUT')


@case('cors')
def test_cors_origin_wildcard():
    b = bucket(ACL='public-read')
    set_cors(b, {'AllowedMethods': ['GET'], 'AllowedOrigins': ['*']})
    u = f"{ENV['endpoint']}/{b}"
    told(u, 'GET', {}, 200, None)
    told(u, 'GET', {'Origin': 'example.origin'}, 200, '*', 'GET')


@case('cors')
def test_cors_header_option():
    b = bucket(ACL='public-read')
    set_cors(b, {'AllowedMethods': ['GET'], 'AllowedOrigins': ['*'], 'ExposeHeaders': ['x-amz-meta-header1']})
    told(
        f"{ENV['endpoint']}/{b}/bar",
        'OPTIONS',
        {
            'Origin': 'example.origin',
            'Access-Control-Request-Headers': 'x-amz-meta-header2',
            'Access-Control-Request-Method': 'GET',
        },
        403,
        None,
    )


for who in ('', '_tenant'):
    for op, method in (('get', 'GET'), ('put', 'PUT')):

        def presigned(who=who, op=op, method=method):
            c = tenant() if who else main()
            b = bucket(c)
            c.put_bucket_cors(
                Bucket=b, CORSConfiguration={'CORSRules': [{'AllowedMethods': [method], 'AllowedOrigins': ['example']}]}
            )
            c.put_object(Bucket=b, Key='k', Body=b'x')
            u = url(c, b, 'k', f'{op}_object')
            told(u, 'OPTIONS', {'Origin': 'example', 'Access-Control-Request-Method': method}, 200, 'example', method)
            s, h, _ = fetch(u, method, b'' if method == 'PUT' else None, {'Origin': 'example'})
            eq((s, {k.lower(): v for k, v in h.items()}.get('access-control-allow-origin')), (200, 'example'))

        case('cors', f'test_cors_presigned_{op}_object{who}')(presigned)


for who in ('', '_tenant'):

    def with_acl(who=who):
        c = tenant() if who else main()
        b = bucket(c)
        c.put_bucket_cors(
            Bucket=b, CORSConfiguration={'CORSRules': [{'AllowedMethods': ['PUT'], 'AllowedOrigins': ['example']}]}
        )
        u = url(c, b, 'k', 'put_object', ACL='private')
        told(u, 'OPTIONS', {'Origin': 'example', 'Access-Control-Request-Method': 'PUT'}, 200, 'example', 'PUT')
        h = {'Origin': 'example', **({'x-amz-acl': 'private'} if 'x-amz-acl' in u.lower() else {})}
        s, h, _ = fetch(u, 'PUT', b'', h)
        eq((s, {k.lower(): v for k, v in h.items()}.get('access-control-allow-origin')), (200, 'example'))

    case('cors', 'test_cors_presigned_put_object' + (who or '') + '_with_acl')(with_acl)
