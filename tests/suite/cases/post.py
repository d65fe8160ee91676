"""Uploads by a browser's form. The suite signs most of its own with version 2; these are signed with version 4, or not at all."""

import hmac
import xml.etree.ElementTree as ET

from kit import *


def send(b, fields, body=b'bar', filename=None):
    """Posts a form and gives the status, the headers and the body of the answer."""
    mark = 'stele-suite-form'
    out = b''
    for name, value in fields:
        value = value if isinstance(value, bytes) else str(value).encode()
        out += f'--{mark}\r\nContent-Disposition: form-data; name="{name}"\r\n\r\n'.encode() + value + b'\r\n'
    named = f'; filename="{filename}"' if filename else ''
    out += f'--{mark}\r\nContent-Disposition: form-data; name="file"{named}\r\n\r\n'.encode() + body
    out += f'\r\n--{mark}--\r\n'.encode()
    return fetch(f"{ENV['endpoint']}/{b}", 'POST', out, {'Content-Type': f'multipart/form-data; boundary={mark}'})


ANONYMOUS = [('key', 'foo.txt'), ('acl', 'public-read'), ('Content-Type', 'text/plain')]


@case('post')
def test_post_object_anonymous_request():
    b = bucket(ACL='public-read-write')
    eq(send(b, ANONYMOUS)[0], 204)
    eq(read(main(), b, 'foo.txt'), b'bar')


@case('post')
def test_post_object_set_success_code():
    b = bucket(ACL='public-read-write')
    status, _, answer = send(b, [*ANONYMOUS, ('success_action_status', '201')])
    eq((status, ET.fromstring(answer).find('{*}Key').text), (201, 'foo.txt'))


@case('post')
def test_post_object_set_invalid_success_code():
    b = bucket(ACL='public-read-write')
    status, _, answer = send(b, [*ANONYMOUS, ('success_action_status', '404')])
    eq((status, answer), (204, b''))


def tag_set(n):
    tags = ''.join(f'<Tag><Key>{i}</Key><Value>{i}</Value></Tag>' for i in range(n))
    return f'<Tagging><TagSet>{tags}</TagSet></Tagging>'


@case('post')
def test_post_object_tags_anonymous_request():
    b = bucket(ACL='public-read-write')
    eq(send(b, [*ANONYMOUS, ('tagging', tag_set(2))])[0], 204)
    eq(read(main(), b, 'foo.txt'), b'bar')
    eq(
        sorted(t['Key'] for t in main().get_object_tagging(Bucket=b, Key='foo.txt')['TagSet']),
        ['0', '1'],
    )


# Signed forms


def expiry(seconds=6000):
    then = datetime.datetime.now(datetime.timezone.utc) + datetime.timedelta(seconds=seconds)
    return then.strftime('%Y-%m-%dT%H:%M:%SZ')


def conditions(b, *more):
    return [
        {'bucket': b},
        ['starts-with', '$key', 'foo'],
        {'acl': 'private'},
        ['starts-with', '$Content-Type', 'text/plain'],
        ['content-length-range', 0, 1024],
        *more,
    ]


def signed(document, fields=(), key=None, secret=None, drop=()):
    """The fields of a form whose policy is signed with version 4."""
    account = ENV['accounts']['main']
    now = datetime.datetime.now(datetime.timezone.utc)
    day, stamp = now.strftime('%Y%m%d'), now.strftime('%Y%m%dT%H%M%SZ')
    credential = f"{key or account['access_key']}/{day}/us-east-1/s3/aws4_request"
    own = [
        ('x-amz-algorithm', 'AWS4-HMAC-SHA256'),
        ('x-amz-credential', credential),
        ('x-amz-date', stamp),
    ]
    if isinstance(document, dict):
        if isinstance(document.get('conditions'), list):
            document = {**document, 'conditions': document['conditions'] + [{k: v} for k, v in own]}
        document = json.dumps(document)
    policy = base64.b64encode(document.encode())
    step = ('AWS4' + (secret or account['secret_key'])).encode()
    for word in (day, 'us-east-1', 's3', 'aws4_request'):
        step = hmac.new(step, word.encode(), hashlib.sha256).digest()
    signature = hmac.new(step, policy, hashlib.sha256).hexdigest()
    all_fields = [*fields, *own, ('policy', policy), ('x-amz-signature', signature)]
    return [f for f in all_fields if f[0] not in drop]


PLAIN = [('key', 'foo.txt'), ('acl', 'private'), ('Content-Type', 'text/plain')]


def form(name, status, document=None, fields=PLAIN, body=b'bar', check=None, filename=None, **kw):
    @case('post', name)
    def run():
        b = bucket()
        given = document(b) if document else {'expiration': expiry(), 'conditions': conditions(b)}
        got, headers, _ = send(b, signed(given, fields, **kw), body, filename)
        eq(got, status)
        if status < 300:
            stored = 'foo.txt' if not filename else 'foo/' + filename
            eq(read(main(), b, stored), body)
        if check:
            check(b, headers)


def document(conditions_of=conditions, **more):
    return lambda b: {'expiration': expiry(), 'conditions': conditions_of(b), **more}


form('test_post_object_authenticated_request', 204)
form(
    'test_post_object_authenticated_no_content_type',
    204,
    document(lambda b: [c for c in conditions(b) if 'Content-Type' not in str(c)]),
    PLAIN[:2],
)
form('test_post_object_authenticated_request_bad_access_key', 403, key='NOSUCHKEY0000000')
form('test_post_object_invalid_access_key', 403, key='NOSUCHKEY0000000')
form('test_post_object_invalid_signature', 403, secret='another secret, not that of the account')
form('test_post_object_missing_signature', 400, drop=('x-amz-signature',))
form(
    'test_post_object_upload_larger_than_chunk',
    204,
    document(lambda b: conditions(b)[:-1] + [['content-length-range', 0, 5 * MIB]]),
    body=b'0123456789abcdef' * (3 * MIB // 16),
)
form(
    'test_post_object_set_key_from_filename',
    204,
    fields=[('key', 'foo/${filename}'), *PLAIN[1:]],
    filename='foo.txt',
)
form('test_post_object_ignored_header', 204, fields=[*PLAIN, ('x-ignore-foo', 'bar')])
form(
    'test_post_object_case_insensitive_condition_fields',
    204,
    lambda b: {
        'expiration': expiry(),
        'conditions': [
            {'bUcKeT': b},
            ['StArTs-WiTh', '$KeY', 'foo'],
            {'AcL': 'private'},
            ['StArTs-WiTh', '$CoNtEnT-TyPe', 'text/plain'],
            ['content-length-range', 0, 1024],
        ],
    },
    [('kEy', 'foo.txt'), ('aCl', 'private'), ('Content-Type', 'text/plain')],
)


@case('post')
def test_post_object_escaped_field_values():
    b = bucket()
    rules = [['starts-with', '$key', '\\$foo'] if '$key' in c else c for c in conditions(b)]
    fields = signed({'expiration': expiry(), 'conditions': rules}, [('key', '\\$foo.txt'), *PLAIN[1:]])
    eq(send(b, fields)[0], 204)
    eq(read(main(), b, '\\$foo.txt'), b'bar')


@case('post')
def test_post_object_success_redirect_action():
    b = bucket()
    target = f"{ENV['endpoint']}/{b}"
    rules = conditions(b, ['eq', '$success_action_redirect', target])
    fields = signed({'expiration': expiry(), 'conditions': rules}, [*PLAIN, ('success_action_redirect', target)])

    class Stay(urllib.request.HTTPRedirectHandler):
        def redirect_request(self, *a, **kw):
            return None

    mark = 'stele-suite-form'
    out = ''.join(
        f'--{mark}\r\nContent-Disposition: form-data; name="{n}"\r\n\r\n{v.decode() if isinstance(v, bytes) else v}\r\n'
        for n, v in [*fields, ('file', 'bar')]
    )
    request = urllib.request.Request(target, (out + f'--{mark}--\r\n').encode(), method='POST')
    request.add_header('Content-Type', f'multipart/form-data; boundary={mark}')
    try:
        urllib.request.build_opener(Stay).open(request)
        raise Differs('not redirected')
    except urllib.error.HTTPError as e:
        etag = main().head_object(Bucket=b, Key='foo.txt')['ETag'].strip('"')
        eq((e.code, e.headers['Location']), (303, f'{target}?bucket={b}&key=foo.txt&etag=%22{etag}%22'))


def refused_form(name, status, change, fields=PLAIN, body=b'bar'):
    """A form whose policy is `change` of a good one."""

    def made(b):
        good = {'expiration': expiry(), 'conditions': conditions(b)}
        return change(good, b) or good

    form(name, status, made, fields, body)


def without(what):
    return lambda good, b: good.update(conditions=[c for c in good['conditions'] if what not in str(c)])


refused_form(
    'test_post_object_invalid_date_format', 400, lambda g, b: g.update(expiration=str(datetime.datetime.now()))
)
refused_form('test_post_object_no_key_specified', 400, without('$key'), PLAIN[1:])
refused_form(
    'test_post_object_missing_policy_condition',
    403,
    lambda g, b: g.update(conditions=[['starts-with', '$key', '\\$foo'], *g['conditions'][2:]]),
)
refused_form(
    'test_post_object_request_missing_policy_specified_field',
    403,
    lambda g, b: g['conditions'].append(['starts-with', '$x-amz-meta-foo', 'bar']),
)
refused_form('test_post_object_condition_is_case_sensitive', 400, lambda g, b: g.update(CONDITIONS=g.pop('conditions')))
refused_form('test_post_object_expires_is_case_sensitive', 400, lambda g, b: g.update(EXPIRATION=g.pop('expiration')))
refused_form('test_post_object_expired_policy', 403, lambda g, b: g.update(expiration=expiry(-6000)))
refused_form(
    'test_post_object_wrong_bucket',
    403,
    lambda g, b: g.update(conditions=[{'bucket': 'another'}, *g['conditions'][1:]]),
)
refused_form(
    'test_post_object_invalid_request_field_value',
    403,
    lambda g, b: g['conditions'].append(['eq', '$x-amz-meta-foo', '']),
    [*PLAIN, ('x-amz-meta-foo', 'barclamp')],
)
refused_form('test_post_object_missing_expires_condition', 400, lambda g, b: g.pop('expiration') and None)
refused_form('test_post_object_missing_conditions_list', 400, lambda g, b: g.pop('conditions') and None)
refused_form(
    'test_post_object_upload_size_limit_exceeded', 400, lambda g, b: range_of(g, ['content-length-range', 0, 0])
)
refused_form(
    'test_post_object_missing_content_length_argument', 400, lambda g, b: range_of(g, ['content-length-range', 0])
)
refused_form(
    'test_post_object_invalid_content_length_argument', 400, lambda g, b: range_of(g, ['content-length-range', -1, 0])
)
refused_form(
    'test_post_object_upload_size_below_minimum', 400, lambda g, b: range_of(g, ['content-length-range', 512, 1000])
)
refused_form('test_post_object_empty_conditions', 400, lambda g, b: g.update(conditions=[{}]))
form(
    'test_post_object_user_specified_header',
    204,
    lambda b: {'expiration': expiry(), 'conditions': conditions(b, ['starts-with', '$x-amz-meta-foo', 'bar'])},
    [*PLAIN, ('x-amz-meta-foo', 'barclamp')],
    check=lambda b, h: eq(main().head_object(Bucket=b, Key='foo.txt')['Metadata'], {'foo': 'barclamp'}),
)
form(
    'test_post_object_tags_authenticated_request',
    204,
    lambda b: {'expiration': expiry(), 'conditions': conditions(b, ['starts-with', '$tagging', ''])},
    [*PLAIN, ('tagging', tag_set(2))],
    check=lambda b, h: eq(len(main().get_object_tagging(Bucket=b, Key='foo.txt')['TagSet']), 2),
)


def range_of(good, condition):
    good['conditions'] = [c for c in good['conditions'] if 'content-length-range' not in c] + [condition]


@case('post')
def test_post_object_upload_checksum():
    b = bucket()
    body = b'x' * 1000
    value = base64.b64encode(hashlib.sha256(body).digest()).decode()
    for sent_value, status in ((value, 204), ('sailorjerry', 400)):
        fields = [*PLAIN, ('x-amz-checksum-sha256', sent_value)]
        eq(send(b, signed({'expiration': expiry(), 'conditions': conditions(b)}, fields), body)[0], status)
