"""Headers in the query of a presigned URL, where the SDK for JavaScript puts them."""

import base64
import urllib.parse
import zlib

from kit import *


def crc32(body):
    return base64.b64encode(zlib.crc32(body).to_bytes(4, 'big')).decode()


def signed(method, path, params):
    from botocore.auth import S3SigV4QueryAuth
    from botocore.awsrequest import AWSRequest
    from botocore.credentials import Credentials

    a = ENV['accounts']['main']
    query = urllib.parse.urlencode({'X-Amz-Content-Sha256': 'UNSIGNED-PAYLOAD', **params})
    request = AWSRequest(method, f'{ENV["endpoint"]}{path}?{query}')
    S3SigV4QueryAuth(Credentials(a['access_key'], a['secret_key']), 's3', 'us-east-1', expires=100).add_auth(request)
    return request.url


@case('object')
def test_object_presigned_put_with_headers_in_the_query():
    b, body = bucket(), b'hello world'
    says = {
        'x-amz-checksum-crc32': crc32(body),
        'x-amz-meta-colour': 'light blue',
        'x-amz-sdk-checksum-algorithm': 'CRC32',
        'x-amz-tagging': 'a=b&c=d',
        'x-id': 'PutObject',
    }
    u = signed('PUT', f'/{b}/foo', says)
    eq(fetch(u, 'PUT', body)[0], 200)
    got = main().get_object(Bucket=b, Key='foo')
    eq((got['Metadata'], got['TagCount'], got['Body'].read()), ({'colour': 'light blue'}, 2, body))
    eq(fetch(u, 'PUT', b'another')[0], 400, 'a body that has not the checksum in the URL')
    eq(fetch(u.replace('blue', 'red'), 'PUT', body)[0], 403, 'a URL that was changed')
    eq(fetch(u, 'PUT', body, {'x-amz-acl': 'public-read'})[0], 403, 'a header that was not signed')
    status, headers, got = fetch(signed('GET', f'/{b}/foo', {'x-amz-checksum-mode': 'ENABLED'}))
    eq((status, headers.get('x-amz-checksum-crc32'), got), (200, crc32(body), body))
