"""Uploads in parts, attributes, checksums of parts."""

from kit import *


def whole(name, sizes, group='multipart'):
    @case(group, name)
    def run():
        b = bucket()
        for s in (sizes if isinstance(sizes[0], list) else [sizes]):
            up, listed, body = parts_upload(
                main(), b, 'mymultipart', s, Metadata={'foo': 'bar'}, ContentType='text/bla'
            )
            complete(main(), b, 'mymultipart', up, listed)
            r = main().get_object(Bucket=b, Key='mymultipart')
            eq(
                (hashlib.md5(r['Body'].read()).hexdigest(), r['ContentType'], r['Metadata']),
                (hashlib.md5(body).hexdigest(), 'text/bla', {'foo': 'bar'}),
            )


whole('test_multipart_upload', [5 * MIB] * 6)
whole('test_multipart_upload_small', [1])
whole('test_multipart_upload_contents', [5 * MIB] * 3 + [100])
whole(
    'test_multipart_upload_multiple_sizes',
    [[5 * MIB, 5 * MIB], [5 * MIB, 5 * MIB + 100 * 1024], [5 * MIB, 5 * MIB, 600 * 1024]],
)


@case('multipart')
def test_multipart_upload_empty():
    b = bucket()
    up = main().create_multipart_upload(Bucket=b, Key='m')['UploadId']
    refused(
        400,
        'MalformedXML',
        main().complete_multipart_upload,
        Bucket=b,
        Key='m',
        UploadId=up,
        MultipartUpload={'Parts': []},
    )


@case('multipart')
def test_multipart_upload_size_too_small():
    b = bucket()
    up, l, _ = parts_upload(main(), b, 'm', [10 * 1024] * 10)
    refused(400, 'EntityTooSmall', complete, main(), b, 'm', up, l)


@case('multipart')
def test_multipart_upload_overwrite_existing_object():
    b = fill(['m'])
    up, l, body = parts_upload(main(), b, 'm', [5 * MIB] * 2)
    complete(main(), b, 'm', up, l)
    eq(read(main(), b, 'm') == body, True)


for what, change in [
    ('missing_part', {'PartNumber': 9999}),
    ('incorrect_etag', {'ETag': '"ffffffffffffffffffffffffffffffff"'}),
]:

    def wrong(change=change):
        b = bucket()
        up, l, _ = parts_upload(main(), b, 'm', [3])
        refused(400, 'InvalidPart', complete, main(), b, 'm', up, [{**l[0], **change}])

    case('multipart', f'test_multipart_upload_{what}')(wrong)


@case('multipart')
def test_multipart_upload_resend_part():
    b = bucket()
    up, l, _ = parts_upload(main(), b, 'm', [5 * MIB, 5 * MIB, MIB])
    l[1]['ETag'] = main().upload_part(Bucket=b, Key='m', UploadId=up, PartNumber=2, Body=b'z' * 5 * MIB)['ETag']
    complete(main(), b, 'm', up, l)
    eq(read(main(), b, 'm')[5 * MIB : 10 * MIB] == b'z' * 5 * MIB, True)


@case('multipart')
def test_multipart_resend_first_finishes_last():
    b = bucket()
    up = main().create_multipart_upload(Bucket=b, Key='m')['UploadId']
    main().upload_part(Bucket=b, Key='m', UploadId=up, PartNumber=1, Body=b'A' * 8 * MIB)
    e = main().upload_part(Bucket=b, Key='m', UploadId=up, PartNumber=1, Body=b'B' * 8 * MIB)['ETag']
    complete(main(), b, 'm', up, [{'PartNumber': 1, 'ETag': e}])
    eq(set(read(main(), b, 'm')), {66})


@case('multipart')
def test_abort_multipart_upload():
    b = bucket()
    up, _, _ = parts_upload(main(), b, 'm', [MIB])
    main().abort_multipart_upload(Bucket=b, Key='m', UploadId=up)
    eq('Uploads' in main().list_multipart_uploads(Bucket=b), False)


@case('multipart')
def test_abort_multipart_upload_not_found():
    b = fill(['m'])
    refused(404, 'NoSuchUpload', main().abort_multipart_upload, Bucket=b, Key='m', UploadId='56788')


@case('multipart')
def test_list_multipart_upload():
    b = bucket()
    ups = [main().create_multipart_upload(Bucket=b, Key=k)['UploadId'] for k in ('m', 'm', 'm2')]
    eq(sorted(u['UploadId'] for u in main().list_multipart_uploads(Bucket=b)['Uploads']), sorted(ups))


@case('multipart')
def test_list_multipart_upload_owner():
    b = bucket()
    main().put_bucket_acl(Bucket=b, ACL='public-read-write')
    for who, c in (('main', main()), ('alt', alt())):
        c.create_multipart_upload(Bucket=b, Key='m-' + who)
    for u in main().list_multipart_uploads(Bucket=b)['Uploads']:
        who = u['Key'][2:]
        eq((u['Initiator']['ID'], u['Owner']['ID']), (user_id(who), user_id(who)))


@case('multipart')
def test_atomic_multipart_upload_write():
    b = fill(['foo'])
    up = main().create_multipart_upload(Bucket=b, Key='foo')['UploadId']
    eq(read(main(), b, 'foo'), b'foo')
    main().abort_multipart_upload(Bucket=b, Key='foo', UploadId=up)
    eq(read(main(), b, 'foo'), b'foo')


def copy_parts(size, piece, src_key='a', **src):
    a, b = bucket(), bucket()
    body = random.Random(2).randbytes(size)
    main().put_object(Bucket=a, Key=src_key, Body=body)
    up = main().create_multipart_upload(Bucket=b, Key='m')['UploadId']
    l = []
    for n, at in enumerate(range(0, size, piece), 1):
        r = main().upload_part_copy(
            Bucket=b,
            Key='m',
            UploadId=up,
            PartNumber=n,
            CopySource={'Bucket': a, 'Key': src_key, **src},
            CopySourceRange=f'bytes={at}-{min(at + piece, size) - 1}',
        )
        l.append({'PartNumber': n, 'ETag': r['CopyPartResult']['ETag']})
    complete(main(), b, 'm', up, l)
    eq(read(main(), b, 'm') == body, True)


@case('multipart')
def test_multipart_copy_small():
    copy_parts(1, 1)


@case('multipart')
def test_multipart_copy_multiple_sizes():
    for s in (5 * MIB, 5 * MIB + 100 * 1024, 10 * MIB + 600 * 1024):
        copy_parts(s, 5 * MIB)


@case('multipart')
def test_multipart_copy_special_names():
    for k in (' ', '_', '__', '?versionId'):
        copy_parts(1, 1, k)


@case('multipart')
def test_upload_part_copy_percent_encoded_key():
    copy_parts(3, 3, 'anyfile%20.txt')


def bad_range(name, ranges, status, code):
    @case('multipart', name)
    def run():
        a = bucket()
        main().put_object(Bucket=a, Key='src', Body=b'12345')
        up = main().create_multipart_upload(Bucket=a, Key='d')['UploadId']
        for r in ranges:
            refused(
                status,
                code,
                main().upload_part_copy,
                Bucket=a,
                Key='d',
                UploadId=up,
                PartNumber=1,
                CopySource={'Bucket': a, 'Key': 'src'},
                CopySourceRange=r,
            )


bad_range(
    'test_multipart_copy_improper_range',
    ['0-2', 'bytes=0', 'bytes=hello-world', 'bytes=0-bar', 'bytes=hello-', 'bytes=0-2,3-5'],
    400,
    'InvalidArgument',
)
bad_range('test_multipart_copy_invalid_range', ['bytes=0-21'], 416, 'InvalidRange')


@case('multipart')
def test_multipart_copy_without_range():
    a = fill(['src'])
    up = main().create_multipart_upload(Bucket=a, Key='d')['UploadId']
    r = main().upload_part_copy(Bucket=a, Key='d', UploadId=up, PartNumber=1, CopySource={'Bucket': a, 'Key': 'src'})
    complete(main(), a, 'd', up, [{'PartNumber': 1, 'ETag': r['CopyPartResult']['ETag']}])
    eq(main().get_object(Bucket=a, Key='d')['ContentLength'], 3)


@case('multipart')
def test_multipart_copy_versioned():
    a, b = versioned(), bucket()
    for body in (b'a' * 5, b'b' * 6, b'c' * 7):
        main().put_object(Bucket=a, Key='foo', Body=body)
    for v in main().list_object_versions(Bucket=a)['Versions']:
        up = main().create_multipart_upload(Bucket=b, Key='m')['UploadId']
        r = main().upload_part_copy(
            Bucket=b,
            Key='m',
            UploadId=up,
            PartNumber=1,
            CopySource={'Bucket': a, 'Key': 'foo', 'VersionId': v['VersionId']},
            CopySourceRange=f"bytes=0-{v['Size'] - 1}",
        )
        complete(main(), b, 'm', up, [{'PartNumber': 1, 'ETag': r['CopyPartResult']['ETag']}])
        eq(main().head_object(Bucket=b, Key='m')['ContentLength'], v['Size'])


@case('multipart')
def test_multipart_get_part():
    b = bucket()
    sizes = [5 * MIB] * 2 + [MIB]
    up, l, body = parts_upload(main(), b, 'm', sizes)
    refused(404, 'NoSuchKey', main().get_object, Bucket=b, Key='m', PartNumber=1)
    complete(main(), b, 'm', up, l)
    for n, s in enumerate(sizes, 1):
        h = main().head_object(Bucket=b, Key='m', PartNumber=n)
        eq((h['ContentLength'], h['PartsCount']), (s, 3))
        r = main().get_object(Bucket=b, Key='m', PartNumber=n)
        eq((r['PartsCount'], set(r['Body'].read())), (3, {64 + n}))
    refused(400, 'InvalidPart', main().get_object, Bucket=b, Key='m', PartNumber=4)
    eq([main().head_object(Bucket=b, Key='m', PartNumber=p['PartNumber'])['ETag'] for p in l], [p['ETag'] for p in l])


@case('multipart')
def test_multipart_single_get_part():
    b = bucket()
    up, l, _ = parts_upload(main(), b, 'm', [MIB])
    complete(main(), b, 'm', up, l)
    r = main().get_object(Bucket=b, Key='m', PartNumber=1)
    eq((r['PartsCount'], r['ContentLength']), (1, MIB))
    refused(400, 'InvalidPart', main().get_object, Bucket=b, Key='m', PartNumber=2)
    eq(r['ETag'], l[0]['ETag'])


@case('multipart')
def test_non_multipart_get_part():
    b = fill(['s'])
    refused(400, 'InvalidPart', main().get_object, Bucket=b, Key='s', PartNumber=2)
    eq(read(main(), b, 's', PartNumber=1), b's')


def part_sums(name, algorithm, kind, sums, whole, attributes=False):
    """Three parts of 5 MiB, of the letters A, B and C, each with its checksum, and the checksum of the object."""

    @case('multipart', name)
    def run():
        field = 'Checksum' + algorithm
        b = bucket()
        up = main().create_multipart_upload(Bucket=b, Key='m', ChecksumAlgorithm=algorithm, ChecksumType=kind)
        eq((up['ChecksumAlgorithm'], up['ChecksumType']), (algorithm, kind))
        up, listed = up['UploadId'], []
        for n, value in enumerate(sums, 1):
            body = bytes([64 + n]) * 5 * MIB
            r = main().upload_part(Bucket=b, Key='m', UploadId=up, PartNumber=n, Body=body, **{field: value})
            eq(r[field], value)
            listed.append({'PartNumber': n, 'ETag': r['ETag'], field: value})
        r = complete(main(), b, 'm', up, listed, **{field: whole})
        eq((r['ChecksumType'], r[field]), (kind, whole))
        eq(field in main().head_object(Bucket=b, Key='m'), False)
        h = main().head_object(Bucket=b, Key='m', ChecksumMode='ENABLED')
        eq((h['ChecksumType'], h[field]), (kind, whole))
        a = main().get_object_attributes(Bucket=b, Key='m', ObjectAttributes=['Checksum', 'ObjectParts'])
        eq((a['Checksum']['ChecksumType'], a['Checksum'][field]), (kind, whole))
        if attributes:
            eq([p[field] for p in a['ObjectParts']['Parts']], list(sums))


SHA256 = (
    '275VF5loJr1YYawit0XSHREhkFXYkkPKGuoK0x9VKxI=',
    'mrHwOfjTL5Zwfj74F05HOQGLdUb7E5szdCbxgUSq6NM=',
    'Vw7oB/nKQ5xWb3hNgbyfkvDiivl+U+/Dft48nfJfDow=',
)
WHOLE_SHA256 = 'uWBwpe1dxI4Vw8Gf0X9ynOdw/SS6VBzfWm9giiv1sf4=-3'
part_sums('test_multipart_use_cksum_helper_sha256', 'SHA256', 'COMPOSITE', SHA256, WHOLE_SHA256)
part_sums('test_get_multipart_checksum_object_attributes', 'SHA256', 'COMPOSITE', SHA256, WHOLE_SHA256, True)
part_sums(
    'test_multipart_use_cksum_helper_sha1',
    'SHA1',
    'COMPOSITE',
    ('iIaTCGbm+vdVjNqIMF2S0T7ibMk=', 'LS/TJ32bAVKEwRu+sE3X7awh/lk=', '6DDwovUaHwrKNXDMzOGbuvj9kxI='),
    'sizjvY4eud3MrcHdZM3cQ/ol39o=-3',
)
part_sums(
    'test_multipart_use_cksum_helper_crc32',
    'CRC32',
    'FULL_OBJECT',
    ('JRTCyQ==', 'QoZTGg==', 'YAgjqw=='),
    'WgDhBQ==',
)
part_sums(
    'test_multipart_use_cksum_helper_crc32c',
    'CRC32C',
    'FULL_OBJECT',
    ('MDaLrw==', 'TH4EZg==', 'Z7mBIQ=='),
    'xU+Krw==',
)
part_sums(
    'test_multipart_use_cksum_helper_crc64nvme',
    'CRC64NVME',
    'FULL_OBJECT',
    ('L/E4WYn8v98=', 'xW1l19VobYM=', 'cK5MnNaWrW4='),
    'i+6LR0y3eFo=',
)


@case('multipart')
def test_multipart_checksum_sha256():
    b = bucket()
    up = main().create_multipart_upload(Bucket=b, Key='m', ChecksumAlgorithm='SHA256')['UploadId']
    value = base64.b64encode(hashlib.sha256(b'A' * 1024).digest()).decode()
    whole = base64.b64encode(hashlib.sha256(hashlib.sha256(b'A' * 1024).digest()).digest()).decode() + '-1'
    put = lambda v: main().upload_part(Bucket=b, Key='m', UploadId=up, PartNumber=1, Body=b'A' * 1024, ChecksumSHA256=v)
    wrong = base64.b64encode(bytes(32)).decode()
    refused(400, 'BadDigest', put, wrong)
    part = {'PartNumber': 1, 'ETag': put(value)['ETag'], 'ChecksumSHA256': value}
    refused(400, None, complete, main(), b, 'm', up, [part], ChecksumSHA256=wrong + '-1')
    eq(complete(main(), b, 'm', up, [part], ChecksumSHA256=whole)['ChecksumSHA256'], whole)
    eq('ChecksumSHA256' in main().head_object(Bucket=b, Key='m'), False)
    eq(main().head_object(Bucket=b, Key='m', ChecksumMode='ENABLED')['ChecksumSHA256'], whole)


@case('multipart')
def test_multipart_reupload_checksum_and_etag():
    b = bucket()
    up = main().create_multipart_upload(Bucket=b, Key='m', ChecksumAlgorithm='SHA256')['UploadId']
    for body in (b'A' * 5 * MIB, b'B' * 5 * MIB):
        value = base64.b64encode(hashlib.sha256(body).digest()).decode()
        r = main().upload_part(Bucket=b, Key='m', UploadId=up, PartNumber=1, Body=body, ChecksumSHA256=value)
        eq((r['ChecksumSHA256'], r['ETag'].strip('"')), (value, hashlib.md5(body).hexdigest()))
        p = main().list_parts(Bucket=b, Key='m', UploadId=up)['Parts']
        eq([(x['ChecksumSHA256'], x['ETag']) for x in p], [(value, r['ETag'])])
    complete(main(), b, 'm', up, [{'PartNumber': 1, 'ETag': r['ETag'], 'ChecksumSHA256': value}])
    eq(read(main(), b, 'm') == body, True)


def conditional_complete(name, setup, kw, status, code=None):
    @case('conditional writes', name)
    def run():
        b = bucket()
        e = main().put_object(Bucket=b, Key='m', Body=b'x')['ETag'] if setup else None
        up, l, _ = parts_upload(main(), b, 'm', [3])
        args = {k: e if v == 'ETAG' else v for k, v in kw.items()}
        if status == 200:
            complete(main(), b, 'm', up, l, **args)
        else:
            refused(status, code, complete, main(), b, 'm', up, l, **args)


conditional_complete('test_multipart_put_object_if_match', True, {'IfMatch': 'ETAG'}, 200)
conditional_complete('test_multipart_put_current_object_if_none_match', True, {'IfNoneMatch': 'badetag'}, 200)


def attributes(name, sizes, wanted, **kw):
    @case('multipart', name)
    def run():
        b = bucket()
        up, l, body = parts_upload(main(), b, 'm', sizes, **kw)
        tag = complete(main(), b, 'm', up, l)['ETag']
        r = main().get_object_attributes(
            Bucket=b, Key='m', ObjectAttributes=['ETag', 'ObjectSize', 'ObjectParts', 'StorageClass']
        )
        eq(
            (r['ETag'].strip('"'), r['ObjectSize'], r['StorageClass'], r['ObjectParts']['TotalPartsCount']),
            (tag.strip('"'), sum(sizes), 'STANDARD', len(sizes)),
        )
        eq([p['Size'] for p in r['ObjectParts']['Parts']], sizes)


attributes('test_get_multipart_object_attributes', [5 * MIB] * 2 + [MIB], None)
attributes('test_get_single_multipart_object_attributes', [MIB], None)


@case('multipart')
def test_get_paginated_multipart_object_attributes():
    b = bucket()
    up, l, _ = parts_upload(main(), b, 'm', [5 * MIB, 5 * MIB, MIB])
    complete(main(), b, 'm', up, l)
    p = main().get_object_attributes(
        Bucket=b, Key='m', ObjectAttributes=['ObjectParts'], MaxParts=1, PartNumberMarker=1
    )['ObjectParts']
    eq(
        (
            p['PartNumberMarker'],
            p['NextPartNumberMarker'],
            p['MaxParts'],
            p['IsTruncated'],
            [x['PartNumber'] for x in p['Parts']],
        ),
        (1, 2, 1, True, [2]),
    )


@case('multipart')
def test_get_object_attributes():
    b = bucket()
    e = main().put_object(Bucket=b, Key='k', Body=b'bar')['ETag']
    r = main().get_object_attributes(
        Bucket=b, Key='k', ObjectAttributes=['ETag', 'ObjectSize', 'StorageClass', 'ObjectParts']
    )
    eq((r['ETag'], r['ObjectSize'], r['StorageClass'], 'ObjectParts' in r), (e.strip('"'), 3, 'STANDARD', False))


@case('multipart')
def test_get_checksum_object_attributes():
    b = bucket()
    v = base64.b64encode(hashlib.sha256(b'bar').digest()).decode()
    main().put_object(Bucket=b, Key='k', Body=b'bar', ChecksumSHA256=v)
    eq(main().get_object_attributes(Bucket=b, Key='k', ObjectAttributes=['Checksum'])['Checksum']['ChecksumSHA256'], v)


@case('multipart')
def test_get_versioned_object_attributes():
    b = versioned()
    v1 = main().put_object(Bucket=b, Key='k', Body=b'bar')['VersionId']
    main().put_object(Bucket=b, Key='k', Body=b'quux')
    r = main().get_object_attributes(Bucket=b, Key='k', VersionId=v1, ObjectAttributes=['ObjectSize'])
    eq((r['ObjectSize'], r['VersionId']), (3, v1))
    eq(main().get_object_attributes(Bucket=b, Key='k', ObjectAttributes=['ObjectSize'])['ObjectSize'], 4)
