"""Headers."""

from kit import *


def put_header(name, headers, status, code=None, remove=(), op='PutObject', body=b'bar'):
    @case('headers', name)
    def run():
        c = fresh()
        b = bucket() if op == 'PutObject' else new_name()

        def change(params, **_):
            params['headers'].update(headers)
            for r in remove:
                params['headers'].pop(r, None)

        c.meta.events.register(f'before-call.s3.{op}', change)
        call = (
            (lambda: c.put_object(Bucket=b, Key='foo', Body=body))
            if op == 'PutObject'
            else (lambda: c.create_bucket(Bucket=b))
        )
        if status == 200:
            call()
        else:
            refused(status, code, call)


put_header('test_object_create_bad_md5_invalid_short', {'Content-MD5': 'YWJyYWNhZGFicmE='}, 400, 'InvalidDigest')
put_header('test_object_create_bad_md5_bad', {'Content-MD5': 'rL0Y20xC+Fzt72VPzMSk2A=='}, 400, 'BadDigest')
put_header('test_object_create_bad_md5_empty', {'Content-MD5': ''}, 400, 'InvalidDigest')
put_header('test_object_create_bad_contenttype_invalid', {'Content-Type': 'text/plain'}, 200)
put_header('test_object_create_bad_contenttype_empty', {'Content-Type': ''}, 200)


@case('headers')
def test_bucket_put_bad_canned_acl():
    c = fresh()
    b = bucket()
    c.meta.events.register(
        'before-call.s3.PutBucketAcl', lambda params, **_: params['headers'].update({'x-amz-acl': 'public-ready'})
    )
    refused(400, 'InvalidArgument', c.put_bucket_acl, Bucket=b, ACL='public-read')


for n, op in (('object_create_bad_authorization', 'PutObject'), ('bucket_create_bad_authorization', 'CreateBucket')):
    for kind in ('empty', 'none'):

        def unsigned(op=op, kind=kind):
            b = bucket() if op == 'PutObject' else new_name()
            eq(
                fetch(
                    f"{ENV['endpoint']}/{b}" + ('/foo' if op == 'PutObject' else ''),
                    'PUT',
                    b'bar' if op == 'PutObject' else b'',
                    {'Authorization': ''} if kind == 'empty' else {},
                )[0],
                403,
            )

        case('headers', f'test_{n}_{kind}')(unsigned)


def quiet(name, remove, op='PutObject', body=b'bar', headers={}, status=200, code=None):
    put_header(name, headers, status, code, remove, op, body)


quiet('test_object_create_bad_md5_none', ['Content-MD5'])
quiet('test_object_create_bad_expect_mismatch', [], headers={'Expect': '200'})
quiet('test_object_create_bad_expect_empty', [], headers={'Expect': ''})
quiet('test_object_create_bad_expect_none', ['Expect'])
quiet('test_object_create_bad_contenttype_none', ['Content-Type'])
quiet('test_bucket_create_bad_expect_mismatch', [], 'CreateBucket', headers={'Expect': '200'})
quiet('test_bucket_create_bad_expect_empty', [], 'CreateBucket', headers={'Expect': ''})


def by_hand(path, headers, body=b'', remove=()):
    """A signed PUT whose header lines are exactly these; gives the status (400 when the connection is closed on it)."""
    from botocore.auth import S3SigV4Auth
    from botocore.awsrequest import AWSRequest
    from botocore.credentials import Credentials

    a = ENV['accounts']['main']
    request = AWSRequest('PUT', ENV['endpoint'] + path, data=body)
    S3SigV4Auth(Credentials(a['access_key'], a['secret_key']), 's3', 'us-east-1').add_auth(request)
    lines = [f'PUT {path} HTTP/1.1', f'Host: {host()}', 'Connection: close']
    lines += [f'{n}: {v}' for n, v in request.headers.items() if n.lower() not in ('host', 'content-length')]
    lines += [f'{n}: {v}' for n, v in headers]
    with socket.create_connection(host().split(':'), timeout=30) as s:
        s.sendall('\r\n'.join([*lines, '', '']).encode() + body)
        first = s.makefile('rb').readline().split()
        return int(first[1]) if len(first) > 1 else 400


def length(name, path, value, status, body=b''):
    @case('headers', name)
    def run():
        b = bucket() if '{b}' in path else new_name()
        headers = [] if value is None else [('Content-Length', value)]
        eq(by_hand(path.replace('{b}', b).replace('{new}', b), headers, body), status)


length('test_object_create_bad_contentlength_none', '/{b}/foo', None, 411)
length('test_object_create_bad_contentlength_empty', '/{b}/foo', '', 400)
length('test_object_create_bad_contentlength_negative', '/{b}/foo', '-1', 400)
length('test_bucket_create_contentlength_none', '/{new}', None, 200)
length('test_bucket_create_bad_contentlength_none', '/{new}', None, 200)
length('test_bucket_create_bad_contentlength_empty', '/{new}', '', 400)
length('test_bucket_create_bad_contentlength_negative', '/{new}', '-1', 400)


@case('headers')
def test_object_acl_create_contentlength_none():
    b = fill(['foo'])
    c = fresh()
    c.meta.events.register(
        'before-call.s3.PutObjectAcl', lambda params, **_: params['headers'].pop('Content-Length', None)
    )
    c.put_object_acl(Bucket=b, Key='foo', ACL='public-read')


def dated(name, headers):
    """botocore signs Date, and sends no X-Amz-Date, where it finds a Date."""
    now = datetime.datetime.now(datetime.timezone.utc).strftime('%a, %d %b %Y %H:%M:%S GMT')
    quiet(name, [], headers={k: now if v else '' for k, v in headers.items()})


dated('test_object_create_date_and_amz_date', {'Date': True, 'X-Amz-Date': True})
dated('test_object_create_amz_date_and_no_date', {'Date': False, 'X-Amz-Date': True})
