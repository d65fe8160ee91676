"""Versions."""

from kit import *


def versions(b, c=None):
    return (c or main()).list_object_versions(Bucket=b).get('Versions', [])


def markers(b):
    return main().list_object_versions(Bucket=b).get('DeleteMarkers', [])


def put_versions(b, k, n, content='content-'):
    ids = []
    for i in range(n):
        ids.append(main().put_object(Bucket=b, Key=k, Body=f'{content}{i}'.encode())['VersionId'])
    return ids


@case('versioning')
def test_versioning_bucket_create_suspend():
    b = bucket()
    eq(main().get_bucket_versioning(Bucket=b).get('Status'), None)
    for s in ('Suspended', 'Enabled', 'Enabled', 'Suspended'):
        main().put_bucket_versioning(Bucket=b, VersioningConfiguration={'Status': s})
        eq(main().get_bucket_versioning(Bucket=b)['Status'], s)


def remove_versions(name, from_top, head=False):
    @case('versioning', name)
    def run():
        b = versioned()
        ids = put_versions(b, 'testobj', 5)
        for n, v in enumerate(ids):
            eq(read(main(), b, 'testobj', VersionId=v), f'content-{n}'.encode())
        order = list(reversed(ids)) if from_top else ids
        left = list(ids)
        for v in order:
            r = main().delete_object(Bucket=b, Key='testobj', VersionId=v)
            eq(r['VersionId'], v)
            left.remove(v)
            if left:
                eq(main().get_object(Bucket=b, Key='testobj')['VersionId'], left[-1])
        eq((versions(b), markers(b)), ([], []))


remove_versions('test_versioning_obj_create_read_remove', False)
remove_versions('test_versioning_obj_create_read_remove_head', True)
remove_versions('test_versioning_obj_create_versions_remove_all', True)


@case('versioning')
def test_versioning_obj_create_versions_remove_special_names():
    b = versioned()
    for k in ('_', ':', ' '):
        for v in put_versions(b, k, 5):
            main().delete_object(Bucket=b, Key=k, VersionId=v)
    eq(versions(b), [])


@case('versioning')
def test_versioning_obj_plain_null_version_removal():
    b = fill(['foo'])
    main().put_bucket_versioning(Bucket=b, VersioningConfiguration={'Status': 'Enabled'})
    main().delete_object(Bucket=b, Key='foo', VersionId='null')
    refused(404, 'NoSuchKey', main().get_object, Bucket=b, Key='foo')
    eq(versions(b), [])


@case('versioning')
def test_versioning_obj_plain_null_version_overwrite():
    b = fill(['foo'])
    main().put_bucket_versioning(Bucket=b, VersioningConfiguration={'Status': 'Enabled'})
    v = main().put_object(Bucket=b, Key='foo', Body=b'zzz')['VersionId']
    eq(read(main(), b, 'foo'), b'zzz')
    main().delete_object(Bucket=b, Key='foo', VersionId=v)
    eq(read(main(), b, 'foo'), b'foo')
    main().delete_object(Bucket=b, Key='foo', VersionId='null')
    refused(404, 'NoSuchKey', main().get_object, Bucket=b, Key='foo')
    eq(versions(b), [])


@case('versioning')
def test_versioning_obj_plain_null_version_overwrite_suspended():
    b = fill(['foo'])
    main().put_bucket_versioning(Bucket=b, VersioningConfiguration={'Status': 'Enabled'})
    suspend(b)
    main().put_object(Bucket=b, Key='foo', Body=b'zzz')
    eq((read(main(), b, 'foo'), len(versions(b))), (b'zzz', 1))
    main().delete_object(Bucket=b, Key='foo', VersionId='null')
    refused(404, 'NoSuchKey', main().get_object, Bucket=b, Key='foo')
    eq(versions(b), [])


@case('versioning')
def test_versioning_obj_suspend_versions():
    b = versioned()
    ids = put_versions(b, 'o', 5)
    suspend(b)
    main().delete_object(Bucket=b, Key='o')
    refused(404, 'NoSuchKey', main().get_object, Bucket=b, Key='o')
    main().delete_object(Bucket=b, Key='o')
    main().put_object(Bucket=b, Key='o', Body=b'null 1')
    main().put_object(Bucket=b, Key='o', Body=b'null 2')
    eq(read(main(), b, 'o'), b'null 2')
    main().delete_object(Bucket=b, Key='o')
    main().put_bucket_versioning(Bucket=b, VersioningConfiguration={'Status': 'Enabled'})
    ids += put_versions(b, 'o', 3)
    for v in ids:
        main().delete_object(Bucket=b, Key='o', VersionId=v)
    eq(versions(b), [])


@case('versioning')
def test_versioning_obj_create_overwrite_multipart():
    b = versioned()
    ids = []
    for n in range(3):
        up, l, _ = parts_upload(main(), b, 'm', [5 * MIB, 5 * MIB], body=lambda i, s: bytes([n]) * s)
        ids.append(complete(main(), b, 'm', up, l)['VersionId'])
    for n, v in enumerate(ids):
        eq(set(read(main(), b, 'm', VersionId=v)), {n})


@case('versioning')
def test_versioning_obj_list_marker():
    b = versioned()
    ids = put_versions(b, 'testobj', 5) + put_versions(b, 'testobj-1', 5)
    seen = [(v['Key'], v['VersionId']) for v in versions(b)]
    eq(seen, [('testobj', v) for v in reversed(ids[:5])] + [('testobj-1', v) for v in reversed(ids[5:])])
    r = main().list_object_versions(Bucket=b, KeyMarker='testobj', VersionIdMarker=ids[3], MaxKeys=2)
    eq([v['VersionId'] for v in r['Versions']], [ids[2], ids[1]])


@case('versioning')
def test_versioning_copy_obj_version():
    b, b2 = versioned(), bucket()
    ids = put_versions(b, 'o', 3)
    for n, v in enumerate(ids):
        for t in (b, b2):
            main().copy_object(Bucket=t, Key=f'c{n}', CopySource={'Bucket': b, 'Key': 'o', 'VersionId': v})
            eq(read(main(), t, f'c{n}'), f'content-{n}'.encode())


@case('versioning')
def test_versioning_multi_object_delete():
    b = versioned()
    put_versions(b, 'key', 2)
    objects = [{'Key': v['Key'], 'VersionId': v['VersionId']} for v in versions(b)]
    for _ in range(2):
        main().delete_objects(Bucket=b, Delete={'Objects': objects})
        eq(versions(b), [])


@case('versioning')
def test_versioning_multi_object_delete_with_marker():
    b = versioned()
    put_versions(b, 'key', 2)
    r = main().delete_object(Bucket=b, Key='key')
    eq(r['DeleteMarker'], True)
    m = markers(b)[0]['VersionId']
    eq(m, r['VersionId'])
    r = main().delete_objects(
        Bucket=b,
        Delete={
            'Objects': [{'Key': 'key', 'VersionId': v['VersionId']} for v in versions(b)]
            + [{'Key': 'key', 'VersionId': m}]
        },
    )
    eq([d for d in r['Deleted'] if d['VersionId'] == m][0]['DeleteMarker'], True)
    eq((versions(b), markers(b)), ([], []))


@case('versioning')
def test_versioning_multi_object_delete_with_marker_create():
    b = versioned()
    r = main().delete_objects(Bucket=b, Delete={'Objects': [{'Key': 'key'}]})['Deleted'][0]
    eq(r['DeleteMarker'], True)
    eq(markers(b)[0]['VersionId'], r['DeleteMarkerVersionId'])


@case('versioning')
def test_versioning_concurrent_multi_object_delete():
    b = versioned()
    n = 50
    for i in range(n):
        main().put_object(Bucket=b, Key=f'k{i}', Body=b'')
    objects = [{'Key': v['Key'], 'VersionId': v['VersionId']} for v in versions(b)]
    out = []
    ts = [
        threading.Thread(target=lambda: out.append(fresh().delete_objects(Bucket=b, Delete={'Objects': objects})))
        for _ in range(5)
    ]
    [t.start() for t in ts]
    [t.join() for t in ts]
    for r in out:
        eq((len(r['Deleted']), 'Errors' in r), (n, False))
    eq(versions(b), [])


def concurrent(name, removing):
    @case('versioning', name)
    def run():
        b = versioned()
        for _ in range(3):
            ts = [
                threading.Thread(target=lambda i=i: fresh().put_object(Bucket=b, Key='o', Body=f'data {i}'.encode()))
                for i in range(5)
            ]
            [t.start() for t in ts]
            [t.join() for t in ts]
            eq(len(versions(b)), 5)
            ts = [
                threading.Thread(target=lambda v=v: fresh().delete_object(Bucket=b, Key='o', VersionId=v['VersionId']))
                for v in versions(b)
            ]
            [t.start() for t in ts]
            [t.join() for t in ts]
            eq(versions(b), [])


concurrent('test_versioned_concurrent_object_create_concurrent_remove', True)
concurrent('test_versioned_concurrent_object_create_and_remove', True)


@case('versioning')
def test_versioning_stack_delete_merkers():
    b = versioned()
    put_versions(b, 'o', 1)
    for _ in range(3):
        main().delete_object(Bucket=b, Key='o')
    eq((len(versions(b)), len(markers(b)), [m['IsLatest'] for m in markers(b)]), (1, 3, [True, False, False]))


def marker_head(name, state, answers):
    @case('versioning', name)
    def run():
        b = bucket()
        if state:
            main().put_bucket_versioning(Bucket=b, VersioningConfiguration={'Status': 'Enabled'})
        if state == 'Suspended':
            suspend(b)
        main().put_object(Bucket=b, Key='o', Body=b'')
        main().delete_object(Bucket=b, Key='o')
        h = refused(404, None, main().head_object, Bucket=b, Key='o').response['ResponseMetadata']['HTTPHeaders']
        eq(h.get('x-amz-delete-marker', 'false'), answers)


marker_head('test_delete_marker_nonversioned', None, 'false')
marker_head('test_delete_marker_versioned', 'Enabled', 'true')
marker_head('test_delete_marker_suspended', 'Suspended', 'true')


@case('versioning')
def test_versioning_bucket_atomic_upload_return_version_id():
    b = versioned()
    v = main().put_object(Bucket=b, Key='o')['VersionId']
    eq(versions(b)[0]['VersionId'], v)
    eq('VersionId' in main().put_object(Bucket=bucket(), Key='o'), False)


@case('versioning')
def test_versioning_bucket_multipart_upload_return_version_id():
    b = versioned()
    up, l, _ = parts_upload(main(), b, 'm', [3])
    eq(versions(b), [])
    v = complete(main(), b, 'm', up, l)['VersionId']
    eq(versions(b)[0]['VersionId'], v)


@case('copy')
def test_object_copy_versioned_bucket():
    b, b2 = versioned(), versioned()
    v = main().put_object(Bucket=b, Key='foo', Body=b'12345')['VersionId']
    main().put_object(Bucket=b, Key='foo', Body=b'x')
    r = main().copy_object(Bucket=b, Key='bar', CopySource={'Bucket': b, 'Key': 'foo', 'VersionId': v})
    eq((read(main(), b, 'bar'), r['CopySourceVersionId']), (b'12345', v))
    r = main().copy_object(Bucket=b2, Key='baz', CopySource={'Bucket': b, 'Key': 'bar', 'VersionId': r['VersionId']})
    eq(read(main(), b2, 'baz', VersionId=r['VersionId']), b'12345')


@case('copy')
def test_object_copy_versioned_url_encoding():
    b = versioned()
    v = main().put_object(Bucket=b, Key='foo?bar', Body=b'x')['VersionId']
    main().copy_object(Bucket=b, Key='bar&foo', CopySource={'Bucket': b, 'Key': 'foo?bar', 'VersionId': v})
    eq(read(main(), b, 'bar&foo'), b'x')


@case('versioning')
def test_versioning_obj_suspended_copy():
    b = versioned()
    main().put_object(Bucket=b, Key='k1', Body=b'c1')
    suspend(b)
    main().put_object(Bucket=b, Key='k1', Body=b'null content 1')
    main().copy_object(Bucket=b, Key='k2', CopySource={'Bucket': b, 'Key': 'k1'})
    main().delete_object(Bucket=b, Key='k1')
    eq(read(main(), b, 'k2'), b'null content 1')
    main().delete_object(Bucket=b, Key='k2', VersionId='null')
    refused(404, None, main().head_object, Bucket=b, Key='k2')


def delete_marker_header(b, k):
    try:
        main().head_object(Bucket=b, Key=k)
    except ClientError as e:
        return e.response['ResponseMetadata']['HTTPHeaders'].get('x-amz-delete-marker')
    return None


@case('lifecycle days')
def test_delete_marker_expiration():
    b = versioned()
    main().put_object(Bucket=b, Key='k', Body=b'x')
    main().delete_object(Bucket=b, Key='k')
    eq(delete_marker_header(b, 'k'), 'true')
    rules = [
        {'ID': 'markers', 'Prefix': '', 'Status': 'Enabled', 'Expiration': {'ExpiredObjectDeleteMarker': True}},
        {'ID': 'old', 'Prefix': '', 'Status': 'Enabled', 'NoncurrentVersionExpiration': {'NoncurrentDays': 1}},
    ]
    main().put_bucket_lifecycle_configuration(Bucket=b, LifecycleConfiguration={'Rules': rules})
    # Days, and what a busy machine takes on top of them.
    end = time.time() + 6 * DAY + 120
    while time.time() < end and delete_marker_header(b, 'k') != 'false':
        time.sleep(1)
    eq(delete_marker_header(b, 'k'), 'false')
