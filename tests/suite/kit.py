"""What the cases share: accounts, clients, buckets, and how a refusal is compared."""

import base64
import datetime
import hashlib
import http.client
import itertools
import json
import random
import re
import socket
import string
import threading
import time
import urllib.error
import urllib.request

import boto3
import botocore
from botocore.config import Config
from botocore.exceptions import ClientError

CASES = {}  # name -> (group, function)
ENV = {}  # endpoint, accounts


def case(group, name=None):
    def put(fn):
        n = name or fn.__name__
        assert n not in CASES, n
        CASES[n] = (group, fn)
        return fn

    return put


def _client(account, signed=True, **more):
    kw = dict(
        s3={'addressing_style': 'path'},
        retries={'total_max_attempts': 1},
        signature_version='s3v4',
        parameter_validation=False,
        read_timeout=120,
        max_pool_connections=20,
    )
    kw.update(more)
    if not signed:
        kw['signature_version'] = botocore.UNSIGNED
    a = ENV['accounts'][account]
    return boto3.client(
        's3',
        endpoint_url=ENV['endpoint'],
        region_name='us-east-1',
        aws_access_key_id=a['access_key'],
        aws_secret_access_key=a['secret_key'],
        config=Config(**kw),
    )


_cache = {}


def use(endpoint):
    ENV['endpoint'] = endpoint
    _cache.clear()


def main():
    return _cache.setdefault('main', _client('main'))


def alt():
    return _cache.setdefault('alt', _client('alt'))


def tenant():
    return _cache.setdefault('tenant', _client('tenant'))


def nobody():
    return _cache.setdefault('nobody', _client('main', signed=False))


def user_id(who):
    return ENV['accounts'][who]['id']


def display_name(who):
    return ENV['accounts'][who].get('display_name', who)


_n = itertools.count()
_run = ''.join(random.choices(string.ascii_lowercase, k=6))


def new_name():
    return f'suite-{_run}-{next(_n)}'


def bucket(client=None, **kw):
    name = new_name()
    (client or main()).create_bucket(Bucket=name, **kw)
    return name


def fill(keys, client=None, **kw):
    b = bucket(client)
    for k in keys:
        (client or main()).put_object(Bucket=b, Key=k, Body=k.encode(), **kw)
    return b


class Differs(AssertionError):
    pass


def eq(found, wanted, what=''):
    if found != wanted:
        raise Differs(f'{what} found {found!r}, wanted {wanted!r}')


def refused(status, code, fn, *a, **kw):
    """The call fails with this status and code (None: any code)."""
    try:
        got = fn(*a, **kw)
    except ClientError as e:
        s, c = e.response['ResponseMetadata']['HTTPStatusCode'], e.response['Error']['Code']
        if s != status or (code is not None and c != code):
            raise Differs(f'refused with {s} {c}, wanted {status} {code}')
        return e
    raise Differs(f'not refused ({got.get("ResponseMetadata", {}).get("HTTPStatusCode")}), wanted {status} {code}')


def read(client, b, k, **kw):
    return client.get_object(Bucket=b, Key=k, **kw)['Body'].read()


def header_before_sign(client, operation, headers, remove=()):
    """A client that sends these headers with an operation."""

    def change(request, **_):
        for name in remove:
            del request.headers[name]
        for name, value in headers.items():
            request.headers[name] = value

    c = _client('main') if client is None else client
    c.meta.events.register(f'before-sign.s3.{operation}', change)
    return c


def fresh(who='main', **kw):
    return _client(who, **kw)


def parts_upload(client, b, k, sizes, body=None, **kw):
    up = client.create_multipart_upload(Bucket=b, Key=k, **kw)['UploadId']
    listed, whole = [], b''
    for n, size in enumerate(sizes, 1):
        data = (body or (lambda n, s: bytes([64 + n]) * s))(n, size)
        whole += data
        e = client.upload_part(Bucket=b, Key=k, UploadId=up, PartNumber=n, Body=data)['ETag']
        listed.append({'PartNumber': n, 'ETag': e})
    return up, listed, whole


def complete(client, b, k, up, listed, **kw):
    return client.complete_multipart_upload(Bucket=b, Key=k, UploadId=up, MultipartUpload={'Parts': listed}, **kw)


def crc64nvme(data):
    crc = 0xFFFFFFFFFFFFFFFF
    for byte in data:
        crc ^= byte
        for _ in range(8):
            crc = (crc >> 1) ^ (0x9A6C9329AC4BC9B5 if crc & 1 else 0)
    return (crc ^ 0xFFFFFFFFFFFFFFFF).to_bytes(8, 'big')


def versioned(client=None, **kw):
    b = bucket(client, **kw)
    (client or main()).put_bucket_versioning(Bucket=b, VersioningConfiguration={'Status': 'Enabled'})
    return b


def suspend(b):
    main().put_bucket_versioning(Bucket=b, VersioningConfiguration={'Status': 'Suspended'})


def arn(b, rest=''):
    return f'arn:aws:s3:::{b}{rest}'


def policy(b, *statements):
    return json.dumps({'Version': '2012-10-17', 'Statement': list(statements)})


def allow(action, resource, principal='*', effect='Allow', condition=None):
    s = {'Effect': effect, 'Principal': {'AWS': principal}, 'Action': action, 'Resource': resource}
    return {**s, 'Condition': condition} if condition else s


def put_policy(b, *statements):
    main().put_bucket_policy(Bucket=b, Policy=policy(b, *statements))


def url(client, b, k=None, op='get_object', expires=100, **kw):
    return client.generate_presigned_url(op, Params={'Bucket': b, **({'Key': k} if k else {}), **kw}, ExpiresIn=expires)


def fetch(u, method='GET', data=None, headers={}):
    try:
        with urllib.request.urlopen(urllib.request.Request(u, method=method, data=data, headers=headers)) as r:
            return r.status, dict(r.headers.items()), r.read()
    except urllib.error.HTTPError as e:
        return e.code, dict(e.headers.items()), e.read()


def host():
    return ENV['endpoint'].split('//')[1]


def raw_request(method, path, body=b'', chunked=False, before_body=None):
    """A request signed with an unsigned body, written by hand: in chunks, or with something done in the middle of it."""
    from botocore.auth import S3SigV4Auth
    from botocore.awsrequest import AWSRequest
    from botocore.credentials import Credentials

    a = ENV['accounts']['main']
    request = AWSRequest(method, ENV['endpoint'] + path, data=body)
    S3SigV4Auth(Credentials(a['access_key'], a['secret_key']), 's3', 'us-east-1').add_auth(request)
    connection = http.client.HTTPConnection(host(), timeout=60)
    connection.putrequest(method, path, skip_accept_encoding=True)
    for name, value in request.headers.items():
        if name.lower() not in ('host', 'content-length', 'transfer-encoding'):
            connection.putheader(name, value)
    connection.putheader(*(('Transfer-Encoding', 'chunked') if chunked else ('Content-Length', str(len(body)))))
    connection.endheaders()
    half = len(body) // 2
    for piece in (body[:half], body[half:]):
        if piece:
            connection.send(b'%x\r\n%s\r\n' % (len(piece), piece) if chunked else piece)
        if before_body:
            before_body()
            before_body = None
    if chunked:
        connection.send(b'0\r\n\r\n')
    r = connection.getresponse()
    return r.status, dict(r.getheaders()), r.read()


def first_line(path):
    """The status of the first answer to an unsigned PUT that waits for 100 Continue."""
    with socket.create_connection(host().split(':'), timeout=30) as s:
        lines = [f'PUT {path} HTTP/1.1', f'Host: {host()}', 'Content-Length: 3', 'Expect: 100-continue', '', '']
        s.sendall('\r\n'.join(lines).encode())
        return int(s.makefile('rb').readline().split()[1])


MIB = 1 << 20
# Seconds of a lifecycle day.
DAY = 10
