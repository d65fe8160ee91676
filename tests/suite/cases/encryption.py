"""Encryption."""

from kit import *

KEY = 'pO3upElrwuEXSoFwCfnZPdSsmt/xWeFa0N9KgDijwVs='
KEYMD5 = 'DWygnHRtgiJ77HCm+1rvHw=='
RAW = base64.b64decode(KEY)
C = {'SSECustomerAlgorithm': 'AES256', 'SSECustomerKey': RAW}
OTHER = {
    'SSECustomerAlgorithm': 'AES256',
    'SSECustomerKey': base64.b64decode('6b+WOZ1T3cqZMxgThRcXAQBrS5mXKdDUphvpxptl9/4='),
}


def customer(name, size):
    @case('encryption', name)
    def run():
        b = bucket()
        body = b'A' * size
        main().put_object(Bucket=b, Key='k', Body=body, **C)
        eq(read(main(), b, 'k', **C), body)


for n, s in (('1b', 1), ('1kb', 1024), ('1MB', MIB), ('13b', 13)):
    customer(f'test_encrypted_transfer_{n}', s)


@case('encryption')
def test_encryption_sse_c_method_head():
    b = bucket()
    main().put_object(Bucket=b, Key='k', Body=b'A' * 1000, **C)
    refused(400, None, main().head_object, Bucket=b, Key='k')
    main().head_object(Bucket=b, Key='k', **C)


@case('encryption')
def test_encryption_sse_c_present():
    b = bucket()
    main().put_object(Bucket=b, Key='k', Body=b'A' * 1000, **C)
    refused(400, None, main().get_object, Bucket=b, Key='k')


@case('encryption')
def test_encryption_sse_c_other_key():
    b = bucket()
    main().put_object(Bucket=b, Key='k', Body=b'A' * 100, **C)
    refused(400, None, main().get_object, Bucket=b, Key='k', **OTHER)


def sse_headers(name, headers, code=400, op='put_object'):
    @case('encryption', name)
    def run():
        c = fresh()
        c.meta.events.register('before-call.s3.PutObject', lambda params, **_: params['headers'].update(headers))
        refused(code, None, c.put_object, Bucket=bucket(), Key='k', Body=b'A' * 100)


CA, CK, CM = ('x-amz-server-side-encryption-customer-' + x for x in ('algorithm', 'key', 'key-md5'))
sse_headers('test_encryption_sse_c_invalid_md5', {CA: 'AES256', CK: KEY, CM: 'AAAAAAAAAAAAAAAAAAAAAA=='})
sse_headers('test_encryption_sse_c_no_md5', {CA: 'AES256', CK: KEY})
sse_headers('test_encryption_sse_c_no_key', {CA: 'AES256'})
sse_headers('test_encryption_key_no_sse_c', {CK: KEY, CM: KEYMD5})
S = 'x-amz-server-side-encryption'
KID = S + '-aws-kms-key-id'
sse_headers('test_put_obj_enc_conflict_c_s3', {CA: 'AES256', CK: KEY, CM: KEYMD5, S: 'AES256'})
sse_headers('test_put_obj_enc_conflict_c_kms', {CA: 'AES256', CK: KEY, CM: KEYMD5, S: 'aws:kms', KID: 'testkey-1'})
sse_headers('test_put_obj_enc_conflict_s3_kms', {S: 'AES256', KID: 'testkey-1'})
sse_headers('test_put_obj_enc_conflict_bad_enc_kms', {S: 'aes:kms', KID: 'testkey-1'})
sse_headers('test_sse_kms_not_declared', {KID: 'testkey-2'})


@case('encryption')
def test_encryption_sse_c_multipart_upload():
    b = bucket()
    up = main().create_multipart_upload(Bucket=b, Key='m', **C)['UploadId']
    l = []
    for n in (1, 2):
        l.append(
            {
                'PartNumber': n,
                'ETag': main().upload_part(
                    Bucket=b, Key='m', UploadId=up, PartNumber=n, Body=bytes([n]) * 5 * MIB, **C
                )['ETag'],
            }
        )
    complete(main(), b, 'm', up, l, **C)
    eq(read(main(), b, 'm', **C) == bytes([1]) * 5 * MIB + bytes([2]) * 5 * MIB, True)


for n, s in (('1b', 1), ('1kb', 1024), ('1mb', MIB), ('8mb', 8 * MIB)):

    def enc(s=s):
        b = bucket()
        r = main().put_object(Bucket=b, Key='k', Body=b'A' * s, ServerSideEncryption='AES256')
        eq(r['ServerSideEncryption'], 'AES256')
        eq(read(main(), b, 'k') == b'A' * s, True)

    def dflt(s=s):
        b = bucket()
        main().put_bucket_encryption(
            Bucket=b,
            ServerSideEncryptionConfiguration={
                'Rules': [{'ApplyServerSideEncryptionByDefault': {'SSEAlgorithm': 'AES256'}}]
            },
        )
        eq(main().put_object(Bucket=b, Key='k', Body=b'A' * s)['ServerSideEncryption'], 'AES256')
        eq(main().get_object(Bucket=b, Key='k')['ServerSideEncryption'], 'AES256')

    def kms(s=s):
        b = bucket()
        main().put_bucket_encryption(
            Bucket=b,
            ServerSideEncryptionConfiguration={
                'Rules': [
                    {'ApplyServerSideEncryptionByDefault': {'SSEAlgorithm': 'aws:kms', 'KMSMasterKeyID': 'testkey-1'}}
                ]
            },
        )
        r = main().put_object(Bucket=b, Key='k', Body=b'A' * s)
        eq((r['ServerSideEncryption'], r['SSEKMSKeyId']), ('aws:kms', 'testkey-1'))

    case('encryption', f'test_sse_s3_encrypted_upload_{n}')(enc)
    case('encryption', f'test_sse_s3_default_upload_{n}')(dflt)
    case('encryption', f'test_sse_kms_default_upload_{n}')(kms)
for n, s in (('1b', 1), ('1kb', 1024), ('1MB', MIB), ('13b', 13)):

    def kms_put(s=s):
        b = bucket()
        main().put_object(Bucket=b, Key='k', Body=b'A' * s, ServerSideEncryption='aws:kms', SSEKMSKeyId='testkey-1')
        r = main().get_object(Bucket=b, Key='k')
        eq((r['Body'].read() == b'A' * s, r['SSEKMSKeyId']), (True, 'testkey-1'))

    case('encryption', f'test_sse_kms_transfer_{n}')(kms_put)

AES = {'ServerSideEncryption': 'AES256'}
KMS = {'ServerSideEncryption': 'aws:kms', 'SSEKMSKeyId': 'testkey-1'}


def sent(operation, headers):
    """A client that sends these headers with every call of an operation."""
    c = fresh()
    c.meta.events.register(f'before-call.s3.{operation}', lambda params, **_: params['headers'].update(headers))
    return c


def by_default(b, algorithm, key=None):
    apply = {'SSEAlgorithm': algorithm, **({'KMSMasterKeyID': key} if key else {})}
    main().put_bucket_encryption(
        Bucket=b, ServerSideEncryptionConfiguration={'Rules': [{'ApplyServerSideEncryptionByDefault': apply}]}
    )
    return apply


def bucket_default(what, algorithm, key=None):
    missing = 404, 'ServerSideEncryptionConfigurationNotFoundError'

    def put():
        by_default(bucket(), algorithm, key)

    def get():
        b = bucket()
        refused(*missing, main().get_bucket_encryption, Bucket=b)
        apply = by_default(b, algorithm, key)
        rules = main().get_bucket_encryption(Bucket=b)['ServerSideEncryptionConfiguration']['Rules']
        eq([r['ApplyServerSideEncryptionByDefault'] for r in rules], [apply])

    def delete():
        b = bucket()
        for _ in range(2):
            eq(main().delete_bucket_encryption(Bucket=b)['ResponseMetadata']['HTTPStatusCode'], 204)
            refused(*missing, main().get_bucket_encryption, Bucket=b)
            by_default(b, algorithm, key)

    for verb, run in (('put', put), ('get', get), ('delete', delete)):
        case('encryption', f'test_{verb}_bucket_encryption_{what}')(run)


bucket_default('s3', 'AES256')
bucket_default('kms', 'aws:kms', 'testkey-1')


@case('encryption')
def test_sse_s3_default_method_head():
    b = bucket()
    by_default(b, 'AES256')
    main().put_object(Bucket=b, Key='k', Body=b'A' * 1000)
    eq(main().head_object(Bucket=b, Key='k')['ServerSideEncryption'], 'AES256')
    refused(400, None, sent('HeadObject', {S: 'AES256'}).head_object, Bucket=b, Key='k')


def encrypted_parts(name, group, kind, prepare, create, part, shown):
    @case(group, name)
    def run():
        b = bucket()
        prepare(b)
        sizes = [5 * MIB] * 2 + [100]
        c = main()
        up = c.create_multipart_upload(Bucket=b, Key='m', Metadata={'foo': 'bar'}, **create)['UploadId']
        listed, whole = [], b''
        for n, size in enumerate(sizes, 1):
            body = bytes([64 + n]) * size
            whole += body
            r = c.upload_part(Bucket=b, Key='m', UploadId=up, PartNumber=n, Body=body, **part)
            listed.append({'PartNumber': n, 'ETag': r['ETag']})
        complete(c, b, 'm', up, listed, **part)
        eq([o['Size'] for o in c.list_objects(Bucket=b)['Contents']], [len(whole)])
        r = c.get_object(Bucket=b, Key='m', **part)
        eq((r['Body'].read() == whole, r['Metadata']), (True, {'foo': 'bar'}))
        eq({k: r.get(k) for k in shown}, shown)
        for first, last in ((0, 99), (5 * MIB - 10, 5 * MIB + 10), (len(whole) - 1, len(whole) - 1)):
            got = read(c, b, 'm', Range=f'bytes={first}-{last}', **part)
            eq(got == whole[first : last + 1], True, f'{kind} {first}-{last}')


encrypted_parts(
    'test_sse_s3_default_multipart_upload', 'encryption', 'sse-s3', lambda b: by_default(b, 'AES256'), {}, {}, AES
)


@case('encryption')
def test_sse_kms_multipart_upload():
    b, headers = bucket(), {S: 'aws:kms', KID: 'testkey-1', 'Content-Type': 'text/plain'}
    c = fresh()
    for operation in ('CreateMultipartUpload', 'UploadPart', 'CompleteMultipartUpload'):
        c.meta.events.register(f'before-call.s3.{operation}', lambda params, **_: params['headers'].update(headers))
    up, listed, whole = parts_upload(c, b, 'm', [5 * MIB, 5 * MIB, 100], Metadata={'foo': 'bar'})
    complete(c, b, 'm', up, listed)
    r = main().get_object(Bucket=b, Key='m')
    eq((r['Body'].read() == whole, r['Metadata'], r['ContentType']), (True, {'foo': 'bar'}, 'text/plain'))
    eq({k: r.get(k) for k in KMS}, KMS)
    for first, last in ((0, 99), (5 * MIB - 10, 5 * MIB + 10), (len(whole) - 1, len(whole) - 1)):
        eq(read(main(), b, 'm', Range=f'bytes={first}-{last}') == whole[first : last + 1], True, f'{first}-{last}')


@case('encryption')
def test_encryption_sse_c_unaligned_multipart_upload():
    b = bucket()
    up = main().create_multipart_upload(Bucket=b, Key='m', **C)['UploadId']
    listed, whole = [], b''
    for n, size in enumerate((5 * MIB + 1, 5 * MIB + 1, 77), 1):
        body = bytes([64 + n]) * size
        whole += body
        r = main().upload_part(Bucket=b, Key='m', UploadId=up, PartNumber=n, Body=body, **C)
        listed.append({'PartNumber': n, 'ETag': r['ETag']})
    complete(main(), b, 'm', up, listed, **C)
    eq(read(main(), b, 'm', **C) == whole, True)
    eq(read(main(), b, 'm', Range='bytes=5242870-5242890', **C) == whole[5242870:5242891], True)


def other_part(name, part):
    @case('encryption', name)
    def run():
        b = bucket()
        up = main().create_multipart_upload(Bucket=b, Key='m', **C)['UploadId']
        send = lambda **kw: main().upload_part(Bucket=b, Key='m', UploadId=up, PartNumber=1, Body=b'x', **kw)
        refused(400, None, send, **part)
        refused(400, None, send)


other_part('test_encryption_sse_c_multipart_invalid_chunks_1', OTHER)
WRONG_MD5 = {'SSECustomerAlgorithm': 'AES256', 'SSECustomerKey': KEY, 'SSECustomerKeyMD5': 'A' * 22 + '=='}
other_part('test_encryption_sse_c_multipart_invalid_chunks_2', WRONG_MD5)


@case('encryption')
def test_encryption_sse_c_multipart_bad_download():
    b = bucket()
    up = main().create_multipart_upload(Bucket=b, Key='m', **C)['UploadId']
    r = main().upload_part(Bucket=b, Key='m', UploadId=up, PartNumber=1, Body=b'x' * 1000, **C)
    complete(main(), b, 'm', up, [{'PartNumber': 1, 'ETag': r['ETag']}], **C)
    refused(400, None, main().get_object, Bucket=b, Key='m', **OTHER)
    refused(400, None, main().get_object, Bucket=b, Key='m')
    eq(read(main(), b, 'm', **C), b'x' * 1000)


def customer_policy(name, condition, bad):
    @case('encryption', name)
    def run():
        b = bucket()
        put_policy(b, allow('s3:PutObject', arn(b, '/*'), effect='Deny', condition=condition))
        refused(403, None, bad(b))
        main().put_object(Bucket=b, Key='k', Body=b'A' * 100, **C)


customer_policy(
    'test_encryption_sse_c_enforced_with_bucket_policy',
    {'Null': {'s3:x-amz-server-side-encryption-customer-algorithm': 'true'}},
    lambda b: lambda: main().put_object(Bucket=b, Key='k', Body=b'A' * 100),
)
customer_policy(
    'test_encryption_sse_c_deny_algo_with_bucket_policy',
    {'StringNotEquals': {'s3:x-amz-server-side-encryption-customer-algorithm': 'AES256'}},
    lambda b: lambda: sent('PutObject', {CA: 'AES192', CK: KEY, CM: KEYMD5}).put_object(
        Bucket=b, Key='k', Body=b'A' * 100
    ),
)


@case('encryption')
def test_sse_kms_method_head():
    b = bucket()
    main().put_object(Bucket=b, Key='k', Body=b'A' * 1000, **KMS)
    h = main().head_object(Bucket=b, Key='k')
    eq((h['ServerSideEncryption'], h['SSEKMSKeyId']), ('aws:kms', 'testkey-1'))
    refused(400, None, sent('HeadObject', {S: 'aws:kms', KID: 'testkey-1'}).head_object, Bucket=b, Key='k')


@case('encryption')
def test_sse_kms_present():
    b = bucket()
    main().put_object(Bucket=b, Key='k', Body=b'A' * 100, **KMS)
    eq(read(main(), b, 'k'), b'A' * 100)


@case('encryption')
def test_sse_kms_no_key():
    refused(400, None, main().put_object, Bucket=bucket(), Key='k', Body=b'A' * 100, ServerSideEncryption='aws:kms')


@case('encryption')
def test_sse_kms_read_declare():
    b = fill(['k'])
    refused(400, None, sent('GetObject', {S: 'aws:kms', KID: 'testkey-1'}).get_object, Bucket=b, Key='k')


@case('encryption')
def test_sse_empty_algorithm():
    refused(400, 'InvalidArgument', sent('PutObject', {S: ''}).put_object, Bucket=bucket(), Key='k', Body=b'A')


def kms_parts(name, key):
    @case('encryption', name)
    def run():
        b = bucket()
        up = main().create_multipart_upload(Bucket=b, Key='m', **KMS)['UploadId']
        headers = {S: 'aws:kms', KID: key}
        sent('UploadPart', headers).upload_part(Bucket=b, Key='m', UploadId=up, PartNumber=1, Body=b'x')


kms_parts('test_sse_kms_multipart_invalid_chunks_1', 'testkey-2')
kms_parts('test_sse_kms_multipart_invalid_chunks_2', 'testkey-not-present')

# Reading parts and attributes of what a client's key encrypts


@case('multipart')
def test_multipart_sse_c_get_part():
    b = bucket()
    sizes = [5 * MIB] * 2 + [MIB]
    up = main().create_multipart_upload(Bucket=b, Key='m', **C)['UploadId']
    listed = []
    for n, size in enumerate(sizes, 1):
        r = main().upload_part(Bucket=b, Key='m', UploadId=up, PartNumber=n, Body=bytes([64 + n]) * size, **C)
        listed.append({'PartNumber': n, 'ETag': r['ETag']})
    refused(404, 'NoSuchKey', main().get_object, Bucket=b, Key='m', PartNumber=1)
    complete(main(), b, 'm', up, listed)
    for n, size in enumerate(sizes, 1):
        h = main().head_object(Bucket=b, Key='m', PartNumber=n, **C)
        eq((h['ContentLength'], h['PartsCount']), (size, 3))
        r = main().get_object(Bucket=b, Key='m', PartNumber=n, **C)
        eq((r['PartsCount'], r['Body'].read() == bytes([64 + n]) * size), (3, True))
    refused(400, 'InvalidPart', main().get_object, Bucket=b, Key='m', PartNumber=4, **C)
    refused(400, None, main().get_object, Bucket=b, Key='m', PartNumber=4)
    tags = [main().head_object(Bucket=b, Key='m', PartNumber=p['PartNumber'], **C)['ETag'] for p in listed]
    eq(tags, [p['ETag'] for p in listed])


@case('multipart')
def test_non_multipart_sse_c_get_part():
    b = bucket()
    main().put_object(Bucket=b, Key='k', Body=b'body', **C)
    refused(400, 'InvalidPart', main().get_object, Bucket=b, Key='k', PartNumber=2, **C)
    eq(read(main(), b, 'k', PartNumber=1, **C), b'body')


# botocore does not make the headers of a key for this call by itself.
RAW_C = {'SSECustomerAlgorithm': 'AES256', 'SSECustomerKey': KEY, 'SSECustomerKeyMD5': KEYMD5}


@case('multipart')
def test_get_sse_c_encrypted_object_attributes():
    b = bucket()
    etag = main().put_object(Bucket=b, Key='k', Body=b'A' * 1000, **C)['ETag'].strip('"')
    what = {'Bucket': b, 'Key': 'k', 'ObjectAttributes': ['ETag', 'Checksum', 'StorageClass', 'ObjectSize']}
    refused(400, None, main().get_object_attributes, **what)
    r = main().get_object_attributes(**what, **RAW_C)
    eq((r['ETag'], r['ObjectSize'], r['StorageClass']), (etag, 1000, 'STANDARD'))


@case('multipart')
def test_multipart_sse_c_checksum_complete():
    b = bucket()
    value = base64.b64encode(hashlib.sha256(b'A' * 1024).digest()).decode()
    whole = base64.b64encode(hashlib.sha256(hashlib.sha256(b'A' * 1024).digest()).digest()).decode() + '-1'
    up = main().create_multipart_upload(Bucket=b, Key='m', ChecksumAlgorithm='SHA256', **C)['UploadId']
    r = main().upload_part(Bucket=b, Key='m', UploadId=up, PartNumber=1, Body=b'A' * 1024, ChecksumSHA256=value, **C)
    part = [{'PartNumber': 1, 'ETag': r['ETag'], 'ChecksumSHA256': value}]
    refused(400, 'InvalidArgument', complete, main(), b, 'm', up, part)
    eq(complete(main(), b, 'm', up, part, **C)['ChecksumSHA256'], whole)


# Copies between all ways to encrypt

B = {**OTHER}
COPY_C = {'CopySource' + k: v for k, v in C.items()}
SOURCES = {'unencrypted': ({}, {}), 'sse-c': (C, COPY_C), 'sse-kms': (KMS, {}), 'sse-s3': (AES, {})}
TARGETS = {
    'unencrypted': ({}, {}, {}),
    'sse-c': (B, B, {'SSECustomerAlgorithm': 'AES256', 'SSECustomerKeyMD5': 'arxBvwY2V4SiOne6yppVPQ=='}),
    'sse-kms': ({'ServerSideEncryption': 'aws:kms', 'SSEKMSKeyId': 'testkey-2'}, {}, None),
    'sse-s3': (AES, {}, AES),
}
TARGETS['sse-kms'] = (TARGETS['sse-kms'][0], {}, TARGETS['sse-kms'][0])


def told(answer, wanted):
    # boto3 does not take these two out of the answer to CompleteMultipartUpload.
    headers = answer['ResponseMetadata']['HTTPHeaders']
    sent = {'SSECustomerAlgorithm': headers.get(CA), 'SSECustomerKeyMD5': headers.get(CM)}
    eq({k: answer.get(k, sent.get(k)) for k in wanted}, wanted)


def copied(source, target, size):
    put, of_source = SOURCES[source]
    to, reading, shown = TARGETS[target]
    a, b = bucket(), bucket()
    body = b'A' * size
    told(main().put_object(Bucket=a, Key='from', Body=body, **put), {k: v for k, v in put.items() if k in AES})
    r = main().copy_object(Bucket=b, Key='to', CopySource={'Bucket': a, 'Key': 'from'}, **of_source, **to)
    told(r, shown)
    r = main().get_object(Bucket=b, Key='to', **reading)
    told(r, shown)
    eq(r['Body'].read() == body, True)


def copied_parts(source, target):
    put, of_source = SOURCES[source]
    to, reading, shown = TARGETS[target]
    a, b = bucket(), bucket()
    body = b'A' * 8 * MIB
    main().put_object(Bucket=a, Key='from', Body=body, **put)
    up = main().create_multipart_upload(Bucket=b, Key='to', **to)
    told(up, shown)
    place = {'Bucket': b, 'Key': 'to', 'UploadId': up['UploadId']}
    part = {**place, 'PartNumber': 1, 'CopySource': {'Bucket': a, 'Key': 'from'}, **of_source}
    if target == 'sse-c':
        for wrong in ({}, C):
            refused(400, None, main().upload_part_copy, **part, **wrong)
            refused(400, None, main().upload_part, **place, PartNumber=2, Body=b'B' * 100, **wrong)
    r = main().upload_part_copy(**part, **reading)
    told(r, shown)
    listed = [{'PartNumber': 1, 'ETag': r['CopyPartResult']['ETag']}]
    r = main().upload_part(**place, PartNumber=2, Body=b'B' * 100, **reading)
    told(r, shown)
    listed.append({'PartNumber': 2, 'ETag': r['ETag']})
    if target == 'sse-c':
        refused(400, None, main().complete_multipart_upload, **place, MultipartUpload={'Parts': listed}, **C)
    told(main().complete_multipart_upload(**place, MultipartUpload={'Parts': listed}, **reading), shown)
    r = main().get_object(Bucket=b, Key='to', **reading)
    told(r, shown)
    eq(r['Body'].read() == body + b'B' * 100, True)


for source in SOURCES:
    for target in TARGETS:
        for n, size in (('1', 1), ('1024', 1024), ('1048576', MIB), ('8388608', 8 * MIB)):
            name = f'test_copy_enc[{source}-{target}-STANDARD-STANDARD-{n}]'
            case('copy, encryption', name)(lambda s=source, t=target, z=size: copied(s, t, z))
        name = f'test_copy_part_enc[{source}-{target}-STANDARD-STANDARD-8388608]'
        case('copy, encryption', name)(lambda s=source, t=target: copied_parts(s, t))
