"""Objects: puts, reads, ranges, conditions of reads, many at once."""

from kit import *


@case('object')
def test_object_write_to_nonexist_bucket():
    refused(404, 'NoSuchBucket', main().put_object, Bucket=new_name(), Key='a', Body=b'a')


@case('object')
def test_object_read_not_exist():
    refused(404, 'NoSuchKey', main().get_object, Bucket=bucket(), Key='bar')


@case('object')
def test_object_read_unreadable():
    refused(400, None, main().get_object, Bucket=bucket(), Key='\xae\x8a-')


@case('object')
def test_object_requestid_matches_header_on_error():
    e = refused(404, 'NoSuchKey', main().get_object, Bucket=bucket(), Key='bar')
    r = e.response
    eq(r['ResponseMetadata']['HTTPHeaders']['x-amz-request-id'], r['ResponseMetadata']['RequestId'])


@case('object')
def test_object_head_zero_bytes():
    b = bucket()
    main().put_object(Bucket=b, Key='foo', Body=b'')
    eq(main().head_object(Bucket=b, Key='foo')['ContentLength'], 0)


@case('object')
def test_object_write_check_etag():
    eq(main().put_object(Bucket=bucket(), Key='foo', Body=b'bar')['ETag'], '"37b51d194a7513e45b56f6524f2d51f2"')


@case('object')
def test_object_write_cache_control():
    b = bucket()
    main().put_object(Bucket=b, Key='foo', Body=b'', CacheControl='public, max-age=14400')
    eq(main().head_object(Bucket=b, Key='foo')['CacheControl'], 'public, max-age=14400')


@case('object')
def test_object_write_expires():

    b = bucket()
    t = datetime.datetime.now(datetime.timezone.utc).replace(microsecond=0) + datetime.timedelta(days=1)
    main().put_object(Bucket=b, Key='foo', Body=b'', Expires=t)
    eq(main().head_object(Bucket=b, Key='foo')['Expires'], t)


@case('object')
def test_object_write_read_update_read_delete():
    b = bucket()
    for body in (b'bar', b'soup'):
        main().put_object(Bucket=b, Key='foo', Body=body)
        eq(read(main(), b, 'foo'), body)
    main().delete_object(Bucket=b, Key='foo')


@case('object')
def test_object_write_file():
    b = bucket()
    main().put_object(Bucket=b, Key='foo', Body=b'bar' * 1000)
    eq(read(main(), b, 'foo'), b'bar' * 1000)


def metadata_case(what, values):
    @case('object', f'test_object_set_get_{what}')
    def run():
        b = bucket()
        for v in values:
            main().put_object(Bucket=b, Key='foo', Body=b'bar', Metadata={'meta1': v})
            eq(main().get_object(Bucket=b, Key='foo')['Metadata'].get('meta1', ''), v)


metadata_case('metadata_none_to_good', ['mymeta'])
metadata_case('metadata_none_to_empty', [''])
metadata_case('metadata_overwrite_to_empty', ['oldmeta', ''])


@case('object')
def test_object_metadata_replaced_on_put():
    b = bucket()
    main().put_object(Bucket=b, Key='foo', Body=b'bar', Metadata={'meta1': 'bar'})
    main().put_object(Bucket=b, Key='foo', Body=b'bar')
    eq(main().get_object(Bucket=b, Key='foo')['Metadata'], {})


@case('object')
def test_object_set_get_unicode_metadata():
    b = bucket()
    c = fresh()
    c.meta.events.register(
        'before-call.s3.PutObject',
        lambda params, **_: params['headers'].update({'x-amz-meta-meta1': 'Hello World\xe9'}),
    )
    c.put_object(Bucket=b, Key='foo', Body=b'bar')
    eq(main().get_object(Bucket=b, Key='foo')['Metadata']['meta1'], 'Hello World\xe9')


def delete_many(v2):
    def run():
        b = fill(['key0', 'key1', 'key2'])
        c = main()
        listed = c.list_objects_v2(Bucket=b) if v2 else c.list_objects(Bucket=b)
        eq(len(listed['Contents']), 3)
        objects = {'Objects': [{'Key': k} for k in ('key0', 'key1', 'key2')]}
        for _ in range(2):
            r = c.delete_objects(Bucket=b, Delete=objects)
            eq((len(r['Deleted']), 'Errors' in r), (3, False))
        eq('Contents' in c.list_objects(Bucket=b), False)

    return run


case('object', 'test_multi_object_delete')(delete_many(False))
case('object', 'test_multi_objectv2_delete')(delete_many(True))
for n in ('test_multi_object_delete_key_limit', 'test_multi_objectv2_delete_key_limit'):

    @case('object', n)
    def limit():
        refused(
            400,
            'MalformedXML',
            main().delete_objects,
            Bucket=bucket(),
            Delete={'Objects': [{'Key': f'k{i}'} for i in range(1001)]},
        )


@case('object')
def test_object_delete_key_bucket_gone():
    b = bucket()
    main().delete_bucket(Bucket=b)
    refused(404, 'NoSuchBucket', main().delete_object, Bucket=b, Key='foo')


@case('object')
def test_object_anon_put():
    b = fill(['foo'])
    refused(403, 'AccessDenied', nobody().put_object, Bucket=b, Key='foo', Body=b'x')


@case('object')
def test_object_anon_put_write_access():
    b = bucket(ACL='public-read-write')
    nobody().put_object(Bucket=b, Key='foo', Body=b'x')


@case('object')
def test_object_put_authenticated():
    main().put_object(Bucket=bucket(), Key='foo', Body=b'foo')


@case('object')
def test_object_content_encoding_aws_chunked():
    b = bucket()
    for sent, kept in (
        ('gzip', 'gzip'),
        ('deflate, gzip', 'deflate, gzip'),
        ('gzip, aws-chunked', 'gzip'),
        ('aws-chunked, gzip', 'gzip'),
        ('aws-chunked', None),
        ('aws-chunked, aws-chunked', None),
    ):
        main().put_object(Bucket=b, Key='e', Body=b'x', ContentEncoding=sent)
        eq(main().head_object(Bucket=b, Key='e').get('ContentEncoding'), kept)


for algorithm, code in [('SHA256', 'sha256'), ('CRC64NVME', 'crc64nvme')]:

    def checks(algorithm=algorithm):
        b = bucket()
        field = 'Checksum' + algorithm
        if algorithm == 'SHA256':
            good = base64.b64encode(hashlib.sha256(b'x').digest()).decode()
        else:
            good = base64.b64encode(crc64nvme(b'x')).decode()
        r = main().put_object(Bucket=b, Key='s', Body=b'x', **{field: good})
        eq(r[field], good)
        h = main().head_object(Bucket=b, Key='s')
        eq(field in h, False)
        eq(main().head_object(Bucket=b, Key='s', ChecksumMode='ENABLED')[field], good)
        bad = base64.b64encode(b'\0' * (32 if algorithm == 'SHA256' else 8)).decode()
        refused(400, None, main().put_object, Bucket=b, Key='s', Body=b'x', **{field: bad})

    case('object', f'test_object_checksum_{code}')(checks)


def ranged(what, size, rng, start, end):
    @case('object', f'test_ranged_{what}')
    def run():
        b = bucket()
        body = bytes(random.Random(1).randbytes(size))
        main().put_object(Bucket=b, Key='o', Body=body)
        r = main().get_object(Bucket=b, Key='o', Range=rng)
        eq(r['Body'].read(), body[start:end])
        eq((r['ResponseMetadata']['HTTPStatusCode'], r['ContentRange']), (206, f'bytes {start}-{end - 1}/{size}'))


ranged('request_response_code', 11, 'bytes=4-7', 4, 8)
ranged('big_request_response_code', 8 * MIB, 'bytes=3145728-5242880', 3145728, 5242881)
ranged('request_skip_leading_bytes_response_code', 11, 'bytes=4-', 4, 11)
ranged('request_return_trailing_bytes_response_code', 11, 'bytes=-7', 4, 11)
for what, body in [('invalid_range', b'testcontent'), ('empty_object', b'')]:

    def bad(body=body):
        b = bucket()
        main().put_object(Bucket=b, Key='o', Body=body)
        refused(416, 'InvalidRange', main().get_object, Bucket=b, Key='o', Range='bytes=40-50')

    case('object', f'test_ranged_request_{what}')(bad)


def get_if(what, kw, status):
    @case('object', f'test_get_object_{what}')
    def run():
        b = bucket()
        e = main().put_object(Bucket=b, Key='foo', Body=b'bar')['ETag']
        args = {k: (e if v == 'ETAG' else v) for k, v in kw.items()}
        if status == 200:
            eq(read(main(), b, 'foo', **args), b'bar')
        else:
            refused(status, None, main().get_object, Bucket=b, Key='foo', **args)


get_if('ifmatch_good', {'IfMatch': 'ETAG'}, 200)
get_if('ifmatch_failed', {'IfMatch': '"ABCORZ"'}, 412)
get_if('ifnonematch_good', {'IfNoneMatch': 'ETAG'}, 304)
get_if('ifnonematch_failed', {'IfNoneMatch': 'ABCORZ'}, 200)
get_if('ifmodifiedsince_good', {'IfModifiedSince': 'Sat, 29 Oct 1994 19:43:31 GMT'}, 200)
get_if('ifunmodifiedsince_failed', {'IfUnmodifiedSince': 'Sat, 29 Oct 2100 19:43:31 GMT'}, 200)
get_if('ifunmodifiedsince_good', {'IfUnmodifiedSince': 'Sat, 29 Oct 1994 19:43:31 GMT'}, 412)


@case('object')
def test_get_object_ifmodifiedsince_failed():

    b = bucket()
    main().put_object(Bucket=b, Key='foo', Body=b'bar')
    t = main().get_object(Bucket=b, Key='foo')['LastModified'] + datetime.timedelta(seconds=1)
    time.sleep(1.2)
    refused(304, None, main().get_object, Bucket=b, Key='foo', IfModifiedSince=t)


def atomic(kind, size):
    @case('object', f'test_atomic_{kind}_{size}mb')
    def run():
        b = bucket()
        n = size * MIB
        main().put_object(Bucket=b, Key='o', Body=b'A' * n)

        def put(ch):
            fresh().put_object(Bucket=b, Key='o', Body=ch * n)

        if kind == 'read':
            r = main().get_object(Bucket=b, Key='o')
            put(b'B')
            eq(set(r['Body'].read()), {65})
            eq(set(read(main(), b, 'o')), {66})
        else:
            ts = [threading.Thread(target=put, args=(ch,)) for ch in ([b'B'] if kind == 'write' else [b'B', b'C'])]
            [t.start() for t in ts]
            seen = read(main(), b, 'o')
            [t.join() for t in ts]
            eq(len(set(seen)), 1)
            eq(len(set(read(main(), b, 'o'))), 1)


for kind in ('read', 'write', 'dual_write'):
    for size in (1, 4, 8):
        atomic(kind, size)


@case('object')
def test_atomic_write_bucket_gone():
    b = bucket()
    up = raw_request('PUT', f'/{b}/foo', body=b'A' * MIB, before_body=lambda: main().delete_bucket(Bucket=b))
    eq(up[0], 404)


@case('object')
def test_read_through():
    b = bucket()
    body = b'A' * 3 * MIB
    main().put_object(Bucket=b, Key='k', Body=body)
    stream = main().get_object(Bucket=b, Key='k')['Body']
    first = stream.read(1000)
    main().delete_object(Bucket=b, Key='k')
    eq(first + stream.read() == body, True)


@case('object')
def test_object_write_with_chunked_transfer_encoding():
    b = bucket()
    eq(raw_request('PUT', f'/{b}/foo', body=b'bar', chunked=True)[0], 200)


@case('object')
def test_get_object_torrent():
    b = fill(['k'])
    refused(404, 'NoSuchKey', main().get_object_torrent, Bucket=b, Key='k')


@case('object')
def test_object_put_acl_mtime():
    b = versioned()
    v = main().put_object(Bucket=b, Key='foo', Body=b'bar')['VersionId']
    before = main().head_object(Bucket=b, Key='foo')['LastModified']
    time.sleep(1.5)
    main().put_object_acl(Bucket=b, Key='foo', ACL='private')
    eq(main().head_object(Bucket=b, Key='foo')['LastModified'], before)
    eq(main().head_object(Bucket=b, Key='foo', VersionId=v)['LastModified'], before)
    listed = main().list_object_versions(Bucket=b)['Versions'][0]['LastModified']
    eq(abs((listed - before).total_seconds()) < 1, True)


@case('object')
def test_100_continue():
    """Whoever may not write is told so before he sends his body."""
    b = bucket()
    eq(first_line(f'/{b}/testobj'), 403)
    main().put_bucket_acl(Bucket=b, ACL='public-read-write')
    eq(first_line(f'/{b}/testobj'), 100)
